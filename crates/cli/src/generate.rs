//! `tiny-t5 generate`: a text from each source.

use crate::args::ModelArgs;
use crate::failure::Failure;
use crate::input::{SourceArgs, answer_all};
use crate::options::Options;
use crate::output::{Notes, joined, rounded};
use serde::Serialize;
use tiny_t5::{Finish, Generated, Sequence};

/// The arguments of `generate`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    sources: SourceArgs,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    options: Options,
    #[arg(long, hide = true)]
    stream: bool,
}

/// The JSON line of a source.
#[derive(Serialize)]
struct Line<'a> {
    input_ids: &'a [u32],
    sequences: Vec<SequenceJson<'a>>,
    timings: TimingsJson,
}

#[derive(Serialize)]
struct SequenceJson<'a> {
    ids: &'a [u32],
    text: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    score: Option<f32>,
    finish: &'static str,
}

/// Of the batch that the source was computed in; `new_tokens` are the source's own.
#[derive(Serialize)]
struct TimingsJson {
    load_ms: f64,
    encode_ms: f64,
    decode_ms: f64,
    new_tokens: usize,
}

impl<'a> From<&'a Generated> for Line<'a> {
    fn from(generated: &'a Generated) -> Line<'a> {
        let sequence = |s: &'a Sequence| SequenceJson {
            ids: &s.ids,
            text: s.text.as_deref(),
            score: s.score,
            finish: match s.finish {
                Finish::Eos => "eos",
                Finish::Length => "length",
                _ => "stopped",
            },
        };
        let t = &generated.timings;
        Line {
            input_ids: &generated.input_ids,
            sequences: generated.sequences.iter().map(sequence).collect(),
            timings: TimingsJson {
                load_ms: rounded(t.load_ms),
                encode_ms: rounded(t.encode_ms),
                decode_ms: rounded(t.decode_ms),
                new_tokens: t.new_tokens,
            },
        }
    }
}

/// Runs the command.
pub(crate) fn run(args: Box<Args>) -> Result<(), Failure> {
    let Args { sources, model, options, stream } = *args;
    if stream {
        return Err(Failure::Usage("--stream: not there yet; without it a text is printed when it is complete".into()));
    }
    let sources = sources.open()?;
    let t5 = model.open()?;
    let mut notes = Notes::default();
    let result = answer_all(
        sources,
        |chunk, _| t5.generate_batch(chunk, &options.generate),
        |out, source, generated| {
            notes.source(&t5, source, &generated.input_ids);
            generated.sequences.iter().for_each(|s| notes.sequence(s));
            match model.json {
                true => out.json(&Line::from(&generated)),
                // Where there is no tokenizer, ids in the form of --input-ids.
                false => generated.sequences.iter().try_for_each(|s| match &s.text {
                    Some(text) => out.line(text),
                    None => out.line(joined(&s.ids, ",")),
                }),
            }
        },
    );
    notes.print();
    result.map_err(|failure| options.explain(failure))
}
