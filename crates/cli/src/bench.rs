//! `tiny-t5 bench`: speed with fixed work, in the protocol that comparisons of engines speak.

use crate::args::{ModelArgs, Width};
use crate::failure::Failure;
use crate::output::{Output, rounded};
use crate::report::measure::quantile;
use clap::ValueEnum;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;
use tiny_t5::{EarlyStopping, Generate, Generated, OneOrMany, Source, Speculation, T5, Timings};

/// The arguments of `bench`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The work: {"input_ids": [[...]], "new_tokens": N, "beams": B, "eos_id": 1, "start_id": 0, "suppress_eos": true}
    #[arg(long, value_name = "FILE")]
    workload: PathBuf,
    /// Runs that are measured
    #[arg(long, value_name = "R", default_value_t = 10, allow_negative_numbers = true)]
    repeats: usize,
    /// Runs before those that are measured
    #[arg(long, value_name = "W", default_value_t = 2, allow_negative_numbers = true)]
    warmup: usize,
    /// How wide weights are kept; fp32 is --dtype f32
    #[arg(long, value_name = "VARIANT", conflicts_with = "dtype")]
    variant: Option<Variant>,
    /// How tokens are guessed and then checked, which changes no id: auto, off, copy or draft
    #[arg(long, value_name = "HOW", value_parser = speculation(), hide_possible_values = true, default_value = "auto")]
    speculation: Speculation,
    /// Load, generate once, print {"ids": ...} and exit
    #[arg(long)]
    one_shot: bool,
    #[command(flatten)]
    model: ModelArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Variant {
    /// Exact
    Fp32,
    /// Weights rounded to bfloat16, computing in f32
    Bf16,
    /// Weights rounded to f16, computing in f32
    F16,
    /// Weights of 8 bits, and inputs of products; keys and values in f16
    Int8,
}

/// The words are for completion, too.
fn speculation() -> impl TypedValueParser<Value = Speculation> {
    let words = PossibleValuesParser::new(["auto", "off", "copy", "draft"]);
    words.try_map(|how| serde_json::from_value::<Speculation>(how.into()))
}

/// The work that is measured.
#[derive(Debug, Deserialize)]
struct Workload {
    input_ids: Vec<Vec<u32>>,
    /// 0: the encoder alone.
    new_tokens: usize,
    #[serde(default = "one")]
    beams: usize,
    eos_id: Option<u32>,
    start_id: Option<u32>,
    #[serde(default)]
    suppress_eos: bool,
}

fn one() -> usize {
    1
}

/// The JSON line.
#[derive(Serialize)]
struct Line {
    peer: &'static str,
    variant: String,
    version: &'static str,
    encode_ms: Vec<f64>,
    total_ms: Vec<f64>,
    ids: Option<Vec<Vec<u32>>>,
    peak_rss_kb: Option<u64>,
    load_ms: f64,
    breakdown_ms: Breakdown,
    /// Tokens guessed, and guesses that held, in the last run.
    speculation: BTreeMap<&'static str, usize>,
    /// None where the LM head has no int8 screen: small vocabularies, 8 bits. Beam search decides a row of each beam.
    screen: Option<Screened>,
    isa: &'static str,
    threads: usize,
}

/// Medians over the repeats.
#[derive(Serialize)]
struct Breakdown {
    encode: f64,
    cross: f64,
    layers: f64,
    head: f64,
    /// The search, copies of caches, and ids to text where the folder has a tokenizer.
    rest: f64,
}

/// What the LM head's int8 screen decided, in the last run.
#[derive(Serialize)]
struct Screened {
    /// Tokens that it decided; guesses that did not hold among them.
    decided: usize,
    /// All tokens of the run.
    tokens: usize,
    /// Rows that it left to f32, for each that it decided; none where it decided none.
    survivors_per_token: Option<f64>,
    /// The whole head, as in the breakdown.
    head_ms_per_token: f64,
}

/// One run.
struct Run {
    ids: Option<Vec<Vec<u32>>>,
    total_ms: f64,
    /// Over all batches that the library made of the workload.
    parts: Timings,
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Result<(), Failure> {
    let (width, variant) = match args.variant {
        None => (args.model.dtype, name(args.model.dtype)),
        Some(variant) => {
            let width = match variant {
                Variant::Fp32 => Width::F32,
                Variant::Bf16 => Width::Bf16,
                Variant::F16 => Width::F16,
                Variant::Int8 => Width::Int8,
            };
            (width, name(variant))
        }
    };
    let workload = Workload::read(&args.workload)?;
    let t5 = args.model.open_as(width, args.one_shot && workload.input_ids.len() == 1)?;
    let mut out = Output::new();
    if args.one_shot {
        let run = workload.run(&t5, args.speculation)?;
        out.json(&BTreeMap::from([("ids", run.ids)]))?;
        return out.flush();
    }
    if args.repeats == 0 {
        return Err(Failure::Usage("--repeats 0: expected at least 1".into()));
    }
    for _ in 0..args.warmup {
        workload.run(&t5, args.speculation)?;
    }
    let runs = (0..args.repeats).map(|_| workload.run(&t5, args.speculation)).collect::<Result<Vec<_>, _>>()?;
    let all = |part: fn(&Run) -> f64| runs.iter().map(|run| rounded(part(run))).collect::<Vec<_>>();
    let line = Line {
        peer: "tiny-t5",
        variant,
        version: env!("CARGO_PKG_VERSION"),
        encode_ms: all(|run| run.parts.encode_ms),
        total_ms: all(|run| run.total_ms),
        peak_rss_kb: peak_rss_kb(),
        load_ms: rounded(t5.load_ms()),
        breakdown_ms: Breakdown {
            encode: median(all(|run| run.parts.encode_ms)),
            cross: median(all(|run| run.parts.cross_ms)),
            layers: median(all(|run| run.parts.layers_ms)),
            head: median(all(|run| run.parts.head_ms)),
            rest: median(all(Run::rest_ms)),
        },
        speculation: runs
            .last()
            .map(|run| [("guessed", run.parts.guessed), ("held", run.parts.accepted)].into())
            .unwrap_or_default(),
        screen: runs.last().filter(|_| t5.has_screen()).map(|run| run.parts).map(|p| Screened {
            decided: p.screened,
            tokens: p.new_tokens,
            survivors_per_token: (p.screened > 0).then(|| rounded(p.survivors as f64 / p.screened as f64)),
            head_ms_per_token: rounded(median(all(|run| run.parts.head_ms)) / p.new_tokens.max(1) as f64),
        }),
        isa: t5.isa(),
        threads: t5.threads(),
        ids: runs.into_iter().next_back().and_then(|run| run.ids),
    };
    out.json(&line)?;
    out.flush()
}

impl Workload {
    fn read(path: &Path) -> Result<Workload, Failure> {
        let failure = |what: String| Failure::Other(format!("--workload {}: {what}", path.display()));
        let text = std::fs::read_to_string(path).map_err(|e| failure(e.to_string()))?;
        let workload: Workload = serde_json::from_str(&text).map_err(|e| failure(e.to_string()))?;
        match workload.input_ids.is_empty() {
            true => Err(failure("input_ids has no rows, expected at least one".into())),
            false => Ok(workload),
        }
    }

