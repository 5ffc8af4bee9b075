//! The LM head's screen against the full product: the same winner, by `==`, on matrices made to deceive it.

mod oracle;

use proptest::prelude::*;
use tiny_t5_kernels::*;

/// The first of the largest, by the plain chain over every row.
fn full(h: &[f32], w: &[f32], n: usize, k: usize) -> usize {
    let logits = oracle::matmul(h, w, 1, n, k, |_, _| 0.0);
    (0..n).fold(0, |best, i| if logits[i] > logits[best] { i } else { best })
}

/// A row with zeros behind it.
fn wide(row: &[f32], k: usize) -> Vec<f32> {
    row.iter().copied().chain(std::iter::repeat_n(0.0, padded(k) - k)).collect()
}

/// The winner by the screen; none where it declines.
fn screened(isa: Isa, h: &[f32], w: &[f32], n: usize, k: usize, digits: usize) -> Option<usize> {
    let scales = ColumnScales::new(w.chunks(k).step_by(3), k);
    let mut packed = vec![0u8; screen_bytes(n, k)];
    for (i, panel) in packed.chunks_exact_mut(screen_bytes(LANES, k)).enumerate() {
        let wide: Vec<Vec<f32>> = w.chunks_exact(k).skip(i * LANES).take(LANES).map(|row| wide(row, k)).collect();
        let rows = std::array::from_fn(|lane| wide.get(lane).map(Vec::as_slice));
        if !pack_screen(isa, &rows, &scales, panel) {
            return None;
        }
    }
    let mut query = Query::default();
    if !query.prepare(isa, h, &scales) {
        return None;
    }
    let screen = Screen::new(n, k, &packed);
    let mut bounds = vec![Bounds::NONE; screen.groups()];
    screen.scan(isa, &Team::alone(), std::slice::from_ref(&query), digits, &mut bounds);
    let logits = oracle::matmul(h, w, 1, n, k, |_, _| 0.0);
    for (group, logits) in logits.chunks(SCREEN_GROUP).enumerate() {
        let within = |logit: f32, b: &Bounds| b.lower <= logit && logit <= b.upper;
        for (i, bounds) in screen.rows(isa, &query, group).iter().take(logits.len()).enumerate() {
            assert!(within(logits[i], bounds), "group {group} row {i}: {} in {bounds:?}", logits[i]);
        }
        let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        assert!(within(most, &bounds[group]), "group {group}: {most} in {:?}", bounds[group]);
    }
    let mut left = Vec::new();
    // Rows that a processor touches are taken out: the winner of the others is among what is left.
    let apart: Vec<u32> = (0..n as u32).filter(|row| row % 7 == logits[0].to_bits() % 9).collect();
    screen.survivors(isa, &query, &bounds, &apart, &mut left);
    let others = (0..n).filter(|row| !apart.contains(&(*row as u32)));
    if let Some(best) = others.reduce(|best, row| if logits[row] > logits[best] { row } else { best }) {
        assert!(left.iter().any(|(row, _)| *row as usize == best), "{best} of the others is not in {left:?}");
    }
    assert!(left.iter().all(|(row, _)| !apart.contains(row)));
    screen.survivors(isa, &query, &bounds, &[], &mut left);
    let rows: Vec<f32> = left.iter().flat_map(|(row, _)| &w[*row as usize * k..][..k]).copied().collect();
    let mut values = vec![0.0; left.len()];
    chains(isa, h, &rows, k, &mut values);
    let best = (0..left.len()).fold(0, |best, i| if values[i] > values[best] { i } else { best });
    Some(left[best].0 as usize)
}

