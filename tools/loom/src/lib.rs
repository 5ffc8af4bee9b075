//! The worker region of the kernels under loom; the model is the last part of `region.rs`.
#![allow(dead_code)]

#[path = "../../../crates/kernels/src/processor.rs"]
mod processor;
#[path = "../../../crates/kernels/src/region.rs"]
mod region;
