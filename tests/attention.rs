//! Attention against plain loops, and against itself on every instruction set, with any threads, alone and together.

mod oracle;

use half::f16;
use oracle::{bits, numbers, on_every_isa};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use tiny_t5_kernels::*;

/// Attention by plain loops, with the softmax of the kernel itself: its parts have tests of their own.
fn plain_scores(q: &[f32], keys: &[f32], d: usize, bias: impl Fn(usize) -> f32) -> Vec<f32> {
    keys.chunks(d).enumerate().map(|(t, key)| (0..d).fold(bias(t), |sum, i| q[i].mul_add(key[i], sum))).collect()
}

#[test]
fn attention_over_halves_equals_that_over_the_same_numbers_in_f32() {
    for (heads, d_kv, len, causal) in [
        (1, 1, 1, false),
        (3, 7, 5, true),
        (2, 40, 37, false),
        (4, 64, 70, true),
        (6, 7, 33, false),
        (8, 40, 70, true),
        (2, 20, 145, false),
    ] {
        let width = heads * padded(d_kv);
        let rows: Vec<f32> = numbers(3, 3 * len * width).iter().map(|x| x.sin()).collect();
        let (q, rest) = rows.split_at(len * width);
        let mut halves = vec![f16::ZERO; rest.len()];
        to_f16(Isa::best(), rest, &mut halves);
        let wide: Vec<f32> = halves.iter().map(|x| x.to_f32()).collect();
        let shape = Heads { heads, d_kv };
        let floats = heads * Keys::key_floats(len, d_kv);
        let (mut keys, mut narrow_keys) = (vec![0.0; floats], vec![f16::NAN; floats]);
        let layout = KeyLayout::by_head(shape, len);
        Keys::write(Isa::best(), &mut keys, shape, layout, 0, &wide[..len * width], width);
        // In two parts, as a decoder appends them.
        let cut = len / 3 * width;
        let isa = Isa::best();
        Keys::write_f16(isa, &mut narrow_keys, shape, layout, 0, &rest[..cut], width);
        Keys::write_f16(isa, &mut narrow_keys, shape, layout, len / 3, &rest[cut..len * width], width);
        let (values, narrow_values) = (&wide[len * width..], &halves[len * width..]);
        on_every_isa(|isa| {
            let run = |stored| {
                let keys = Keys { stored, layout, value_head: padded(d_kv), value_stride: width, len };
                // All queries of a sequence, and the query of each of many.
                let together = Attention { rows: 0..len, position: 0, keys, bias: None, causal };
                let alone = |i| Attention { rows: i..i + 1, position: i, ..together.clone() };
                let (mut out, mut of_many) = (vec![f32::NAN; len * width], vec![f32::NAN; len * width]);
                let mut scratch = vec![Vec::new(); 2];
                Team::enter(2, |team| {
                    attention(isa, team, shape, (q, width), 1, |_| together.clone(), &mut out, &mut scratch);
                    attention(isa, team, shape, (q, width), len, alone, &mut of_many, &mut scratch);
                });
                assert!(bits(&out) == bits(&of_many), "{heads} heads of {d_kv}, {len} sequences, {}", isa.name());
                bits(&out)
            };
            let (f32s, f16s) = (run(KeyStorage::F32(&keys, values)), run(KeyStorage::F16(&narrow_keys, narrow_values)));
            assert!(f32s == f16s, "{heads} heads of {d_kv}, {len} positions, causal {causal}, {}", isa.name());
        });
    }
}

