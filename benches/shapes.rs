//! The shapes that the engine is measured with, and work for them.

#![allow(dead_code)] // no program uses all of it

use tiny_t5::{Generate, Load, Speculation, T5};

/// T5-Efficient-TINY.
pub const TINY: &str =
    r#"{"model_type": "t5", "num_layers": 4, "d_model": 256, "d_ff": 1024, "num_heads": 4, "d_kv": 64}"#;
/// t5-small.
pub const SMALL: &str =
    r#"{"model_type": "t5", "num_layers": 6, "d_model": 512, "d_ff": 2048, "num_heads": 8, "d_kv": 64}"#;

/// t5-base.
pub const BASE: &str =
    r#"{"model_type": "t5", "num_layers": 12, "d_model": 768, "d_ff": 3072, "num_heads": 12, "d_kv": 64}"#;

/// A model of random weights.
pub fn model(config: &str) -> T5 {
    T5::random(config, 1, &Load::default()).expect("memory for a bench")
}

/// Ids of a source, which differ from one `seed` to another.
pub fn source(tokens: u32, seed: u32) -> Vec<u32> {
    (1..tokens).map(|i| 2 + (i * 7919 + seed * 104_729) % 32_000).chain([1]).collect()
}

/// Greedy search for exactly `tokens` tokens, each by a step of its own: how well speculation guesses with random weights says nothing.
pub fn greedy(tokens: usize) -> Generate {
    Generate {
        max_new_tokens: Some(tokens),
        min_new_tokens: Some(tokens),
        speculation: Some(Speculation::Off),
        ..Generate::default()
    }
}

/// "1 thread", "2 threads".
pub fn threads(n: usize) -> String {
    format!("{n} thread{}", if n == 1 { "" } else { "s" })
}
