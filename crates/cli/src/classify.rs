//! `tiny-t5 classify`: what the checkpoint's head says about each source.

use crate::args::ModelArgs;
use crate::failure::Failure;
use crate::input::{SourceArgs, answer_all};
use crate::output::{Notes, joined};
use serde::Serialize;
use tiny_t5::Classification;

/// The arguments of `classify`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    sources: SourceArgs,
    #[command(flatten)]
    model: ModelArgs,
}

/// The JSON line of a source.
#[derive(Serialize)]
#[serde(untagged)]
enum Line<'a> {
    Sequence { logits: &'a [f32], label: &'a str },
    Tokens { logits: &'a [Vec<f32>], labels: &'a [String] },
    Answer { start_logits: &'a [f32], end_logits: &'a [f32] },
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Result<(), Failure> {
    let sources = args.sources.open()?;
    let t5 = args.model.open(sources.is_one())?;
    let mut notes = Notes::default();
    let result = answer_all(
        sources,
        |chunk, _| chunk.iter().map(|source| t5.classify(*source)).collect(),
        |out, source, classification| {
            notes.text(&t5, source);
            let line = match &classification {
                Classification::Sequence { logits, label, .. } => Line::Sequence { logits, label },
                Classification::Tokens { logits, labels, .. } => Line::Tokens { logits, labels },
                Classification::Answer { start_logits, end_logits, .. } => Line::Answer { start_logits, end_logits },
                _ => return Err(Failure::Other("classify: a kind of head that this command does not know".into())),
            };
            match line {
                line if args.model.json => out.json(&line),
                Line::Sequence { label, .. } => out.line(label),
                Line::Tokens { labels, .. } => out.line(joined(labels, " ")),
                Line::Answer { start_logits, end_logits } => {
                    out.line(format_args!("start {}", joined(start_logits, " ")))?;
                    out.line(format_args!("end {}", joined(end_logits, " ")))
                }
            }
        },
    );
    notes.print();
    result
}
