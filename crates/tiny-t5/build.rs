//! With the feature `embedded`: the embedded model's weights, in the compact form that the library carries.

#[path = "build/compact.rs"]
mod compact;

use std::path::Path;

const WEIGHTS: &str = "models/g2p-ipa/model.safetensors";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=build");
    if std::env::var_os("CARGO_FEATURE_EMBEDDED").is_none() {
        return;
    }
    println!("cargo::rerun-if-changed={WEIGHTS}");
    let bytes = std::fs::read(WEIGHTS).unwrap_or_else(|e| panic!("{WEIGHTS}: {e}"));
    // A safetensors file: the header's length, the header, the weights.
    let length = bytes.first_chunk().unwrap_or_else(|| panic!("{WEIGHTS} is shorter than 8 bytes"));
    let header = 8 + usize::try_from(u64::from_le_bytes(*length)).expect("a header fits the memory");
    let out = std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR");
    let compact = compact::compact(&bytes, header..bytes.len());
    std::fs::write(Path::new(&out).join("model.compact"), compact).unwrap_or_else(|e| panic!("model.compact: {e}"));
}
