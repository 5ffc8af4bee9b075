//! `tiny-t5 info`: what a checkpoint is, and what this machine will do with it.

use crate::args::ModelArgs;
use crate::failure::Failure;
use crate::output::{Output, joined};
use serde::{Deserialize, Serialize};
use tiny_t5::{Activation, Architecture, Config, ModelType, T5};

/// Tokens of source and target that nobody will want; their FLOPs would not fit a number.
const MOST_TOKENS: u64 = 1 << 20;

/// The arguments of `info`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    lengths: Lengths,
    #[command(flatten)]
    model: ModelArgs,
}

/// How many tokens are counted for.
#[derive(Debug, clap::Args)]
pub(crate) struct Lengths {
    /// Count the FLOPs of a source of N tokens
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u64).range(0..=MOST_TOKENS), allow_negative_numbers = true)]
    pub(crate) source: u64,
    /// Count the FLOPs of a target of N tokens
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u64).range(0..=MOST_TOKENS), allow_negative_numbers = true)]
    pub(crate) target: u64,
}

/// All that is told, as the JSON has it.
#[derive(Serialize)]
struct Info {
    model: String,
    variant: &'static str,
    architecture: &'static str,
    gated: bool,
    activation: &'static str,
    shape: Shape,
    parameters: Parameters,
    bytes: Bytes,
    flops: Flops,
    tokenizer: Option<&'static str>,
    tensors_ignored: Vec<String>,
    notes: Vec<String>,
    isa: &'static str,
    isas: Vec<&'static str>,
    isas_missing: Vec<&'static str>,
    why_not_better: Option<String>,
    threads: usize,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Shape {
    pub(crate) vocab_size: usize,
    pub(crate) d_model: usize,
    pub(crate) d_kv: usize,
    pub(crate) d_ff: usize,
    pub(crate) num_layers: usize,
    pub(crate) num_decoder_layers: usize,
    pub(crate) num_heads: usize,
    pub(crate) relative_attention_num_buckets: usize,
    pub(crate) relative_attention_max_distance: usize,
}

impl Shape {
    pub(crate) fn of(c: &Config) -> Shape {
        Shape {
            vocab_size: c.vocab_size,
            d_model: c.d_model,
            d_kv: c.d_kv,
            d_ff: c.d_ff,
            num_layers: c.num_layers,
            num_decoder_layers: if c.architecture.has_decoder() { c.num_decoder_layers } else { 0 },
            num_heads: c.num_heads,
            relative_attention_num_buckets: c.relative_attention_num_buckets,
            relative_attention_max_distance: c.relative_attention_max_distance,
        }
    }

