//! A model that is part of your program: its files go through `include_bytes!`, and nothing is read at run time.
//!
//!     cargo run --release --example embed_model -- photosynthesis

use tiny_t5::{Generate, Load, Result, T5};

/// A checkpoint folder of yours; here the library's own English-to-IPA model, which the feature `embedded` compiles in for you.
macro_rules! file {
    ($include:ident, $name:literal) => {
        $include!(concat!(env!("CARGO_MANIFEST_DIR"), "/models/g2p-ipa/", $name))
    };
}

/// The model; its weights are used where they lie in the program.
pub fn model() -> Result<T5> {
    T5::from_bytes(
        file!(include_str, "config.json"),
        Some(file!(include_str, "generation_config.json")),
        file!(include_bytes, "model.safetensors"),
        Some(file!(include_bytes, "tokenizer.json").into()),
        &Load::default(),
    )
}

fn main() -> Result<()> {
    let t5 = model()?;
    for word in std::env::args().skip(1) {
        println!("{}", t5.generate(&word, &Generate::default())?.text());
    }
    Ok(())
}
