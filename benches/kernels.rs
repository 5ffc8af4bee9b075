//! GFLOP/s and GB/s of the kernels beside the machine's own peak, measured in the same run.
fn main() {}