/// Rows and a vector of one of many kinds.
fn deceive(kind: u32, seed: u64, n: usize, k: usize) -> (Vec<f32>, Vec<f32>) {
    let uniform = |seed, len| -> Vec<f32> {
        oracle::numbers(seed, len).iter().map(|x| if x.abs() > 1.0 { 0.5 } else { *x }).collect()
    };
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

#[test]
fn screen_deceived_in_100000_ways_finds_the_full_products_winner() {
    let config = ProptestConfig { cases: 100_000, failure_persistence: None, ..ProptestConfig::default() };
    let best = Isa::best();
    let (mut served, mut declined) = (0usize, 0usize);
    let mut runner = proptest::test_runner::TestRunner::new_with_rng(
        config,
        proptest::test_runner::TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha),
    );
    let (served_in, declined_in) = (std::cell::Cell::new(0usize), std::cell::Cell::new(0usize));
    runner
        .run(&(0u32..16, any::<u64>(), 1usize..200, 1usize..24, 1usize..3), |(kind, seed, n, k, digits)| {
            let (h, w) = deceive(kind, seed, n, k);
            match screened(best, &h, &w, n, k, digits) {
                Some(winner) => {
                    served_in.set(served_in.get() + 1);
                    prop_assert_eq!(winner, full(&h, &w, n, k), "kind {} n {} k {}", kind, n, k);
                }
                None => {
                    declined_in.set(declined_in.get() + 1);
                    prop_assert!([4, 5, 7, 8, 9, 10, 11, 12].contains(&kind) || k < 6, "declined kind {}", kind);
                }
            }
            Ok(())
        })
        .unwrap();
    served += served_in.get();
    declined += declined_in.get();
    assert!(served > 60_000 && declined > 1_000, "{served} served, {declined} declined");
}

#[test]
fn screen_is_the_same_on_every_isa() {
    for (kind, n, k) in [(14, 100, 64), (2, 333, 130), (6, 1000, 257), (0, 17, 16)] {
        let (h, w) = deceive(kind, 42, n, k);
        for digits in [1, 2] {
            let winners: Vec<_> = Isa::available().iter().map(|isa| screened(*isa, &h, &w, n, k, digits)).collect();
            assert_eq!(winners, vec![Some(full(&h, &w, n, k)); winners.len()]);
        }
    }
}

#[test]
fn scan_many_queries_and_threads_equal_one() {
    let (n, k) = (2000, 96);
    let (_, w) = deceive(14, 7, n, k);
    let scales = ColumnScales::new(w.chunks(k), k);
    let mut packed = vec![0u8; screen_bytes(n, k)];
    for (i, panel) in packed.chunks_exact_mut(screen_bytes(LANES, k)).enumerate() {
        let wide: Vec<Vec<f32>> = w.chunks_exact(k).skip(i * LANES).take(LANES).map(|row| wide(row, k)).collect();
        let rows = std::array::from_fn(|lane| wide.get(lane).map(Vec::as_slice));
        assert!(pack_screen(Isa::best(), &rows, &scales, panel));
    }
    let screen = Screen::new(n, k, &packed);
    for digits in [1, 2] {
        let mut queries = vec![Query::default(); 9];
        for (i, query) in queries.iter_mut().enumerate() {
            assert!(query.prepare(Isa::best(), &deceive(14, i as u64 + 1, 1, k).0, &scales));
        }
        let groups = screen.groups();
        let scanned = |isa: Isa, threads: usize, queries: &[Query]| {
            let mut bounds = vec![Bounds::NONE; queries.len() * groups];
            Team::enter(threads, |team| screen.scan(isa, team, queries, digits, &mut bounds));
            bounds
        };
        let alone: Vec<Vec<Bounds>> =
            queries.iter().map(|query| scanned(Isa::available()[0], 1, std::slice::from_ref(query))).collect();
        for isa in Isa::available() {
            for (threads, count) in [(1, 9), (2, 7), (3, 5), (1, 3), (2, 2)] {
                let together = scanned(isa, threads, &queries[..count]);
                assert_eq!(together, alone[..count].concat(), "{} {threads} {count}", isa.name());
            }
        }
    }
}
