//! `tiny-t5 family`: what the shapes of the T5 family cost, by name, without weights.

use crate::failure::Failure;
use crate::fit::Fit;
use crate::info::{self, Lengths, grouped, print_row};
use crate::output::Output;
use serde::Serialize;
use tiny_t5::{FORMULAS, Shape};

/// The arguments of `family`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Shapes such as t5-large, flan-t5-small or t5-efficient-small-el16-dl2; left out: a table of all sizes
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// The table with every known variation of T5-Efficient
    #[arg(long, conflicts_with = "names")]
    all: bool,
    /// Print one JSON array of all shapes
    #[arg(long)]
    json: bool,
    /// The shapes that fit a budget on this machine, those with most parameters first: latency<5ms,source=64,target=32; also
    /// first<, token<, memory< (bytes of the weights), parameters<, threads=, dtype=. The first time measures this machine for a
    /// few seconds
    #[arg(long, value_name = "TERMS", conflicts_with_all = ["all", "source", "target"])]
    fit: Option<Fit>,
    /// Print the formulas of these numbers, behind those of the shapes that are named
    #[arg(long, conflicts_with_all = ["all", "json", "fit"])]
    explain: bool,
    #[command(flatten)]
    lengths: Lengths,
}

/// What is told of a shape, as the JSON has it.
#[derive(Serialize)]
struct Member {
    name: String,
    model_type: String,
    gated: bool,
    shape: info::Shape,
    /// The width of a head in the published card, where the released config.json has another.
    card_d_kv: Option<usize>,
    parameters: info::Parameters,
    bytes: Each<u64>,
    flops: info::Flops,
    decoded_token: DecodedToken,
    loads: bool,
    certain: bool,
    notes: Vec<String>,
}

/// A number for each width of weights.
#[derive(Serialize)]
struct Each<T> {
    f32: T,
    /// bf16 or f16
    #[serde(rename = "16bit")]
    half: T,
    int8: T,
}

impl<T> Each<T> {
    fn of(count: impl Fn(u64) -> T) -> Each<T> {
        Each { f32: count(4), half: count(2), int8: count(1) }
    }
}

#[derive(Serialize)]
struct DecodedToken {
    flops: u64,
    /// Weights that are read, and numbers of keys and values, a mean over the target.
    weights: u64,
    cached: u64,
    bytes: Each<u64>,
    /// FLOPs a byte.
    intensity: Each<f64>,
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Result<(), Failure> {
    let mut out = Output::new();
    if args.explain && args.names.is_empty() {
        out.line(FORMULAS.trim_end())?;
        return out.flush();
    }
    if let Some(fit) = &args.fit {
        return fit.run(&args.names, args.json);
    }
    let listed = if args.names.is_empty() { tiny_t5::family(args.all) } else { Vec::new() };
    let shapes = args.names.iter().chain(&listed).map(|name| Shape::named(name)).collect::<Result<Vec<_>, _>>()?;
    if args.json {
        out.json(&shapes.iter().map(|shape| Member::of(shape, &args.lengths)).collect::<Vec<_>>())?;
    } else if args.names.is_empty() {
        table(&mut out, &shapes, &args.lengths)?;
    } else {
        for (i, shape) in shapes.iter().enumerate() {
            if i > 0 {
                out.line("")?;
            }
            Member::of(shape, &args.lengths).print(&mut out)?;
        }
        if args.explain {
            out.line(format_args!("\n{}", FORMULAS.trim_end()))?;
        }
    }
    out.flush()
}

impl Member {
    fn of(shape: &Shape, lengths: &Lengths) -> Member {
        let Lengths { source, target } = *lengths;
        let token = shape.decoded_token(source, target);
        Member {
            name: shape.name.clone(),
            model_type: format!("{:?}", shape.config.model_type).to_lowercase(),
            gated: shape.config.is_gated_act,
            shape: info::Shape::of(&shape.config),
            card_d_kv: shape.card_d_kv,
            parameters: info::Parameters::of(shape.parameters()),
            bytes: Each::of(|each| shape.parameters().bytes(each)),
            flops: info::Flops::of(shape.flops(source, target), lengths),
            decoded_token: DecodedToken {
                flops: token.flops,
                weights: token.weights,
                cached: token.cached,
                bytes: Each::of(|each| token.bytes(each)),
                intensity: Each::of(|each| token.intensity(each)),
            },
            loads: shape.loads,
            certain: shape.certain,
            notes: shape.notes.clone(),
        }
    }

