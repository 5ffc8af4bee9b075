//! Every kernel, on every instruction set of this machine and one to five threads, against plain loops: the same bits.

mod oracle;

use half::{bf16, f16};
use oracle::{bits, numbers, on_every_isa};
use std::ops::Range;
use tiny_t5_kernels::*;

/// [rows, n] without the padding of rows of `stride`.
fn unpadded(x: &[f32], stride: usize, n: usize) -> Vec<f32> {
    x.chunks(stride).flat_map(|row| &row[..n]).copied().collect()
}

/// [n, k] packed as `to`, from f32.
fn pack(w: &[f32], n: usize, k: usize, to: WeightType) -> Vec<f32> {
    let bytes: &[u8] = bytemuck::cast_slice(w);
    // f32 memory, so that it is aligned for every weight.
    let mut packed = vec![0f32; Panels::len(n, k)];
    let panel = 16 * k * to.size();
    for (i, panel) in
        bytemuck::cast_slice_mut(&mut packed)[..Panels::len(n, k) * to.size()].chunks_exact_mut(panel).enumerate()
    {
        let rows = std::array::from_fn(|lane| (16 * i + lane < n).then(|| &bytes[(16 * i + lane) * k * 4..][..k * 4]));
        pack_panel(Isa::best(), WeightType::F32, &rows, to, panel);
    }
    packed
}

const SIZES: [usize; 11] = [1, 2, 3, 7, 15, 16, 17, 31, 33, 64, 97];
const ROWS: [usize; 17] = [1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 14, 15, 16, 25, 61];

#[test]
fn matmul_every_shape_equals_the_plain_loop() {
    for (i, &n) in SIZES.iter().enumerate() {
        for (j, &k) in SIZES.iter().enumerate() {
            for (l, &m) in ROWS.iter().enumerate() {
                if (i + j + l) % 3 == 0 {
                    matmul_equals_the_plain_loop(m, n, k, 1);
                }
            }
        }
    }
}

#[test]
fn matmul_large_shapes_and_threads_equal_the_plain_loop() {
    for (m, n, k) in [
        (1, 1031, 257),
        (2, 512, 300),
        (4, 768, 256),
        (48, 193, 131),
        (130, 256, 67),
        (1100, 33, 65),
        (101, 48, 1543),
        // The last two tiles share rows whose sums wait; a row behind a whole block of such rows.
        (8, 48, 1543),
        (16, 48, 1543),
        (97, 48, 800),
        (16, 48, 640),
    ] {
        for threads in [1, 2, 5] {
            matmul_equals_the_plain_loop(m, n, k, threads);
        }
    }
}

/// Matrices that lie one under the other, in memory or copied from elsewhere.
#[derive(Debug)]
struct Tensors<'a> {
    parts: [&'a [f32]; 3],
    copied: bool,
}

impl RowMajor for Tensors<'_> {
    fn read<'b>(&'b self, mut floats: Range<usize>, buffer: &'b mut Vec<f32>) -> &'b [f32] {
        for part in self.parts {
            if floats.start < part.len() {
                let rows = &part[floats.start..floats.end.min(part.len())];
                if !self.copied {
                    return rows;
                }
                buffer.clear();
                buffer.extend_from_slice(rows);
                return buffer;
            }
            floats = floats.start - part.len()..floats.end - part.len();
        }
        &[]
    }
}

