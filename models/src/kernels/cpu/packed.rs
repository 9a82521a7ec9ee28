//! A weight matrix repacked for the processor: one copy, in the order in which a matrix product reads it.
//!
//! GGML stores a matrix `[n, k]` row by row in blocks along `k`. A product over many activation rows wants the opposite:
//! the same `k` of many outputs side by side, so that one vector register holds one step of 16 outputs. The packed form is
//! a run of *tiles* of 16 outputs; a tile is a run of *blocks* of 32 weights along `k`; a block is
//!
//! ```text
//! codes    16 outputs x 32 weights, unsigned, 4 or 8 bits each; four consecutive k of one output form one 32-bit lane
//! scales   groups x 16 x f16
//! minimums groups x 16 x f16, only where the type has them
//! ```
//!
//! Every type that is accepted is affine within a group: `weight = scale * (code - zero) + minimum`, where `zero` is a
//! constant of the type and `minimum` is absent where `zero` says it all. Nothing is rounded but the scales of the K types,
//! whose product of two scales is stored as one f16 (relative error at most 2^-11).

use half::f16;

use super::ggml::{AffineBlock, BlockKind, decode_block};

/// Outputs in a tile: 32-bit lanes of the widest vector register.
pub(crate) const TILE: usize = 16;
/// Weights in a block along `k`.
pub(crate) const BLOCK: usize = 32;

/// How the blocks of a matrix are laid out; the same for all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Bits of a code: 4 or 8.
    pub(crate) bits: u32,
    /// Scales for each output in a block: 1 (a scale for 32 weights) or 2 (for 16).
    pub(crate) groups: usize,
    /// Whether minimums are stored.
    pub(crate) minimums: bool,
    /// The code that stands for 0.
    pub(crate) zero: i32,
}

impl Layout {
    /// Bytes of the codes of a block.
    pub(crate) const fn code_bytes(self) -> usize {
        TILE * BLOCK * self.bits as usize / 8
    }

    /// Bytes of a block.
    pub(crate) const fn block_bytes(self) -> usize {
        let vectors = if self.minimums { 2 } else { 1 };
        self.code_bytes() + vectors * self.groups * TILE * 2
    }
}

/// A weight matrix `[n, k]` ready for [`super::matmul`].
#[derive(Debug)]
pub struct PackedMatrix {
    pub(crate) layout: Layout,
    /// Outputs.
    pub(crate) n: usize,
    /// Inputs, a multiple of [`BLOCK`].
    pub(crate) k: usize,
    data: Vec<Line>,
}

/// One cache line, so that vector loads never straddle two.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

impl PackedMatrix {
    /// Repacks a GGML matrix `[n, k]` of `kind`, whose bytes are `raw`. Outputs beyond `n` in the last tile are zero.
    ///
    /// Returns `None` where `raw` has not the length that the shape asks for or `k` is no multiple of the type's block.
    #[must_use]
    pub fn pack(kind: BlockKind, raw: &[u8], n: usize, k: usize) -> Option<Self> {
        let weights = kind.weights();
        if n == 0 || k == 0 || !k.is_multiple_of(weights) {
            return None;
        }
        let row_bytes = k / weights * kind.bytes();
        if raw.len() != n.checked_mul(row_bytes)? {
            return None;
        }
        let layout = kind.layout();
        let tiles = n.div_ceil(TILE);
        let tile_bytes = k / BLOCK * layout.block_bytes();
        let mut data = vec![Line([0; 64]); (tiles * tile_bytes).div_ceil(64)];
        let bytes = as_bytes_mut(&mut data);
        let mut affine = AffineBlock::default();
        for (row, raw_row) in raw.chunks_exact(row_bytes).enumerate() {
            let tile = &mut bytes[row / TILE * tile_bytes..][..tile_bytes];
            let mut blocks = tile.chunks_exact_mut(layout.block_bytes());
            for raw_block in raw_row.chunks_exact(kind.bytes()) {
                for part in 0..weights / BLOCK {
                    decode_block(kind, raw_block, part, &mut affine);
                    let block = blocks.next()?;
                    store(layout, block, row % TILE, &affine);
                }
            }
        }
        Some(Self { layout, n, k, data })
    }

