//! The scan: what the products of 64 rows at a time do not exceed, and which rows that leaves over.

use super::{BOUNDS, MEETING, Quantised, Query, SCREEN_GROUP, SCREEN_MAX_K, panel_bytes, screen_bytes};
use crate::matmul::{ask_for, chain_count, highest, joined, lines};
use crate::region::{MAX_CHUNKS, Team};
use crate::simd::{Isa, Kernel, LANES, LINE, Simd, TILE, TileSums, Tiles, unrolled};
use std::cell::RefCell;
use std::ops::Range;

/// Panels that share a bound.
const PANELS: usize = SCREEN_GROUP / LANES;

/// Bounds of a product with a query.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bounds {
    /// At most the product.
    pub lower: f32,
    /// At least the product.
    pub upper: f32,
}

/// The packed screen of a matrix [n, k].
#[derive(Debug, Clone, Copy)]
pub struct Screen<'a> {
    n: usize,
    k: usize,
    panels: &'a [u8],
}

impl<'a> Screen<'a> {
    /// A view of a packed screen.
    ///
    /// # Panics
    /// Where `panels` has not [`screen_bytes`] bytes, or `k` is over [`SCREEN_MAX_K`].
    #[must_use]
    pub fn new(n: usize, k: usize, panels: &'a [u8]) -> Screen<'a> {
        assert!(k <= SCREEN_MAX_K && panels.len() == screen_bytes(n, k), "screen of a matrix [{n}, {k}]");
        Screen { n, k, panels }
    }

    /// Groups of [`SCREEN_GROUP`] rows, the last one shorter.
    #[must_use]
    pub fn groups(&self) -> usize {
        self.n.div_ceil(SCREEN_GROUP)
    }

    /// What no product of a group exceeds, from 1 or 2 digits of the queries: `uppers` is [queries, groups]. Infinity for a shorter
    /// last group.
    ///
    /// # Panics
    /// Where a length does not fit, or there are other digits.
    pub fn scan(&self, isa: Isa, team: &Team, queries: &[Query], digits: usize, uppers: &mut [f32]) {
        let (groups, whole) = (self.groups(), self.n / SCREEN_GROUP);
        assert!(queries.iter().all(|q| self.fits(q)) && (1..=2).contains(&digits));
        assert!(uppers.len() == queries.len() * groups);
        if whole < groups {
            uppers.iter_mut().skip(whole).step_by(groups).for_each(|last| *last = f32::INFINITY);
        }
        let out = Out(uppers.as_mut_ptr());
        let tiled = digits == 1 && queries.len() >= TILED_QUERIES && self.k > 0 && self.k.is_multiple_of(64);
        let scan = |of: Range<usize>| Scan { screen: *self, queries, digits, of, out: &out };
        match if tiled { isa.tiles() } else { None } {
            None => in_chunks(team, whole, |of| isa.run(scan(of))),
            Some(tiles) => HIGH_DIGITS.with_borrow_mut(|digits| {
                let words = self.k / 4;
                let digits = lines(digits, queries.len().next_multiple_of(TILE) * words);
                for (to, query) in digits.chunks_exact_mut(words).zip(queries) {
                    to.iter_mut().zip(&query.coarse.digits).for_each(|(to, [high, _])| *to = *high);
                }
                let digits = &*digits;
                in_chunks(team, whole, |of| isa.run(Tiled { scan: scan(of), digits, tiles }));
            }),
        }
    }

    /// The rows not in `apart` that can have the largest product of those, ascending; `uppers` `[groups]` are what [`Screen::scan`]
    /// found for the query. With each row the upper bound of its product.
    ///
    /// # Panics
    /// Where `apart` does not ascend, or has a row that is not there, or a length does not fit.
    pub fn survivors(&self, isa: Isa, query: &Query, uppers: &[f32], apart: &[u32], rows: &mut Vec<(u32, f32)>) {
        assert!(uppers.len() == self.groups() && self.fits(query));
        assert!(apart.is_sorted() && apart.last().is_none_or(|row| (*row as usize) < self.n));
        rows.clear();
        let competing = |group: usize, bounds: [Bounds; SCREEN_GROUP]| {
            let rows = (group * SCREEN_GROUP..self.n).zip(bounds).map(|(row, bounds)| (row as u32, bounds));
            rows.filter(|(row, _)| apart.binary_search(row).is_err())
        };
        // The group that reaches highest, looked at first, tells most of what the others must reach.
        let whole = &uppers[..self.n / SCREEN_GROUP];
        let top = highest(isa, whole, SCREEN_GROUP, apart).map(|top| (top, self.rows(isa, query, top)));
        let mut least = f32::NEG_INFINITY;
        if let Some((top, bounds)) = top {
            least = competing(top, bounds).fold(least, |least, (_, bounds)| least.max(bounds.lower));
        }
        for (group, upper) in uppers.iter().enumerate() {
            if *upper < least {
                continue;
            }
            let bounds = match top {
                Some((top, bounds)) if top == group => bounds,
                _ => self.rows(isa, query, group),
            };
            for (row, bounds) in competing(group, bounds) {
                if bounds.upper >= least {
                    least = least.max(bounds.lower);
                    rows.push((row, bounds.upper));
                }
            }
        }
        rows.retain(|(_, upper)| *upper >= least);
    }

    fn fits(&self, query: &Query) -> bool {
        [&query.coarse, &query.fine].iter().all(|of| of.digits.len() == self.k.div_ceil(4))
    }

    /// Bounds of the product with each row of a group, from two digits; zero rows behind the last.
    ///
    /// # Panics
    /// Where the group is not there, or a length does not fit.
    #[must_use]
    pub fn rows(&self, isa: Isa, query: &Query, group: usize) -> [Bounds; SCREEN_GROUP] {
        assert!(group < self.groups() && self.fits(query));
        isa.run(Rows { screen: *self, query, group })
    }
}

/// Scans all groups, some at a time.
fn in_chunks(team: &Team, groups: usize, scan: impl Fn(Range<usize>) + Sync) {
    let chunks = (4 * team.threads()).min(groups.div_ceil(8)).clamp(1, MAX_CHUNKS);
    if team.threads() == 1 || chunks == 1 {
        return scan(0..groups);
    }
    let cut = |i: usize| i * groups / chunks;
    team.run(chunks, |_, i| scan(cut(i)..cut(i + 1)));
}

struct Out(*mut f32);

// SAFETY: the chunks of `scan` write what they find of disjoint groups of an exclusively borrowed slice.
unsafe impl Sync for Out {}

/// Some groups, all queries.
struct Scan<'a> {
    screen: Screen<'a>,
    queries: &'a [Query],
    digits: usize,
    of: Range<usize>,
    out: &'a Out,
}

