//! The LM head's screen against the full product: the same winner, by `==`, on matrices made to deceive it.

mod oracle;

use oracle::{deceive, wide};
use proptest::prelude::*;
use tiny_t5_kernels::*;

/// The first of the largest, by the plain chain over every row.
fn full(h: &[f32], w: &[f32], n: usize, k: usize) -> usize {
    let logits = oracle::matmul(h, w, 1, n, k, |_, _| 0.0);
    (0..n).fold(0, |best, i| if logits[i] > logits[best] { i } else { best })
}

/// The winner by the screen; none where it declines.
fn screened(isa: Isa, h: &[f32], w: &[f32], n: usize, k: usize, digits: usize) -> Option<usize> {
    let scales = ColumnScales::new(w, 3 * k, k);
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
    let mut uppers = vec![0.0; screen.groups()];
    screen.scan(isa, &Team::alone(), std::slice::from_ref(&query), digits, &mut uppers);
    // Several are added in tiles of other shapes.
    if digits == 1 {
        let mut of_two = vec![0.0; 2 * screen.groups()];
        screen.scan(isa, &Team::alone(), &[query.clone(), query.clone()], digits, &mut of_two);
        assert!(
            of_two.chunks(screen.groups()).all(|of_one| of_one == uppers),
            "two queries have other bounds than one"
        );
    }
    let logits = oracle::matmul(h, w, 1, n, k, |_, _| 0.0);
    for (group, logits) in logits.chunks(SCREEN_GROUP).enumerate() {
        let within = |logit: f32, b: &Bounds| b.lower <= logit && logit <= b.upper;
        for (i, bounds) in screen.rows(isa, &query, group).iter().take(logits.len()).enumerate() {
            assert!(within(logits[i], bounds), "group {group} row {i}: {} in {bounds:?}", logits[i]);
        }
        let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        assert!(most <= uppers[group], "group {group}: {most} above {}", uppers[group]);
    }
    let mut left = Vec::new();
    // Rows that a processor touches are taken out: the winner of the others is among what is left.
    let apart: Vec<u32> = (0..n as u32).filter(|row| row % 7 == logits[0].to_bits() % 9).collect();
    screen.survivors(isa, &query, &uppers, &apart, &mut left);
    let others = (0..n).filter(|row| !apart.contains(&(*row as u32)));
    if let Some(best) = others.reduce(|best, row| if logits[row] > logits[best] { row } else { best }) {
        assert!(left.iter().any(|(row, _)| *row as usize == best), "{best} of the others is not in {left:?}");
    }
    assert!(left.iter().all(|(row, _)| !apart.contains(row)));
    screen.survivors(isa, &query, &uppers, &[], &mut left);
    let rows: Vec<f32> = left.iter().flat_map(|(row, _)| &w[*row as usize * k..][..k]).copied().collect();
    let mut values = vec![0.0; left.len()];
    chains(isa, h, &rows, k, &mut values);
    let best = (0..left.len()).fold(0, |best, i| if values[i] > values[best] { i } else { best });
    Some(left[best].0 as usize)
}

