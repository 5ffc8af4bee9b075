//! The kernels again, as plain loops over f32: what every instruction set and thread count is compared with, by `==`.

#![allow(dead_code)] // each test takes what it needs

use tiny_t5_kernels::Isa;

/// out[m][n] = chain over k ascending of fma(a[m][k], w[n][k], .), from `from[m][n]`.
pub fn matmul(a: &[f32], w: &[f32], m: usize, n: usize, k: usize, from: impl Fn(usize, usize) -> f32) -> Vec<f32> {
    let mut out = Vec::with_capacity(m * n);
    for i in 0..m {
        for j in 0..n {
            out.push((0..k).fold(from(i, j), |sum, l| a[i * k + l].mul_add(w[j * k + l], sum)));
        }
    }
    out
}

/// The sum in 16 lanes, index i in lane i mod 16, by the tree.
pub fn lane_sum(lanes: [f32; 16]) -> f32 {
    let mut v = lanes.to_vec();
    while v.len() > 1 {
        let half = v.len() / 2;
        v = (0..half).map(|i| v[i] + v[i + half]).collect();
    }
    v[0]
}

pub fn rms_norm(x: &[f32], weight: &[f32], epsilon: f32) -> Vec<f32> {
    let mut lanes = [0f32; 16];
    for (i, x) in x.iter().enumerate() {
        lanes[i % 16] = x.mul_add(*x, lanes[i % 16]);
    }
    let scale = 1.0 / (lane_sum(lanes) / x.len() as f32 + epsilon).sqrt();
    x.iter().zip(weight).map(|(x, w)| x * scale * w).collect()
}

/// Numbers that are no round ones, and now and then a zero, a negative zero, a denormal, a large one.
pub fn numbers(seed: u64, len: usize) -> Vec<f32> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = move || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x
    };
    (0..len)
        .map(|_| match next() % 61 {
            0 => 0.0,
            1 => -0.0,
            2 => 1e-41,
            3 => 3e7,
            _ => (next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0,
        })
        .collect()
}

/// A row with zeros behind it.
pub fn wide(row: &[f32], k: usize) -> Vec<f32> {
    row.iter().copied().chain(std::iter::repeat_n(0.0, k.div_ceil(16) * 16 - k)).collect()
}

/// Rows and a vector of one of many kinds.
pub fn deceive(kind: u32, seed: u64, n: usize, k: usize) -> (Vec<f32>, Vec<f32>) {
    let uniform =
        |seed, len| -> Vec<f32> { numbers(seed, len).iter().map(|x| if x.abs() > 1.0 { 0.5 } else { *x }).collect() };
    let (mut h, mut w) = (uniform(seed, k), uniform(seed ^ 77, n * k));
    let pick = |i: u64, of: usize| (seed.wrapping_mul(i * 2 + 1) >> 20) as usize % of;
    match kind {
        // all rows the same: all tie
        0 => (1..n).for_each(|i| w.copy_within(0..k, i * k)),
        // one ulp apart
        1 => {
            (1..n).for_each(|i| w.copy_within(0..k, i * k));
            for i in 0..n {
                let x = &mut w[i * k + pick(i as u64, k)];
                *x = if pick(i as u64 + 9, 2) == 0 { x.next_up() } else { x.next_down() };
            }
        }
        // outlier columns
        2 => (0..4).for_each(|i| (0..n).for_each(|row| w[row * k + pick(i, k)] *= 300.0)),
        // one outlier in a row spoils its scale
        3 => (0..n).step_by(5).for_each(|row| w[row * k + pick(row as u64, k)] = 900.0),
        4 => w.fill(0.0),
        5 => h.fill(0.0),
        // heavy tails
        6 => w.iter_mut().for_each(|x| *x = x.powi(9) * 50.0),
        // near the ends of f32
        7 => w.iter_mut().for_each(|x| *x *= 1e-38),
        8 => h.iter_mut().for_each(|x| *x *= 1e-36),
        9 => w.iter_mut().for_each(|x| *x *= 1e16),
        10 => h.iter_mut().for_each(|x| *x *= 1e15),
        11 => w[pick(3, n * k)] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX][pick(5, 4)],
        12 => h[pick(3, k)] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX][pick(5, 4)],
        // sums that cancel
        13 => (0..n).for_each(|row| (1..k).step_by(2).for_each(|i| w[row * k + i] = -w[row * k + i - 1])),
        _ => {}
    }
    (h, w)
}

/// Runs a check on every instruction set that this machine has, and says which it lacks.
pub fn on_every_isa(check: impl FnMut(Isa)) {
    Isa::available().into_iter().for_each(check);
    for name in Isa::missing() {
        eprintln!("not run: this machine lacks {name}");
    }
}

/// Floats to be compared by their bits: -0 is not 0, and a NaN is itself.
pub fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}