#[test]
fn attention_is_near_plain_loops_and_equal_everywhere() {
    // Past 128 and 512 keys, which go in blocks, and lie apart as they do.
    let lengths = [
        (1, 1, 1),
        (3, 7, 5),
        (2, 16, 17),
        (4, 64, 130),
        (2, 5, 33),
        (6, 7, 35),
        (9, 40, 70),
        (1, 20, 512),
        (2, 5, 301),
    ];
    for (heads, d_kv, len) in lengths {
        let width = heads * padded(d_kv);
        let small =
            |seed, n| -> Vec<f32> { numbers(seed, n).iter().map(|x| if x.abs() > 1.0 { 0.5 } else { *x }).collect() };
        let mut rows = small(3, 3 * len * width);
        for (i, x) in rows.iter_mut().enumerate() {
            if i % padded(d_kv) >= d_kv {
                *x = 0.0; // the padding of a head
            }
        }
        let (q, rest) = rows.split_at(len * width);
        let (k, v) = rest.split_at(len * width);
        let shape = Heads { heads, d_kv };
        // As caches keep keys, and as the encoder does.
        let layout = if len.is_multiple_of(2) { KeyLayout::by_head(shape, len) } else { KeyLayout::by_position(shape) };
        let mut keys = vec![0.0; heads * Keys::key_floats(len, d_kv)];
        Keys::write(Isa::best(), &mut keys, shape, layout, 0, k, width);
        let stride = 2 * len - 1 + 16;
        let table = small(9, heads * stride);
        for causal in [false, true] {
            for with_bias in [false, true] {
                let bias = with_bias.then_some(Bias { table: &table, stride, max_len: len });
                let all = Attention {
                    rows: 0..len,
                    position: 0,
                    keys: Keys {
                        stored: KeyStorage::F32(&keys, v),
                        layout,
                        value_head: padded(d_kv),
                        value_stride: width,
                        len,
                    },
                    bias,
                    causal,
                };
                let mut first: Option<Vec<u32>> = None;
                on_every_isa(|isa| {
                    for threads in [1, 2, 5] {
                        // all queries at once, and each alone; some, with a last tile of each height
                        for step in [len, 1, 11, 5, 3, 2] {
                            if step > 1 && step < len && (causal || threads != 2 || len < 130) {
                                continue;
                            }
                            let mut out = vec![f32::NAN; len * width];
                            let mut scratch = vec![Vec::new(); threads];
                            for start in (0..len).step_by(step) {
                                let step = step.min(len - start);
                                let rows = 0..step;
                                let part = Attention { rows, position: start, ..all.clone() };
                                let queries = (&q[start * width..], width);
                                let out = &mut out[start * width..(start + step) * width];
                                let shape = Heads { heads, d_kv };
                                Team::enter(threads, |team| {
                                    attention(isa, team, shape, queries, 1, |_| part.clone(), out, &mut scratch);
                                });
                            }
                            let out = bits(&out);
                            assert_eq!(
                                *first.get_or_insert_with(|| out.clone()),
                                out,
                                "{} {threads} {step}",
                                isa.name()
                            );
                        }
                    }
                });
                let out: Vec<f32> = first.unwrap().iter().map(|b| f32::from_bits(*b)).collect();
                for query in 0..len {
                    for head in 0..heads {
                        let part = |x: &[f32]| -> Vec<f32> {
                            x.chunks(width).flat_map(|r| r[head * padded(d_kv)..][..d_kv].to_vec()).collect()
                        };
                        let seen = if causal { query + 1 } else { len };
                        let b = |t: usize| {
                            if with_bias { table[head * stride + t + len - 1 - query] } else { 0.0 }
                        };
                        let scores = plain_scores(&part(&q[query * width..]), &part(k)[..seen * d_kv], d_kv, b);
                        let top = scores.iter().copied().fold(f32::MIN, f32::max);
                        let e: Vec<f64> = scores.iter().map(|x| f64::from(x - top).exp()).collect();
                        let sum: f64 = e.iter().sum();
                        for d in 0..d_kv {
                            let exact: f64 =
                                e.iter().zip(part(v).chunks(d_kv)).map(|(e, v)| e / sum * f64::from(v[d])).sum();
                            let got = f64::from(out[query * width + head * padded(d_kv) + d]);
                            assert!((got - exact).abs() < 1e-5, "query {query} head {head}: {got}, expected {exact}");
                        }
                    }
                }
            }
        }
    }
}

/// Whether attention of so many sequences of 4 rows and 16 heads of 64 takes them.
fn is_taken<'a>(
    threads: usize,
    count: usize,
    numbers: &[f32],
    sequence: impl Fn(usize) -> Attention<'a> + Sync,
) -> bool {
    let (shape, width) = (Heads { heads: 16, d_kv: 64 }, 1024);
    let (mut out, mut scratch) = (vec![0.0; 4 * width], [const { Vec::new() }; 2]);
    let queries = (&numbers[..4 * width], width);
    let call = || {
        Team::enter(threads, |team| {
            attention(Isa::best(), team, shape, queries, count, sequence, &mut out, &mut scratch);
        });
    };
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(call)).is_ok()
}

/// A sequence is asked for more than once. Rows that are computed, but were not checked, would be somebody else's.
#[test]
fn attention_refuses_sequences_that_do_not_fit() {
    let len = 256;
    let numbers = numbers(3, len * 1024);
    let layout = KeyLayout::by_head(Heads { heads: 16, d_kv: 64 }, len);
    let stored = KeyStorage::F32(&numbers, &numbers);
    let keys = Keys { stored, layout, value_head: 64, value_stride: 1024, len };
    let first = || Attention { rows: 0..2, position: 0, keys, bias: None, causal: false };
    for threads in [1, 2] {
        let becomes = |second: Attention<'_>| {
            let asked = AtomicBool::new(false);
            let sequence = |_| if asked.swap(true, Ordering::Relaxed) { second.clone() } else { first() };
            is_taken(threads, 1, &numbers, sequence)
        };
        assert!(becomes(first()));
        assert!(!becomes(Attention { rows: 1..3, ..first() }), "other rows");
        assert!(!becomes(Attention { rows: 0..400, ..first() }), "rows that are not there");
        assert!(!becomes(Attention { keys: Keys { len: 10_000, ..keys }, ..first() }), "keys that are not there");

        let is = |rows: Range<usize>, position, causal| {
            is_taken(threads, 1, &numbers, |_| Attention { rows: rows.clone(), position, causal, ..first() })
        };
        assert!(is(0..4, 0, true));
        assert!(!is((1 << 60) - 1..1 << 60, 0, false), "rows whose numbers wrap");
        assert!(!is(0..4, usize::MAX - 2, true), "a position that wraps");
        let back = [0..3, Range { start: 3, end: 1 }, 1..3];
        let sequence = |i: usize| Attention { rows: back[i].clone(), ..first() };
        assert!(!is_taken(threads, 3, &numbers, sequence), "rows of two sequences");
    }
}
