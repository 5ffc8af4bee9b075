//! One shape, measured in a process of its own. Every quantity is measured in turn with the others and with the machine's own
//! limits, so that what disturbs one disturbs all.

use super::Args;
use crate::args::Width;
use crate::bench::{name, peak_rss_kb};
use crate::failure::Failure;
use crate::info::{Flops, Lengths, Parameters, Shape};
use crate::output::Output;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::path::PathBuf;
use std::time::Instant;
use tiny_t5::{Generate, Load, Prediction, Source, Speculation, StepBytes, T5};

/// The arguments of the child.
#[derive(Debug, clap::Args)]
pub(crate) struct ChildArgs {
    /// A job as JSON
    job: String,
}

/// What the child does.
#[derive(Serialize, Deserialize)]
pub(super) struct Job {
    pub(super) name: String,
    model: Model,
    #[serde(with = "width")]
    pub(super) dtype: Width,
    pub(super) threads: usize,
    pub(super) source: u64,
    pub(super) target: u64,
    batch: Vec<usize>,
    /// Time to measure for, loading included.
    pub(super) seconds: f64,
    /// What the plan thinks that it takes at least.
    pub(super) least_seconds: f64,
}

/// Where the weights come from.
#[derive(Serialize, Deserialize)]
pub(super) enum Model {
    /// What config.json says.
    Random(Map<String, Value>),
    Checkpoint(PathBuf),
}

impl Job {
    pub(super) fn new(args: &Args, name: String, model: Model, dtype: Width, threads: usize) -> Job {
        let (source, target, batch) = (args.source, args.target, args.batch.clone());
        Job { name, model, dtype, threads, source, target, batch, seconds: 0.0, least_seconds: 0.5 }
    }
}

/// A width of weights as the command line has it.
mod width {
    use super::{Width, name};
    use clap::ValueEnum;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(width: &Width, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&name(*width))
    }

    pub(super) fn deserialize<'a, D: Deserializer<'a>>(d: D) -> Result<Width, D::Error> {
        Width::from_str(&String::deserialize(d)?, false).map_err(D::Error::custom)
    }
}

/// What was measured of a shape, as the JSON has it.
#[derive(Serialize, Deserialize)]
pub(super) struct Row {
    pub(super) name: String,
    /// random, or checkpoint
    pub(super) weights: String,
    pub(super) dtype: String,
    pub(super) threads: usize,
    pub(super) isa: String,
    pub(super) shape: Shape,
    pub(super) parameters: Parameters,
    pub(super) flops: Flops,
    pub(super) load_ms: f64,
    pub(super) peak_rss_kb: Option<u64>,
    pub(super) encode_ms: Stat,
    pub(super) encode_tokens_per_second: f64,
    pub(super) first_token_ms: Stat,
    /// A step of the decoder with its head and the search.
    pub(super) token_ms: Stat,
    /// The whole of one source and its target.
    pub(super) total_ms: Stat,
    pub(super) token: Token,
    pub(super) batches: Vec<Batch>,
    pub(super) roofline: Roofline,
    /// Quantities whose quartiles lie too far apart, or that were measured too few times.
    pub(super) noisy: Vec<String>,
    /// What the calibration says, where it was asked.
    pub(super) predicted: Option<Prediction>,
    /// config.json
    pub(super) config: Map<String, Value>,
}

/// Milliseconds of a quantity's repeats, to a nanosecond.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Stat {
    pub(super) median: f64,
    /// The first quartile and the third.
    pub(super) low: f64,
    pub(super) high: f64,
    pub(super) runs: usize,
}

impl Stat {
    fn of(mut values: Vec<f64>) -> Stat {
        values.sort_by(f64::total_cmp);
        let at = |share| (quantile(&values, share) * 1e6).round() / 1e6;
        Stat { median: at(0.5), low: at(0.25), high: at(0.75), runs: values.len() }
    }

    /// The distance of the quartiles as a share of the median.
    pub(super) fn spread(&self) -> f64 {
        (self.high - self.low) / self.median
    }

