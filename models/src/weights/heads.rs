//! The order of numbers in a head: files that rotate the halves of a head against each other are brought to pairs that
//! lie side by side, so that one attention serves all.
//!
//! A score is a sum over the numbers of a head, and queries and keys are reordered alike, so no score changes.

/// Reorders rows of any width, heads of `head_dim` rows one after another: row `i` and row `i + dims / 2` become rows
/// `2i` and `2i + 1`; rows from `dims` on stay.
pub(super) fn interleave(bytes: &[u8], rows: usize, head_dim: usize, dims: usize) -> Vec<u8> {
    let row_bytes = bytes.len() / rows.max(1);
    let half = dims / 2;
    let mut out = Vec::with_capacity(bytes.len());
    for head in bytes.chunks(head_dim * row_bytes) {
        let row = |i: usize| &head[i * row_bytes..(i + 1) * row_bytes];
        for i in 0..half {
            out.extend_from_slice(row(i));
            out.extend_from_slice(row(half + i));
        }
        out.extend_from_slice(&head[dims * row_bytes..]);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_become_pairs_head_by_head() {
        let rows: Vec<u8> = (0..12).flat_map(|row| [row, row + 100]).collect();
        let order = |dims| {
            let out = interleave(&rows, 12, 6, dims);
            assert!(out.chunks(2).all(|row| row[1] == row[0] + 100));
            out.chunks(2).map(|row| row[0]).collect::<Vec<u8>>()
        };
        assert_eq!(order(6), [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]);
        assert_eq!(order(4), [0, 2, 1, 3, 4, 5, 6, 8, 7, 9, 10, 11]);
    }
}
