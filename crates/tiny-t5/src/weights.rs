//! From the checkpoint's tensors to packed panels in one arena.
//!
//! Loading has two steps. A [`Plan`] lists the matrices: which tensors stand one under the other in each (q, k, v of a
//! block are one product), how their rows or columns are padded, and how wide they are stored. Then all panels are packed at
//! once, on all threads, each panel once. f32 matrices that a source passes through once are not packed where the caller wants
//! that ([`Load::in_place`]): their products read the checkpoint's own rows.
//!
//! [`Load::in_place`]: crate::Load::in_place
//!
//! Heads are padded to whole registers: the rows of q, k and v and the columns of o of a head are followed by zeros up
//! to the next multiple of 16. Where d_kv is a multiple of 16, as in every released T5, nothing is added.

use crate::cache::{Block, Cache};
use crate::error::{Error, Result};
use crate::load::Dtype;
use crate::numbers::{self, stored_as};
use crate::stack::room;
use std::borrow::Cow;
use std::ops::Range;
use tiny_t5_checkpoint::{Checkpoint, Dtype as Stored, Panels as Kept, SharedBytes, Tensor};
use tiny_t5_kernels::{
    Arena, Digits, Isa, LANES, Loss, Panels, RowMajor, Storage, Team, WeightType, narrows, pack_int8, pack_panel,
    padded, unpack_panel, widen,
};

/// Bytes of a file that a thread packs at a time, about. They are read, not looked at in the mapping: on two threads 59 MB took 4.5 ms to
/// read by 64 KB, 5.3 by 16, and 6.3 to map, look at and let go (Zen 3, file in the page cache).
pub(crate) const CHUNK_BYTES: usize = 64 << 10;

/// A matrix whose weights int8 would change by more than this share of their size is kept at 16 bits.
const MAX_LOSS: f64 = 0.02;

/// A matrix [n, k].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Matrix {
    n: usize,
    k: usize,
    kind: WeightType,
    place: Place,
}

/// Where a matrix is.
#[derive(Debug, Clone, Copy)]
enum Place {
    /// Packed, so many bytes from the arena's start.
    Packed(usize),
    /// In the checkpoint, as such an entry of [`Packed::in_place`].
    Checkpoint(usize),
}

impl Matrix {
    pub(crate) fn is_int8(&self) -> bool {
        matches!(self.kind, WeightType::Int8(_))
    }

    pub(crate) fn is_f32(&self) -> bool {
        self.kind == WeightType::F32
    }

    pub(crate) fn bytes(&self) -> usize {
        self.n.div_ceil(LANES) * self.kind.panel_bytes(self.k)
    }

    pub(crate) fn weights(&self) -> usize {
        self.n * self.k
    }
}

/// How a tensor's rows or columns are divided into heads.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Heads {
    pub(crate) heads: usize,
    pub(crate) d_kv: usize,
}

impl Heads {
    /// Floats of a row with its padding.
    pub(crate) fn width(self) -> usize {
        self.heads * padded(self.d_kv)
    }
}

/// A tensor in a matrix.
#[derive(Clone, Copy)]
struct Part<'a> {
    tensor: Tensor<'a>,
    /// Rows, the padding included.
    rows: usize,
    /// Where rows are padded by head.
    row_heads: Option<Heads>,
}

struct Planned<'a> {
    matrix: Matrix,
    parts: Vec<Part<'a>>,
    /// Where columns are padded by head.
    column_heads: Option<Heads>,
}

/// The matrices to be packed.
pub(crate) struct Plan<'a> {
    isa: Isa,
    dtype: Dtype,
    checkpoint: &'a Checkpoint,
    planned: Vec<Planned<'a>>,
    bytes: usize,
    /// Matrices that a source passes through once stay where they are, if they can.
    pub(crate) in_place: bool,
    /// Those that stay.
    staying: Vec<Tensors>,
    /// Of the matrices to come: a source passes through them once, all its tokens together. Where they are int8, inputs have one digit.
    pub(crate) once: bool,
    /// The cache, the entry's name, and the entry if there is one.
    cache: Option<(&'a Cache, &'static str)>,
    kept: Option<Kept>,
}

