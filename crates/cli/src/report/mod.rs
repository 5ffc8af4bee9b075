//! `tiny-t5 report`: shapes measured on this machine, beside what the machine can do at most.
//!
//! | file | subject |
//! |---|---|
//! | `plan` | which shapes are measured, within the budget of time and memory |
//! | `measure` | one shape, in a process of its own, so that its peak memory is its own |
//! | `table` | the results for people, and as CSV |
//! | `page`, `plots`, `pareto` | one HTML file with pictures |

pub(crate) mod measure;
mod page;
mod pareto;
mod plan;
mod plots;
mod table;

use crate::args::{Width, at_least_one};
use crate::bench::name;
use crate::failure::Failure;
use crate::fit;
use crate::output::{Output, say};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressFinish, ProgressStyle};
pub(crate) use measure::ChildArgs;
use measure::{Job, Row};
use plan::Skipped;
pub(crate) use plan::{CANNOT_BE_LOADED, quantity};
use serde::Serialize;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tiny_t5::{Calibration, Prediction};

/// The arguments of `report`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Shapes such as t5-small or t5-efficient-small-el16-dl2, with random weights; left out, and without --model: shapes of
    /// T5-Efficient, as many as fit the budget
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// A checkpoint folder or a hub name, as elsewhere; more than once for more of them
    #[arg(long, value_name = "DIR_OR_NAME")]
    model: Vec<PathBuf>,
    /// Widths of weights, as in f32,int8
    #[arg(long, value_name = "DTYPES", value_delimiter = ',', default_value = "f32")]
    dtype: Vec<Width>,
    /// Numbers of threads, as in 1,2; left out: the processors that this process may use
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = at_least_one, allow_negative_numbers = true)]
    threads: Vec<usize>,
    /// Tokens of a source
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=MOST_TOKENS), allow_negative_numbers = true)]
    source: u64,
    /// Tokens of a target
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u64).range(1..=MOST_TOKENS), allow_negative_numbers = true)]
    target: u64,
    /// Numbers of sources whose throughput is measured
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "1,8,32", value_parser = batch_size, allow_negative_numbers = true)]
    batch: Vec<usize>,
    /// Time for all of it, as in 30s or 5m; it decides how many shapes and repeats there are
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = plan::time, allow_negative_numbers = true)]
    budget: Duration,
    /// Memory that a shape may take, as in 900MB or 4GB; larger ones are left out
    #[arg(long, value_name = "BYTES", default_value = "4GB", value_parser = plan::bytes, allow_negative_numbers = true)]
    memory_limit: u64,
    /// Print the calibration's predictions beside what was measured
    #[arg(long)]
    predict: bool,
    /// Write one HTML file with pictures, which loads nothing from elsewhere
    #[arg(long, value_name = "FILE.html", help_heading = "Output")]
    out: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long, help_heading = "Output")]
    json: bool,
    /// Print comma-separated values, a line a shape
    #[arg(long, help_heading = "Output", conflicts_with_all = ["json", "predict"])]
    csv: bool,
}

impl Args {
    /// What is named twice is measured once.
    fn once_each(&mut self) {
        fn once<T: PartialEq>(list: &mut Vec<T>) {
            let mut kept: Vec<T> = Vec::new();
            list.drain(..).for_each(|item| {
                if !kept.contains(&item) {
                    kept.push(item)
                }
            });
            *list = kept;
        }
        once(&mut self.names);
        once(&mut self.model);
        once(&mut self.dtype);
        once(&mut self.threads);
        once(&mut self.batch);
    }
}

/// Sources and targets beyond this measure nothing that anybody waits for.
const MOST_TOKENS: u64 = 4096;

/// All that was found, as the JSON has it.
#[derive(Serialize)]
struct Report {
    version: &'static str,
    machine: Machine,
    source: u64,
    target: u64,
    budget_seconds: f64,
    seconds: f64,
    shapes: Vec<Row>,
    skipped: Vec<Skipped>,
}

/// Where it was measured.
#[derive(Serialize)]
struct Machine {
    processor: String,
    cores: usize,
    isa: &'static str,
    system: String,
    memory_bytes: Option<u64>,
    /// Processes that wanted to run over the last minute, before the measurement and after it.
    load_average: [Option<f64>; 2],
}

