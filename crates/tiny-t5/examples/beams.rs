//! The best few answers of beam search, with their scores.
//!
//!     cargo run --release --features embedded --example beams -- colonel

use tiny_t5::{Generate, Load, Result, T5};

/// Score and text of each answer, best first. A score is the sum of the log-probabilities over length ^ length_penalty.
pub fn answers(t5: &T5, source: &str) -> Result<Vec<(f32, String)>> {
    let options = Generate { num_beams: Some(4), num_return_sequences: Some(3), ..Generate::default() };
    let found = t5.generate(source, &options)?;
    Ok(found.sequences.into_iter().map(|s| (s.score.unwrap_or_default(), s.text.unwrap_or_default())).collect())
}

fn main() -> Result<()> {
    let t5 = T5::embedded(&Load::default())?;
    let source = std::env::args().nth(1).unwrap_or_else(|| "colonel".into());
    for (score, text) in answers(&t5, &source)? {
        println!("{score:.4} {text}");
    }
    Ok(())
}
