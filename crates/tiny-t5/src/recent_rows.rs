//! Rows of the embedding that were wanted lately.
//!
//! The embedding of a mapped checkpoint stays in its file (see `numbers`), and a row of it takes half a microsecond to read: of the 128 of
//! an encoder pass of the tiny shape 2 % of its time (Zen 5). Texts come back to few words, so each thread keeps some rows: 1 KB for each
//! number of d_model, once they are used.

/// Rows that are kept.
const ROWS: usize = 256;
/// Places by which an id is found. Two ids of one place take turns.
const PLACES: usize = 4096;

/// The rows of one model's embedding that a thread read last.
#[derive(Debug, Default)]
pub(crate) struct RecentRows {
    /// Which row an id's place leads to `[PLACES]`.
    places: Vec<u8>,
    /// Whose the rows are `[ROWS]`.
    ids: Vec<Option<u32>>,
    /// [ROWS, stride]
    rows: Vec<f32>,
    /// The row that is given up next.
    oldest: u8,
}

impl RecentRows {
    /// The row [stride] of an id, which `read` writes where it is not here.
    pub(crate) fn row(&mut self, id: u32, stride: usize, read: impl FnOnce(&mut [f32])) -> &[f32] {
        if self.rows.len() != ROWS * stride {
            *self = RecentRows {
                places: vec![0; PLACES],
                ids: vec![None; ROWS],
                rows: vec![0.0; ROWS * stride],
                oldest: 0,
            };
        }
        let place = &mut self.places[id as usize % PLACES];
        let is_here = self.ids[usize::from(*place)] == Some(id);
        if !is_here {
            // One behind the other, so that few rows are few pages of new memory.
            *place = self.oldest;
            self.oldest = self.oldest.wrapping_add(1);
        }
        let at = usize::from(*place);
        let row = &mut self.rows[at * stride..][..stride];
        if !is_here {
            self.ids[at] = None; // not its own any more, should `read` panic
            read(row);
            self.ids[at] = Some(id);
        }
        row
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever came before, a row is its id's, and those that were wanted last are not read again.
    #[test]
    fn rows_are_their_ids() {
        let mut rows = RecentRows::default();
        let mut reads = 0;
        let mut get = |rows: &mut RecentRows, id: u32, stride: usize| {
            let read = |row: &mut [f32]| {
                reads += 1;
                row.fill(id as f32);
            };
            assert!(rows.row(id, stride, read).iter().eq(&vec![id as f32; stride]), "{id}");
            reads
        };
        let few = |from: u32| (0..ROWS as u32).map(move |i| from + i * 5);
        for id in few(0).chain(few(0)) {
            get(&mut rows, id, 16);
        }
        assert_eq!(get(&mut rows, 0, 16), ROWS, "read once");
        // The same places, one id after the other; then all give way.
        for id in few(PLACES as u32).chain(few(0)).chain(few(7 * PLACES as u32 + 1)).chain([
            3,
            3 + PLACES as u32,
            3,
            u32::MAX,
        ]) {
            get(&mut rows, id, 16);
        }
        let before = get(&mut rows, u32::MAX, 16);
        assert_eq!(get(&mut rows, u32::MAX, 32), before + 1, "another stride begins anew");
        assert_eq!(get(&mut rows, u32::MAX, 32), before + 1);
    }
}
