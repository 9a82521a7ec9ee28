//! Where the body of an answer ends, and which of the bytes that come are its own (RFC 9112, section 6).
//!
//! It must not know where bytes come from, nor what a head says.

use bytes::{BufMut, BytesMut};

use crate::limits;

/// Why a body cannot be read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(in crate::upstream::link) enum FramingError {
    /// The length of a chunk is none.
    #[error("a chunk has no length")]
    Length,
    /// A line does not end as lines do.
    #[error("a chunk does not end where it says")]
    End,
    /// More around the chunks than any honest server puts there.
    #[error("there is too much between the chunks")]
    TooMuch,
}

/// How far a body has been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// So many bytes are left.
    Length(u64),
    /// In chunks, each with its own length.
    Chunked(Chunks),
    /// It ends with its connection.
    UntilClose,
}

/// A place in a chunked body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chunks {
    part: Part,
    /// Bytes of extensions and trailers so far.
    around: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// The digits of a length, and whether there was one.
    Length(u64, bool),
    /// What may follow a length on its line.
    Extension(u64),
    /// The end of that line.
    LengthEnd(u64),
    /// So many bytes of a chunk are left.
    Data(u64),
    /// The end of a chunk: its CR, then its LF.
    DataEnd,
    DataEndLf,
    /// The beginning of a line after the last chunk, and the rest of one.
    TrailerStart,
    Trailer,
    /// The LF of the last line.
    LastLf,
    Done,
}

impl Framing {
    /// A chunked body of which nothing has come.
    pub(super) const fn chunked() -> Self {
        Self::Chunked(Chunks {
            part: Part::Length(0, false),
            around: 0,
        })
    }

    /// Whether all of the body has come. One that its connection ends is never known to be whole before that.
    pub(super) fn is_done(&self) -> bool {
        match self {
            Self::Length(left) => *left == 0,
            Self::Chunked(chunks) => chunks.part == Part::Done,
            Self::UntilClose => false,
        }
    }

    /// Adds what is the body's own in `bytes` to `body`, and tells how many of them belong to the answer at all.
    ///
    /// # Errors
    /// Where chunks make no sense.
    pub(super) fn take(
        &mut self,
        bytes: &[u8],
        body: &mut BytesMut,
    ) -> Result<usize, FramingError> {
        match self {
            Self::Length(left) => {
                let own = up_to(bytes, *left);
                *left -= own.len() as u64;
                body.put_slice(own);
                Ok(own.len())
            }
            Self::Chunked(chunks) => chunks.take(bytes, body),
            Self::UntilClose => {
                body.put_slice(bytes);
                Ok(bytes.len())
            }
        }
    }
}

impl Chunks {
    fn take(&mut self, bytes: &[u8], body: &mut BytesMut) -> Result<usize, FramingError> {
        let mut rest = bytes;
        while let Some(&next) = rest.first() {
            if let Part::Data(left) = self.part {
                let own = up_to(rest, left);
                body.put_slice(own);
                rest = rest.get(own.len()..).unwrap_or_default();
                self.part = match left - own.len() as u64 {
                    0 => Part::DataEnd,
                    left => Part::Data(left),
                };
                continue;
            }
            if self.part == Part::Done {
                break;
            }
            self.part = self.after(next)?;
            rest = rest.get(1..).unwrap_or_default();
        }
        Ok(bytes.len() - rest.len())
    }

    /// Where a byte between two chunks leads.
    fn after(&mut self, byte: u8) -> Result<Part, FramingError> {
        match (self.part, byte) {
            (Part::Length(length, told), _) => length_goes_on(length, told, byte),
            (Part::Extension(length), b'\r') => Ok(Part::LengthEnd(length)),
            (Part::LengthEnd(0), b'\n') => Ok(Part::TrailerStart),
            (Part::LengthEnd(length), b'\n') => Ok(Part::Data(length)),
            (Part::DataEnd, b'\r') => Ok(Part::DataEndLf),
            (Part::DataEndLf, b'\n') => Ok(Part::Length(0, false)),
            (Part::TrailerStart, b'\r') => Ok(Part::LastLf),
            (Part::Trailer, b'\n') => Ok(Part::TrailerStart),
            (Part::LastLf, b'\n') => Ok(Part::Done),
            (Part::TrailerStart | Part::Trailer, _) => self.skip(Part::Trailer),
            (Part::Extension(length), _) => self.skip(Part::Extension(length)),
            _ => Err(FramingError::End),
        }
    }

