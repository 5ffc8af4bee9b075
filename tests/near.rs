//! The near copy of the LM head against the full product: bounds that hold, nothing of the best left out, and a sum that is right.

mod oracle;

use oracle::{deceive, wide};
use proptest::prelude::*;
use tiny_t5_kernels::*;

/// A packed copy and its columns; none where it declines.
fn packed(isa: Isa, w: &[f32], n: usize, k: usize) -> Option<(Vec<f32>, ColumnScales)> {
    let columns = ColumnScales::new(w, 3 * k, k);
    // Floats, so that it is aligned for them.
    let mut bytes = vec![0f32; near_bytes(n, k) / 4];
    for (i, mut panel) in near_panels(n, k, bytemuck::cast_slice_mut(&mut bytes)).into_iter().enumerate() {
        let rows: Vec<Vec<f32>> = w.chunks_exact(k).skip(i * LANES).take(LANES).map(|row| wide(row, k)).collect();
        let rows = std::array::from_fn(|lane| rows.get(lane).map(Vec::as_slice));
        if !panel.pack(isa, &rows, &columns) {
            return None;
        }
    }
    Some((bytes, columns))
}

/// ln(sum of e^x) in f64.
fn log_sum_exp_of(logits: impl Iterator<Item = f32> + Clone) -> f64 {
    let top = logits.clone().fold(f32::NEG_INFINITY, f32::max);
    f64::from(top) + logits.map(|x| f64::from(x - top).exp()).sum::<f64>().ln()
}

/// Near logits of one vector, exact where they have to be, and how many those are; none where the copy declines.
fn near(isa: Isa, h: &[f32], w: &[f32], n: usize, keep: usize, apart: &[u32]) -> Option<(Vec<f32>, usize)> {
    let k = h.len();
    let (bytes, columns) = packed(isa, w, n, k)?;
    let copy = Near::new(n, k, bytemuck::cast_slice(&bytes));
    let mut query = vec![0.0; k];
    let prepared = NearQuery::prepare(h, &columns, &mut query)?;
    let (mut products, mut leading) = (vec![0.0; padded(n)], NearLeading::default());
    copy.products(isa, &Team::alone(), &query, k, 1, &mut products);
    if !copy.leading(isa, prepared, &products, apart, (keep, n), &mut leading) {
        return None;
    }
    let NearLeading { mut logits, rows: found, .. } = leading;
    let exact: Vec<u32> = found.iter().chain(apart).copied().collect();
    let rows: Vec<f32> = exact.iter().flat_map(|row| &w[*row as usize * k..][..k]).copied().collect();
    let mut values = vec![0.0; exact.len()];
    chains(isa, h, &rows, k, &mut values);
    exact.iter().zip(values).for_each(|(row, value)| logits[*row as usize] = value);
    assert!(logits[n..].iter().all(|x| *x == f32::NEG_INFINITY));
    logits.truncate(n);
    Some((logits, found.len()))
}

#[test]
fn near_logits_deceived_in_10000_ways_have_the_best_ones_right() {
    let config = ProptestConfig { cases: 10_000, failure_persistence: None, ..ProptestConfig::default() };
    let rng = proptest::test_runner::TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha);
    let served = std::cell::Cell::new(0);
    let cases = (0u32..16, any::<u64>(), 1usize..1500, 1usize..24, 1usize..9);
    proptest::test_runner::TestRunner::new_with_rng(config, rng)
        .run(&cases, |(kind, seed, n, k, keep)| {
            let (h, w) = deceive(kind, seed, n, k);
            let full = oracle::matmul(&h, &w, 1, n, k, |_, _| 0.0);
            let apart: Vec<u32> = (0..n as u32).filter(|row| row % 97 == full[0].to_bits() % 101).collect();
            let Some((near, _)) = near(Isa::best(), &h, &w, n, keep, &apart) else {
                let few = keep > n.div_ceil(BLOCK);
                prop_assert!(few || apart.len() == n || [8, 9, 10, 11, 12].contains(&kind), "declined kind {}", kind);
                return Ok(());
            };
            served.set(served.get() + 1);
            // The best of those that are not apart, ties and all, have the full product's bits; what is not exact is below them.
            let others = || (0..n).filter(|row| !apart.contains(&(*row as u32)));
            let mut best: Vec<usize> = others().collect();
            best.sort_by(|a, b| full[*b].total_cmp(&full[*a]));
            let last = best[keep.min(best.len()) - 1];
            for row in others() {
                let is_exact = near[row].to_bits() == full[row].to_bits();
                prop_assert!(
                    is_exact || full[row] < full[last] && near[row] < full[last],
                    "row {} of kind {}",
                    row,
                    kind
                );
            }
            apart.iter().for_each(|row| assert_eq!(near[*row as usize].to_bits(), full[*row as usize].to_bits()));
            Ok(())
        })
        .unwrap();
    assert!(served.get() > 5_000, "{} served", served.get());
}