fn matmul_equals_the_plain_loop(m: usize, n: usize, k: usize, threads: usize) {
    let (a, w) = (numbers(m as u64, m * k), numbers(n as u64 + 1000, n * k));
    let (lda, ldo) = (k + 3, padded(n) + 16);
    let mut strided = vec![f32::NAN; m * lda];
    for (to, from) in strided.chunks_mut(lda).zip(a.chunks(k)) {
        to[..k].copy_from_slice(from);
    }
    let before = numbers(5, m * ldo);
    let (wb, wh): (Vec<f32>, Vec<f32>) = (
        w.iter().map(|w| bf16::from_f32(*w).to_f32()).collect(),
        w.iter().map(|w| f16::from_f32(*w).to_f32()).collect(),
    );
    let expected = [&w, &wb, &wh].map(|w| oracle::matmul(&a, w, m, n, k, |_, _| 0.0));
    let packed = [WeightType::F32, WeightType::Bf16, WeightType::F16].map(|to| pack(&w, n, k, to));
    let halves = |i: usize| &bytemuck::cast_slice::<f32, u16>(&packed[i])[..Panels::len(n, k)];
    // Weights that are not packed, as one, two or three matrices.
    let (first, second) = (w.len() / (16 * k) / 3, w.len() / (16 * k) / 2);
    let (whole, rest) = w.split_at(first * 16 * k);
    let (middle, last) = rest.split_at((second - first) * 16 * k);
    let tensors = Tensors { parts: [whole, middle, last], copied: k.is_multiple_of(2) };
    let rows = n.is_multiple_of(16).then_some((Storage::Rows(&tensors), &expected[0]));
    let storages = [
        Storage::F32(&packed[0]),
        Storage::Bf16(bytemuck::cast_slice(halves(1))),
        Storage::F16(bytemuck::cast_slice(halves(2))),
    ];
    on_every_isa(|isa| {
        for (storage, expected) in storages.iter().zip(&expected).chain(rows.iter().map(|(rows, w)| (rows, *w))) {
            for epilogue in [Epilogue::Store, Epilogue::Add, Epilogue::Relu] {
                let mut out = before.clone();
                let product = Product { a: &strided, lda, m, w: Panels::new(n, k, *storage), epilogue };
                // What is asked for meanwhile changes nothing.
                let mut upcoming = Upcoming::default();
                upcoming.push(&w);
                let upcoming = (epilogue == Epilogue::Add).then_some(&upcoming);
                Team::enter(threads, |team| matmul_asking_for(isa, team, product, upcoming, &mut out, ldo));
                let expected: Vec<f32> = match epilogue {
                    Epilogue::Store => expected.clone(),
                    Epilogue::Add => unpadded(&before, ldo, n).iter().zip(expected).map(|(x, y)| x + y).collect(),
                    Epilogue::Relu => expected.iter().map(|x| if 0.0 > *x { 0.0 } else { *x }).collect(),
                };
                let got = unpadded(&out, ldo, n);
                assert_eq!(
                    bits(&got),
                    bits(&expected),
                    "{m} x {n} x {k}, {}, {threads} threads, {epilogue:?}",
                    isa.name()
                );
                let past = |x: &[f32]| -> Vec<u32> { x.chunks(ldo).flat_map(|r| bits(&r[padded(n)..])).collect() };
                assert_eq!(past(&out), past(&before), "wrote past the padding");
            }
        }
    });
}

#[test]
fn rows_that_are_no_whole_panels_are_refused() {
    let w = numbers(3, 32 * 8);
    let refused = |n: usize, k: usize, floats: usize| {
        let tensors = Tensors { parts: [&w[..floats], &[], &[]], copied: false };
        let product = || {
            let product = Product {
                a: &w,
                lda: k,
                m: 2,
                w: Panels::new(n, k, Storage::Rows(&tensors)),
                epilogue: Epilogue::Store,
            };
            matmul(Isa::best(), &Team::alone(), product, &mut [0.0; 64], 32);
        };
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(product)).is_err()
    };
    assert!(!refused(32, 8, 32 * 8));
    assert!(refused(31, 8, 31 * 8), "a part of a panel");
    assert!(refused(32, 0, 0), "no inputs");
    assert!(refused(32, 8, 0), "nothing to read");
    assert!(refused(32, 8, 16 * 8), "the second panel is missing");
    assert!(refused(32, 8, 24 * 8), "half of the second panel is missing");
}

#[test]
fn matmul_without_inputs_is_zero() {
    let mut out = vec![1.0; 16];
    let product = Product { a: &[], lda: 0, m: 1, w: Panels::new(16, 0, Storage::F32(&[])), epilogue: Epilogue::Store };
    on_every_isa(|isa| {
        let mut out = out.clone();
        matmul(isa, &Team::alone(), product, &mut out, 16);
        assert_eq!(out, [0.0; 16]);
    });
    out.clear();
    matmul(Isa::best(), &Team::alone(), Product { m: 0, ..product }, &mut out, 16);
}

