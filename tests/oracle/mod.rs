//! The kernels again, as plain loops over f32: what every instruction set and thread count is compared with, by `==`.

#![allow(dead_code)] // each test takes what it needs

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
