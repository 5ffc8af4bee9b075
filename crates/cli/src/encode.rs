//! `tiny-t5 encode`: the encoder's hidden states, or a vector, for each source.

use crate::args::ModelArgs;
use crate::failure::Failure;
use crate::input::{SourceArgs, answer_all};
use crate::output::{Notes, joined};
use clap::ValueEnum;
use serde::Serialize;
use tiny_t5::{Encoding, normalized};

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
    /// One vector as the folder's modules.json has it (Sentence-T5, GTR): mean, dense layers, norm; without that file, the mean
    Sentence,
    /// A vector a position
    None,
}

/// What the library makes of a source.
enum Encoded {
    Vector(Vec<f32>),
    Hidden(Encoding),
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
    let t5 = args.model.open(sources.is_one())?;
    let length = |vector: Vec<f32>| if args.normalize { normalized(vector) } else { vector };
    let mut notes = Notes::default();
    let result = answer_all(
        sources,
        |chunk, _| match args.pool {
            Pool::Sentence => Ok(t5.embed_batch(chunk)?.into_iter().map(Encoded::Vector).collect()),
            Pool::Mean | Pool::None => Ok(t5.encode_batch(chunk)?.into_iter().map(Encoded::Hidden).collect()),
        },
        |out, source, encoded| {
            let line = match encoded {
                Encoded::Vector(vector) => {
                    notes.text(&t5, source);
                    Line::Embedding(length(vector))
                }
                Encoded::Hidden(encoding) => {
                    notes.source(&t5, source, &encoding.input_ids);
                    let rows = encoding.hidden.chunks_exact(encoding.d_model).map(|row| length(row.to_vec()));
                    match args.pool {
                        Pool::None => Line::Hidden(rows.collect()),
                        Pool::Mean | Pool::Sentence => Line::Embedding(length(encoding.mean())),
                    }
                }
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