#[test]
fn pack_panel_converts_every_type_to_every_type() {
    let values: Vec<f32> = numbers(4, 16 * 37).iter().map(|x| bf16::from_f32(x.clamp(-2.0, 2.0)).to_f32()).collect();
    let types = [WeightType::F32, WeightType::Bf16, WeightType::F16];
    let stored = |kind| -> Vec<u8> {
        let one = |x: &f32| match kind {
            WeightType::F32 => x.to_le_bytes().to_vec(),
            WeightType::Bf16 => bf16::from_f32(*x).to_le_bytes().to_vec(),
            WeightType::F16 => f16::from_f32(*x).to_le_bytes().to_vec(),
            WeightType::Int8(_) => unreachable!("not among `types`"),
        };
        values.iter().flat_map(one).collect()
    };
    for from in types {
        let bytes = stored(from);
        let mut wide = vec![0f32; values.len()];
        widen(from, &bytes, &mut wide);
        // A row may be absent; one byte off, as a file's weights may lie.
        for (to, absent) in types.iter().flat_map(|to| [(*to, 5), (*to, usize::MAX)]) {
            let shifted = [&[7], &bytes[..]].concat();
            let rows = std::array::from_fn(|lane| {
                (lane != absent).then(|| &shifted[1 + lane * 37 * from.size()..][..37 * from.size()])
            });
            on_every_isa(|isa| {
                let mut panel = vec![1f32; 16 * 37];
                let panel: &mut [u8] = &mut bytemuck::cast_slice_mut(&mut panel)[..16 * 37 * to.size()];
                pack_panel(isa, from, &rows, to, panel);
                let mut unpacked = vec![0f32; 16 * 37];
                unpack_panel(to, panel, &mut unpacked);
                let mut got = vec![0f32; 16 * 37];
                widen(to, panel, &mut got);
                for (i, got) in got.iter().enumerate() {
                    let x = if i % 16 == absent { 0.0 } else { wide[i % 16 * 37 + i / 16] };
                    let expected = match to {
                        WeightType::F32 => x,
                        WeightType::Bf16 => bf16::from_f32(x).to_f32(),
                        WeightType::F16 => f16::from_f32(x).to_f32(),
                        WeightType::Int8(_) => unreachable!("not among `types`"),
                    };
                    assert_eq!(got.to_bits(), expected.to_bits(), "{from:?} to {to:?}, {i}");
                    assert_eq!(unpacked[i % 16 * 37 + i / 16].to_bits(), expected.to_bits(), "{from:?} to {to:?}, {i}");
                }
            });
        }
    }
}

/// x in whole steps of top / most, and the step.
fn quantised(x: &[f32], most: f32) -> (Vec<i64>, f32) {
    let scale = x.iter().fold(0f32, |top, x| top.max(x.abs())) / most;
    let up = if scale > f32::MIN_POSITIVE { 1.0 / scale } else { 0.0 };
    (x.iter().map(|x| (x * up).clamp(-most, most).round_ties_even() as i64).collect(), scale)
}