impl<'a> Plan<'a> {
    /// `cache` may hold the whole plan as the entry of that name.
    pub(crate) fn new(
        isa: Isa,
        dtype: Dtype,
        checkpoint: &'a Checkpoint,
        cache: Option<(&'a Cache, &'static str)>,
        team: &Team,
    ) -> Plan<'a> {
        let kept = cache.and_then(|(cache, what)| cache.get(what, team));
        Plan {
            isa,
            dtype,
            checkpoint,
            planned: Vec::new(),
            bytes: 0,
            in_place: false,
            staying: Vec::new(),
            once: false,
            cache,
            kept,
        }
    }

    /// Of the inputs of the next matrix, where it is int8.
    fn digits(&self) -> Digits {
        if self.once { Digits::One } else { Digits::Two }
    }

    /// Tensors [out, in] one under the other, each padded with zero rows to whole registers.
    pub(crate) fn rows(&mut self, tensors: &[Tensor<'a>]) -> Matrix {
        let parts = tensors.iter().map(|t| Part { tensor: *t, rows: padded(t.shape[0]), row_heads: None }).collect();
        self.add(parts, None)
    }

    /// Projections to heads (q, k, v): each head padded with zero rows.
    pub(crate) fn head_rows(&mut self, tensors: &[Tensor<'a>], heads: Heads) -> Matrix {
        let part = |t: &Tensor<'a>| Part { tensor: *t, rows: heads.width(), row_heads: Some(heads) };
        self.add(tensors.iter().map(part).collect(), None)
    }

    /// The projection from heads (o): each head padded with zero columns.
    pub(crate) fn head_columns(&mut self, tensor: Tensor<'a>, heads: Heads) -> Matrix {
        self.add(vec![Part { tensor, rows: padded(tensor.shape[0]), row_heads: None }], Some(heads))
    }

    fn add(&mut self, parts: Vec<Part<'a>>, column_heads: Option<Heads>) -> Matrix {
        let n = parts.iter().map(|p| p.rows).sum();
        let k = column_heads.map_or(parts[0].tensor.shape[1], Heads::width);
        if let Some(tensors) = self.as_it_lies(&parts, n, k) {
            self.staying.push(tensors);
            return Matrix { n, k, kind: WeightType::F32, place: Place::Checkpoint(self.staying.len() - 1) };
        }
        let kind = self.kept_kind(n, k).unwrap_or_else(|| {
            let kind = self.width_of(&parts);
            // That weights need 32 bits shows within a few of them. Everything else may have read much.
            if kind != WeightType::F32 || !matches!(self.dtype, Dtype::Auto | Dtype::F32) {
                self.checkpoint.release();
            }
            kind
        });
        let matrix = Matrix { n, k, kind, place: Place::Packed(self.bytes) };
        // Each matrix begins on a cache line.
        self.bytes += matrix.bytes().next_multiple_of(64);
        self.planned.push(Planned { matrix, parts, column_heads });
        matrix
    }

    /// The tensors of a matrix [n, k] that can stay where it is: wanted in place, in f32, aligned, and without padding.
    fn as_it_lies(&self, parts: &[Part<'_>], n: usize, k: usize) -> Option<Tensors> {
        let exact = matches!(self.dtype, Dtype::Auto | Dtype::F32);
        let weights: usize = parts.iter().map(|part| part.tensor.shape.iter().product::<usize>()).sum();
        if !self.in_place || !self.once || !exact || weights != n * k || weights == 0 {
            return None;
        }
        let shared = |Part { tensor, .. }: &Part<'_>| {
            let fits = tensor.dtype == Stored::F32
                && tensor.shape[0] % LANES == 0
                && bytemuck::try_cast_slice::<u8, f32>(tensor.bytes).is_ok();
            tensor.shared().filter(|_| fits)
        };
        parts.iter().map(shared).collect::<Option<_>>().map(Tensors)
    }

    /// The width of the next matrix, as the cache's entry has it: finding it out may mean reading the whole tensor.
    fn kept_kind(&self, n: usize, k: usize) -> Option<WeightType> {
        let note = self.kept.as_ref()?.notes().as_chunks::<NOTE>().0.get(self.planned.len())?;
        KINDS.into_iter().find(|kind| note_of(n, k, *kind) == *note)
    }

    /// The narrowest width that keeps every weight as it is, or the one that was asked for.
    fn width_of(&self, parts: &[Part<'_>]) -> WeightType {
        let all = |dtype| parts.iter().all(|p| p.tensor.dtype == dtype);
        let fits_f16 = || parts.iter().all(|part| numbers::fits_f16(&part.tensor));
        match self.dtype {
            Dtype::Bf16 => WeightType::Bf16,
            Dtype::F16 if fits_f16() => WeightType::F16,
            Dtype::F16 => WeightType::F32,
            Dtype::Auto | Dtype::F32 if all(Stored::BF16) => WeightType::Bf16,
            Dtype::Auto | Dtype::F32 if all(Stored::F16) => WeightType::F16,
            Dtype::Auto | Dtype::F32 if all(Stored::F32) => {
                let (mut bf16, mut f16) = (true, true);
                for part in parts {
                    // Most matrices show within a few weights that they do not fit: those are read, which brings no page of the file.
                    let mut few = [0; 4096];
                    let few = part.tensor.read(0, &mut few[..part.tensor.bytes.len().min(4096)]);
                    for (i, chunk) in std::iter::once(few).chain(part.tensor.bytes.chunks(1 << 14)).enumerate() {
                        let (b, h) = narrows(self.isa, chunk.as_chunks::<4>().0);
                        (bf16, f16) = (bf16 & b, f16 & h);
                        if !bf16 && !f16 {
                            if i > 64 {
                                self.checkpoint.release(); // what took over a megabyte to show
                            }
                            return WeightType::F32;
                        }
                    }
                }
                if bf16 { WeightType::Bf16 } else { WeightType::F16 }
            }
            Dtype::Auto | Dtype::F32 => WeightType::F32,
            Dtype::Int8 => self.int8_or_wider(parts),
        }
    }

    /// int8; 16 bits where that would lose too much.
    ///
    /// What o and wo give goes to the residual stream, yet at 16 bits they gain little: of 6,400 ids on the random tiny shape
    /// (2026-11) 5,266 stay f32's with all weights at 8 bits, and 5,285 with o and wo at 16. Inputs count for as much: with
    /// two digits in the encoder too 5,447 stay (o and wo at 16), with one in the decoder too 4,806.
    fn int8_or_wider(&self, parts: &[Part<'_>]) -> WeightType {
        let mut loss = Loss::default();
        for Part { tensor, .. } in parts {
            let (from, k) = (stored_as(tensor.dtype), tensor.shape[1]);
            let row = (k * from.size()).max(1);
            let mut panel = vec![0; WeightType::Int8(self.digits()).panel_bytes(k)];
            // A part of the rows shows it: the first ones, since others would bring all pages of the file.
            let panels = tensor.shape[0].div_ceil(4 * LANES);
            for rows in tensor.bytes.chunks(LANES * row).take(panels) {
                let rows = std::array::from_fn(|lane| rows.chunks_exact(row).nth(lane));
                let Loss { error, norm } = quantise(self.isa, from, &rows, k, &mut panel);
                (loss.error, loss.norm) = (loss.error + error, loss.norm + norm);
            }
        }
        match loss.error <= MAX_LOSS * MAX_LOSS * loss.norm {
            true => WeightType::Int8(self.digits()),
            false if parts.iter().all(|p| p.tensor.dtype == Stored::F16) => WeightType::F16,
            false => WeightType::Bf16,
        }
    }

    /// Everything packed: as the cache has it, or now.
    pub(crate) fn pack(mut self, team: &Team) -> Result<Packed> {
        let bytes = self.bytes;
        let memory = |source| Error::Memory { what: "packed weights", bytes, source };
        let matrices = self.planned.iter().map(|planned| planned.matrix);
        let notes: Vec<u8> = matrices.flat_map(|m| note_of(m.n, m.k, m.kind)).collect();
        let in_place = std::mem::take(&mut self.staying);
        if let Some(kept) = self.kept.take().filter(|kept| kept.notes() == notes && kept.data().len() == bytes) {
            return Ok(Packed { block: Block::kept(kept).map_err(memory)?, in_place });
        }
        let arena = self.pack_now(team)?;
        if let Some((cache, what)) = self.cache {
            cache.put(what, &notes, arena.bytes(), team);
        }
        Ok(Packed { block: Block::Made(arena), in_place })
    }

    fn pack_now(&self, team: &Team) -> Result<Arena> {
        let bytes = self.bytes;
        let mut arena = Arena::new(bytes).map_err(|source| Error::Memory { what: "packed weights", bytes, source })?;
        // One job a panel, each with its own part of the arena.
        let mut jobs = Vec::new();
        let mut rest = arena.bytes_mut();
        for planned in &self.planned {
            let size = planned.matrix.bytes();
            let (whole, after) = rest.split_at_mut(size.next_multiple_of(64).min(rest.len()));
            rest = after;
            let panel = planned.matrix.kind.panel_bytes(planned.matrix.k).max(1);
            jobs.extend(whole[..size].chunks_exact_mut(panel).enumerate().map(|(i, to)| (planned, i, to)));
        }
        let together = jobs.first().map_or(1, |(planned, ..)| CHUNK_BYTES / planned.file_bytes_of_panel().max(1));
        team.chunks_mut(&mut jobs, together.clamp(1, 8), |_, jobs| {
            let mut buffer = Vec::new();
            for (planned, i, to) in jobs {
                planned.pack_panel(self.isa, *i, &mut buffer, to);
            }
        });
        // What was looked at to find out how wide weights are.
        self.checkpoint.release();
        Ok(arena)
    }
}

impl Planned<'_> {
    fn file_bytes_of_panel(&self) -> usize {
        LANES * self.matrix.k * self.parts[0].tensor.dtype.size()
    }

    /// Packs a panel; `buffer` holds what is read of the file.
    fn pack_panel(&self, isa: Isa, panel: usize, buffer: &mut Vec<f32>, to: &mut [u8]) {
        // Parts begin at whole panels, so all rows of a panel are of one tensor.
        let places: [_; LANES] = std::array::from_fn(|lane| self.place(panel * LANES + lane));
        let Some((tensor, first)) = places.iter().flatten().next() else { return to.fill(0) };
        let (from, width) = (stored_as(tensor.dtype), tensor.shape[1] * tensor.dtype.size());
        let count = places.iter().flatten().last().map_or(0, |(_, last)| last + 1 - first);
        let stored = numbers::stored_rows(tensor, *first, count, buffer);
        let rows = places.map(|place| place.map(|(_, row)| self.padded_row(&stored[(row - first) * width..][..width])));
        let rows: [Option<&[u8]>; LANES] = std::array::from_fn(|lane| rows[lane].as_deref());
        match self.matrix.kind {
            WeightType::Int8(_) => {
                quantise(isa, from, &rows, self.matrix.k, to);
            }
            kind => pack_panel(isa, from, &rows, kind, to),
        }
    }

    /// The part that holds a row, and the row's number in it.
    fn part_of(&self, mut row: usize) -> Option<(&Part<'_>, usize)> {
        for part in &self.parts {
            if row < part.rows {
                return Some((part, row));
            }
            row -= part.rows;
        }
        None
    }

    /// The tensor that a row's weights are stored in, and its row there; none for a row of padding.
    fn place(&self, row: usize) -> Option<(&Tensor<'_>, usize)> {
        let (part, row) = self.part_of(row)?;
        let row = match part.row_heads {
            None => row,
            Some(Heads { d_kv, .. }) => {
                let (head, i) = (row / padded(d_kv), row % padded(d_kv));
                if i >= d_kv {
                    return None;
                }
                head * d_kv + i
            }
        };
        (row < part.tensor.shape[0]).then_some((&part.tensor, row))
    }

    /// A row's weights, with the columns of each head padded.
    fn padded_row<'b>(&self, stored: &'b [u8]) -> Cow<'b, [u8]> {
        match self.column_heads {
            Some(Heads { d_kv, .. }) if d_kv % LANES != 0 => {
                let size = self.parts[0].tensor.dtype.size();
                let pad = (padded(d_kv) - d_kv) * size;
                let head = |h: &[u8]| [h, &vec![0; pad]].concat();
                Cow::Owned(stored.chunks_exact(d_kv * size).flat_map(head).collect())
            }
            _ => Cow::Borrowed(stored),
        }
    }
}

