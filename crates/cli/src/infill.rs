//! `tiny-t5 infill`: each text with its gaps filled.

use crate::args::ModelArgs;
use crate::failure::Failure;
use crate::input::{SourceArgs, answer_all};
use crate::options::{AFTER_OPTIONS, Options};
use crate::output::{Notes, named};
use serde::Serialize;
use tiny_t5::{Error, Source};

/// The arguments of `infill`.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_OPTIONS)]
pub(crate) struct Args {
    #[command(flatten)]
    sources: SourceArgs,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    options: Options,
}

/// The JSON line of a source.
#[derive(Serialize)]
struct Line<'a> {
    text: &'a str,
    spans: &'a [String],
    ids: &'a [u32],
    finish: &'static str,
}

/// Runs the command.
pub(crate) fn run(args: Box<Args>) -> Result<(), Failure> {
    let Args { sources, model, options } = *args;
    if sources.is_ids() {
        return Err(Failure::Usage(
            "--input-ids: infill gives back a text, so it takes one; expected TEXT or --file".into(),
        ));
    }
    let sources = sources.open()?;
    let t5 = model.open(sources.is_one())?;
    let fill = |source: &Source<'_>| match source {
        Source::Text(text) => t5.infill(text, &options.generate),
        _ => unreachable!("ids were refused above"),
    };
    let mut notes = Notes::default();
    let result = answer_all(
        sources,
        |chunk, _| chunk.iter().map(fill).collect::<Result<Vec<_>, Error>>(),
        |out, source, filled| {
            notes.source(&t5, source, &filled.input_ids);
            notes.sequence(filled.default_limit, filled.finish);
            match model.json {
                true => out.json(&Line {
                    text: &filled.text,
                    spans: &filled.spans,
                    ids: &filled.ids,
                    finish: named(filled.finish),
                }),
                false => out.line(&filled.text),
            }
        },
    );
    notes.print();
    result.map_err(|failure| options.explain(failure))
}
