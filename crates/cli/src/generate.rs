//! `tiny-t5 generate`: a text from each source.

use crate::args::ModelArgs;
use crate::failure::Failure;
use crate::input::{Given, SourceArgs, Sources, answer_all};
use crate::options::{AFTER_OPTIONS, Options};
use crate::output::{Notes, joined, named, rounded, say};
use serde::Serialize;
use serde_json::Value;
use std::borrow::Cow;
use tiny_t5::{Custom, Error, Generate, Generated, Sequence, T5, TokenLogprob};

/// The arguments of `generate`.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_OPTIONS)]
pub(crate) struct Args {
    #[command(flatten)]
    sources: SourceArgs,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    options: Options,
    /// The answer is one of these, with its probability among them; without beams or sampling, the most probable. Texts, separated
    /// by commas, or as JSON: a list of texts or of lists of ids
    #[arg(long, value_name = "A,B,C", help_heading = "Generation")]
    choices: Option<Choices>,
    /// Print the text while it grows, one sequence a source; JSON comes whole all the same
    #[arg(long, help_heading = "Output")]
    stream: bool,
}

/// Answers to choose from, as given.
#[derive(Debug, Clone)]
struct Choices(Vec<Given>);

impl std::str::FromStr for Choices {
    type Err = String;

    fn from_str(text: &str) -> Result<Choices, String> {
        let expected = r#"expected texts as in yes,no, or JSON as in ["yes","no"] or [[5,8],[7]]"#;
        if !text.starts_with('[') {
            return Ok(Choices(text.split(',').map(|choice| Given::Text(choice.trim().to_owned())).collect()));
        }
        let list: Vec<Value> = serde_json::from_str(text).map_err(|_| expected)?;
        let choice = |value| match value {
            Value::String(text) => Ok(Given::Text(text)),
            ids => serde_json::from_value(ids).map(Given::Ids).map_err(|_| expected.to_owned()),
        };
        Ok(Choices(list.into_iter().map(choice).collect::<Result<_, _>>()?))
    }
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
    /// With `--choices`: which of them, from 0 on, and how probable.
    #[serde(skip_serializing_if = "Option::is_none")]
    choice: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    probability: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<Vec<LogprobJson<'a>>>,
    finish: &'static str,
}

/// A token's log-probability, and where alternatives are asked for, theirs.
#[derive(Serialize)]
struct LogprobJson<'a> {
    id: u32,
    /// As the vocabulary has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<Cow<'a, str>>,
    logprob: f32,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    top_logprobs: Vec<LogprobJson<'a>>,
}

impl<'a> LogprobJson<'a> {
    fn of(t5: &'a T5, id: u32, logprob: f32, top: &[(u32, f32)]) -> LogprobJson<'a> {
        let token = t5.tokenizer().and_then(|t| t.id_to_token(id));
        let top_logprobs = top.iter().map(|(id, logprob)| LogprobJson::of(t5, *id, *logprob, &[])).collect();
        LogprobJson { id, token, logprob, top_logprobs }
    }
}

/// Of the batch that the source was computed in; `new_tokens` are the source's own.
#[derive(Serialize)]
struct TimingsJson {
    load_ms: f64,
    encode_ms: f64,
    decode_ms: f64,
    new_tokens: usize,
}

impl<'a> Line<'a> {
    fn of(t5: &'a T5, generated: &'a Generated) -> Line<'a> {
        let logprobs = |all: &Vec<TokenLogprob>| {
            all.iter().map(|t| LogprobJson::of(t5, t.id, t.logprob, &t.top_logprobs)).collect()
        };
        let sequence = |s: &'a Sequence| SequenceJson {
            ids: &s.ids,
            text: s.text.as_deref(),
            score: s.score,
            choice: s.chosen.map(|chosen| chosen.index),
            probability: s.chosen.map(|chosen| chosen.probability),
            logprobs: s.logprobs.as_ref().map(logprobs),
            finish: named(s.finish),
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
    let Args { sources, model, options, choices, stream } = *args;
    let sources = sources.open()?;
    let t5 = model.open(sources.is_one())?;
    if let (Some(_), None, Some(most)) =
        (options.generate.max_length, options.generate.max_new_tokens, t5.generation_defaults().max_new_tokens)
    {
        say(
            "note",
            &format!("--max-length gives way to the checkpoint's own max_new_tokens, {most}, as in transformers"),
        );
    }
    if (options.generate.logprobs == Some(true) || options.generate.top_logprobs.is_some()) && !model.json {
        say("note", "log-probabilities are in the JSON alone: --json");
    }
    if stream && choices.is_some() {
        say("note", "--stream: choices come whole, with their probabilities");
    }
    let choices = choices.map(|Choices(all)| t5.choices(&all.iter().map(Given::as_source).collect::<Vec<_>>()));
    let choices = choices.transpose().map_err(|error| match error {
        error @ Error::Input { .. } => {
            let error = error.to_string();
            Failure::Usage(format!("--choices: {}", error.strip_prefix("choices: ").unwrap_or(&error)))
        }
        error => error.into(),
    })?;
    // Sources are numbered through, so that samples do not depend on how they are put together.
    let custom =
        |first| choices.iter().fold(Custom::new().first_index(first), |custom, choices| custom.choices(choices));
    let mut notes = Notes::default();
    // A choice has its probability behind it, which is known at the end.
    let result = match stream && !model.json && choices.is_none() {
        true => print_streams(&t5, sources, &options.generate, &mut notes),
        false => answer_all(
            sources,
            |chunk, first| t5.generate_batch_with(chunk, &options.generate, &custom(first)),
            |out, source, generated| {
                notes.source(&t5, source, &generated.input_ids);
                generated.sequences.iter().for_each(|s| notes.sequence(s.default_limit, s.finish));
                match model.json {
                    true => out.json(&Line::of(&t5, &generated)),
                    false => generated.sequences.iter().try_for_each(|s| {
                        // Where there is no tokenizer, ids in the form of --input-ids.
                        let text = s.text.clone().unwrap_or_else(|| joined(&s.ids, ","));
                        match s.chosen {
                            Some(chosen) => out.line(format_args!("{text}\t{}", chosen.probability)),
                            None => out.line(text),
                        }
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
    let mut index = 0;
    answer_all(
        sources,
        // A stream works when it is asked for a step, so that there is nothing to do for a chunk.
        |chunk, _| Ok(vec![(); chunk.len()]),
        |out, source, ()| {
            let custom = Custom::new().first_index(index);
            index += 1;
            let stream = t5.stream_with(source.as_source(), options, &custom)?;
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
                step.finish.iter().for_each(|finish| notes.sequence(step.default_limit, *finish));
            }
            out.line("")
        },
    )
}
