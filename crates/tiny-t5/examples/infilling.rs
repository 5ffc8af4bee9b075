//! Gaps of a text, filled: what T5 was pretrained for.
//!
//!     cargo run --release --example infilling -- google/t5-v1_1-base "The <extra_id_0> sat on the <extra_id_1>."

use tiny_t5::{Generate, Infilled, Result, T5};

/// The text without gaps, and what was put into each.
pub fn fill(t5: &T5, text: &str) -> Result<Infilled> {
    t5.infill(text, &Generate { max_new_tokens: Some(40), ..Generate::default() })
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(model), Some(text)) = (args.next(), args.next()) else {
        return Err("expected a model and a text with <extra_id_0>".into());
    };
    let filled = fill(&T5::open(model)?, &text)?;
    println!("{}", filled.text);
    for (i, span) in filled.spans.iter().enumerate() {
        println!("<extra_id_{i}> {span:?}");
    }
    Ok(())
}
