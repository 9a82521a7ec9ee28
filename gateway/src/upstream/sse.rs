//! Server-sent events of an upstream, read within bounds: whatever it sends, no more than one event is held.
//!
//! It knows lines and the fields `data`; what the data means, the caller knows.

/// Why a stream cannot be read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SseError {
    /// A line or an event is longer than any honest one.
    #[error("sent an event that is too long")]
    TooLong,
}

/// Splits bytes into events as they come.
#[derive(Debug)]
pub(crate) struct Reader {
    /// Bytes of one event at most, and of one line.
    bytes_max: usize,
    /// The beginning of a line whose end has not come.
    line: Vec<u8>,
    /// The data of an event whose end has not come.
    data: Vec<u8>,
    /// Whether it has any: empty data is an event too.
    has_data: bool,
}

impl Reader {
    /// A reader of events of at most `bytes_max` bytes.
    pub(crate) const fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            line: Vec::new(),
            data: Vec::new(),
            has_data: false,
        }
    }

    /// Reads `bytes` and hands the data of every event that they complete to `each`, until that says to stop.
    ///
    /// # Errors
    /// [`SseError::TooLong`]; the reader must not be used any more.
    pub(crate) fn read(
        &mut self,
        bytes: &[u8],
        mut each: impl FnMut(&[u8]),
    ) -> Result<(), SseError> {
        let mut rest = bytes;
        while let Some(end) = memchr::memchr(b'\n', rest) {
            let (head, tail) = rest.split_at(end);
            rest = &tail[1..];
            if self.line.is_empty() {
                self.take_line(head, &mut each)?;
            } else {
                let mut line = std::mem::take(&mut self.line);
                self.check(line.len() + head.len())?;
                line.extend_from_slice(head);
                self.take_line(&line, &mut each)?;
                line.clear();
                self.line = line;
            }
        }
        self.check(self.line.len() + rest.len())?;
        self.line.extend_from_slice(rest);
        Ok(())
    }

    fn take_line(&mut self, line: &[u8], each: &mut impl FnMut(&[u8])) -> Result<(), SseError> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            if std::mem::take(&mut self.has_data) {
                each(&self.data);
                self.data.clear();
            }
            return Ok(());
        }
        // Comments and other fields (`event`, `id`, `retry`) mean nothing in OpenAI's streams.
        let Some(data) = line.strip_prefix(b"data:") else {
            return Ok(());
        };
        let data = data.strip_prefix(b" ").unwrap_or(data);
        self.check(self.data.len() + data.len() + 1)?;
        if std::mem::replace(&mut self.has_data, true) {
            self.data.push(b'\n');
        }
        self.data.extend_from_slice(data);
        Ok(())
    }

    const fn check(&self, bytes: usize) -> Result<(), SseError> {
        if bytes <= self.bytes_max {
            Ok(())
        } else {
            Err(SseError::TooLong)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read_all(pieces: &[&[u8]], bytes_max: usize) -> Result<Vec<Vec<u8>>, SseError> {
        let mut reader = Reader::new(bytes_max);
        let mut events = Vec::new();
        for piece in pieces {
            reader.read(piece, |data| events.push(data.to_vec()))?;
        }
        Ok(events)
    }

    #[test]
    fn events_are_what_the_standard_says() {
        let text = b": ping\n\ndata: one\r\n\r\nevent: x\ndata:two\ndata: three\nid: 7\n\n\n\ndata\ndata: cut";
        let events = read_all(&[text], 100).unwrap();
        assert_eq!(events, [b"one".to_vec(), b"two\nthree".to_vec()]);
    }

    #[test]
    fn nothing_longer_than_the_bound_is_held() {
        let endless = [b'x'; 64];
        assert_eq!(read_all(&[&endless, &endless], 100), Err(SseError::TooLong));
        let lines = b"data: 0123456789\n".repeat(20);
        assert_eq!(read_all(&[&lines], 100), Err(SseError::TooLong));
        let fits = [&b"data: "[..], &[b'x'; 90], b"\n\n"].concat();
        assert_eq!(read_all(&[&fits], 100).unwrap()[0].len(), 90);
    }

    proptest! {
        #[test]
        fn where_the_bytes_are_cut_changes_nothing(
            text in "(data: [a-c]{0,4}\r?\n|\r?\n|: p\n){0,20}",
            cuts in proptest::collection::vec(0usize..200, 0..6),
        ) {
            let bytes = text.as_bytes();
            let whole = read_all(&[bytes], 1_000).unwrap();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|w| &bytes[w[0]..w[1]]).collect();
            prop_assert_eq!(read_all(&pieces, 1_000).unwrap(), whole);
        }
    }
}
