//! Which shapes are measured, within the budget of time and memory.

use super::Args;
use super::measure::{Job, Model};
use crate::args::Width;
use crate::bench::name;
use crate::failure::Failure;
use serde::Serialize;
use std::time::Duration;
use tiny_t5::Shape;

/// What is measured where nobody names shapes, as far as the budget goes: the small sizes of T5-Efficient, then those of
/// their variations that show most.
const DEFAULT: [&str; 30] = [
    "tiny",
    "mini",
    "small",
    "tiny-nl8",
    "tiny-el8",
    "tiny-dl8",
    "tiny-ff2000",
    "tiny-nh8",
    "mini-nl8",
    "small-el16-dl2",
    "small-dm256",
    "small-kv32",
    "tiny-nl2",
    "tiny-nl16",
    "small-el8-dl2",
    "small-dl2",
    "small-el16-dl4",
    "small-ff1000",
    "small-nl4",
    "small-dm128",
    "small-kv16",
    "tiny-nl24",
    "tiny-dl2",
    "tiny-nh16",
    "small-ff3000",
    "small-el32",
    "small-el16-dl1",
    "small-kv128",
    "small-nl16",
    "small-dl16",
];

/// FLOPs a second of a thread that a plan counts with where products have many rows, and where they have one; and seconds a parameter until
/// random weights are loaded, and for a process. Low, so that a plan keeps its budget on slow machines too.
const FLOPS: f64 = 3e10;
const STEP_FLOPS: f64 = 4e9;
const LOAD: f64 = 8e-9;
const START: f64 = 0.2;
/// Repeats below which a median says little.
const REPEATS: f64 = 3.0;

/// What will be measured, and what will not.
pub(super) struct Plan {
    pub(super) jobs: Vec<Job>,
    pub(super) skipped: Vec<Skipped>,
    /// Nobody named shapes.
    pub(super) is_default: bool,
}

/// A shape that was not measured.
#[derive(Serialize)]
pub(super) struct Skipped {
    pub(super) name: String,
    pub(super) dtype: String,
    pub(super) threads: usize,
    pub(super) why: String,
}

impl Skipped {
    pub(super) fn new(job: &Job, why: String) -> Skipped {
        Skipped { name: job.name.clone(), dtype: name(job.dtype), threads: job.threads, why }
    }
}

/// Makes the plan.
pub(super) fn plan(args: &Args) -> Result<Plan, Failure> {
    let is_default = args.names.is_empty() && args.model.is_empty();
    let listed = DEFAULT.map(|name| format!("t5-efficient-{name}"));
    let names = if is_default { &listed[..] } else { &args.names[..] };
    let shapes = names.iter().map(|name| Shape::named(name)).collect::<Result<Vec<_>, _>>()?;
    let mut plan = Plan { jobs: Vec::new(), skipped: Vec::new(), is_default };
    let mut seconds = 0.0;
    let mut add = |mut job: Job, refused: Option<String>| {
        let after = seconds + job.least_seconds;
        let late = after > args.budget.as_secs_f64() && !plan.jobs.is_empty();
        let why = refused.or_else(|| {
            let (least, budget) = (job.least_seconds.ceil(), args.budget.as_secs_f64());
            late.then(|| format!("it would take {least} s, more than is left of the budget of {budget} s"))
        });
        match why {
            Some(why) => plan.skipped.push(Skipped::new(&job, why)),
            None => {
                seconds = after;
                job.seconds = job.least_seconds;
                plan.jobs.push(job);
            }
        }
    };
    let each = |f: &mut dyn FnMut(Width, usize)| {
        args.dtype.iter().for_each(|dtype| args.threads.iter().for_each(|threads| f(*dtype, *threads)));
    };
    for model in &args.model {
        each(&mut |dtype, threads| {
            let job = Job::new(args, model.display().to_string(), Model::Checkpoint(model.clone()), dtype, threads);
            add(job, None);
        });
    }
    for shape in &shapes {
        each(&mut |dtype, threads| {
            let config = shape.config.raw.clone();
            let mut job = Job::new(args, shape.name.clone(), Model::Random(config), dtype, threads);
            job.least_seconds = least_seconds(args, shape, threads);
            add(job, refused(args, shape, dtype));
        });
    }
    Ok(plan)
}

/// Why some shapes are only counted.
pub(crate) const CANNOT_BE_LOADED: &str = "shapes with shared heads or tied keys and values cannot be loaded";

/// Why a shape is not measured, whatever the time.
fn refused(args: &Args, shape: &Shape, dtype: Width) -> Option<String> {
    if !shape.loads {
        return Some(CANNOT_BE_LOADED.into());
    }
    let width = match dtype {
        Width::Auto | Width::F32 => 4,
        Width::Bf16 | Width::F16 => 2,
        Width::Int8 => 1,
    };
    // Random weights in f32, and their packed copy.
    let bytes = shape.parameters().bytes(4 + width);
    let limit = args.memory_limit;
    (bytes > limit)
        .then(|| format!("it would take {} MB, --memory-limit is {} MB", bytes / 1_000_000, limit / 1_000_000))
}

/// Seconds that a shape takes at least, for a few repeats.
fn least_seconds(args: &Args, shape: &Shape, threads: usize) -> f64 {
    let flops = shape.flops(args.source, args.target);
    let threads = threads.min(std::thread::available_parallelism().map_or(1, usize::from)) as f64;
    // The head's screen saves most of its work.
    let decoder = flops.decoder as f64 + flops.head as f64 / 3.0;
    let encoder = flops.encoder.saturating_add(flops.cross) as f64;
    let many = encoder / (FLOPS * threads);
    let single = many + decoder / (STEP_FLOPS * threads);
    let batches: f64 = args.batch.iter().map(|n| *n as f64 * (encoder + decoder) / (FLOPS * threads)).sum();
    START + LOAD * shape.parameters().total() as f64 + REPEATS * (2.0 * many + 2.0 * single + batches)
}

/// A time: 90, 30s, 500ms, 5m.
pub(super) fn time(text: &str) -> Result<Duration, String> {
    let units = [("ms", 1e-3), ("s", 1.0), ("m", 60.0)];
    let seconds = quantity(text, &units).filter(|seconds| *seconds <= 86_400.0);
    seconds.map(Duration::from_secs_f64).ok_or_else(|| "expected a time up to a day, as in 30s or 5m".into())
}

/// Bytes: 2000000000, 900MB, 4GB.
pub(super) fn bytes(text: &str) -> Result<u64, String> {
    let units = [("GB", 1e9), ("MB", 1e6), ("B", 1.0)];
    quantity(text, &units).map(|bytes| bytes as u64).ok_or_else(|| "expected bytes, as in 900MB or 4GB".into())
}

/// A number above 0 and a unit, or none for 1.
pub(crate) fn quantity(text: &str, units: &[(&str, f64)]) -> Option<f64> {
    let text = text.trim();
    let unit = units.iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, *factor)));
    let (number, factor) = unit.unwrap_or((text, 1.0));
    let number: f64 = number.trim().parse().ok()?;
    Some(number * factor).filter(|x| *x > 0.0 && x.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_reads_times_and_bytes() {
        assert_eq!(time("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(time("90"), time("1.5m"));
        assert_eq!(bytes("900MB"), Ok(900_000_000));
        for bad in ["", "s", "-1s", "0", "nan", "inf", "5h", "2d"] {
            assert!(time(bad).is_err() && bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn report_knows_its_own_shapes() {
        for name in DEFAULT {
            assert!(Shape::named(&format!("t5-efficient-{name}")).unwrap().loads, "{name}");
        }
    }
}