/// Sources of a batch.
fn batch_size(text: &str) -> Result<usize, String> {
    const MOST: usize = 1024;
    text.parse().ok().filter(|n| (1..=MOST).contains(n)).ok_or_else(|| format!("expected a whole number, 1 to {MOST}"))
}

/// Runs the command.
pub(crate) fn run(mut args: Args) -> Result<(), Failure> {
    let start = Instant::now();
    let before = load_average();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    args.once_each();
    if args.threads.is_empty() {
        args.threads.push(cores);
    }
    let plan = plan::plan(&args)?;
    if let Some(path) = &args.out {
        page::check(path)?; // before the time is spent
    }
    let is_default = plan.is_default;
    let mut report = Report {
        version: env!("CARGO_PKG_VERSION"),
        machine: Machine {
            processor: tiny_t5::processor(),
            cores,
            isa: tiny_t5::Machine::new(1)?.isa(),
            system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            memory_bytes: memory_bytes(),
            load_average: [before, None],
        },
        source: args.source,
        target: args.target,
        budget_seconds: args.budget.as_secs_f64(),
        seconds: 0.0,
        shapes: Vec::new(),
        skipped: plan.skipped,
    };
    let bar = progress(args.budget);
    let mut calibrations = Calibrations::default();
    // The first of those skipped that somebody named and that could not be measured.
    let mut failed = None;
    let all = plan.jobs.len();
    for (i, mut job) in plan.jobs.into_iter().enumerate() {
        let left = args.budget.saturating_sub(start.elapsed()).as_secs_f64();
        if i > 0 && left < job.least_seconds / 2.0 {
            report.skipped.push(Skipped::new(&job, "the budget is spent".into()));
            continue;
        }
        if args.predict {
            bar.set_message(format!("calibration for {}", job.name));
            calibrations.before(&job)?;
        }
        // What a shape does not use is for those behind it.
        job.seconds = left / (all - i) as f64 - calibrations.seconds;
        bar.set_message(format!("{} {}, {} of {all}", job.name, name(job.dtype), i + 1));
        match child(&job, &bar, start)? {
            Ok(mut row) => {
                if args.predict {
                    row.predicted = Some(calibrations.predict(&job, &row)?);
                }
                report.shapes.push(row);
            }
            Err(why) => {
                if !is_default {
                    failed.get_or_insert(report.skipped.len());
                }
                report.skipped.push(Skipped::new(&job, why));
            }
        }
    }
    bar.finish_and_clear();
    report.seconds = start.elapsed().as_secs_f64();
    report.machine.load_average[1] = load_average();
    if report.shapes.is_empty() {
        let first = report.skipped.get(failed.unwrap_or(0));
        let why = first.map_or_else(|| "no shape".into(), |s| about(&s.name, &s.why));
        return Err(Failure::Other(format!("nothing was measured: {why}")));
    }
    // Each is worth having where the other cannot be written.
    let printed = print(&args, &report);
    let page = args.out.as_ref().map_or(Ok(()), |path| page::write(&report, path));
    match is_default {
        true if report.skipped.is_empty() => {}
        true => {
            let count = report.skipped.len();
            say("note", &format!("{count} more shapes wait for a larger --budget; --json names them"));
        }
        false => {
            for (_, s) in report.skipped.iter().enumerate().filter(|(i, _)| failed != Some(*i)) {
                say("note", &format!("left out, {}: {}", s.dtype, about(&s.name, &s.why)));
            }
        }
    }
    if report.seconds > 1.1 * report.budget_seconds + 1.0 {
        let (took, budget) = (report.seconds, report.budget_seconds);
        say(
            "note",
            &format!("took {took:.0} s, more than the budget of {budget} s: each shape is measured twice at least"),
        );
    }
    let failed = failed.map(|i| &report.skipped[i]).map(|s| Failure::Other(about(&s.name, &s.why)));
    page.and(failed.map_or(Ok(()), Err)).and(printed)
}

