//! `tiny-t5 encode`: the encoder's hidden states, or a vector, for each source.

use crate::args::ModelArgs;
use crate::failure::Failure;
use crate::input::{SourceArgs, answer_all};
use crate::output::{Notes, joined};
use clap::ValueEnum;
use serde::Serialize;
use tiny_t5::normalized;

/// The arguments of `encode`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    sources: SourceArgs,
    /// What a source's hidden states become
    #[arg(long, value_name = "POOL", default_value = "none")]
    pool: Pool,
    /// Divide each vector by its Euclidean length
    #[arg(long)]
    normalize: bool,
    #[command(flatten)]
    model: ModelArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Pool {
    /// Their mean: one vector
    Mean,
    /// A vector a position
    None,
}

/// The JSON line of a source.
#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Line {
    Hidden(Vec<Vec<f32>>),
    Embedding(Vec<f32>),
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Result<(), Failure> {
    let sources = args.sources.open()?;
    let t5 = args.model.open()?;
    let length = |vector: Vec<f32>| if args.normalize { normalized(vector) } else { vector };
    let mut notes = Notes::default();
    let result = answer_all(
        sources,
        |chunk, _| t5.encode_batch(chunk),
        |out, source, encoding| {
            notes.source(&t5, source, &encoding.input_ids);
            let rows = || encoding.hidden.chunks_exact(encoding.d_model).map(|row| length(row.to_vec()));
            let line = match args.pool {
                Pool::Mean => Line::Embedding(length(encoding.mean())),
                Pool::None => Line::Hidden(rows().collect()),
            };
            match line {
                line if args.model.json => out.json(&line),
                Line::Embedding(vector) => out.line(joined(&vector, " ")),
                Line::Hidden(rows) => rows.iter().try_for_each(|row| out.line(joined(row, " "))),
            }
        },
    );
    notes.print();
    result
}