#[test]
fn screen_deceived_in_100000_ways_finds_the_full_products_winner() {
    let config = ProptestConfig { cases: 100_000, failure_persistence: None, ..ProptestConfig::default() };
    let isas = Isa::available();
    let (mut served, mut declined) = (0usize, 0usize);
    let mut runner = proptest::test_runner::TestRunner::new_with_rng(
        config,
        proptest::test_runner::TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha),
    );
    let (served_in, declined_in) = (std::cell::Cell::new(0usize), std::cell::Cell::new(0usize));
    // Short ones, and now and then one of whole blocks whose products meet in 16 bits.
    let k = prop_oneof![15 => 1usize..24, 1 => 64usize..140];
    runner
        .run(&(0u32..16, any::<u64>(), 1usize..200, k, 1usize..3), |(kind, seed, n, k, digits)| {
            let (h, w) = deceive(kind, seed, n, k);
            match screened(isas[seed as usize % isas.len()], &h, &w, n, k, digits) {
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

/// The weights that [`Screen::scan`] may add in 16 bits: of every fourth word of a block of 16, in the same half of a word. Their
/// products with 127 must fit.
#[test]
fn weights_that_meet_are_bounded() {
    for k in [16, 61, 64, 125, 128, 130, 256] {
        for kind in 0..16 {
            for seed in 0..20 {
                let (_, w) = deceive(kind, seed, LANES, k);
                let scales = ColumnScales::new(&w, 3 * k, k);
                let rows: Vec<Vec<f32>> = w.chunks_exact(k).map(|row| wide(row, k)).collect();
                let mut panel = vec![0u8; screen_bytes(LANES, k)];
                if !pack_screen(Isa::best(), &std::array::from_fn(|lane| Some(&rows[lane][..])), &scales, &mut panel) {
                    continue;
                }
                let weight =
                    |word: usize, lane: usize, byte: usize| i32::from(panel[(word * LANES + lane) * 4 + byte] as i8);
                for block in (0..k.div_ceil(4) / 16 * 16).step_by(16) {
                    for (lane, word, half) in (0..LANES * 8).map(|i| (i / 8, block + i / 2 % 4, i % 2 * 2)) {
                        let meet = |i: usize| weight(word + i / 2 * 4, lane, half + i % 2);
                        let (above, below) = (0..8).map(meet).partition::<Vec<i32>, _>(|w| *w > 0);
                        let most = above.iter().sum::<i32>().max(-below.iter().sum::<i32>());
                        assert!(most * 127 < 1 << 15, "kind {kind} k {k} row {lane} word {word}: {most}");
                    }
                }
            }
        }
    }
}

/// Where eight weights of one sign meet eight inputs that are the largest, sums of 16 bits would overflow if nothing bounded the weights.
#[test]
fn weights_of_one_sign_meet_the_largest_inputs() {
    for k in [64, 100, 128, 256, 1000] {
        for apart in [1, 2, 4, 16] {
            // Of each row other weights are large: those whose place, in steps of `apart`, is the row's.
            let large = |row: usize, i: usize| (i / apart).is_multiple_of(1 + row / 2);
            let sign = |row: usize| if row.is_multiple_of(2) { 1.0 } else { -1.0 };
            let weight =
                |row: usize, i: usize| sign(row) * if large(row, i) { 1.0 } else { 0.01 * ((row + i) % 7) as f32 };
            let w: Vec<f32> = (0..80).flat_map(|row| (0..k).map(move |i| weight(row, i))).collect();
            for h in [vec![1.0; k], vec![-1.0; k], (0..k).map(|i| sign(i / apart)).collect()] {
                for digits in [1, 2] {
                    for isa in Isa::available() {
                        assert_eq!(
                            screened(isa, &h, &w, 80, k, digits),
                            Some(full(&h, &w, 80, k)),
                            "{isa:?} {k} {apart} {digits}"
                        );
                    }
                }
            }
        }
    }
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
    // 64 inputs at a time, where the processor multiplies tiles; 96 are not for them, and behind the last block of 100 is a word.
    for k in [96, 100, 128] {
        scan_many(2000, k);
    }
}

fn scan_many(n: usize, k: usize) {
    let (_, w) = deceive(14, 7, n, k);
    let scales = ColumnScales::new(&w, k, k);
    let mut packed = vec![0u8; screen_bytes(n, k)];
    for (i, panel) in packed.chunks_exact_mut(screen_bytes(LANES, k)).enumerate() {
        let wide: Vec<Vec<f32>> = w.chunks_exact(k).skip(i * LANES).take(LANES).map(|row| wide(row, k)).collect();
        let rows = std::array::from_fn(|lane| wide.get(lane).map(Vec::as_slice));
        assert!(pack_screen(Isa::best(), &rows, &scales, panel));
    }
    let screen = Screen::new(n, k, &packed);
    for digits in [1, 2] {
        let mut queries = vec![Query::default(); 35];
        for (i, query) in queries.iter_mut().enumerate() {
            assert!(query.prepare(Isa::best(), &deceive(14, i as u64 + 1, 1, k).0, &scales));
        }
        let groups = screen.groups();
        let scanned = |isa: Isa, threads: usize, queries: &[Query]| {
            let mut uppers = vec![0.0; queries.len() * groups];
            Team::enter(threads, |team| screen.scan(isa, team, queries, digits, &mut uppers));
            uppers
        };
        let alone: Vec<Vec<f32>> =
            queries.iter().map(|query| scanned(Isa::available()[0], 1, std::slice::from_ref(query))).collect();
        for (query, uppers) in queries.iter().zip(&alone) {
            let mut left = Vec::new();
            screen.survivors(Isa::best(), query, uppers, &[], &mut left);
            assert!((1..=12).contains(&left.len()), "{} rows of {n} survive", left.len());
        }
        for isa in Isa::available() {
            for (threads, count) in (1..=9).chain([17, 35]).map(|count| (1 + count % 3, count)) {
                let together = scanned(isa, threads, &queries[..count]);
                assert_eq!(together, alone[..count].concat(), "{} {threads} {count}", isa.name());
            }
        }
    }
}
