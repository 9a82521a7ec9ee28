//! Tells which HTTP a client speaks by the first bytes that it sends, and keeps them for whoever reads them.
//!
//! hyper-util can tell as well, but reads no more than the preface of HTTP/2 for it: the head of the first request then comes
//! in two pieces, and its buffer is twice as large for as long as the connection lives.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

use crate::limits::FIRST_READ_BYTES;

/// What every client of HTTP/2 begins with (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A version of HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    /// HTTP/1.1 or 1.0, or what is no HTTP at all.
    One,
    /// HTTP/2.
    Two,
}

/// Reads the first bytes of a connection.
///
/// # Errors
/// Where nothing can be read, or nothing comes before the client closes.
pub(crate) async fn read<Io>(mut io: Io) -> io::Result<(Version, Begun<Io>)>
where
    Io: AsyncRead + Unpin,
{
    let mut first = BytesMut::with_capacity(FIRST_READ_BYTES);
    loop {
        if io.read_buf(&mut first).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let same = first.iter().zip(PREFACE).take_while(|(a, b)| a == b);
        let version = match same.count() {
            all if all == PREFACE.len() => Version::Two,
            some if some < first.len() => Version::One,
            _ => continue,
        };
        // As many as there are: what is left of the buffer would be held with them.
        let first = Bytes::copy_from_slice(&first);
        return Ok((version, Begun { first, io }));
    }
}

/// A connection whose first bytes have been read; they come first again.
#[derive(Debug)]
pub(crate) struct Begun<Io> {
    first: Bytes,
    io: Io,
}

impl<Io: AsyncRead + Unpin> AsyncRead for Begun<Io> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.first.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        let count = self.first.len().min(buf.remaining());
        buf.put_slice(&self.first[..count]);
        self.first.advance(count);
        if self.first.is_empty() {
            self.first = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<Io: AsyncWrite + Unpin> AsyncWrite for Begun<Io> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is told of a client that sends these pieces, and what is read afterwards.
    async fn told(pieces: &[&[u8]]) -> io::Result<(Version, Vec<u8>)> {
        let mut client = in_pieces(pieces);
        let (version, mut begun) = read(&mut client).await?;
        let mut all = Vec::new();
        begun.read_to_end(&mut all).await?;
        Ok((version, all))
    }

    /// Pieces that each take a read of their own.
    fn in_pieces(pieces: &[&[u8]]) -> Pieces {
        Pieces(pieces.iter().rev().map(|piece| piece.to_vec()).collect())
    }

    struct Pieces(Vec<Vec<u8>>);

    impl AsyncRead for Pieces {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            buf.put_slice(&self.0.pop().unwrap_or_default());
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn the_version_is_told_and_no_byte_is_lost_wherever_they_are_cut() {
        let two = [PREFACE, b"frames"].concat();
        let one = b"PRINT /x HTTP/1.1\r\n\r\n".to_vec();
        for (all, version) in [(two, Version::Two), (one, Version::One)] {
            for cut in 1..all.len() {
                let read = told(&[&all[..cut], &all[cut..]]).await.unwrap();
                assert_eq!(read, (version, all.clone()), "cut at {cut}");
            }
        }
    }

    #[tokio::test]
    async fn a_client_that_says_too_little_is_gone() {
        assert!(told(&[]).await.is_err());
        assert!(told(&[&PREFACE[..5]]).await.is_err());
    }
}
