//! A rule of your own: scores that change, a search that ends, and the buffers of a session all the same.
//!
//!     cargo run --release --features embedded --example custom_processor -- "hello world"

use tiny_t5::{Custom, Error, Generate, Load, Result, T5};

/// An answer without the token `without`, one word long.
pub fn answer(t5: &T5, source: &str, without: &str) -> Result<String> {
    let forbidden = t5.answer_token(without)? as usize;
    let blank = t5.answer_token(" ")?;
    let custom = Custom::new()
        .logits_processor(|_, scores| scores[forbidden] = f32::NEG_INFINITY)
        .stopping_criteria(|context| context.new_ids().last() == Some(&blank));
    let found = t5.session().generate_batch_with(&[source.into()], &Generate::default(), &custom)?;
    Ok(found[0].text().trim_end().to_owned())
}

fn main() -> Result<(), Error> {
    let source = std::env::args().nth(1).unwrap_or_else(|| "hello world".into());
    println!("{}", answer(&T5::embedded(&Load::default())?, &source, "o")?);
    Ok(())
}