#[test]
fn int8_products_equal_whole_numbers_in_plain_loops() {
    let sizes = [
        (1, 16, 3),
        (1, 100, 256),
        (2, 37, 64),
        (3, 70, 255),
        (4, 16, 1024),
        (9, 130, 2048),
        (5, 33, 5000),
        (39, 33, 70),
        // 64 inputs at a time, where the processor multiplies tiles: less than a tile of rows, of two, more than two.
        (8, 17, 64),
        (16, 48, 128),
        (33, 40, 192),
        (70, 33, 2112),
    ];
    for ((m, n, k), digits) in sizes.into_iter().flat_map(|size| [(size, Digits::One), (size, Digits::Two)]) {
        // The outlier takes most of what one digit can tell apart.
        let (most, near) = if digits == Digits::One { (127.0, 0.2) } else { (8191.0, 0.03) };
        let even = |seed, len| -> Vec<f32> { numbers(seed, len).iter().map(|x| (x * 1e4).sin()).collect() };
        let (mut a, w) = (even(1, m * k), even(2, n * k));
        a[k / 2] *= 50.0; // an outlier
        let exact = oracle::matmul(&a, &w, m, n, k, |_, _| 0.0);
        let kind = WeightType::Int8(digits);
        let weights: Vec<_> = w.chunks(k).map(|row| quantised(row, 127.0)).collect();
        let inputs: Vec<_> = a.chunks(k).map(|row| quantised(row, most)).collect();
        let value = |(x, t): &(Vec<i64>, f32), (q, s): &(Vec<i64>, f32)| {
            let sums = x.chunks(2048).zip(q.chunks(2048)).map(|(x, q)| x.iter().zip(q).map(|(x, q)| x * q).sum());
            (s * t) * sums.fold(0f32, |total, sum: i64| total + sum as f32)
        };
        let expected: Vec<f32> = inputs.iter().flat_map(|x| weights.iter().map(move |w| value(x, w))).collect();
        on_every_isa(|isa| {
            let mut packed = vec![0u8; n.div_ceil(16) * kind.panel_bytes(k)];
            let mut lost = (0.0, 0.0);
            for (i, panel) in packed.chunks_exact_mut(kind.panel_bytes(k)).enumerate() {
                let rows = std::array::from_fn(|lane| (16 * i + lane < n).then(|| &w[(16 * i + lane) * k..][..k]));
                let Loss { error, norm } = pack_int8(isa, &rows, k, panel);
                lost = (lost.0 + error, lost.1 + norm);
            }
            let loss = (lost.0 / lost.1).sqrt();
            assert!((1e-4..0.03).contains(&loss), "{m} {n} {k}: {loss}");
            let lda = k + 5;
            let strided: Vec<f32> = a.chunks(k).flat_map(|row| [row, &[9.0; 5]].concat()).collect();
            let w = Panels::new(n, k, Storage::Int8(&packed, digits));
            for epilogue in [Epilogue::Store, Epilogue::Add, Epilogue::Relu] {
                for threads in [1, 2, 5] {
                    let mut out = vec![0.5f32; m * padded(n)];
                    let p = Product { a: &strided, lda, m, w, epilogue };
                    Team::enter(threads, |team| matmul(isa, team, p, &mut out, padded(n)));
                    let got = unpadded(&out, padded(n), n);
                    for (i, (got, expected)) in got.iter().zip(&expected).enumerate() {
                        let expected = match epilogue {
                            Epilogue::Store => *expected,
                            Epilogue::Add => 0.5 + expected,
                            Epilogue::Relu => expected.max(0.0),
                        };
                        assert_eq!(
                            got,
                            &expected,
                            "{m} {n} {k} {digits:?} {epilogue:?} {threads} threads {}: {i}",
                            isa.name()
                        );
                    }
                }
            }
        });
        // And near the product that they stand for.
        let off = expected.iter().zip(&exact).map(|(x, y)| f64::from(x - y).powi(2)).sum::<f64>();
        let size = exact.iter().map(|y| f64::from(*y).powi(2)).sum::<f64>();
        assert!((off / size).sqrt() < near, "{m} {n} {k}: off by {}", (off / size).sqrt());
    }
}

#[test]
fn int8_of_what_is_no_number_is_no_number() {
    let k = 40;
    let each = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
    for (bad, digits) in each.into_iter().flat_map(|bad| [(bad, Digits::One), (bad, Digits::Two)]) {
        let kind = WeightType::Int8(digits);
        let (good, mut row) = (numbers(3, k), numbers(4, k));
        row[7] = bad;
        let rows = std::array::from_fn(|lane| Some(if lane == 2 { &row[..] } else { &good[..] }));
        let mut packed = vec![0; kind.panel_bytes(k)];
        pack_int8(Isa::best(), &rows, k, &mut packed);
        let w = Panels::new(16, k, Storage::Int8(&packed, digits));
        let mut out = vec![0f32; 2 * 16];
        let a = [&good[..], &row[..]].concat();
        let p = Product { a: &a, lda: k, m: 2, w, epilogue: Epilogue::Store };
        matmul(Isa::best(), &Team::alone(), p, &mut out, 16);
        assert!((0..16).all(|i| out[i].is_nan() == (i == 2)), "{bad} in a weight: {out:?}");
        assert!(out[16..].iter().all(|x| x.is_nan()), "{bad} in an input: {out:?}");
    }
}

