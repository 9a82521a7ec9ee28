//! GGML's block formats read as affine groups: `weight = scale * (code - zero) + minimum`.
//!
//! The layouts are those of ggml (`block_q4_0` and its kin): a few scales, then codes in nibbles or bytes.

use super::packed::{BLOCK, Layout, read_f16};

/// A block format that can be packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockKind {
    /// 32 weights, 4 bits, scale.
    Q4_0,
    /// 32 weights, 4 bits, scale and minimum.
    Q4_1,
    /// 32 weights, 5 bits, scale.
    Q5_0,
    /// 32 weights, 5 bits, scale and minimum.
    Q5_1,
    /// 32 weights, 8 bits, scale.
    Q8_0,
    /// 256 weights in groups of 32, 4 bits, scales and minimums of 6 bits.
    Q4K,
    /// 256 weights in groups of 32, 5 bits, scales and minimums of 6 bits.
    Q5K,
    /// 256 weights in groups of 16, 6 bits, scales of 8 bits.
    Q6K,
}

/// Weights in a superblock of the K types.
const SUPERBLOCK: usize = 256;

impl BlockKind {
    /// Weights in one block of the file.
    #[must_use]
    pub const fn weights(self) -> usize {
        match self {
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => BLOCK,
            Self::Q4K | Self::Q5K | Self::Q6K => SUPERBLOCK,
        }
    }

    /// Bytes of one block of the file.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q4K => 144,
            Self::Q5K => 176,
            Self::Q6K => 210,
        }
    }

    /// How its blocks are packed.
    pub(crate) const fn layout(self) -> Layout {
        let (bits, groups, minimums, zero) = match self {
            Self::Q4_0 => (4, 1, false, 8),
            Self::Q4_1 | Self::Q4K => (4, 1, true, 0),
            Self::Q5_0 => (8, 1, false, 16),
            Self::Q5_1 | Self::Q5K => (8, 1, true, 0),
            Self::Q8_0 => (8, 1, false, 128),
            Self::Q6K => (8, 2, false, 32),
        };
        Layout {
            bits,
            groups,
            minimums,
            zero,
        }
    }
}

/// 32 weights of one output.
#[derive(Debug, Default)]
pub(crate) struct AffineBlock {
    pub(crate) codes: [u8; BLOCK],
    pub(crate) scales: [f32; 2],
    pub(crate) minimums: [f32; 2],
}

/// Reads weights `32 * part ..` of one block of the file.
pub(crate) fn decode_block(kind: BlockKind, raw: &[u8], part: usize, out: &mut AffineBlock) {
    match kind {
        BlockKind::Q4_0 => decode_4bit(raw, 2, out),
        BlockKind::Q4_1 => {
            out.minimums[0] = read_f16(raw, 2);
            decode_4bit(raw, 4, out);
        }
        BlockKind::Q5_0 => decode_5bit(raw, 2, out),
        BlockKind::Q5_1 => {
            out.minimums[0] = read_f16(raw, 2);
            decode_5bit(raw, 4, out);
        }
        BlockKind::Q8_0 => decode_8bit(raw, out),
        BlockKind::Q4K => decode_4k(raw, part, out),
        BlockKind::Q5K => decode_5k(raw, part, out),
        BlockKind::Q6K => decode_6k(raw, part, out),
    }
}

fn decode_4bit(raw: &[u8], codes_at: usize, out: &mut AffineBlock) {
    out.scales[0] = read_f16(raw, 0);
    for (i, &byte) in raw[codes_at..codes_at + 16].iter().enumerate() {
        out.codes[i] = byte & 15;
        out.codes[i + 16] = byte >> 4;
    }
}

fn decode_5bit(raw: &[u8], high_bits_at: usize, out: &mut AffineBlock) {
    decode_4bit(raw, high_bits_at + 4, out);
    for (i, code) in out.codes.iter_mut().enumerate() {
        *code |= (raw[high_bits_at + i / 8] >> (i % 8) & 1) << 4;
    }
}

fn decode_8bit(raw: &[u8], out: &mut AffineBlock) {
    out.scales[0] = read_f16(raw, 0);
    for (code, &byte) in out.codes.iter_mut().zip(&raw[2..34]) {
        *code = byte ^ 0x80;
    }
}

/// Scale and minimum of group `group` of a superblock whose twelve bytes of 6-bit numbers are `packed`: the first four
/// groups lie in the low six bits, the others are split between nibbles and the top two bits.
fn scale_and_minimum(packed: &[u8], group: usize) -> (u8, u8) {
    if group < 4 {
        (packed[group] & 63, packed[group + 4] & 63)
    } else {
        (
            (packed[group + 4] & 15) | (packed[group - 4] >> 6 << 4),
            (packed[group + 4] >> 4) | (packed[group] >> 6 << 4),
        )
    }
}

fn decode_k_scales(raw: &[u8], part: usize, out: &mut AffineBlock) {
    let (scale, minimum) = scale_and_minimum(&raw[4..16], part);
    out.scales[0] = read_f16(raw, 0) * f32::from(scale);
    out.minimums[0] = -read_f16(raw, 2) * f32::from(minimum);
}

/// Groups `2 j` and `2 j + 1` share 32 bytes: low and high nibbles.
fn decode_k_nibbles(codes: &[u8], part: usize, out: &mut AffineBlock) {
    let shift = part % 2 * 4;
    for (code, &byte) in out.codes.iter_mut().zip(&codes[part / 2 * 32..][..32]) {
        *code = (byte >> shift) & 15;
    }
}

fn decode_4k(raw: &[u8], part: usize, out: &mut AffineBlock) {
    decode_k_scales(raw, part, out);
    decode_k_nibbles(&raw[16..144], part, out);
}

fn decode_5k(raw: &[u8], part: usize, out: &mut AffineBlock) {
    decode_k_scales(raw, part, out);
    decode_k_nibbles(&raw[48..176], part, out);
    for (code, &high) in out.codes.iter_mut().zip(&raw[16..48]) {
        *code |= (high >> part & 1) << 4;
    }
}

/// 128 weights share 64 bytes of low nibbles and 32 of high bit pairs; a scale of 8 bits for every 16 weights.
fn decode_6k(raw: &[u8], part: usize, out: &mut AffineBlock) {
    let (half, quarter) = (part / 4, part % 4);
    let low = &raw[half * 64 + quarter % 2 * 32..][..32];
    let high = &raw[128 + half * 32..][..32];
    for ((code, &low), &high) in out.codes.iter_mut().zip(low).zip(high) {
        *code = (low >> (quarter / 2 * 4) & 15) | ((high >> (quarter * 2) & 3) << 4);
    }
    let scale = read_f16(raw, 208);
    for group in 0..2 {
        let factor = i8::from_le_bytes([raw[192 + part * 2 + group]]);
        out.scales[group] = scale * f32::from(factor);
    }
}