impl Kernel for Scan<'_> {
    type Out = ();
    const INTEGERS: bool = true;
    /// A group stays in the L1 cache while the queries pass. Queries share each load of the weights; two digits are for one query,
    /// which waits for memory anyway: panel after panel, as they lie. Where weights meet in 16 bits, registers are for two queries.
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let one_digit = self.digits == 1;
        for group in self.of.clone() {
            let mut first = 0;
            while first < self.queries.len() {
                let left = self.queries.len() - first;
                // SAFETY: `scan` gives whole groups, and found the queries as long as the panels ask for.
                first += unsafe {
                    match (left, one_digit) {
                        (8.., true) if S::PANELS == 2 => self.group::<S, 8, 2, 1, STEPS>(s, first, group),
                        (4.., true) if S::WIDEST == 4 && !S::SIXTEENS => {
                            self.group::<S, 4, 1, 1, STEPS>(s, first, group)
                        }
                        (2.., true) if S::SIXTEENS && self.queries.len() >= 2 * STEPS => {
                            self.group::<S, 2, 1, 1, 1>(s, first, group)
                        }
                        (2.., true) if S::WIDEST == 4 => self.group::<S, 2, 1, 1, STEPS>(s, first, group),
                        (_, true) => self.group::<S, 1, 1, 1, STEPS>(s, first, group),
                        _ => self.group::<S, 1, 1, 2, STEPS>(s, first, group),
                    }
                };
            }
        }
    }
}