    fn is_noisy(&self) -> bool {
        self.runs < 3 || self.spread() > 0.2
    }
}

/// What a share of the values, which ascend, lies below; between two values on a line. NaN of none.
pub(crate) fn quantile(values: &[f64], share: f64) -> f64 {
    let at = share * values.len().saturating_sub(1) as f64;
    let value = |at: f64| values.get(at as usize).copied().unwrap_or(f64::NAN);
    value(at.floor()) + at.fract() * (value(at.ceil()) - value(at.floor()))
}

/// Where the time of a decoded token goes: medians, in milliseconds.
#[derive(Serialize, Deserialize)]
pub(super) struct Token {
    /// The decoder's blocks, attention left out.
    pub(super) layers_ms: f64,
    /// Attention over cached keys and values, projections left out.
    pub(super) attention_ms: f64,
    pub(super) head_ms: f64,
    pub(super) rest_ms: f64,
}

/// Throughput of several sources at once.
#[derive(Serialize, Deserialize)]
pub(super) struct Batch {
    pub(super) size: usize,
    pub(super) total_ms: Stat,
    /// Tokens generated, encoders included.
    pub(super) tokens_per_second: f64,
    /// The least time that the machine allows, as a share of what it took. None of int8, whose peak is not measured.
    pub(super) share: Option<f64>,
}

/// The machine's limits, measured in turn with the shape, and what the shape reaches of them.
#[derive(Serialize, Deserialize)]
pub(super) struct Roofline {
    /// FLOPs a second of fused multiply-adds in f32, all threads.
    pub(super) fma_peak: f64,
    /// Bytes a second of reading as many bytes as a step does, all threads.
    pub(super) read_bandwidth: f64,
    /// Bytes that a decoder step must read, as the engine keeps them.
    pub(super) step_bytes: u64,
    pub(super) step_flops: u64,
    /// None of int8, whose peak is not measured.
    pub(super) encode_limit_ms: Option<f64>,
    pub(super) token_limit_ms: f64,
    /// Limit over median.
    pub(super) encode_share: Option<f64>,
    pub(super) token_share: f64,
}

/// Times of all repeats.
#[derive(Default)]
struct Times {
    encode: Vec<f64>,
    first: Vec<f64>,
    token: Vec<f64>,
    total: Vec<f64>,
    layers: Vec<f64>,
    attention: Vec<f64>,
    head: Vec<f64>,
    rest: Vec<f64>,
    peak: Vec<f64>,
    reading: Vec<f64>,
    batches: Vec<Vec<f64>>,
}

/// Measures the shape of a job, and prints its row.
pub(crate) fn run_child(args: &ChildArgs) -> Result<(), Failure> {
    let start = Instant::now();
    let job: Job = serde_json::from_str(&args.job).map_err(|e| Failure::Usage(format!("report-child: {e}")))?;
    // Who started this keeps standard input open for as long as an answer is wanted.
    std::thread::spawn(|| {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(1)
    });
    let load = Load { dtype: job.dtype.dtype(), threads: Some(job.threads), ..Load::default() };
    let (t5, weights) = match &job.model {
        Model::Random(config) => (T5::random(&Value::from(config.clone()).to_string(), 1, &load)?, "random"),
        Model::Checkpoint(path) => (T5::open_with(path, &load)?, "checkpoint"),
    };
    let work = Work::new(&job, &t5);
    // First runs pack the head and grow the buffers: not counted. Most memory is taken by now, and none for the limits.
    work.single(&mut Times::default())?;
    work.batch(job.batch.iter().copied().max().unwrap_or(1))?;
    let peak_rss_kb = peak_rss_kb();
    let times = work.measure(|| start.elapsed().as_secs_f64() < job.seconds)?;
    let mut out = Output::new();
    out.json(&work.row(times, weights, peak_rss_kb))?;
    out.flush()
}

/// The work of a shape.
struct Work<'a> {
    job: &'a Job,
    t5: &'a T5,
    bytes: u64,
    lengths: Lengths,
    /// Ids of as many sources as the largest batch has.
    sources: Vec<Vec<u32>>,
    options: Generate,
}

