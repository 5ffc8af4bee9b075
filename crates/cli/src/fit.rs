//! `tiny-t5 family --fit`: the shapes that fit a budget, best first, from what was measured of this machine.

use crate::failure::Failure;
use crate::info::grouped;
use crate::output::{Output, say};
use crate::report::CANNOT_BE_LOADED;
use serde::Serialize;
use std::path::PathBuf;
use tiny_t5::{Calibration, Dtype, Prediction, Shape};

/// What a shape must fit: `latency<5ms,source=64,target=32`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Fit {
    /// Milliseconds that one source with its target may take.
    latency: Option<f64>,
    /// Milliseconds until the first token.
    first: Option<f64>,
    /// Milliseconds a decoded token.
    token: Option<f64>,
    /// Bytes of the weights.
    memory: Option<f64>,
    parameters: Option<f64>,
    source: u64,
    target: u64,
    threads: Option<usize>,
    dtype: Dtype,
}

const EXPECTED: &str = "expected terms as in latency<5ms,source=64,target=32: latency<, first<, token< a time (ms, us, s), \
                        memory< bytes (MB, GB), parameters< a number (M), source=, target=, threads= whole numbers, \
                        dtype= f32, bf16, f16 or int8";

impl std::str::FromStr for Fit {
    type Err = String;

    fn from_str(text: &str) -> Result<Fit, String> {
        let mut fit = Fit {
            latency: None,
            first: None,
            token: None,
            memory: None,
            parameters: None,
            source: 64,
            target: 32,
            threads: None,
            dtype: Dtype::F32,
        };
        let mut seen: Vec<&str> = Vec::new();
        for term in text.split(',').map(str::trim) {
            let bad = || format!("found {term:?}, {EXPECTED}");
            let at = term.find(['<', '=']).ok_or_else(bad)?;
            let (key, value) = (term[..at].trim(), term[at + 1..].trim());
            let is_limit = term[at..].starts_with('<');
            if seen.contains(&key) {
                return Err(format!("found {key} twice, {EXPECTED}"));
            }
            seen.push(key);
            let number = |units: &[(&str, f64)]| crate::report::quantity(value, units).ok_or_else(bad);
            let time = || number(&[("ms", 1.0), ("us", 1e-3), ("s", 1e3)]);
            let tokens = || value.parse().ok().filter(|n| (1..=1 << 20).contains(n)).ok_or_else(bad);
            match (key, is_limit) {
                ("latency", true) => fit.latency = Some(time()?),
                ("first", true) => fit.first = Some(time()?),
                ("token", true) => fit.token = Some(time()?),
                ("memory", true) => fit.memory = Some(number(&[("GB", 1e9), ("MB", 1e6)])?),
                ("parameters", true) => fit.parameters = Some(number(&[("M", 1e6)])?),
                ("source", false) => fit.source = tokens()?,
                ("target", false) => fit.target = tokens()?,
                ("threads", false) => {
                    fit.threads = Some(value.parse().ok().filter(|n| (1..=1024).contains(n)).ok_or_else(bad)?);
                }
                ("dtype", false) => {
                    fit.dtype = match value {
                        "f32" => Dtype::F32,
                        "bf16" => Dtype::Bf16,
                        "f16" => Dtype::F16,
                        "int8" => Dtype::Int8,
                        _ => return Err(bad()),
                    }
                }
                _ => return Err(bad()),
            }
        }
        match fit.limits().is_empty() {
            true => Err(format!("found no limit, {EXPECTED}")),
            false => Ok(fit),
        }
    }
}

/// A shape that fits.
#[derive(Serialize)]
struct Member {
    name: String,
    parameters: u64,
    num_layers: usize,
    num_decoder_layers: usize,
    predicted: Prediction,
}

/// All that is told, as the JSON has it.
#[derive(Serialize)]
struct Answer {
    dtype: String,
    threads: usize,
    source: u64,
    target: u64,
    calibration: Calibration,
    shapes: Vec<Member>,
}

impl Fit {
    /// What is limited.
    fn limits(&self) -> Vec<f64> {
        [self.latency, self.first, self.token, self.memory, self.parameters].into_iter().flatten().collect()
    }

    fn holds(&self, shape: &Shape, p: &Prediction) -> bool {
        let below = |limit: Option<f64>, found: f64| limit.is_none_or(|limit| found < limit);
        let parameters = shape.parameters();
        let width = match self.dtype {
            Dtype::Int8 => 1,
            Dtype::Bf16 | Dtype::F16 => 2,
            _ => 4,
        };
        below(self.latency, p.total_ms)
            && below(self.first, p.first_token_ms)
            && below(self.token, p.token_ms)
            && below(self.memory, parameters.bytes(width) as f64)
            && below(self.parameters, parameters.total() as f64)
    }