/// Prints the results.
fn print(args: &Args, report: &Report) -> Result<(), Failure> {
    let mut out = Output::new();
    match (args.json, args.csv) {
        (true, _) => out.json(report)?,
        (_, true) => table::csv(&mut out, report)?,
        _ => {
            table::print(&mut out, report)?;
            if args.predict {
                table::predictions(&mut out, report)?;
            }
        }
    }
    out.flush()
}

/// Why a shape was not measured, with its name.
fn about(name: &str, why: &str) -> String {
    match why.strip_prefix(name) {
        Some(rest) if rest.starts_with(':') => why.to_owned(),
        _ => format!("{name}: {why}"),
    }
}

/// The last calibration of each width and number of threads, and what one took. A kept one may be of another hour, with other work
/// beside it.
#[derive(Default)]
struct Calibrations {
    last: Vec<((Width, usize), Calibration)>,
    seconds: f64,
}

impl Calibrations {
    /// Makes sure that there is one before the shape is measured.
    fn before(&mut self, job: &Job) -> Result<(), Failure> {
        if self.last.iter().all(|(key, _)| *key != (job.dtype, job.threads)) {
            self.renew(job)?;
        }
        Ok(())
    }

    /// The mean of what the calibration before the measurement says and of what a new one behind it says: machines drift.
    fn predict(&mut self, job: &Job, row: &Row) -> Result<Prediction, Failure> {
        let config = serde_json::Value::from(row.config.clone()).to_string();
        let config = tiny_t5::Config::parse(&config).map_err(tiny_t5::Error::from)?;
        let predict = |c: &Calibration| c.predict(&config, job.dtype.dtype(), job.source, job.target);
        let key = (job.dtype, job.threads);
        let before: Vec<_> = self.last.iter().filter(|(of, _)| *of == key).map(|(_, c)| predict(c)).collect();
        let behind = predict(self.renew(job)?);
        Ok(before.first().map_or(behind, |before| before.mean(&behind)))
    }

    fn renew(&mut self, job: &Job) -> Result<&Calibration, Failure> {
        let (start, key) = (Instant::now(), (job.dtype, job.threads));
        let made = fit::calibrate(job.threads, job.dtype.dtype())?;
        self.seconds = start.elapsed().as_secs_f64();
        self.last.retain(|(of, _)| *of != key);
        self.last.push((key, made));
        Ok(&self.last[self.last.len() - 1].1)
    }
}

/// Measures a shape in a process of its own; or why it could not.
fn child(job: &Job, bar: &ProgressBar, start: Instant) -> Result<Result<Row, String>, Failure> {
    let failure = |what: &str, e: &dyn std::fmt::Display| Failure::Other(format!("{what} for {}: {e}", job.name));
    let program = std::env::current_exe().map_err(|e| failure("this program", &e))?;
    let text = serde_json::to_string(job).map_err(|e| failure("a job", &e))?;
    let mut command = Command::new(program);
    command.arg("report-child").arg(text).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|e| failure("a process", &e))?;
    // It ends when this ends, as it does with this process, however that comes.
    let _open = child.stdin.take();
    let waiting = std::thread::spawn(|| child.wait_with_output());
    while !waiting.is_finished() {
        bar.set_position(start.elapsed().as_millis() as u64);
        std::thread::sleep(Duration::from_millis(10));
    }
    let output = waiting.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    let output = output.map_err(|e| failure("a process", &e))?;
    if output.status.success() {
        return Ok(serde_json::from_slice(&output.stdout).map_err(|e| format!("its answer cannot be read: {e}")));
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    let line = errors.lines().find_map(|line| line.strip_prefix("error: "));
    Ok(Err(line.map_or_else(|| format!("its process ended: {}", output.status), str::to_owned)))
}

/// A bar over the budget, on a terminal.
fn progress(budget: Duration) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(Some(budget.as_millis() as u64), ProgressDrawTarget::stderr());
    let bar = bar.with_finish(ProgressFinish::AndClear);
    let style = ProgressStyle::with_template("{bar:30} {percent:>3} %  {eta} left  {msg}");
    style.map_or(bar.clone(), |style| bar.with_style(style))
}

fn memory_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
}

fn load_average() -> Option<f64> {
    std::fs::read_to_string("/proc/loadavg").ok()?.split_whitespace().next()?.parse().ok()
}
