//! `tiny-t5 score`: how likely a target is, given each source.

use crate::args::{Ids, ModelArgs};
use crate::failure::Failure;
use crate::input::{Given, SourceArgs, answer_all};
use crate::output::{Notes, counted};
use serde::Serialize;

/// The arguments of `score`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    sources: SourceArgs,
    /// The target, a text; more than once: one for each TEXT or --input-ids, in order
    #[arg(long, value_name = "TEXT", required_unless_present = "target_ids", conflicts_with = "target_ids")]
    target: Vec<String>,
    /// The target as ids, taken exactly so: 7,9,1; more than once: one for each TEXT or --input-ids, in order
    #[arg(long, value_name = "IDS")]
    target_ids: Vec<Ids>,
    #[command(flatten)]
    model: ModelArgs,
}

/// The JSON line of a source.
#[derive(Serialize)]
struct Line<'a> {
    loss: f32,
    token_logprobs: &'a [f32],
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Result<(), Failure> {
    let texts = args.target.into_iter().map(Given::Text);
    let targets: Vec<Given> = texts.chain(args.target_ids.into_iter().map(|ids| Given::Ids(ids.0))).collect();
    if targets.len() > 1 && args.sources.count() != Some(targets.len()) {
        let sources = |n| counted(n, "source", "sources");
        let sources = args.sources.count().map_or("sources from a file".into(), sources);
        return Err(Failure::Usage(format!(
            "{} targets for {sources}, expected one, or one for each source",
            targets.len()
        )));
    }
    let sources = args.sources.open()?;
    let t5 = args.model.open(sources.is_one())?;
    let target = |i: usize| targets[i.min(targets.len() - 1)].as_source();
    let mut notes = Notes::default();
    targets.iter().for_each(|target| notes.text(&t5, target));
    let result = answer_all(
        sources,
        |chunk, first| chunk.iter().enumerate().map(|(i, source)| t5.score(*source, target(first + i))).collect(),
        |out, source, score| {
            notes.text(&t5, source);
            match args.model.json {
                true => out.json(&Line { loss: score.loss, token_logprobs: &score.token_logprobs }),
                false => out.line(score.loss),
            }
        },
    );
    notes.print();
    result
}