/// Packs rows of stored weights into a panel of int8.
fn quantise(isa: Isa, from: WeightType, rows: &[Option<&[u8]>; LANES], k: usize, to: &mut [u8]) -> Loss {
    let lying = rows.map(|row| row.and_then(|row| bytemuck::try_cast_slice(row).ok()));
    if from == WeightType::F32 && lying.iter().zip(rows).all(|(lying, row)| lying.is_some() == row.is_some()) {
        return pack_int8(isa, &lying, k, to);
    }
    let mut wide = vec![0f32; LANES * k];
    for (row, wide) in rows.iter().zip(wide.chunks_exact_mut(k.max(1))) {
        if let Some(row) = row {
            widen(from, row, wide);
        }
    }
    let rows = std::array::from_fn(|lane| rows[lane].map(|_| &wide[lane * k..][..k]));
    pack_int8(isa, &rows, k, to)
}

/// Bytes of a matrix's shape and width in the notes of a cache entry.
const NOTE: usize = 24;

const KINDS: [WeightType; 5] =
    [WeightType::F32, WeightType::Bf16, WeightType::F16, WeightType::Int8(Digits::One), WeightType::Int8(Digits::Two)];

fn note_of(n: usize, k: usize, kind: WeightType) -> [u8; NOTE] {
    let mut note = [0; NOTE];
    note[..8].copy_from_slice(&(n as u64).to_le_bytes());
    note[8..16].copy_from_slice(&(k as u64).to_le_bytes());
    note[16] = KINDS.iter().position(|k| *k == kind).unwrap_or(KINDS.len()) as u8;
    note
}

