//! A filter: a source a line from standard input, an answer a line on standard output, in order, many at a time.
//!
//!     cargo run --release --features embedded --example line_filter < words.txt

use std::io::{BufRead, Write};
use tiny_t5::{Generate, Load, Source, T5};

/// Lines that are answered together: enough for the threads, and few enough that answers come soon.
const TOGETHER: usize = 64;

/// Answers every line.
pub fn filter(t5: &T5, from: impl BufRead, mut to: impl Write) -> Result<(), Box<dyn std::error::Error>> {
    let mut session = t5.session();
    let mut lines = from.lines();
    loop {
        let some = lines.by_ref().take(TOGETHER).collect::<Result<Vec<_>, _>>()?;
        if some.is_empty() {
            return Ok(());
        }
        let sources: Vec<Source<'_>> = some.iter().map(Source::from).collect();
        for answer in session.generate_batch(&sources, &Generate::default())? {
            writeln!(to, "{}", answer.text())?;
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    filter(&T5::embedded(&Load::default())?, std::io::stdin().lock(), std::io::stdout().lock())
}
