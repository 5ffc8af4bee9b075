//! The page: one HTML file that opens from disk and loads nothing.

use super::Report;
use super::measure::Row;
use super::plots::{self, Picture, short};
use super::table::megabytes;
use crate::failure::Failure;
use crate::info::grouped;
use askama::Template;
use std::io::ErrorKind;
use std::path::Path;

#[derive(Template)]
#[template(path = "report.html")]
struct Page<'a> {
    report: &'a Report,
    legend: Picture,
    pictures: Vec<Picture>,
    /// What the pictures show, where there are several widths or numbers of threads.
    shown: Option<String>,
    rows: Vec<Line<'a>>,
    seconds: String,
    load_before: String,
    load_after: String,
}

/// A line of the table: the row, and its cells as text and as a number to sort by.
struct Line<'a> {
    name: &'a str,
    row: &'a Row,
    cells: Vec<(String, f64)>,
}

/// The columns behind name and dtype, as the template's head has them.
const COLUMNS: [(&str, &str); 13] = [
    ("threads", "threads of a call"),
    ("parameters", "all of them"),
    ("layers", "encoder + decoder"),
    ("GFLOPs", "of one source and its target"),
    ("encode tok/s", "source tokens a second"),
    ("of peak", "the encoder's share of the FMA peak"),
    ("first ms", "until the first token"),
    ("token ms", "a decoded token"),
    ("of reading", "the step's share of the limit that reading sets"),
    ("total ms", "one source and its target"),
    ("spread %", "between the quartiles of the total"),
    ("tok/s", "tokens a second at the largest batch"),
    ("memory MB", "at most, in its own process"),
];

impl Page<'_> {
    fn columns(&self) -> &'static [(&'static str, &'static str)] {
        &COLUMNS
    }
}

impl<'a> Line<'a> {
    fn new(row: &'a Row) -> Line<'a> {
        let (s, r) = (&row.shape, &row.roofline);
        let plain = |x: f64, digits: usize| (format!("{x:.digits$}"), x);
        let percent = |x: f64| (format!("{:.0} %", 100.0 * x), x);
        let batch = row.batches.iter().max_by_key(|batch| batch.size);
        let cells = vec![
            (row.threads.to_string(), row.threads as f64),
            (grouped(row.parameters.total), row.parameters.total as f64),
            (format!("{} + {}", s.num_layers, s.num_decoder_layers), (s.num_layers + s.num_decoder_layers) as f64),
            plain(row.flops.total as f64 / 1e9, 2),
            plain(row.encode_tokens_per_second, 0),
            r.encode_share.map_or_else(|| (String::new(), 0.0), percent),
            plain(row.first_token_ms.median, 2),
            plain(row.token_ms.median, 3),
            percent(r.token_share),
            plain(row.total_ms.median, 2),
            plain(100.0 * row.total_ms.spread(), 0),
            batch.map_or_else(
                || (String::new(), 0.0),
                |b| (format!("{:.0} ({})", b.tokens_per_second, b.size), b.tokens_per_second),
            ),
            row.peak_rss_kb.map_or_else(|| (String::new(), 0.0), |kb| plain(megabytes(kb), 0)),
        ];
        Line { name: short(&row.name), row, cells }
    }
}

/// Whether the page can be written; a page that is there stays as it is.
pub(super) fn check(path: &Path) -> Result<(), Failure> {
    match std::fs::File::create_new(path) {
        Ok(_) => std::fs::remove_file(path),
        Err(_) => std::fs::OpenOptions::new().append(true).create(true).open(path).map(drop),
    }
    .map_err(|e| failure(path, &e))
}

fn failure(path: &Path, e: &dyn std::fmt::Display) -> Failure {
    Failure::Other(format!("--out {}: {e}", path.display()))
}

/// Writes the page of a report, in the place of an older one once it is whole.
pub(super) fn write(report: &Report, path: &Path) -> Result<(), Failure> {
    let html = html(report).map_err(|e| failure(path, &e))?;
    // A link stays one, and what is no file (a pipe) cannot be put into a file's place.
    let place = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    if place.metadata().is_ok_and(|found| !found.is_file()) {
        return std::fs::write(place, html).map_err(|e| failure(path, &e));
    }
    let mut part = place.clone().into_os_string();
    part.push(format!(".{}.part", std::process::id()));
    let written = std::fs::write(&part, &html).and_then(|()| std::fs::rename(&part, &place)).or_else(|e| {
        let _ = std::fs::remove_file(&part); // it is of no use to anybody
        match e.kind() {
            // Some files can be written where none can be put beside them or into their place.
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem | ErrorKind::ResourceBusy => {
                std::fs::write(place, html)
            }
            _ => Err(e),
        }
    });
    written.map_err(|e| failure(path, &e))
}

fn html(report: &Report) -> Result<String, String> {
    // Pictures compare shapes: those of one width and number of threads.
    let of = |row: &Row| (row.dtype.clone(), row.threads);
    let first = report.shapes.first().map(of);
    let rows: Vec<&Row> = report.shapes.iter().filter(|row| Some(of(row)) == first).collect();
    let shown = (rows.len() < report.shapes.len()).then_some(first).flatten();
    let flops = ("flops", "Parameters against FLOPs", "FLOPs of one source and its target");
    let time = ("time", "Parameters against measured time", "milliseconds of one source and its target");
    let pictures = vec![
        plots::scatter(flops, &rows, |row| row.flops.total as f64)?,
        plots::scatter(time, &rows, |row| row.total_ms.median)?,
        plots::roofline(&rows)?,
        plots::breakdown(&rows)?,
    ];
    let load = |load: Option<f64>| load.map_or_else(|| "unknown".to_owned(), |load| format!("{load:.2}"));
    let page = Page {
        report,
        legend: plots::legend()?,
        pictures,
        shown: shown.map(|(dtype, threads)| format!("{dtype}, {threads} threads")),
        rows: report.shapes.iter().map(Line::new).collect(),
        seconds: format!("{:.1}", report.seconds),
        load_before: load(report.machine.load_average[0]),
        load_after: load(report.machine.load_average[1]),
    };
    page.render().map_err(|e| e.to_string())
}
