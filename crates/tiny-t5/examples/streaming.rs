//! Text as it comes, and an end when the reader has enough.
//!
//!     cargo run --release --features embedded --example streaming -- "hello world"

use std::io::Write;
use tiny_t5::{Generate, Load, T5};

/// Writes the text while it grows, at most `enough` characters of it.
pub fn stream(t5: &T5, source: &str, enough: usize, mut to: impl Write) -> Result<(), Box<dyn std::error::Error>> {
    let mut written = 0;
    for step in t5.stream(source, &Generate::default())? {
        let step = step?;
        write!(to, "{}", step.text)?;
        to.flush()?;
        written += step.text.chars().count();
        if written >= enough {
            break; // the stream is dropped, and nothing more is computed
        }
    }
    Ok(writeln!(to)?)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let source = std::env::args().nth(1).unwrap_or_else(|| "hello world".into());
    stream(&T5::embedded(&Load::default())?, &source, 200, std::io::stdout().lock())
}
