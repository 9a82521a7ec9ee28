//! Where frames of HTTP/2 begin, so that a server's notice that it takes no more requests can be slipped in between two.

/// Bytes of a frame's head (RFC 9113, section 4.1).
const HEAD: usize = 9;

/// GOAWAY without an error and with the highest stream there is: requests on their way go on, others go elsewhere
/// (RFC 9113, section 6.8).
pub(super) const GOAWAY: [u8; 17] = [
    0, 0, 8, 7, 0, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0,
];

/// How connections of HTTP/2 begin (RFC 9113, section 3.4), as far as nothing else does.
pub(super) const PREFACE: &[u8] = b"PRI * ";

/// Follows the frames of a server.
#[derive(Debug, Default)]
pub(super) struct Frames {
    head: [u8; HEAD],
    seen: usize,
    /// Bytes left of a frame's content.
    left: usize,
    whole: u64,
}

impl Frames {
    /// Follows further bytes; the place in them, from 0 to their length, where a frame may be slipped in.
    pub(super) fn follow(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut place = None;
        let mut at = 0;
        while at < bytes.len() {
            if self.left > 0 {
                let part = self.left.min(bytes.len() - at);
                self.left -= part;
                at += part;
                self.whole += u64::from(self.left == 0);
            } else {
                self.head[self.seen] = bytes[at];
                self.seen += 1;
                at += 1;
                if self.seen == HEAD {
                    self.seen = 0;
                    let [high, middle, low, ..] = self.head;
                    self.left =
                        usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
                    self.whole += u64::from(self.left == 0);
                }
            }
            if self.is_between() {
                place.get_or_insert(at);
            }
        }
        place
    }

    /// Whether what comes next is a frame, and not the first one, which must be the server's settings. A frame of headers
    /// may need its continuation before any other; our own servers send headers in one.
    pub(super) fn is_between(&self) -> bool {
        self.left == 0 && self.seen == 0 && self.whole > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(length: u8) -> Vec<u8> {
        let mut frame = vec![0, 0, length, 0, 0, 0, 0, 0, 1];
        frame.resize(HEAD + usize::from(length), b'x');
        frame
    }

    #[test]
    fn places_between_frames_are_found_however_they_are_cut() {
        let bytes = [frame(3), frame(0), frame(20)].concat();
        let edges = [12, 21, 50];
        for size in 1..bytes.len() {
            let mut frames = Frames::default();
            let mut at = 0;
            for piece in bytes.chunks(size) {
                let place = frames.follow(piece).map(|place| at + place);
                let expected = edges
                    .iter()
                    .copied()
                    .find(|edge| *edge > at && *edge <= at + piece.len());
                assert_eq!(place, expected, "pieces of {size}, at {at}");
                at += piece.len();
            }
            assert!(frames.is_between());
        }
    }

    #[test]
    fn nothing_is_slipped_in_before_the_settings() {
        let mut frames = Frames::default();
        assert!(!frames.is_between());
        assert_eq!(frames.follow(&frame(6)[..10]), None);
    }
}