/// Against the product written out: ties, zeros, outliers, numbers that are none, rows of all sizes.
#[test]
fn the_largest_int8_output_is_that_of_the_product() {
    // The last two in tiles, where the processor multiplies these.
    let sizes = [
        (1, 64, 32),
        (1, 1000, 256),
        (3, 130, 40),
        (6, 517, 64),
        (2, 40, 7),
        (1, 63, 2052),
        (9, 700, 64),
        (35, 130, 128),
    ];
    let kind = WeightType::Int8(Digits::Two);
    let mut decided = 0;
    for seed in 0..700u64 {
        let (m, n, k) = sizes[seed as usize % sizes.len()];
        let mut w: Vec<f32> = numbers(seed, n * k).iter().map(|x| (x * 1e4).sin()).collect();
        let mut a: Vec<f32> = numbers(seed + 1000, m * k).iter().map(|x| (x * 1e4).sin()).collect();
        match seed / 8 % 13 {
            0 => w.copy_within(..k, (n - 1) * k), // a tie of the first and the last
            1 => w.chunks_mut(k).for_each(|row| row.copy_from_slice(&a[..k])), // a tie of all
            2 => w.iter_mut().step_by(97).for_each(|x| *x *= 100.0),
            3 => a[k / 2] = 1e4,
            4 => w.iter_mut().for_each(|x| *x = -x.abs()), // padding would win
            5 => w[(n / 2) * k + 1] = f32::NAN,
            6 => a[..k].fill(0.0),
            7 => a[(m - 1) * k] = f32::INFINITY,
            8 => w.iter_mut().for_each(|x| *x *= 1e-30),
            9 => w[(n / 3) * k..][..k].iter_mut().for_each(|x| *x *= 1e12),
            10 => a[..k].iter_mut().for_each(|x| *x *= 1e25),
            // A tie of two groups, and the later one could reach higher: a large row at right angles to the input.
            11 if n > 140 && k.is_multiple_of(2) => {
                a[..k].fill(1.0);
                w[3 * k..][..k].fill(20.0);
                w[133 * k..][..k].fill(20.0);
                w[140 * k..][..k].iter_mut().enumerate().for_each(|(i, x)| *x = if i % 2 == 0 { 1e6 } else { -1e6 });
            }
            _ => {}
        }
        if seed / 8 % 13 == 4 {
            a.iter_mut().for_each(|x| *x = x.abs());
        }
        let mut on_all = Vec::new();
        on_every_isa(|isa| {
            let mut packed = vec![0u8; n.div_ceil(16) * kind.panel_bytes(k)];
            for (i, panel) in packed.chunks_exact_mut(kind.panel_bytes(k)).enumerate() {
                let rows = std::array::from_fn(|lane| (16 * i + lane < n).then(|| &w[(16 * i + lane) * k..][..k]));
                pack_int8(isa, &rows, k, panel);
            }
            let w = Panels::new(n, k, Storage::Int8(&packed, Digits::Two));
            let p = Product { a: &a, lda: k, m, w, epilogue: Epilogue::Store };
            let mut written = vec![0f32; m * padded(n)];
            matmul(isa, &Team::alone(), p, &mut written, padded(n));
            for threads in [1, 3] {
                // Columns that do not compete: none, one, some, all.
                let apart = |row: usize| match (seed as usize + row) % 5 {
                    0 | 1 => vec![],
                    2 => vec![(n / 2) as u32],
                    3 => (0..n as u32).step_by(29).collect(),
                    _ => (0..n as u32).filter(|_| seed % 3 == 0).collect(),
                };
                let ask = |row| Leading { apart: apart(row), outputs: vec![(7, 7.0)] };
                let mut found: Vec<_> = (0..m).map(ask).collect();
                Team::enter(threads, |team| largest(isa, team, p, &mut found));
                for (row, Leading { apart, outputs }) in found.iter().enumerate() {
                    let written = &written[row * padded(n)..][..n];
                    let mut others = written.to_vec();
                    apart.iter().for_each(|column| others[*column as usize] = f32::NAN);
                    if k > 2048 || others.iter().all(|x| x.is_nan()) {
                        assert!(outputs.is_empty(), "seed {seed}, row {row}, {}", isa.name());
                        continue;
                    }
                    let mut expected = apart.clone();
                    expected.push(first_max(isa, &others) as u32);
                    expected.sort_unstable();
                    let bits = |(column, output): &(u32, f32)| (*column, output.to_bits());
                    let expected = expected.iter().map(|column| (*column, written[*column as usize].to_bits()));
                    let found: Vec<_> = outputs.iter().map(bits).collect();
                    assert_eq!(found, expected.collect::<Vec<_>>(), "seed {seed}, row {row}, {}", isa.name());
                    decided += usize::from(isa == Isa::best());
                }
                on_all.push(
                    found.into_iter().map(|f| f.outputs.iter().map(|o| o.0).collect()).collect::<Vec<Vec<u32>>>(),
                );
            }
        });
        assert!(on_all.iter().all(|found| *found == on_all[0]));
    }
    assert!(decided > 2500, "{decided} of 4,600 rows");
}

