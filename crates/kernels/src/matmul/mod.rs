//! Matrix products on packed weights, one chain of fused multiply-adds an output.

mod in_place;
mod inputs;
mod int8;
mod largest;
mod panels;
mod product;
mod tiled;

pub(crate) use inputs::{Interleave, ROWS as INPUT_ROWS, Rows};
pub use int8::{Digits, Loss};
pub(crate) use int8::{chain_count, joined, lines};
pub(crate) use largest::highest;
pub use largest::{Leading, largest};
pub(crate) use panels::Turn;
pub use panels::{Panels, RowMajor, Storage, WeightType, pack_int8, pack_panel, unpack_panel, widen};
pub(crate) use product::{Ahead, Weight, height, tile};
pub use product::{Epilogue, Product, matmul, matmul_asking_for};
pub(crate) use tiled::ask_for;