    /// Exactly `new_tokens` tokens where `suppress_eos` says so, whatever the checkpoint's own defaults are. Of these some cannot be taken
    /// back: a forced first token, a prefix, a decay, log-probabilities.
    fn options(&self, t5: &T5) -> Generate {
        let end = match (self.eos_id, &t5.generation_defaults().eos_token_id) {
            (Some(id), _) => vec![id],
            (None, Some(ids)) => ids.as_slice().to_vec(),
            // One past the vocabulary never comes.
            (None, None) => {
                let ids = t5.config().eos_token_id.iter().copied();
                ids.filter(|id| (*id as usize) < t5.config().vocab_size).collect()
            }
        };
        Generate {
            max_new_tokens: Some(self.new_tokens),
            min_new_tokens: Some(if self.suppress_eos { self.new_tokens } else { 0 }),
            suppress_tokens: Some(if self.suppress_eos { end } else { Vec::new() }),
            num_beams: Some(self.beams),
            num_return_sequences: Some(1),
            length_penalty: Some(1.0),
            early_stopping: Some(EarlyStopping::Heuristic),
            do_sample: Some(false),
            eos_token_id: self.eos_id.map(OneOrMany::One),
            decoder_start_token_id: self.start_id,
            max_time: Some(f64::MAX),
            repetition_penalty: Some(1.0),
            no_repeat_ngram_size: Some(0),
            encoder_repetition_penalty: Some(1.0),
            encoder_no_repeat_ngram_size: Some(0),
            bad_words_ids: Some(Vec::new()),
            sequence_bias: Some(Vec::new()),
            begin_suppress_tokens: Some(Vec::new()),
            forced_eos_token_id: Some(Vec::new().into()),
            decoder_input_ids: Some(Vec::new()),
            renormalize_logits: Some(false),
            remove_invalid_values: Some(false),
            ..Generate::default()
        }
    }

    fn run(&self, t5: &T5, speculation: Speculation) -> Result<Run, Failure> {
        let sources: Vec<Source<'_>> = self.input_ids.iter().map(Source::from).collect();
        let start = Instant::now();
        if self.new_tokens == 0 {
            t5.encode_batch(&sources)?;
            let total_ms = start.elapsed().as_secs_f64() * 1e3;
            let mut parts = Timings::default();
            parts.encode_ms = total_ms;
            return Ok(Run { ids: None, total_ms, parts });
        }
        let generated =
            t5.generate_batch(&sources, &Generate { speculation: Some(speculation), ..self.options(t5) })?;
        let total_ms = start.elapsed().as_secs_f64() * 1e3;
        let parts = summed(&generated);
        let best = |generated: Generated| generated.sequences.into_iter().next().map(|s| s.ids).unwrap_or_default();
        Ok(Run { ids: Some(generated.into_iter().map(best).collect()), total_ms, parts })
    }
}

impl Run {
    fn rest_ms(&self) -> f64 {
        let p = &self.parts;
        (self.total_ms - p.encode_ms - p.cross_ms - p.layers_ms - p.head_ms).max(0.0)
    }
}

/// The timings of a batch stand in each of its answers: each batch once. The tokens are each answer's own.
fn summed(generated: &[Generated]) -> Timings {
    let batches: BTreeMap<_, _> =
        generated.iter().map(|g| ([g.timings.encode_ms, g.timings.decode_ms].map(f64::to_bits), g.timings)).collect();
    let mut sum = Timings::default();
    sum.new_tokens = generated.iter().map(|g| g.timings.new_tokens).sum();
    batches.values().fold(sum, |mut sum, t| {
        sum.encode_ms += t.encode_ms;
        sum.cross_ms += t.cross_ms;
        sum.layers_ms += t.layers_ms;
        sum.head_ms += t.head_ms;
        sum.guessed += t.guessed;
        sum.accepted += t.accepted;
        sum.screened += t.screened;
        sum.survivors += t.survivors;
        sum
    })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    rounded(quantile(&values, 0.5))
}

/// A value's name on the command line.
pub(crate) fn name(value: impl ValueEnum) -> String {
    value.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

/// The most memory that this process has had, where Linux tells it.
pub(crate) fn peak_rss_kb() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse().ok()
}