#[test]
fn rms_norm_equals_the_plain_loop() {
    for n in SIZES.into_iter().chain([256, 1000]) {
        for rows in [1, 3, 200] {
            let stride = padded(n);
            let (x, weight) = (numbers(n as u64, rows * n), numbers(7, n));
            let pad = |x: &[f32]| -> Vec<f32> {
                x.chunks(n).flat_map(|r| r.iter().copied().chain(std::iter::repeat_n(0.0, stride - n))).collect()
            };
            let expected: Vec<f32> = x.chunks(n).flat_map(|x| oracle::rms_norm(x, &weight, 1e-6)).collect();
            on_every_isa(|isa| {
                for threads in [1, 2] {
                    let mut out = vec![f32::NAN; rows * stride];
                    Team::enter(threads, |team| rms_norm(isa, team, &pad(&x), &pad(&weight), n, 1e-6, &mut out));
                    assert_eq!(bits(&unpadded(&out, stride, n)), bits(&expected), "{n}, {}", isa.name());
                }
            });
        }
    }
}

#[test]
fn to_f16_rounds_to_the_nearest_and_stays_finite() {
    let mut x = numbers(8, 64);
    x[..8].copy_from_slice(&[0.0, -0.0, 65519.0, 65520.0, -1e30, f32::INFINITY, 6e-8, 2.0 + 1.0 / 1024.0]);
    let expected: Vec<u16> = x.iter().map(|x| f16::from_f32(x.clamp(-65504.0, 65504.0)).to_bits()).collect();
    on_every_isa(|isa| {
        let mut halves = vec![f16::ZERO; x.len()];
        to_f16(isa, &x, &mut halves);
        assert_eq!(halves.iter().map(|x| x.to_bits()).collect::<Vec<_>>(), expected, "{}", isa.name());
    });
}

#[test]
fn log_sum_exp_is_near_f64() {
    for n in [1, 15, 16, 17, 199, 32128] {
        let x = numbers(n as u64, n).iter().map(|x| x.min(9.0)).collect::<Vec<_>>();
        let exact = x.iter().map(|x| f64::from(*x).exp()).sum::<f64>().ln();
        let all: Vec<f32> = Isa::available().iter().map(|isa| log_sum_exp(*isa, &x)).collect();
        assert!(
            all.iter().all(|y| y.to_bits() == all[0].to_bits() && (f64::from(*y) - exact).abs() < 1e-5),
            "{all:?} {exact}"
        );
    }
    assert_eq!(log_sum_exp(Isa::best(), &[f32::NEG_INFINITY; 3]), f32::NEG_INFINITY);
}

#[test]
fn log_softmax_row_takes_the_sum_from_each() {
    for n in SIZES.into_iter().chain([1000]) {
        let logits = numbers(6, n);
        on_every_isa(|isa| {
            let mut got = logits.clone();
            log_softmax_row(isa, &mut got);
            let sum = log_sum_exp(isa, &logits);
            assert!(got.iter().zip(&logits).all(|(got, x)| got.to_bits() == (x - sum).to_bits()), "{n}");
        });
    }
}

#[test]
fn first_max_is_the_first_of_the_largest() {
    let nan = f32::NAN;
    let low = f32::NEG_INFINITY;
    let mut cases =
        vec![vec![nan; 300], vec![low; 300], vec![nan, low, low], vec![1.0], [vec![nan; 200], vec![low; 9]].concat()];
    for n in SIZES.into_iter().filter(|n| *n > 0).chain([BLOCK, 1000, 32128]) {
        let mut scores = numbers(8, n);
        cases.push(scores.clone());
        // The largest twice, and no number between.
        scores[n * 2 / 3] = 1e9;
        scores[n - 1] = 1e9;
        scores[n / 2] = if n > 3 { nan } else { scores[n / 2] };
        cases.push(scores.clone());
        scores[0] = nan;
        cases.push(scores);
    }
    for scores in cases {
        let numbers = scores.iter().enumerate().filter(|(_, x)| !x.is_nan());
        let first = numbers.fold(None, |best: Option<(usize, f32)>, (i, x)| match best {
            Some((_, most)) if *x <= most => best,
            _ => Some((i, *x)),
        });
        on_every_isa(|isa| assert_eq!(first_max(isa, &scores), first.map_or(0, |(i, _)| i), "{}", scores.len()));
    }
}

