//! The results for people, and as CSV.

use super::Report;
use super::measure::{Row, quantile};
use crate::failure::Failure;
use crate::output::Output;

/// A line a shape.
pub(super) fn print(out: &mut Output, report: &Report) -> Result<(), Failure> {
    let width = report.shapes.iter().map(|row| row.name.chars().count()).max().unwrap_or(0);
    let m = &report.machine;
    out.line(format_args!("{}, {} cores, {}, {}", m.processor, m.cores, m.isa, m.system))?;
    out.line(format_args!(
        "{} source and {} target tokens; one source at a time, then batches\n",
        report.source, report.target
    ))?;
    let head = ["dtype", "thr", "params", "encode", "peak", "first", "token", "read", "total", "spread", "memory"];
    out.line(format_args!("{:width$}{}", "", cells(head.map(str::to_owned))))?;
    for row in &report.shapes {
        let percent = |share: f64| format!("{:.0}%", 100.0 * share);
        let line = cells([
            row.dtype.clone(),
            row.threads.to_string(),
            format!("{:.1}M", row.parameters.total as f64 / 1e6),
            format!("{:.0}", row.encode_tokens_per_second),
            row.roofline.encode_share.map_or_else(String::new, percent),
            format!("{:.2}", row.first_token_ms.median),
            format!("{:.3}", row.token_ms.median),
            percent(row.roofline.token_share),
            format!("{:.2}", row.total_ms.median),
            percent(row.total_ms.spread()),
            row.peak_rss_kb.map_or_else(String::new, |kb| format!("{:.0}", megabytes(kb))),
        ]);
        let noisy = if row.noisy.is_empty() { "" } else { " !" };
        out.line(format_args!("{:width$}{line}{noisy}", row.name))?;
    }
    out.line("")?;
    for row in &report.shapes {
        let batches: Vec<_> = row
            .batches
            .iter()
            .map(|b| {
                let share = b.share.map_or_else(String::new, |share| format!(" ({:.0}%)", 100.0 * share));
                format!("{}: {:.0}{share}", b.size, b.tokens_per_second)
            })
            .collect();
        out.line(format_args!("{:width$} {} tokens/s at batch {}", row.name, row.dtype, batches.join(", ")))?;
    }
    out.line(
        "\nencode: source tokens a second; peak, read: the share reached of the machine's own FMA peak and read\n\
         bandwidth, measured in turn; first, token, total: milliseconds (medians); spread: between the quartiles\n\
         of total; memory: MB at most, random weights beside their packed copy included; tokens/s: share of the limit.\n\
         int8 has no share of a peak that is f32's.",
    )?;
    for row in report.shapes.iter().filter(|row| !row.noisy.is_empty()) {
        out.line(format_args!("! {} {}: too noisy or too few repeats: {}", row.name, row.dtype, row.noisy.join(", ")))?;
    }
    Ok(())
}

/// The system counts kilobytes of 1,024.
pub(super) fn megabytes(kilobytes: u64) -> f64 {
    kilobytes as f64 * 1024.0 / 1e6
}

fn cells(cells: [String; 11]) -> String {
    const WIDTHS: [usize; 11] = [6, 4, 8, 7, 5, 8, 8, 5, 9, 7, 7];
    cells.iter().zip(WIDTHS).map(|(cell, width)| format!(" {cell:>width$}")).collect()
}