    /// For people, on a line.
    pub(crate) fn line(&self) -> String {
        format!(
            "{} + {} layers, d_model {}, d_ff {}, {} heads of d_kv {}, vocabulary {}",
            self.num_layers,
            self.num_decoder_layers,
            self.d_model,
            self.d_ff,
            self.num_heads,
            self.d_kv,
            self.vocab_size
        )
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Parameters {
    pub(crate) total: u64,
    pub(crate) embedding: u64,
    pub(crate) encoder: u64,
    pub(crate) decoder: u64,
    pub(crate) head: u64,
}

impl Parameters {
    pub(crate) fn of(p: tiny_t5::Parameters) -> Parameters {
        Parameters { total: p.total(), embedding: p.embedding, encoder: p.encoder, decoder: p.decoder, head: p.head }
    }

    /// The table's rows.
    pub(crate) fn rows(&self) -> [Row; 5] {
        [
            ("parameters", grouped(self.total)),
            ("  embedding", grouped(self.embedding)),
            ("  encoder", grouped(self.encoder)),
            ("  decoder", grouped(self.decoder)),
            ("  head", if self.head == 0 { "0 (none of its own)".into() } else { grouped(self.head) }),
        ]
    }
}

#[derive(Serialize)]
struct Bytes {
    on_disk: u64,
    /// Packed for this run; the embedding stays in its file, and the output matrix is packed when first used.
    packed: usize,
    f32: u64,
    /// bf16 or f16
    #[serde(rename = "16bit")]
    half: u64,
    int8: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Flops {
    pub(crate) source: u64,
    pub(crate) target: u64,
    pub(crate) total: u64,
    pub(crate) encoder: u64,
    pub(crate) cross: u64,
    pub(crate) decoder: u64,
    pub(crate) head: u64,
}

impl Flops {
    pub(crate) fn of(flops: tiny_t5::Flops, lengths: &Lengths) -> Flops {
        Flops {
            source: lengths.source,
            target: lengths.target,
            total: flops.total(),
            encoder: flops.encoder,
            cross: flops.cross,
            decoder: flops.decoder,
            head: flops.head,
        }
    }

    /// The table's rows.
    pub(crate) fn rows(&self) -> [Row; 5] {
        let lengths = format!("{} source and {} target tokens", self.source, self.target);
        [
            ("FLOPs", format!("{} for {lengths}", grouped(self.total))),
            ("  encoder", grouped(self.encoder)),
            ("  cross K, V", grouped(self.cross)),
            ("  decoder", grouped(self.decoder)),
            ("  head", grouped(self.head)),
        ]
    }
}

/// A row of a table for people: what it is, and what it says.
pub(crate) type Row = (&'static str, String);

/// Prints a row.
pub(crate) fn print_row(out: &mut Output, (name, text): Row) -> Result<(), Failure> {
    out.line(format_args!("{name:<17}{text}"))
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Result<(), Failure> {
    let t5 = args.model.open(false)?;
    let name = args.model.model.as_ref().map_or("embedded".into(), |path| path.display().to_string());
    let info = Info::of(&t5, name, &args.lengths);
    let mut out = Output::new();
    match args.model.json {
        true => out.json(&info)?,
        false => info.print(&mut out)?,
    }
    out.flush()
}

impl Info {
    fn of(t5: &T5, model: String, lengths: &Lengths) -> Info {
        let c = t5.config();
        let (parameters, flops) = (t5.parameters(), t5.flops(lengths.source, lengths.target));
        let tokenizer = t5.tokenizer().map(|t| t.kind());
        Info {
            model,
            variant: match c.model_type {
                ModelType::T5 if tokenizer == Some("bytes") => "byt5",
                ModelType::T5 => "t5",
                ModelType::Mt5 => "mt5",
                ModelType::Umt5 => "umt5",
            },
            architecture: architecture(c),
            gated: c.is_gated_act,
            activation: match c.activation {
                Activation::Relu => "relu",
                Activation::GeluNew => "gelu_new",
                Activation::Gelu => "gelu",
                Activation::Silu => "silu",
            },
            shape: Shape::of(c),
            parameters: Parameters::of(parameters),
            bytes: Bytes {
                on_disk: t5.bytes_on_disk(),
                packed: t5.packed_bytes(),
                f32: parameters.bytes(4),
                half: parameters.bytes(2),
                int8: parameters.bytes(1),
            },
            flops: Flops::of(flops, lengths),
            tokenizer,
            tensors_ignored: t5.unused_tensors().to_vec(),
            notes: t5.notes().to_vec(),
            isa: t5.isa(),
            isas: T5::available_isas(),
            isas_missing: T5::missing_isas(),
            why_not_better: why_not_better(t5.isa()),
            threads: t5.threads(),
        }
    }

    /// The table for people.
    fn print(&self, out: &mut Output) -> Result<(), Failure> {
        let (s, b) = (&self.shape, &self.bytes);
        let gated = if self.gated { "gated " } else { "" };
        let ignored = match &self.tensors_ignored[..] {
            [] => "none".into(),
            names => format!("{}: T5 of this shape has no place for them", joined(names, ", ")),
        };
        let better = self.why_not_better.as_ref().map_or(String::new(), |why| format!("; {why}"));
        let first = [
            ("model", self.model.clone()),
            ("variant", format!("{}, {gated}{}, {}", self.variant, self.activation, self.architecture)),
            ("shape", s.line()),
            (
                "bias",
                format!(
                    "{} buckets to distance {}",
                    s.relative_attention_num_buckets, s.relative_attention_max_distance
                ),
            ),
        ];
        let bytes = [
            ("bytes on disk", grouped(b.on_disk)),
            ("bytes packed", format!("{} now, beside the mapped file", grouped(b.packed as u64))),
            ("bytes in f32", grouped(b.f32)),
            ("  bf16, f16", grouped(b.half)),
            ("  int8", grouped(b.int8)),
        ];
        let rest = [
            ("tokenizer", self.tokenizer.unwrap_or("none: ids in, ids out").into()),
            ("tensors ignored", ignored),
            ("instruction set", format!("{} of {}{better}", self.isa, joined(&self.isas, ", "))),
            ("threads", self.threads.to_string()),
        ];
        let rows = first.into_iter().chain(self.parameters.rows()).chain(bytes).chain(self.flops.rows()).chain(rest);
        rows.into_iter().try_for_each(|row| print_row(out, row))
    }
}

/// The architecture as config.json names it.
fn architecture(config: &Config) -> &'static str {
    match config.architecture {
        Architecture::ConditionalGeneration => "conditional generation",
        Architecture::Encoder => "encoder only",
        Architecture::SequenceClassification => "sequence classification",
        Architecture::TokenClassification => "token classification",
        Architecture::QuestionAnswering => "question answering",
    }
}

/// Why no better instruction set than `isa` is in use, if there is one.
fn why_not_better(isa: &str) -> Option<String> {
    let missing = T5::missing_isas();
    let better = T5::known_isas().into_iter().take_while(|name| *name != isa);
    let lacking = better.filter(|name| missing.contains(name));
    let mut reasons: Vec<String> = lacking.map(|name| format!("this processor lacks {name}")).collect();
    if T5::available_isas().first() != Some(&isa) {
        reasons.push(format!("TINY_T5_ISA asks for {isa}"));
    }
    (!reasons.is_empty()).then(|| reasons.join("; "))
}

/// 15,570,688
pub(crate) fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let head = digits.len() % 3;
    let (first, rest) = digits.split_at(head);
    let groups = rest.as_bytes().chunks(3).map(|g| String::from_utf8_lossy(g).into_owned());
    let first = (!first.is_empty()).then(|| first.to_owned());
    first.into_iter().chain(groups).collect::<Vec<_>>().join(",")
}