impl Scan<'_> {
    /// Every fourth word asks for `A` lines of the next group. Returns M.
    ///
    /// # Safety
    /// The group is whole; queries `first..first + M` are there and fit the screen.
    #[cfg_attr(not(unoptimised), inline(always))]
    unsafe fn group<S: Simd, const M: usize, const P: usize, const D: usize, const A: usize>(
        &self,
        s: S,
        first: usize,
        group: usize,
    ) -> usize {
        let never = (M > 1 && S::WIDEST < 4)
            || (M > 2 && S::SIXTEENS)
            || (M == 8 && S::PANELS < 2)
            || (A < STEPS && !S::SIXTEENS);
        if never {
            return M; // `run` does not ask for such tiles; here so that no code is made for them
        }
        let queries = std::array::from_fn(|m| self.queries[first + m].with(self.digits));
        let mut uppers = [s.splat(f32::NEG_INFINITY); M];
        for panel in (group * PANELS..(group + 1) * PANELS).step_by(P) {
            // Tiles in turn ask for a part each of the next group, and high ones of what lies behind it. Of one or two rows it is no more
            // than the group, or nothing: the first pair asks for all of it, or of many the first four for a quarter each, since all
            // at once is more than memory gives meanwhile.
            let part = (first / M * PANELS + panel % PANELS) / P;
            let asks = M > 2 || (S::LONE_ASK && part * A < PANELS * STEPS);
            let behind = (PANELS - panel % PANELS) * panel_bytes(self.screen.k);
            let ahead = asks.then_some(behind + part * (self.screen.k.div_ceil(4) / STEPS * A) * LINE);
            // SAFETY: as the caller's.
            let found = unsafe { intervals::<S, M, P, D, A>(s, self.screen, queries, panel, ahead) };
            unrolled!(M, m => {
                unrolled!(P of 4, p => { uppers[m] = s.max(found[m][p][1], uppers[m]); });
            });
        }
        unrolled!(M, m => {
            // SAFETY: query `first + m` and the group are within the slice that `scan` checked.
            unsafe {
                *self.out.0.add((first + m) * self.screen.groups() + group) = s.max_lane(uppers[m]) * queries[m].scale;
            }
        });
        M
    }
}

/// The bounds of each row of a group, one query.
struct Rows<'a> {
    screen: Screen<'a>,
    query: &'a Query,
    group: usize,
}

impl Kernel for Rows<'_> {
    type Out = [Bounds; SCREEN_GROUP];
    const INTEGERS: bool = true;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> [Bounds; SCREEN_GROUP] {
        let Rows { screen, query, group } = self;
        let mut out = [Bounds { lower: 0.0, upper: 0.0 }; SCREEN_GROUP];
        let last = screen.n.div_ceil(LANES);
        for panel in group * PANELS..((group + 1) * PANELS).min(last) {
            // SAFETY: `rows` found the group there, and the query as long as the panels ask for; panels are below n / 16.
            let [[[lower, upper]]] = unsafe { intervals::<S, 1, 1, 2, STEPS>(s, screen, [&query.fine], panel, None) };
            let out = &mut out[panel % PANELS * LANES..][..LANES];
            let unit = query.fine.scale;
            for ((out, lower), upper) in out.iter_mut().zip(s.to_array(lower)).zip(s.to_array(upper)) {
                *out = Bounds { lower: lower * unit, upper: upper * unit };
            }
        }
        out
    }
}