impl<'a> Work<'a> {
    fn new(job: &'a Job, t5: &'a T5) -> Work<'a> {
        let vocab = t5.config().vocab_size.clamp(3, 32_000) as u64;
        let id = |source: u64, i: u64| 2 + ((i * 7919 + source * 104_729) % (vocab - 2)) as u32;
        let source = |s: u64| (1..job.source).map(|i| id(s, i)).chain([1]).collect();
        let most = job.batch.iter().copied().max().unwrap_or(1).max(1) as u64;
        // How well speculation guesses with random weights says nothing.
        let options = Generate {
            max_new_tokens: Some(job.target as usize),
            min_new_tokens: Some(job.target as usize),
            num_beams: Some(1),
            do_sample: Some(false),
            speculation: Some(Speculation::Off),
            ..Generate::default()
        };
        Work {
            job,
            t5,
            bytes: StepBytes::of(t5.config(), job.dtype.dtype(), job.source, job.target).total(),
            lengths: Lengths { source: job.source, target: job.target },
            sources: (0..most).map(source).collect(),
            options,
        }
    }

    /// Measures for as long as `go_on` says, and at least twice. Half of the time at most is for batches.
    fn measure(&self, go_on: impl Fn() -> bool) -> Result<Times, Failure> {
        let machine = self.t5.machine();
        let memory = machine.memory(usize::try_from(self.bytes).unwrap_or(usize::MAX))?;
        let mut times = Times { batches: vec![Vec::new(); self.job.batch.len()], ..Times::default() };
        let start = Instant::now();
        let (mut for_batches, mut rounds) = (0.0, 0);
        while rounds < 2 || go_on() {
            self.single(&mut times)?;
            times.peak.push(machine.fma_peak(20));
            times.reading.push(memory.read(5));
            if for_batches <= 0.5 * start.elapsed().as_secs_f64() || rounds < 2 {
                for (size, times) in self.job.batch.iter().zip(&mut times.batches) {
                    let ms = self.batch(*size)?;
                    for_batches += ms / 1e3;
                    times.push(ms);
                }
            }
            rounds += 1;
        }
        Ok(times)
    }

    /// One source: its encoding, its first token, and all of them.
    fn single(&self, times: &mut Times) -> Result<(), Failure> {
        let source = &self.sources[0];
        let (result, ms) = timed(|| self.t5.encode(source));
        result?;
        times.encode.push(ms);
        let first = Generate { max_new_tokens: Some(1), min_new_tokens: Some(1), ..self.options.clone() };
        let (result, ms) = timed(|| self.t5.generate(source, &first));
        result?;
        times.first.push(ms);
        let (result, ms) = timed(|| self.t5.generate(source, &self.options));
        let generated = result?.timings;
        let per_token = |ms: f64| ms / generated.new_tokens.max(1) as f64;
        let decode = (ms - generated.encode_ms - generated.cross_ms).max(0.0);
        times.total.push(ms);
        times.token.push(per_token(decode));
        times.layers.push(per_token(generated.layers_ms - generated.attention_ms));
        times.attention.push(per_token(generated.attention_ms));
        times.head.push(per_token(generated.head_ms));
        times.rest.push(per_token((decode - generated.layers_ms - generated.head_ms).max(0.0)));
        Ok(())
    }

    /// Milliseconds of the first `size` sources at once.
    fn batch(&self, size: usize) -> Result<f64, Failure> {
        let sources: Vec<Source<'_>> = self.sources[..size.min(self.sources.len())].iter().map(Source::from).collect();
        let (result, ms) = timed(|| self.t5.generate_batch(&sources, &self.options));
        result?;
        Ok(ms)
    }

    fn row(&self, times: Times, weights: &str, peak_rss_kb: Option<u64>) -> Row {
        let Job { source, target, .. } = *self.job;
        let (t5, flops) = (self.t5, self.t5.flops(source, target));
        let [peak, reading] = [times.peak, times.reading].map(|mut values| {
            values.sort_by(f64::total_cmp);
            quantile(&values, 0.5)
        });
        let [encode_ms, first_token_ms, token_ms, total_ms] =
            [times.encode, times.first, times.token, times.total].map(Stat::of);
        let step_flops = flops.decoder.saturating_add(flops.head) / target;
        let in_f32 = self.job.dtype != Width::Int8;
        let limit = |flops: u64, n: usize| in_f32.then_some(n as f64 * flops as f64 / peak);
        // The screen of the head reads bytes instead of computing in f32.
        let step_limit = |n: usize| limit(flops.decoder, n).map_or(reading, |all| reading.max(all / target as f64));
        let encode_limit_ms = limit(flops.encoder, 1).map(|seconds| seconds * 1e3);
        let token_limit_ms = step_limit(1) * 1e3;
        let batch = |(size, times): (&usize, Vec<f64>)| {
            let total_ms = Stat::of(times);
            let before = limit(flops.encoder.saturating_add(flops.cross), *size);
            let least = before.map(|before| before + target as f64 * step_limit(*size));
            Batch {
                size: *size,
                tokens_per_second: *size as f64 * target as f64 / total_ms.median * 1e3,
                share: least.map(|least| least * 1e3 / total_ms.median),
                total_ms,
            }
        };
        let batches: Vec<Batch> = self.job.batch.iter().zip(times.batches).map(batch).collect();
        let named =
            [("encode", &encode_ms), ("first token", &first_token_ms), ("token", &token_ms), ("total", &total_ms)];
        let mut noisy: Vec<String> =
            named.iter().filter(|(_, stat)| stat.is_noisy()).map(|(name, _)| (*name).to_owned()).collect();
        noisy.extend(batches.iter().filter(|b| b.total_ms.is_noisy()).map(|b| format!("batch {}", b.size)));
        Row {
            name: self.job.name.clone(),
            weights: weights.to_owned(),
            dtype: name(self.job.dtype),
            threads: t5.threads(),
            isa: t5.isa().to_owned(),
            shape: Shape::of(t5.config()),
            parameters: Parameters::of(t5.parameters()),
            flops: Flops::of(flops, &self.lengths),
            load_ms: t5.load_ms(),
            peak_rss_kb,
            encode_tokens_per_second: source as f64 / encode_ms.median * 1e3,
            token: Token {
                layers_ms: Stat::of(times.layers).median,
                attention_ms: Stat::of(times.attention).median,
                head_ms: Stat::of(times.head).median,
                rest_ms: Stat::of(times.rest).median,
            },
            batches,
            roofline: Roofline {
                fma_peak: peak,
                read_bandwidth: self.bytes as f64 / reading,
                step_bytes: self.bytes,
                step_flops,
                encode_limit_ms,
                token_limit_ms,
                encode_share: encode_limit_ms.map(|limit| limit / encode_ms.median),
                token_share: token_limit_ms / token_ms.median,
            },
            encode_ms,
            first_token_ms,
            token_ms,
            total_ms,
            noisy,
            predicted: None,
            config: t5.config().raw.clone(),
        }
    }
}

/// What a call gives, and its milliseconds.
fn timed<R>(call: impl FnOnce() -> R) -> (R, f64) {
    let start = Instant::now();
    let result = call();
    (result, start.elapsed().as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use super::quantile;

    #[test]
    fn quantiles_lie_on_lines_between_values() {
        assert!(quantile(&[], 0.5).is_nan());
        assert_eq!([0.25, 0.5, 0.75].map(|share| quantile(&[7.0], share)), [7.0; 3]);
        assert_eq!([0.0, 0.25, 0.5, 0.75, 1.0].map(|share| quantile(&[1.0, 3.0], share)), [1.0, 1.5, 2.0, 2.5, 3.0]);
        assert_eq!([0.25, 0.5, 0.75].map(|share| quantile(&[1.0, 2.0, 4.0, 8.0, 9.0], share)), [2.0, 4.0, 8.0]);
        assert_eq!([0.25, 0.5].map(|share| quantile(&[1.0, 2.0, 4.0, 8.0], share)), [1.75, 3.0]);
    }
}