#[test]
fn block_maxima_are_the_largest_and_infinity_where_one_is_no_number() {
    for n in SIZES.into_iter().chain([1, BLOCK, 5 * BLOCK + 3, 1000]) {
        let mut scores = numbers(7, n);
        scores.iter_mut().skip(2 * BLOCK).take(BLOCK).for_each(|x| *x = f32::NEG_INFINITY);
        if let Some(x) = scores.get_mut(4 * BLOCK - 1) {
            *x = f32::NAN;
        }
        let largest = |block: &[f32]| match block.iter().any(|x| x.is_nan()) {
            true => f32::INFINITY,
            false => block.iter().copied().fold(f32::NEG_INFINITY, f32::max),
        };
        let expected: Vec<f32> = scores.chunks(BLOCK).map(largest).collect();
        on_every_isa(|isa| {
            let mut got = vec![1.0];
            block_maxima(isa, &scores, &mut got);
            assert_eq!(got, expected, "{n}");
        });
    }
}

#[test]
fn narrows_finds_exact_bf16_and_f16() {
    let bytes = |x: &[f32]| -> Vec<[u8; 4]> { x.iter().map(|x| x.to_le_bytes()).collect() };
    for isa in Isa::available() {
        assert_eq!(narrows(isa, &bytes(&[1.0, -0.5, 0.0, -0.0])), (true, true));
        assert_eq!(narrows(isa, &bytes(&[1.0, 1e30])), (false, false));
        assert_eq!(narrows(isa, &bytes(&[1.0, bf16::from_f32(1e30).to_f32()])), (true, false));
        assert_eq!(narrows(isa, &bytes(&[1.0009766, 65504.0])), (false, true));
        assert_eq!(narrows(isa, &bytes(&[0.1])), (false, false));
    }
}

#[test]
fn activations_are_near_f64_and_equal_everywhere() {
    let x: Vec<f32> = (-160..160).map(|i| i as f32 * 0.07).collect();
    let tanh_gelu =
        |x: f64| 0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh());
    let cases: [(Activation, &dyn Fn(f64) -> f64); 4] = [
        (Activation::Relu, &|x| x.max(0.0)),
        (Activation::GeluNew, &tanh_gelu),
        (Activation::Silu, &|x| x / (1.0 + (-x).exp())),
        (Activation::Tanh, &f64::tanh),
    ];
    for (activation, exact) in cases {
        let mut first: Option<Vec<f32>> = None;
        for isa in Isa::available() {
            let mut y = x.clone();
            activate_rows(isa, &Team::alone(), activation, &mut y);
            for (x, y) in x.iter().zip(&y) {
                assert!(
                    (f64::from(*y) - exact(f64::from(*x))).abs() < 1e-6 * f64::from(x.abs().max(1.0)),
                    "{activation:?}({x}) = {y}"
                );
            }
            let hidden: Vec<f32> = x.iter().zip(&x).flat_map(|(a, _)| [*a]).collect();
            let mut gated = vec![0.0; 160];
            gate_rows(isa, &Team::alone(), activation, &hidden, 160, &mut gated);
            assert!(gated.iter().zip(&y[..160]).zip(&x[160..]).all(|((g, a), l)| *g == a * l));
            assert_eq!(bits(first.get_or_insert(y.clone())), bits(&y), "{}", isa.name());
        }
    }
}

/// Sizes whose product cannot be counted are refused, and a product of no inputs is zero, of many rows as of one.
#[test]
fn matmul_sizes_at_the_ends() {
    let huge = 1usize << (usize::BITS / 2);
    for (n, k) in [(huge, huge), (usize::MAX, 1), (16, usize::MAX)] {
        for data in [Storage::F32(&[]), Storage::Int8(&[], Digits::One)] {
            let hook = std::panic::take_hook();
            std::panic::set_hook(Box::new(|_| ()));
            let made = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| Panels::new(n, k, data)));
            std::panic::set_hook(hook);
            assert!(made.is_err(), "{n} {k}");
        }
    }
    for m in [1, 2, 3, 40] {
        let mut out = vec![1.0f32; m * 16];
        let product =
            Product { a: &[], lda: 0, m, w: Panels::new(16, 0, Storage::F32(&[])), epilogue: Epilogue::Store };
        matmul(Isa::best(), &Team::alone(), product, &mut out, 16);
        assert!(out.iter().all(|x| *x == 0.0), "{m}");
    }
}
