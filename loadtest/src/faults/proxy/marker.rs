//! Looks out for a text among passing bytes and keeps none of them.

/// Counts where a text stands in bytes that come in pieces.
#[derive(Debug, Clone)]
pub(super) struct Marker {
    text: Vec<u8>,
    /// The last bytes, fewer than the text has.
    tail: Vec<u8>,
}

impl Marker {
    /// Looks out for `text`; for nothing where it is empty.
    pub(super) fn new(text: &[u8]) -> Self {
        let (text, tail) = (text.to_vec(), Vec::new());
        Self { text, tail }
    }

    /// Follows further bytes; how often the text ended in them.
    pub(super) fn follow(&mut self, bytes: &[u8]) -> u64 {
        if self.text.is_empty() {
            return 0;
        }
        let seen = [&self.tail[..], bytes].concat();
        let found = seen
            .windows(self.text.len())
            .filter(|window| *window == self.text)
            .count();
        let keep = seen.len().min(self.text.len() - 1);
        self.tail = seen[seen.len() - keep..].to_vec();
        found as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_found_however_it_is_cut() {
        let bytes = b"..needle..need needle.";
        for size in 1..=bytes.len() {
            let mut marker = Marker::new(b"needle");
            let found: u64 = bytes.chunks(size).map(|piece| marker.follow(piece)).sum();
            assert_eq!(found, 2, "pieces of {size}");
        }
        assert_eq!(Marker::new(b"").follow(bytes), 0);
    }
}