    /// Lists the shapes that fit, those with most parameters first.
    pub(crate) fn run(&self, names: &[String], json: bool) -> Result<(), Failure> {
        let threads = self.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
        let calibration = calibration(threads, self.dtype)?;
        let family = if names.is_empty() { tiny_t5::family(true) } else { names.to_vec() };
        let shapes = family.iter().map(|name| Shape::named(name)).collect::<Result<Vec<_>, _>>()?;
        let mut members: Vec<Member> = Vec::new();
        let mut seen = std::collections::HashSet::new();
        for shape in shapes.iter().filter(|shape| seen.insert(&shape.name)) {
            if !shape.loads {
                if !names.is_empty() {
                    say("note", &format!("left out, {}: {CANNOT_BE_LOADED}", shape.name));
                }
                continue;
            }
            let c = &shape.config;
            let predicted = calibration.predict(c, self.dtype, self.source, self.target);
            if self.holds(shape, &predicted) {
                members.push(Member {
                    name: shape.name.clone(),
                    parameters: shape.parameters().total(),
                    num_layers: c.num_layers,
                    num_decoder_layers: c.num_decoder_layers,
                    predicted,
                });
            }
        }
        members.sort_by(|a, b| {
            b.parameters.cmp(&a.parameters).then(a.predicted.total_ms.total_cmp(&b.predicted.total_ms))
        });
        let mut out = Output::new();
        if json {
            let (dtype, source, target) = (format!("{:?}", self.dtype).to_lowercase(), self.source, self.target);
            out.json(&Answer { dtype, threads, source, target, calibration, shapes: members })?;
            return out.flush();
        }
        if members.is_empty() {
            say("note", if names.is_empty() { "no shape of the family fits" } else { "none of these shapes fits" });
        } else {
            let width = members.iter().map(|m| m.name.len()).max().unwrap_or(0);
            let line = |cells: [String; 6]| {
                cells.iter().zip([15, 8, 9, 9, 9, 9]).map(|(cell, width)| format!("{cell:>width$}")).collect::<String>()
            };
            let heads = ["parameters", "layers", "encode", "first", "token", "total"];
            out.line(format_args!("{:width$}{}", "", line(heads.map(str::to_owned))))?;
            for m in &members {
                let p = &m.predicted;
                let ms = [p.encode_ms, p.first_token_ms, p.token_ms, p.total_ms].map(|ms| format!("{ms:.2}"));
                let [encode, first, token, total] = ms;
                let layers = format!("{}+{}", m.num_layers, m.num_decoder_layers);
                let cells = [grouped(m.parameters), layers, encode, first, token, total];
                out.line(format_args!("{:width$}{}", m.name, line(cells)))?;
            }
            out.line(format_args!(
                "\nPredicted milliseconds for {} source and {} target tokens, {threads} threads, on this machine: {}.\n\
                 A model of costs, not a measurement: `tiny-t5 report --predict NAME` holds it against one.",
                self.source, self.target, calibration.processor
            ))?;
        }
        out.flush()
    }
}

/// The calibration of this machine: the one in the user's cache folder, or a new one where that is of another machine or version.
pub(crate) fn calibration(threads: usize, dtype: Dtype) -> Result<Calibration, Failure> {
    let path = cache_file(threads, dtype);
    let kept = path.as_deref().and_then(|path| std::fs::read(path).ok());
    let kept: Option<Calibration> = kept.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    if let Some(kept) = kept.filter(|kept| kept.holds(threads, dtype)) {
        return Ok(kept);
    }
    calibrate(threads, dtype)
}

/// A new calibration, kept in the user's cache folder.
pub(crate) fn calibrate(threads: usize, dtype: Dtype) -> Result<Calibration, Failure> {
    let path = cache_file(threads, dtype);
    let made = Calibration::measure(threads, dtype)?;
    // A folder that cannot be written costs a new measurement the next time.
    if let (Some(path), Ok(text)) = (path, serde_json::to_string(&made)) {
        let written = path.parent().map(std::fs::create_dir_all).transpose().and_then(|_| std::fs::write(&path, text));
        if let Err(e) = written {
            say("note", &format!("the calibration was not kept: {}: {e}", path.display()));
        }
    }
    Ok(made)
}

fn cache_file(threads: usize, dtype: Dtype) -> Option<PathBuf> {
    let folder = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = folder("XDG_CACHE_HOME").or_else(|| folder("HOME").map(|home| home.join(".cache")))?;
    let dtype = format!("{dtype:?}").to_lowercase();
    Some(cache.join("tiny-t5").join(format!("calibration-{threads}-{dtype}.json")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fit_reads_its_terms() {
        let fit: Fit = "latency<5ms, source=64,target=16,memory<0.2GB,threads=2,dtype=bf16".parse().unwrap();
        assert_eq!((fit.latency, fit.memory, fit.source, fit.target), (Some(5.0), Some(2e8), 64, 16));
        assert_eq!((fit.threads, fit.dtype, fit.first), (Some(2), Dtype::Bf16, None));
        assert_eq!("token<300us".parse::<Fit>().unwrap().token, Some(0.3));
        assert_eq!("first<1s".parse::<Fit>().unwrap().first, Some(1000.0));
        assert_eq!("parameters<20M".parse::<Fit>().unwrap().parameters, Some(2e7));
    }

    #[test]
    fn fit_names_the_term_that_is_none() {
        for (text, part) in [
            ("", "\"\""),
            ("latency", "\"latency\""),
            ("latency=5ms", "latency=5ms"),
            ("latency<-5ms", "latency<-5ms"),
            ("latency<5h", "latency<5h"),
            ("source=64", "no limit"),
            ("latency<5,source=0", "source=0"),
            ("latency<5,latency<6", "latency twice"),
            ("latency<5,dtype=f8", "dtype=f8"),
            ("latency<5,depth<6", "depth<6"),
        ] {
            let error = text.parse::<Fit>().unwrap_err();
            assert!(error.contains(part) && error.contains("expected terms"), "{text}: {error}");
        }
    }
}
