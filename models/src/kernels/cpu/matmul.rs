//! `out = x * w^T` for quantised rows and a packed matrix, with the widest instructions that the processor has.
//!
//! One pass over the weights serves all rows: a tile of weights is unpacked once for up to [`ROWS`] rows. Every row is
//! computed by the same operations in the same order whatever the number of rows, so results are independent of the
//! batch (invariant: rows independent of `m`).

use super::activations::QuantizedRows;
use super::elementwise::{Activation, gate};
use super::isa::{Isa, ROWS, Sums, TileJob};
use super::out::{Finish, OutPtr};
use super::packed::{PackedMatrix, TILE};
use super::pool::for_ranges;

/// Rows `[m, n]` of the product into `out`, whose rows are `n` floats.
///
/// # Panics
/// Where the shapes do not match.
pub fn matmul(isa: Isa, x: &QuantizedRows, w: &PackedMatrix, out: &mut [f32]) {
    assert_eq!(out.len(), x.m * w.n, "output shape");
    matmul_into(isa, x, w, OutPtr::new(out, w.n), Finish::Store);
}

/// The product to columns `0 .. n` of `out`, which has `m` rows of at least that many.
///
/// # Panics
/// Where the inner dimensions do not match.
pub(crate) fn matmul_into(
    isa: Isa,
    x: &QuantizedRows,
    w: &PackedMatrix,
    out: OutPtr,
    finish: Finish,
) {
    x.assert_fit(w);
    for_ranges(w.tiles(), |tiles| {
        let mut sums = Sums::default();
        for tile in tiles {
            let columns = TILE.min(w.n - tile * TILE);
            for job in jobs(x, w, tile) {
                isa.multiply(&job, &mut sums);
                for (i, sums) in sums.iter().take(job.rows).enumerate() {
                    #[expect(unsafe_code, reason = "see SAFETY")]
                    // SAFETY: `tile` is in the range that this thread was given, the row is one of `m`, and `columns` ends
                    // at `n`.
                    unsafe {
                        out.finish_tile((job.row + i, tile * TILE), sums, columns, finish);
                    }
                }
            }
        }
    });
}

/// `activation(gate) * up` for a matrix that holds the rows of `gate` and under them those of `up`: `[m, n / 2]` to `out`.
///
/// # Panics
/// Where the inner dimensions do not match, or half of `n` is no number of whole tiles.
pub(crate) fn matmul_gated(
    isa: Isa,
    x: &QuantizedRows,
    w: &PackedMatrix,
    activation: Activation,
    out: OutPtr,
) {
    x.assert_fit(w);
    assert!(
        w.n.is_multiple_of(2 * TILE),
        "gate and up must not share a tile"
    );
    let half = w.tiles() / 2;
    for_ranges(half, |tiles| {
        let (mut gates, mut ups) = (Sums::default(), Sums::default());
        for tile in tiles {
            for job in jobs(x, w, tile) {
                let up = TileJob {
                    tile: half + tile,
                    ..job
                };
                isa.multiply(&job, &mut gates);
                isa.multiply(&up, &mut ups);
                let (gates, ups) = (&mut gates[..job.rows], &ups[..job.rows]);
                gate(activation, gates.as_flattened_mut(), ups.as_flattened());
                for (i, sums) in gates.iter().enumerate() {
                    #[expect(unsafe_code, reason = "see SAFETY")]
                    // SAFETY: `tile` is in the range that this thread was given, and whole.
                    unsafe {
                        out.finish_tile((job.row + i, tile * TILE), sums, TILE, Finish::Store);
                    }
                }
            }
        }
    });
}

/// All rows times one tile, [`ROWS`] at a time.
fn jobs<'a>(
    x: &'a QuantizedRows,
    w: &'a PackedMatrix,
    tile: usize,
) -> impl Iterator<Item = TileJob<'a>> {
    (0..x.m).step_by(ROWS).map(move |row| TileJob {
        x,
        row,
        rows: ROWS.min(x.m - row),
        w,
        tile,
    })
}