#[test]
fn near_logits_are_within_their_radius_and_their_sum_is_as_good_as_the_full_products() {
    // As peaked as trained models and as flat as random ones.
    for (seed, sharpness) in [(1, 0.05), (2, 0.4), (3, 1.0), (4, 4.0), (5, 12.0)] {
        let (n, k) = (8000, 256);
        let (h, w) = deceive(14, seed, n, k);
        let h: Vec<f32> = h.iter().map(|x| x * sharpness).collect();
        let full = oracle::matmul(&h, &w, 1, n, k, |_, _| 0.0);
        let size = (full.iter().map(|x| f64::from(x * x)).sum::<f64>() / n as f64).sqrt();
        let (near, exact) = near(Isa::best(), &h, &w, n, 8, &[3, 77]).unwrap();
        let off = near.iter().zip(&full).map(|(x, y)| f64::from((x - y).abs())).fold(0.0, f64::max);
        assert!(off > 0.0 && off < 3e-4 * size, "sharpness {sharpness}: {off} of {size}");
        assert!(exact < 300, "{exact} of {n} rows");
        let sum = log_sum_exp(Isa::best(), &near);
        let apart = (f64::from(sum) - log_sum_exp_of(full.iter().copied())).abs();
        let bound = 2e-6 * size + 2e-7 * f64::from(sum.abs());
        assert!(apart < bound, "sharpness {sharpness}: the sum is off by {apart}, of {size}, {exact} exact");
    }
}

#[test]
fn near_logits_are_the_same_on_every_isa_and_beside_others() {
    let (n, k, count) = (1003, 70, 7);
    let (_, w) = deceive(14, 7, n, k);
    let vectors: Vec<Vec<f32>> = (0..count).map(|i| deceive(14, i + 1, 1, k).0).collect();
    let (bytes, columns) = packed(Isa::best(), &w, n, k).unwrap();
    let stride = padded(k);
    let of = |isa: Isa, threads: usize, vectors: &[Vec<f32>]| {
        let (bytes, _) = packed(isa, &w, n, k).unwrap();
        let copy = Near::new(n, k, bytemuck::cast_slice(&bytes));
        let mut queries = vec![0.0; vectors.len() * stride];
        let prepared: Vec<_> = vectors
            .iter()
            .zip(queries.chunks_exact_mut(stride))
            .map(|(h, to)| NearQuery::prepare(h, &columns, to).unwrap())
            .collect();
        let mut products = vec![0.0; vectors.len() * padded(n)];
        Team::enter(threads, |team| copy.products(isa, team, &queries, stride, vectors.len(), &mut products));
        let mut leading = NearLeading::default();
        let rows = prepared.into_iter().zip(products.chunks_exact(padded(n))).map(|(query, products)| {
            assert!(copy.leading(isa, query, products, &[5], (4, n), &mut leading));
            (leading.logits.iter().map(|x| x.to_bits()).collect(), leading.rows.clone())
        });
        rows.collect::<Vec<(Vec<u32>, Vec<u32>)>>()
    };
    let alone: Vec<_> = vectors.iter().flat_map(|v| of(Isa::best(), 1, std::slice::from_ref(v))).collect();
    for isa in Isa::available() {
        let same = bytemuck::cast_slice::<_, u8>(&packed(isa, &w, n, k).unwrap().0) == bytemuck::cast_slice(&bytes);
        assert!(same, "{} packs other bytes", isa.name());
        for (threads, count) in [(1, 7), (2, 5), (3, 4), (2, 2)] {
            let same = of(isa, threads, &vectors[..count]) == alone[..count];
            assert!(same, "{} on {threads} threads, {count} together", isa.name());
        }
    }
}
