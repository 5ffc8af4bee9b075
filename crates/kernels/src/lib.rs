//! Arithmetic on slices for T5 on a CPU, with one fixed order of accumulation.
//!
//! Every output of every kernel has the same bits on every instruction set (with FMA or without), for every number of
//! threads, and whatever is computed beside it:
//!
//! * an output of a matrix product is one chain of fused multiply-adds over k, ascending, from zero ([`matmul`]);
//! * sums over a row run in 16 virtual lanes and one fixed tree ([`rms_norm`], softmax);
//! * exp and its kin are written once, over the same 16 lanes.
//!
//! The crate knows no T5 and no file. [`Isa`] chooses the instruction set, [`Team`] the threads.

#![allow(unsafe_code)] // loads, stores and disjoint outputs; each block says who vouches for it

#[cfg(target_endian = "big")]
compile_error!("tiny-t5 reads weights as they lie in their files, little endian: big-endian targets are not supported");

mod activation;
mod arena;
mod attention;
mod chains;
mod compact;
mod elementwise;
pub mod machine;
mod math;
mod matmul;
mod near;
mod processor;
mod region;
mod rms_norm;
mod screen;
mod simd;
mod softmax;
mod turn;
mod upcoming;

pub use activation::Activation;
pub use arena::{Arena, ArenaPart};
pub use attention::{Attention, Bias, Heads, KeyLayout, KeyStorage, Keys, attention};
pub use chains::chains;
pub use compact::expand;
pub use elementwise::{activate_rows, gate_rows, narrows, to_f16};
pub use math::ln;
pub use matmul::{
    Digits, Epilogue, Leading, Loss, Panels, Product, RowMajor, Storage, WeightType, largest, matmul,
    matmul_asking_for, pack_int8, pack_panel, unpack_panel, widen,
};
pub use near::{Near, NearLeading, NearPanel, NearQuery, near_bytes, near_panels};
pub use region::{MAX_CHUNKS, Team};
pub use rms_norm::rms_norm;
pub use screen::{
    Bounds, ColumnScales, Query, SCREEN_GROUP, SCREEN_MAX_K, Screen, pack_screen, screen_bytes, screen_digits,
};
pub use simd::{Isa, LANES, UnknownIsa, padded};
pub use softmax::{BLOCK, block_maxima, first_max, log_softmax_row, log_sum_exp, softmax_row};
pub use upcoming::Upcoming;