/// The bounds of the products of M queries with the rows of P panels, of `D` digits: [lower, upper], in the query's unit.
///
/// Every fourth word asks for `A` further lines, up to 4, of what is read next, so many bytes `ahead` of the first panel.
///
/// # Safety
/// Panels `panel..panel + P` are there; the M queries fit the screen, and have `D` digits.
#[cfg_attr(not(unoptimised), inline(always))]
unsafe fn intervals<S: Simd, const M: usize, const P: usize, const D: usize, const A: usize>(
    s: S,
    screen: Screen<'_>,
    queries: [&Quantised; M],
    panel: usize,
    ahead: Option<usize>,
) -> [[[S::F; 2]; P]; M] {
    let (words, size) = (screen.k.div_ceil(4), panel_bytes(screen.k));
    let mut sums = [[[[s.int_zero(); 4]; 2]; P]; M];
    let mut found = [[[s.splat(0.0); 2]; P]; M];
    // SAFETY: a panel is `size` bytes: k / 4 groups of 64, then the bounds.
    unsafe {
        let w = screen.panels.as_ptr().add(panel * size).cast::<i8>();
        let ask = |first: usize| {
            if let Some(bytes) = ahead {
                let next = w.wrapping_add(bytes + first / STEPS * A * LINE);
                unrolled!(A of 4, i => { s.prefetch(next.wrapping_add(i * LINE).cast()); });
            }
        };
        // Written out by four, see `matmul::product::tile`.
        let mut first = 0;
        while S::SIXTEENS && D == 1 && first + MEETING <= words {
            unrolled!(STEPS of 4, i => {
                ask(first + i * STEPS);
                sums = add_words::<S, M, P>(s, queries, w, size, first + i, sums);
            });
            first += MEETING;
        }
        while first + STEPS <= words {
            ask(first);
            unrolled!(STEPS of 4, i => {
                let word = (first + i, i % chain_count::<S, M, P, D>());
                sums = add_word::<S, M, P, D>(s, queries, w, size, word, sums);
            });
            first += STEPS;
        }
        for i in first..words {
            sums = add_word::<S, M, P, D>(s, queries, w, size, (i, 0), sums);
        }
        unrolled!(M, m => {
            unrolled!(P of 4, p => {
                let [high, low] = sums[m][p].map(|sums| joined::<S, M, P, D>(s, sums));
                found[m][p] = interval(s, queries[m], (high, (D == 2).then_some(low)), w.add((p + 1) * size - BOUNDS));
            });
        });
    }
    found
}

/// The bounds of the products of a query with a panel's 16 rows, in the query's unit, from the sums of its digits and what
/// stands behind the panel.
///
/// # Safety
/// `bounds` is what stands behind a panel.
#[inline(always)]
unsafe fn interval<S: Simd>(
    s: S,
    query: &Quantised,
    (high, low): (S::I, Option<S::I>),
    bounds: *const i8,
) -> [S::F; 2] {
    // SAFETY: as the caller's.
    unsafe {
        let of = |i: usize| s.load(bounds.cast::<f32>().add(i * LANES));
        let (scale, error, norm) = (of(0), of(1), of(2));
        let high = s.int_less(high, bounds.cast::<i32>().add(3 * LANES));
        let dot = s.int_to_f32(low.map_or(high, |low| s.int_join(high, low)));
        let radius = s.mul_add(norm, s.splat(query.of_norm), s.splat(query.tiny));
        let radius = s.mul_add(error, s.splat(query.of_error), radius);
        [s.sub(s.mul(scale, dot), radius), s.mul_add(scale, dot, radius)]
    }
}

/// Queries from which [`Tiles`] pay, where the processor has them.
const TILED_QUERIES: usize = 8;

thread_local! {
    /// The high digits of queries [queries, k], whole tiles of them: kept from call to call.
    static HIGH_DIGITS: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) };
}

/// A scan by [`Tiles`], with one digit: 32 queries at a time, the same sums.
struct Tiled<'a> {
    scan: Scan<'a>,
    /// [queries, k], whole tiles
    digits: &'a [u32],
    tiles: Tiles,
}

