//! The body of a request in the pieces that it was put together from.
//!
//! A long prompt goes on as its client sent it, but for a few fields. It is written to the socket from where it lies,
//! between the pieces that are ours, and is copied nowhere.

use std::convert::Infallible;
use std::io::IoSlice;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};

use crate::limits::PIECE_BYTES_MIN;

/// Pieces end to end, none of them empty. A clone shares them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pieces {
    /// The next one is the last.
    left: Vec<Bytes>,
    bytes: u64,
}

impl Pieces {
    fn new(mut pieces: Vec<Bytes>) -> Self {
        let bytes = pieces.iter().map(|piece| piece.len() as u64).sum();
        pieces.reverse();
        Self {
            left: pieces,
            bytes,
        }
    }
}

impl From<Bytes> for Pieces {
    fn from(whole: Bytes) -> Self {
        match whole.is_empty() {
            true => Self::default(),
            false => Self::new(vec![whole]),
        }
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = self.left.pop();
        self.bytes -= piece.as_ref().map_or(0, |piece| piece.len() as u64);
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes)
    }
}

impl Buf for Pieces {
    fn remaining(&self) -> usize {
        usize::try_from(self.bytes).unwrap_or(usize::MAX)
    }

    fn chunk(&self) -> &[u8] {
        self.left.last().map_or(&[], |piece| &piece[..])
    }

    fn chunks_vectored<'a>(&'a self, to: &mut [IoSlice<'a>]) -> usize {
        let pieces = self.left.iter().rev();
        let places = to.iter_mut().zip(pieces);
        places
            .map(|(place, piece)| *place = IoSlice::new(piece))
            .count()
    }

    fn advance(&mut self, mut count: usize) {
        self.bytes -= count as u64;
        while let Some(piece) = self.left.last_mut() {
            if count < piece.len() {
                return piece.advance(count);
            }
            count -= piece.len();
            self.left.pop();
        }
    }
}

/// Puts pieces of `source` together with others: short ones are copied into one, long ones stay where they are.
pub(crate) struct Splicer<'s> {
    source: &'s Bytes,
    done: Vec<Bytes>,
    short: BytesMut,
}

impl<'s> Splicer<'s> {
    pub(crate) fn new(source: &'s Bytes) -> Self {
        Self {
            source,
            done: Vec::new(),
            short: BytesMut::with_capacity(source.len().min(PIECE_BYTES_MIN) + 256),
        }
    }

    /// Goes on with this part of the source; `None` where there is no such part.
    pub(crate) fn keep(&mut self, part: Range<usize>) -> Option<()> {
        let bytes = self.source.get(part.clone())?;
        if bytes.len() < PIECE_BYTES_MIN {
            self.short.extend_from_slice(bytes);
        } else {
            self.cut();
            self.done.push(self.source.slice(part));
        }
        Some(())
    }

    /// Goes on with `text`.
    pub(crate) fn write(&mut self, text: &str) {
        self.short.extend_from_slice(text.as_bytes());
    }

    pub(crate) fn finish(mut self) -> Pieces {
        self.cut();
        Pieces::new(self.done)
    }

    fn cut(&mut self) {
        if !self.short.is_empty() {
            self.done.push(self.short.split().freeze());
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    #[tokio::test]
    async fn long_parts_are_not_copied_and_short_ones_are_one_piece() {
        let source = Bytes::from(vec![b'x'; 3 * PIECE_BYTES_MIN]);
        let mut splicer = Splicer::new(&source);
        splicer.write("a");
        splicer.keep(0..2).unwrap();
        splicer.write("b");
        splicer.keep(2..2 + 2 * PIECE_BYTES_MIN).unwrap();
        splicer.write("c");
        assert_eq!(splicer.keep(0..source.len() + 1), None);
        let pieces = splicer.finish();
        assert_eq!(pieces.left.len(), 3);
        assert!(source.as_ptr_range().contains(&pieces.left[1].as_ptr()));
        let length = pieces.size_hint().exact();
        let whole = pieces.clone().collect().await.unwrap().to_bytes();
        assert_eq!(written_by(pieces, 5_000), whole);
        let expected = [&b"axxb"[..], &source[..2 * PIECE_BYTES_MIN], b"c"].concat();
        assert_eq!(whole, expected);
        assert_eq!(length, Some(whole.len() as u64));
    }

    /// What is written by writes of at most `most` bytes, each of as many pieces as there are.
    fn written_by(mut pieces: Pieces, most: usize) -> Vec<u8> {
        let mut written = Vec::new();
        while pieces.has_remaining() {
            let mut places = [IoSlice::new(&[]); 8];
            let count = pieces.chunks_vectored(&mut places);
            let all: Vec<u8> = places[..count]
                .iter()
                .flat_map(|place| place.to_vec())
                .collect();
            let some = &all[..most.min(all.len())];
            written.extend_from_slice(some);
            let some = some.len();
            pieces.advance(some);
        }
        written
    }

    #[test]
    fn nothing_is_no_body() {
        assert!(Pieces::from(Bytes::new()).is_end_stream());
        assert!(Splicer::new(&Bytes::new()).finish().is_end_stream());
    }
}