    /// Outputs.
    #[must_use]
    pub const fn n(&self) -> usize {
        self.n
    }

    /// Inputs.
    #[must_use]
    pub const fn k(&self) -> usize {
        self.k
    }

    /// Resident bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.data.len() * 64
    }

    /// Tiles of the matrix.
    pub(crate) fn tiles(&self) -> usize {
        self.n.div_ceil(TILE)
    }

    /// The blocks of one tile.
    pub(crate) fn tile(&self, tile: usize) -> &[u8] {
        let bytes = self.k / BLOCK * self.layout.block_bytes();
        &as_bytes(&self.data)[tile * bytes..][..bytes]
    }

    /// Writes weight row `row` as f32 to `out`, `[k]`: an embedding lookup.
    pub fn dequantize_row(&self, row: usize, out: &mut [f32]) {
        let tile = self.tile(row / TILE);
        for (block, out) in tile
            .chunks_exact(self.layout.block_bytes())
            .zip(out.chunks_exact_mut(BLOCK))
        {
            load_row(self.layout, block, row % TILE, out);
        }
    }
}

/// Byte offset and shift of the code of output `lane` at position `i` of a block.
///
/// Step `s = i / 4` of a block is one register of 16 lanes of 4 codes. With 4 bits, steps `s` and `s + 4` share a register:
/// the low nibbles are step `s`, the high ones step `s + 4`.
fn code_position(bits: u32, lane: usize, i: usize) -> (usize, u32) {
    let (step, byte) = (i / 4, i % 4);
    if bits == 4 {
        (
            step % 4 * 64 + lane * 4 + byte,
            if step < 4 { 0 } else { 4 },
        )
    } else {
        (step * 64 + lane * 4 + byte, 0)
    }
}

fn store(layout: Layout, block: &mut [u8], lane: usize, affine: &AffineBlock) {
    for (i, &code) in affine.codes.iter().enumerate() {
        let (byte, shift) = code_position(layout.bits, lane, i);
        block[byte] |= code << shift;
    }
    for group in 0..layout.groups {
        let scale = layout.code_bytes() + (group * TILE + lane) * 2;
        block[scale..scale + 2].copy_from_slice(&f16::from_f32(affine.scales[group]).to_le_bytes());
        if layout.minimums {
            let minimum = scale + layout.groups * TILE * 2;
            block[minimum..minimum + 2]
                .copy_from_slice(&f16::from_f32(affine.minimums[group]).to_le_bytes());
        }
    }
}

fn load_row(layout: Layout, block: &[u8], lane: usize, out: &mut [f32]) {
    let mask = if layout.bits == 4 { 15 } else { 255 };
    let group_len = BLOCK / layout.groups;
    for (i, out) in out.iter_mut().enumerate() {
        let (byte, shift) = code_position(layout.bits, lane, i);
        let code = i32::from((block[byte] >> shift) & mask) - layout.zero;
        let scale = layout.code_bytes() + (i / group_len * TILE + lane) * 2;
        let minimum = if layout.minimums {
            read_f16(block, scale + layout.groups * TILE * 2)
        } else {
            0.0
        };
        *out = read_f16(block, scale) * code as f32 + minimum;
    }
}

/// The f16 at byte `at`.
pub(crate) fn read_f16(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

#[expect(unsafe_code, reason = "a view of plain bytes; see SAFETY")]
fn as_bytes(lines: &[Line]) -> &[u8] {
    // SAFETY: `Line` is `repr(C)` around `[u8; 64]` with alignment 64, so it has no padding and a slice of lines is a run of
    // initialised bytes; the lifetime is that of the borrow.
    unsafe { std::slice::from_raw_parts(lines.as_ptr().cast(), std::mem::size_of_val(lines)) }
}

#[expect(unsafe_code, reason = "a view of plain bytes; see SAFETY")]
fn as_bytes_mut(lines: &mut [Line]) -> &mut [u8] {
    // SAFETY: as in `as_bytes`; every byte pattern is a valid `Line`, and the borrow is exclusive.
    unsafe {
        std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), std::mem::size_of_val(lines))
    }
}