impl Kernel for Tiled<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        if !S::TILES {
            return; // never asked for; no code is made for it
        }
        let Tiled { scan: Scan { screen, queries, of, out, .. }, digits, tiles } = self;
        let Screen { k, panels, .. } = screen;
        let (words, size, groups) = (k / 4, panel_bytes(k), screen.groups());
        // SAFETY: no other of this thread's kernels runs meanwhile.
        let tiles = unsafe { tiles.products() };
        let mut sums = [TileSums::ZERO; PANELS / 2];
        for queries_at in (0..queries.len()).step_by(2 * TILE) {
            let queries = &queries[queries_at..][..(queries.len() - queries_at).min(2 * TILE)];
            let first: *const u8 = digits[queries_at * words..].as_ptr().cast();
            let second = (queries.len() > TILE).then(|| digits[(queries_at + TILE) * words..].as_ptr().cast());
            for group in of.clone() {
                // SAFETY: `scan` gives whole groups, and found the queries as long as the panels ask for; a panel is `size` bytes,
                // the bounds last; `digits` holds whole tiles of 16 rows.
                unsafe {
                    let w = panels.as_ptr().add(group * PANELS * size).cast::<i8>();
                    for (pair, sums) in sums.iter_mut().enumerate() {
                        let w = w.add(2 * pair * size);
                        tiles.sums((first, second), words * 4, [w, w.add(size)], words / TILE, sums);
                    }
                    for (i, query) in queries.iter().enumerate() {
                        ask_for(s, w.wrapping_add(PANELS * size), PANELS * size, i, queries.len());
                        let mut uppers = s.splat(f32::NEG_INFINITY);
                        unrolled!(PANELS of 4, p => {
                            let sum = s.int_load(sums[p / 2].of(i, p % 2));
                            let found = interval(s, &query.coarse, (sum, None), w.add((p + 1) * size - BOUNDS));
                            uppers = s.max(found[1], uppers);
                        });
                        *out.0.add((queries_at + i) * groups + group) = s.max_lane(uppers) * query.coarse.scale;
                    }
                }
            }
        }
    }
}

/// Words that are written out together.
const STEPS: usize = 4;
/// Adds the products of word i to a chain: of the sums of the high digits, and of those of the low ones.
///
/// # Safety
/// As [`intervals`].
#[inline(always)]
unsafe fn add_word<S: Simd, const M: usize, const P: usize, const D: usize>(
    s: S,
    queries: [&Quantised; M],
    w: *const i8,
    size: usize,
    (i, chain): (usize, usize),
    mut sums: [[[[S::I; 4]; 2]; P]; M],
) -> [[[[S::I; 4]; 2]; P]; M] {
    // SAFETY: as the caller's.
    unsafe {
        unrolled!(M, m => {
            let [high, low] = *queries[m].digits.get_unchecked(i);
            unrolled!(P of 4, p => {
                let w = w.add(p * size + i * 4 * LANES);
                sums[m][p][0][chain] = s.dot4(sums[m][p][0][chain], high, w);
                if D == 2 {
                    sums[m][p][1][chain] = s.dot4(sums[m][p][1][chain], low, w);
                }
            });
        });
    }
    sums
}

/// Adds the products of four words of one digit, i and every fourth behind it, to the first chain: the weights that [`MEETING`] speaks of.
///
/// # Safety
/// As [`intervals`]; there are twelve words behind i.
#[inline(always)]
unsafe fn add_words<S: Simd, const M: usize, const P: usize>(
    s: S,
    queries: [&Quantised; M],
    w: *const i8,
    size: usize,
    i: usize,
    mut sums: [[[[S::I; 4]; 2]; P]; M],
) -> [[[[S::I; 4]; 2]; P]; M] {
    // SAFETY: as the caller's.
    unsafe {
        let high = std::array::from_fn(|m| queries[m].digits.as_ptr().add(i).cast());
        unrolled!(P of 4, p => {
            let w = w.add(p * size + i * 4 * LANES);
            let joint = s.dot16::<M>(std::array::from_fn(|m| sums[m][p][0][0]), high, w);
            unrolled!(M, m => { sums[m][p][0][0] = joint[m]; });
        });
    }
    sums
}
