//! Lines on standard output, notes on standard error.

use crate::colour::{self, Colour};
use crate::failure::Failure;
use crate::input::Given;
use serde::Serialize;
use std::fmt::Display;
use std::io::{BufWriter, StdoutLock, Write};
use tiny_t5::{Finish, T5};

/// Prints one line `kind: text` on standard error, whatever the text holds.
pub(crate) fn say(kind: &str, text: &str) {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let kind = match colour::wanted(&std::io::stderr()) {
        true if kind == "error" => Colour::Red.paint("error:"),
        true => Colour::Bold.paint(&format!("{kind}:")),
        false => format!("{kind}:"),
    };
    // Nobody may be left to hear it.
    let _ = writeln!(std::io::stderr(), "{kind} {text}");
}

/// Prints what `--help` or `--version` asked for, headings bold on a terminal.
pub(crate) fn print_help(text: &str) -> Result<(), Failure> {
    let is_heading = |line: &str| line.ends_with(':') && !line.starts_with(' ');
    let paint = |line: &str| match line.trim_end_matches('\n') {
        heading if is_heading(heading) => line.replace(heading, &Colour::Bold.paint(heading)),
        usage if usage.starts_with("Usage:") => line.replacen("Usage:", &Colour::Bold.paint("Usage:"), 1),
        _ => line.to_owned(),
    };
    let text = match colour::wanted(&std::io::stdout()) {
        true => text.split_inclusive('\n').map(paint).collect(),
        false => text.to_owned(),
    };
    let mut out = Output::new();
    out.part(text)
}

/// Standard output, a line an answer.
pub(crate) struct Output {
    writer: BufWriter<StdoutLock<'static>>,
}

impl Output {
    pub(crate) fn new() -> Output {
        Output { writer: BufWriter::new(std::io::stdout().lock()) }
    }

    /// One JSON value on a line. An f32 has the fewest digits that parse back to it; NaN and infinities, which JSON lacks,
    /// are null.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        let line = serde_json::to_string(value).map_err(|e| Failure::Other(e.to_string()))?;
        self.line(line)
    }

    /// One line of text.
    pub(crate) fn line(&mut self, text: impl Display) -> Result<(), Failure> {
        writeln!(self.writer, "{text}").map_err(|e| Failure::output(&e))
    }

    /// A part of a line, at once on its way.
    pub(crate) fn part(&mut self, text: impl Display) -> Result<(), Failure> {
        write!(self.writer, "{text}").map_err(|e| Failure::output(&e))?;
        self.flush()
    }

    /// What was written is on its way.
    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        self.writer.flush().map_err(|e| Failure::output(&e))
    }
}

/// Items with `between` between them.
pub(crate) fn joined<T: ToString>(items: &[T], between: &str) -> String {
    items.iter().map(T::to_string).collect::<Vec<_>>().join(between)
}

/// Why a sequence ended, as JSON has it.
pub(crate) fn named(finish: Finish) -> &'static str {
    match finish {
        Finish::Eos => "eos",
        Finish::Length => "length",
        _ => "stopped",
    }
}

/// Milliseconds with three digits after the point.
pub(crate) fn rounded(ms: f64) -> f64 {
    (ms * 1e3).round() / 1e3
}

/// What users should know of all sources together, said once at the end.
#[derive(Default)]
pub(crate) struct Notes {
    unknown: usize,
    cut: usize,
    stopped: usize,
}

impl Notes {
    /// Looks at a source and its ids.
    pub(crate) fn source(&mut self, t5: &T5, source: &Given, ids: &[u32]) {
        let unk = t5.tokenizer().and_then(|t| t.unk_id());
        if matches!(source, Given::Text(_)) && unk.is_some_and(|unk| ids.contains(&unk)) {
            self.unknown += 1;
        }
    }

    /// Looks at a source whose ids nobody has kept.
    pub(crate) fn text(&mut self, t5: &T5, source: &Given) {
        if let (Given::Text(text), Some(tokenizer)) = (source, t5.tokenizer()) {
            // A text that cannot be read is an error elsewhere.
            self.source(t5, source, &tokenizer.encode(text).unwrap_or_default());
        }
    }

    /// Looks at a sequence that was generated.
    pub(crate) fn sequence(&mut self, at_default_limit: bool, finish: Finish) {
        self.cut += usize::from(at_default_limit);
        // The command line knows no other reason.
        self.stopped += usize::from(finish == Finish::Stopped);
    }

    /// Says what there is to say.
    pub(crate) fn print(&self) {
        if self.unknown > 0 {
            let what = counted(self.unknown, "text has", "texts have");
            say(
                "note",
                &format!(
                    "{what} characters that the tokenizer does not know; the model sees its unknown token instead"
                ),
            );
        }
        if self.cut > 0 {
            let what = counted(self.cut, "sequence", "sequences");
            say("note", &format!("{what} ended at the default limit of 20 new tokens; --max-new-tokens sets another"));
        }
        if self.stopped > 0 {
            let what = counted(self.stopped, "sequence was", "sequences were");
            say("note", &format!("{what} stopped by the limit of time, max_time"));
        }
    }
}

/// A number and its noun.
pub(crate) fn counted(n: usize, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}
