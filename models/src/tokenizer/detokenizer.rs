//! From ids back to text, one id at a time.

use std::sync::Arc;

use super::alphabet::Alphabet;
use super::sentence_piece;
use super::vocabulary::{Algorithm, Kind, Vocabulary};
use crate::text::Detokenizer;

/// The bytes of every token, end to end.
#[derive(Debug)]
pub(super) struct Pieces {
    bytes: Vec<u8>,
    /// `ends[id]` is where the piece of `id` ends and the next begins.
    ends: Vec<usize>,
}

impl Pieces {
    pub(super) fn new(vocabulary: &Vocabulary) -> Self {
        let alphabet = Alphabet::new();
        let in_bytes = matches!(vocabulary.algorithm, Algorithm::ByteLevelBpe { .. });
        let mut pieces = Self {
            bytes: Vec::new(),
            ends: Vec::with_capacity(vocabulary.texts.len()),
        };
        for (_, text, kind) in vocabulary.tokens() {
            match kind {
                Kind::Normal if in_bytes => alphabet.decode(text, &mut pieces.bytes),
                Kind::Normal => {
                    let spaced = text.replace(sentence_piece::SPACE, " ");
                    pieces.bytes.extend_from_slice(spaced.as_bytes());
                }
                Kind::Byte => pieces.bytes.extend(sentence_piece::byte_of(text)),
                Kind::UserDefined => pieces.bytes.extend_from_slice(text.as_bytes()),
                Kind::Control | Kind::Unused => {}
            }
            pieces.ends.push(pieces.bytes.len());
        }
        pieces
    }

    /// The bytes of a token; none where the id is outside of the vocabulary.
    pub(super) fn get(&self, id: u32) -> &[u8] {
        let id = id as usize;
        let start = id
            .checked_sub(1)
            .map_or(Some(0), |before| self.ends.get(before).copied());
        match (start, self.ends.get(id)) {
            (Some(start), Some(end)) => &self.bytes[start..*end],
            _ => &[],
        }
    }

    pub(super) fn len(&self) -> u32 {
        u32::try_from(self.ends.len()).unwrap_or(u32::MAX)
    }
}

/// Holds back the bytes of a character until it is whole: at most three, plus the piece in hand.
#[derive(Debug)]
pub(super) struct IncrementalDetokenizer {
    pieces: Arc<Pieces>,
    pending: Vec<u8>,
}

impl IncrementalDetokenizer {
    pub(super) fn new(pieces: Arc<Pieces>) -> Self {
        Self {
            pieces,
            pending: Vec::with_capacity(16),
        }
    }
}

impl Detokenizer for IncrementalDetokenizer {
    fn push(&mut self, id: u32, out: &mut String) {
        self.pending.extend_from_slice(self.pieces.get(id));
        let held_back = drain_whole_characters(&self.pending, out);
        self.pending.drain(..self.pending.len() - held_back);
    }

    fn finish(&mut self, out: &mut String) {
        if !self.pending.is_empty() {
            out.push(char::REPLACEMENT_CHARACTER);
            self.pending.clear();
        }
    }
}

/// Appends what is decided and returns how many bytes at the end may still become a character. Bytes that no
/// continuation can save become U+FFFD, as in `String::from_utf8_lossy`.
fn drain_whole_characters(mut bytes: &[u8], out: &mut String) -> usize {
    loop {
        let error = match std::str::from_utf8(bytes) {
            Ok(text) => {
                out.push_str(text);
                return 0;
            }
            Err(error) => error,
        };
        let (valid, rest) = bytes.split_at(error.valid_up_to());
        out.push_str(std::str::from_utf8(valid).unwrap_or_default());
        let Some(invalid) = error.error_len() else {
            return rest.len();
        };
        out.push(char::REPLACEMENT_CHARACTER);
        bytes = &rest[invalid..];
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pieces(texts: &[&[u8]]) -> Arc<Pieces> {
        let mut pieces = Pieces {
            bytes: Vec::new(),
            ends: Vec::new(),
        };
        for text in texts {
            pieces.bytes.extend_from_slice(text);
            pieces.ends.push(pieces.bytes.len());
        }
        Arc::new(pieces)
    }

    fn stream(pieces: &Arc<Pieces>, ids: &[u32]) -> String {
        let mut detokenizer = IncrementalDetokenizer::new(Arc::clone(pieces));
        let mut text = String::new();
        for id in ids {
            detokenizer.push(*id, &mut text);
        }
        detokenizer.finish(&mut text);
        text
    }

    #[test]
    fn a_character_comes_when_its_last_byte_does() {
        let pieces = pieces(&[b"\xf0\x9f", b"\x98", b"\x80!", b""]);
        let mut detokenizer = IncrementalDetokenizer::new(pieces);
        let mut text = String::new();
        for (id, expected) in [
            (0, ""),
            (1, ""),
            (3, ""),
            (2, "😀!"),
            (0, "😀!"),
            (999, "😀!"),
        ] {
            detokenizer.push(id, &mut text);
            assert_eq!(text, expected);
        }
        detokenizer.finish(&mut text);
        detokenizer.finish(&mut text);
        assert_eq!(text, "😀!\u{fffd}");
    }

    proptest! {
        /// Pieces of hostile bytes in any order: what is streamed is what decoding the whole would give.
        #[test]
        fn streaming_equals_decoding_the_whole(
            texts in proptest::collection::vec(
                proptest::collection::vec(
                    proptest::sample::select(vec![
                        b'a', 0x7f, 0x80, 0xbf, 0xc2, 0xc0, 0xe2, 0x82, 0xac, 0xed, 0xa0, 0xf0, 0x9f, 0x98, 0xf4, 0x90, 0xff,
                    ]),
                    0..5,
                ),
                1..12,
            ),
            picks in proptest::collection::vec(0_u32..12, 0..64),
        ) {
            let texts: Vec<&[u8]> = texts.iter().map(Vec::as_slice).collect();
            let pieces = pieces(&texts);
            let whole: Vec<u8> = picks.iter().flat_map(|id| pieces.get(*id).to_vec()).collect();
            prop_assert_eq!(stream(&pieces, &picks), String::from_utf8_lossy(&whole));
        }
    }
}