    /// Passes over a byte that means nothing to us.
    fn skip(&mut self, part: Part) -> Result<Part, FramingError> {
        self.around += 1;
        match self.around > limits::CHUNK_EXTRAS_BYTES_MAX {
            true => Err(FramingError::TooMuch),
            false => Ok(part),
        }
    }
}

fn length_goes_on(length: u64, told: bool, byte: u8) -> Result<Part, FramingError> {
    if let Some(digit) = char::from(byte).to_digit(16) {
        let length = length.checked_mul(16).ok_or(FramingError::Length)?;
        return Ok(Part::Length(length + u64::from(digit), true));
    }
    match byte {
        b'\r' if told => Ok(Part::LengthEnd(length)),
        b';' | b' ' | b'\t' if told => Ok(Part::Extension(length)),
        _ => Err(FramingError::Length),
    }
}

fn up_to(bytes: &[u8], most: u64) -> &[u8] {
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    bytes.get(..most).unwrap_or(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The body in `pieces` as chunks, and whether it is whole.
    fn read(pieces: &[&[u8]]) -> Result<(Vec<u8>, bool, usize), FramingError> {
        let (mut framing, mut body, mut taken) = (Framing::chunked(), BytesMut::new(), 0);
        for piece in pieces {
            taken += framing.take(piece, &mut body)?;
        }
        Ok((body.to_vec(), framing.is_done(), taken))
    }

    #[test]
    fn a_chunked_body_ends_with_its_last_chunk() {
        let wire = b"3\r\nabc\r\nA;x=1\r\n0123456789\r\n0\r\nx: y\r\n\r\nHTTP/1.1";
        let (body, done, taken) = read(&[wire]).unwrap();
        assert_eq!(body, b"abc0123456789");
        assert!(done);
        assert_eq!(taken, wire.len() - b"HTTP/1.1".len());
    }

    #[test]
    fn chunks_that_make_no_sense_are_errors() {
        for (wire, error) in [
            (&b"\r\n"[..], FramingError::Length),
            (b"-1\r\n", FramingError::Length),
            (b"x\r\n", FramingError::Length),
            (b"11111111111111111\r\n", FramingError::Length),
            (b"1\nab", FramingError::Length),
            (b"1\r\nab", FramingError::End),
            (b"1\r\na\n1", FramingError::End),
            (b"0\r\n\rx", FramingError::End),
        ] {
            assert_eq!(read(&[wire]), Err(error), "{:?}", wire.escape_ascii());
        }
    }

    #[test]
    fn what_stands_around_chunks_is_bounded() {
        let endless = [b'x'; 1024];
        for begin in [&b"1;"[..], b"0\r\n"] {
            let (mut framing, mut body) = (Framing::chunked(), BytesMut::new());
            framing.take(begin, &mut body).unwrap();
            let mut all = std::iter::repeat_with(|| framing.take(&endless, &mut body));
            let error = all
                .by_ref()
                .take(limits::CHUNK_EXTRAS_BYTES_MAX)
                .find_map(Result::err);
            assert_eq!(error, Some(FramingError::TooMuch));
        }
    }

    #[test]
    fn a_length_is_kept_to() {
        let (mut framing, mut body) = (Framing::Length(5), BytesMut::new());
        assert_eq!(framing.take(b"abc", &mut body), Ok(3));
        assert!(!framing.is_done());
        assert_eq!(framing.take(b"defg", &mut body), Ok(2));
        assert!(framing.is_done());
        assert_eq!(&body[..], b"abcde");
    }

    proptest! {
        #[test]
        fn where_the_bytes_are_cut_changes_nothing(
            chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..40), 0..8),
            cuts in proptest::collection::vec(0usize..400, 0..6),
        ) {
            let mut wire = Vec::new();
            for chunk in &chunks {
                wire.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                wire.extend_from_slice(chunk);
                wire.extend_from_slice(b"\r\n");
            }
            wire.extend_from_slice(b"0\r\n\r\n");
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(wire.len())).collect();
            cuts.extend([0, wire.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|w| &wire[w[0]..w[1]]).collect();
            prop_assert_eq!(read(&pieces).unwrap(), (chunks.concat(), true, wire.len()));
        }

        #[test]
        fn no_bytes_make_it_panic_or_take_more_than_there_is(wire in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok((body, _, taken)) = read(&[&wire]) {
                prop_assert!(taken <= wire.len() && body.len() <= taken);
            }
        }
    }
}