/// What the calibration said, beside what was measured.
pub(super) fn predictions(out: &mut Output, report: &Report) -> Result<(), Failure> {
    let width = report.shapes.iter().map(|row| row.name.chars().count()).max().unwrap_or(0);
    let mut errors = [Vec::new(), Vec::new(), Vec::new()];
    out.line(format_args!(
        "\npredicted / measured, ms\n{:width$}  {:>20} {:>20} {:>20}",
        "", "encode", "token", "total"
    ))?;
    for row in &report.shapes {
        let Some(p) = &row.predicted else { continue };
        let pairs = [(p.encode_ms, &row.encode_ms), (p.token_ms, &row.token_ms), (p.total_ms, &row.total_ms)];
        let cell = |(predicted, measured): (f64, f64)| {
            let error = 100.0 * (predicted / measured - 1.0);
            format!(" {:>20}", format!("{predicted:.2}/{measured:.2} {error:+.0}%"))
        };
        let line: String = pairs.iter().map(|(p, m)| cell((*p, m.median))).collect();
        errors.iter_mut().zip(pairs).for_each(|(all, (p, m))| all.push((p / m.median - 1.0).abs()));
        out.line(format_args!("{:width$} {line}", row.name))?;
    }
    for (what, mut errors) in ["encode", "token", "total"].into_iter().zip(errors) {
        errors.sort_by(f64::total_cmp);
        let within = errors.iter().filter(|error| **error <= 0.25).count();
        let Some(most) = errors.last() else { continue };
        out.line(format_args!(
            "{what}: {within} of {} within 25 %, median error {:.0} %, largest {:.0} %",
            errors.len(),
            100.0 * quantile(&errors, 0.5),
            100.0 * most
        ))?;
    }
    Ok(())
}

/// A line a shape, below the names of the columns.
pub(super) fn csv(out: &mut Output, report: &Report) -> Result<(), Failure> {
    for (i, row) in report.shapes.iter().enumerate() {
        let columns = columns(row);
        if i == 0 {
            out.line(columns.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>().join(","))?;
        }
        out.line(columns.iter().map(|(_, value)| quoted(value)).collect::<Vec<_>>().join(","))?;
    }
    Ok(())
}

fn columns(row: &Row) -> Vec<(String, String)> {
    let (s, r) = (&row.shape, &row.roofline);
    let mut columns: Vec<(String, String)> = Vec::new();
    let mut add = |name: &str, value: String| columns.push((name.to_owned(), value));
    add("name", row.name.clone());
    add("weights", row.weights.clone());
    add("dtype", row.dtype.clone());
    add("isa", row.isa.clone());
    let whole = [
        ("threads", row.threads as u64),
        ("num_layers", s.num_layers as u64),
        ("num_decoder_layers", s.num_decoder_layers as u64),
        ("d_model", s.d_model as u64),
        ("d_ff", s.d_ff as u64),
        ("num_heads", s.num_heads as u64),
        ("d_kv", s.d_kv as u64),
        ("parameters", row.parameters.total),
        ("source", row.flops.source),
        ("target", row.flops.target),
        ("flops", row.flops.total),
        ("runs", row.total_ms.runs as u64),
    ];
    whole.iter().for_each(|(name, value)| add(name, value.to_string()));
    add("peak_rss_kb", row.peak_rss_kb.map_or_else(String::new, |kb| kb.to_string()));
    add("encode_tokens_per_second", format!("{:.1}", row.encode_tokens_per_second));
    for (name, stat) in [
        ("encode_ms", &row.encode_ms),
        ("first_token_ms", &row.first_token_ms),
        ("token_ms", &row.token_ms),
        ("total_ms", &row.total_ms),
    ] {
        add(name, stat.median.to_string());
        add(&format!("{name}_low"), stat.low.to_string());
        add(&format!("{name}_high"), stat.high.to_string());
    }
    let numbers = [
        ("layers_ms", row.token.layers_ms),
        ("attention_ms", row.token.attention_ms),
        ("head_ms", row.token.head_ms),
        ("rest_ms", row.token.rest_ms),
        ("fma_peak", r.fma_peak.round()),
        ("read_bandwidth", r.read_bandwidth.round()),
    ];
    numbers.iter().for_each(|(name, value)| add(name, value.to_string()));
    let share = |share: f64| ((share * 1e4).round() / 1e4).to_string();
    add("encode_share", r.encode_share.map_or_else(String::new, share));
    add("token_share", share(r.token_share));
    for batch in &row.batches {
        add(&format!("batch_{}_tokens_per_second", batch.size), format!("{:.1}", batch.tokens_per_second));
    }
    add("noisy", row.noisy.join("; "));
    columns
}

/// A value as CSV has it.
fn quoted(value: &str) -> String {
    match value.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", value.replace('"', "\"\"")),
        false => value.to_owned(),
    }
}