/// Tensors of f32 that are one matrix, one under the other, each of whole panels.
#[derive(Debug)]
struct Tensors(Vec<SharedBytes>);

impl RowMajor for Tensors {
    fn read<'b>(&'b self, mut floats: Range<usize>, buffer: &'b mut Vec<f32>) -> &'b [f32] {
        for tensor in &self.0 {
            let len = tensor.count() / size_of::<f32>();
            if floats.start < len {
                let buffer = room(buffer, floats.end.min(len) - floats.start);
                let first = floats.start * size_of::<f32>();
                return bytemuck::cast_slice(tensor.read(first, bytemuck::cast_slice_mut(buffer)));
            }
            floats = floats.start - len..floats.end - len;
        }
        &[]
    }
}

/// The matrices of a plan.
#[derive(Debug)]
pub(crate) struct Packed {
    block: Block,
    /// Those that are not packed.
    in_place: Vec<Tensors>,
}

impl Packed {
    pub(crate) fn panels(&self, m: &Matrix) -> Panels<'_> {
        let data = match (m.place, m.kind) {
            (Place::Checkpoint(entry), _) => Storage::Rows(&self.in_place[entry]),
            (Place::Packed(at), WeightType::F32) => Storage::F32(bytemuck::cast_slice(self.packed(at, m))),
            (Place::Packed(at), WeightType::Bf16) => Storage::Bf16(bytemuck::cast_slice(self.packed(at, m))),
            (Place::Packed(at), WeightType::F16) => Storage::F16(bytemuck::cast_slice(self.packed(at, m))),
            (Place::Packed(at), WeightType::Int8(digits)) => Storage::Int8(self.packed(at, m), digits),
        };
        Panels::new(m.n, m.k, data)
    }

    fn packed(&self, offset: usize, m: &Matrix) -> &[u8] {
        &self.block.bytes()[offset..][..m.bytes()]
    }

    pub(crate) fn bytes(&self) -> usize {
        self.block.bytes().len()
    }

    /// Whether all matrices are packed, and none is read in the checkpoint.
    pub(crate) fn is_packed(&self) -> bool {
        self.in_place.is_empty()
    }

    /// A copy of some matrices at 8 bits; each becomes the matrix of the copy.
    pub(crate) fn at_8_bits(&self, matrices: &mut [&mut Matrix], isa: Isa, team: &Team) -> Result<Packed> {
        let mut bytes = 0;
        let mut narrow = |m: &&mut Matrix| {
            let narrow = Matrix { kind: WeightType::Int8(Digits::Two), place: Place::Packed(bytes), ..**m };
            bytes += narrow.bytes().next_multiple_of(64);
            narrow
        };
        let narrowed: Vec<Matrix> = matrices.iter().map(&mut narrow).collect();
        let mut arena = Arena::new(bytes).map_err(|source| Error::Memory { what: "drafts", bytes, source })?;
        let mut jobs = Vec::new();
        let mut rest = arena.bytes_mut();
        for (from, to) in matrices.iter().zip(&narrowed) {
            let (whole, after) = rest.split_at_mut(to.bytes().next_multiple_of(64));
            rest = after;
            let Place::Packed(at) = from.place else { unreachable!("what a step reads is packed") };
            let from_panels = self.packed(at, from).chunks_exact(from.kind.panel_bytes(from.k).max(1));
            let to_panels = whole[..to.bytes()].chunks_exact_mut(to.kind.panel_bytes(to.k).max(1));
            jobs.extend(from_panels.zip(to_panels).map(|(wide, narrow)| (from.kind, from.k, wide, narrow)));
        }
        team.chunks_mut(&mut jobs, 8, |_, jobs| {
            for (kind, k, wide, narrow) in jobs {
                let mut rows = vec![0f32; LANES * *k];
                unpack_panel(*kind, wide, &mut rows);
                pack_int8(isa, &std::array::from_fn(|lane| Some(&rows[lane * *k..][..*k])), *k, narrow);
            }
        });
        matrices.iter_mut().zip(narrowed).for_each(|(matrix, narrow)| **matrix = narrow);
        Ok(Packed { block: Block::Made(arena), in_place: Vec::new() })
    }
}
