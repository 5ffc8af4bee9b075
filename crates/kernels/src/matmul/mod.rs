//! Matrix products on packed weights, one chain of fused multiply-adds an output.

mod panels;
mod product;

pub use panels::{Panels, Storage, WeightType, pack_panel, widen};
pub(crate) use product::tile;
pub use product::{Epilogue, Product, matmul};
