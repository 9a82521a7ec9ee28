//! Whether tensors share bytes of a file. None may: a directory that names the same bytes many times would make a small
//! file take any amount of memory.

/// Of ranges `(first byte, bytes, name)` the name of the first one that begins before the one before it ends.
pub(super) fn first_overlap(mut ranges: Vec<(u64, u64, &str)>) -> Option<&str> {
    ranges.retain(|&(_, bytes, _)| bytes > 0);
    ranges.sort_unstable();
    let overlap = ranges
        .windows(2)
        .find(|pair| pair[1].0 < pair[0].0.saturating_add(pair[0].1));
    overlap.map(|pair| pair[1].2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_and_empty_ranges_do_not_overlap() {
        assert_eq!(
            first_overlap(vec![(8, 4, "b"), (0, 8, "a"), (12, 1, "c")]),
            None
        );
        assert_eq!(first_overlap(vec![(0, 8, "a"), (3, 0, "empty")]), None);
        assert_eq!(first_overlap(vec![(7, 4, "b"), (0, 8, "a")]), Some("b"));
        assert_eq!(
            first_overlap(vec![(0, 9, "a"), (2, 1, "b"), (9, 1, "c")]),
            Some("b")
        );
        assert_eq!(first_overlap(vec![(0, 8, "a"), (0, 8, "b")]), Some("b"));
    }
}