    /// All of it, for people.
    fn print(&self, out: &mut Output) -> Result<(), Failure> {
        let (bytes, token) = (&self.bytes, &self.decoded_token);
        let read = |bytes: u64, intensity: f64| format!("{} bytes, {intensity:.3} FLOPs a byte", grouped(bytes));
        let gated = if self.gated { ", gated" } else { "" };
        let first = [("name", self.name.clone()), ("shape", format!("{}{gated}", self.shape.line()))];
        let memory = [
            ("bytes in f32", grouped(bytes.f32)),
            ("  bf16, f16", grouped(bytes.half)),
            ("  int8", grouped(bytes.int8)),
        ];
        let decoded = [
            ("a decoded token", format!("{} FLOPs", grouped(token.flops))),
            ("  f32", read(token.bytes.f32, token.intensity.f32)),
            ("  bf16, f16", read(token.bytes.half, token.intensity.half)),
            ("  int8", read(token.bytes.int8, token.intensity.int8)),
        ];
        let notes = self.notes.iter().map(|note| ("note", note.clone()));
        let rows = first.into_iter().chain(self.parameters.rows()).chain(memory).chain(self.flops.rows());
        rows.chain(decoded).chain(notes).try_for_each(|row| print_row(out, row))
    }
}

/// A line a shape, at most 100 columns wide for every known name.
fn table(out: &mut Output, shapes: &[Shape], lengths: &Lengths) -> Result<(), Failure> {
    let label = |shape: &Shape| format!("{}{}", shape.name, if shape.certain { "" } else { "?" });
    let name = shapes.iter().map(|shape| label(shape).len()).max().unwrap_or(0);
    let Lengths { source, target } = *lengths;
    let heads = ["", "layers", "d_model", "d_ff", "heads", "d_kv", "parameters", "GFLOPs", "a token", "read"];
    out.line(row(name, heads.map(str::to_owned)))?;
    for shape in shapes {
        let (c, p) = (&shape.config, shape.parameters());
        let token = shape.decoded_token(source, target);
        let layers = format!("{}+{}", c.num_layers, c.num_decoder_layers);
        let card = shape.card_d_kv.map_or(String::new(), |card| format!("/{card}"));
        let cells = [
            label(shape),
            layers,
            c.d_model.to_string(),
            c.d_ff.to_string(),
            c.num_heads.to_string(),
            format!("{}{card}", c.d_kv),
            grouped(p.total()),
            short(shape.flops(source, target).total() as f64 / 1e9, 2),
            short(token.flops as f64 / 1e9, 3),
            short(token.bytes(2) as f64 / 1e6, 1),
        ];
        out.line(row(name, cells))?;
    }
    out.line(format_args!(
        "\nFor {source} source and {target} target tokens (--source, --target).\n\
         a token: GFLOPs of one that is decoded; read: MB of 16-bit weights and of caches that it reads.\n\
         d_kv 64/32: 64 in the released config.json, 32 in the published card.\n\
         ?: not each of its numbers is known for certain; `tiny-t5 family NAME` says which.\n\
         `tiny-t5 family NAME` has all numbers, `tiny-t5 family --explain` the formulas."
    ))
}

/// A line of the table: the name, of `width`, and numbers.
fn row(width: usize, cells: [String; 10]) -> String {
    const WIDTHS: [usize; 9] = [6, 7, 5, 5, 5, 14, 8, 7, 7];
    let [name, numbers @ ..] = cells;
    let numbers = numbers.iter().zip(WIDTHS).map(|(number, width)| format!(" {number:>width$}"));
    format!("{name:width$}{}", numbers.collect::<String>())
}

/// A number with `digits` after the point, and fewer where it is large.
fn short(number: f64, digits: usize) -> String {
    match number {
        ..1e4 => format!("{number:.digits$}"),
        ..1e7 => format!("{number:.0}"),
        _ => format!("{number:.1e}"),
    }
}
