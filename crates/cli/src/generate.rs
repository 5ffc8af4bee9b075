//! `tiny-t5 generate`: a text from each source.

use crate::args::ModelArgs;
use crate::failure::Failure;
use crate::input::{SourceArgs, Sources, answer_all};
use crate::options::Options;
use crate::output::{Notes, joined, rounded};
use serde::Serialize;
use tiny_t5::{Finish, Generate, Generated, Sequence, T5};

/// The arguments of `generate`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    sources: SourceArgs,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    options: Options,
    /// Print the text while it grows, one sequence a source; JSON comes whole all the same
    #[arg(long)]
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
    let sources = sources.open()?;
    let t5 = model.open()?;
    let mut notes = Notes::default();
    let result = match stream && !model.json {
        true => print_streams(&t5, sources, &options.generate, &mut notes),
        false => answer_all(
            sources,
            |chunk, _| t5.generate_batch(chunk, &options.generate),
            |out, source, generated| {
                notes.source(&t5, source, &generated.input_ids);
                generated.sequences.iter().for_each(|s| notes.sequence(s.default_limit));
                match model.json {
                    true => out.json(&Line::from(&generated)),
                    // Where there is no tokenizer, ids in the form of --input-ids.
                    false => generated.sequences.iter().try_for_each(|s| match &s.text {
                        Some(text) => out.line(text),
                        None => out.line(joined(&s.ids, ",")),
                    }),
                }
            },
        ),
    };
    notes.print();
    result.map_err(|failure| options.explain(failure))
}

/// Prints each text while it grows.
fn print_streams(t5: &T5, sources: Sources, options: &Generate, notes: &mut Notes) -> Result<(), Failure> {
    let limits = [options, t5.generation_defaults()];
    let has_limit = limits.iter().any(|o| o.max_new_tokens.is_some() || o.max_length.is_some());
    answer_all(
        sources,
        // A stream works when it is asked for a step, so that there is nothing to do for a chunk.
        |chunk, _| Ok(vec![(); chunk.len()]),
        |out, source, ()| {
            let stream = t5.stream(source.as_source(), options)?;
            notes.source(t5, source, stream.input_ids());
            let mut between = "";
            for step in stream {
                let step = step?;
                match t5.tokenizer() {
                    Some(_) => out.part(&step.text)?,
                    None if !step.ids.is_empty() => {
                        out.part(format_args!("{between}{}", joined(&step.ids, ",")))?;
                        between = ",";
                    }
                    None => {}
                }
                notes.sequence(step.finish == Some(Finish::Length) && !has_limit);
            }
            out.line("")
        },
    )
}
