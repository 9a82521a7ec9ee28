//! An incremental parser of event streams (WHATWG HTML, section 9.2): bytes in arbitrary pieces in, whole events out.
//! Every byte is copied at most twice and every buffer has a bound. Knows no JSON and no clock.

use crate::limits::{MAX_EVENT_BYTES, MAX_LINE_BYTES};

/// One event, borrowed from the parser until the callback returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event<'a> {
    /// The `event:` field; empty when the stream named none.
    pub name: &'a [u8],
    /// The `data:` lines, joined by line feeds.
    pub data: &'a [u8],
}

/// Why a stream cannot be read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SseError {
    /// A line went on past [`MAX_LINE_BYTES`].
    #[error("a line is longer than {MAX_LINE_BYTES} bytes")]
    LineTooLong,
    /// The data of one event went on past [`MAX_EVENT_BYTES`].
    #[error("an event is longer than {MAX_EVENT_BYTES} bytes")]
    EventTooLong,
}

/// The state between two pieces of a stream.
#[derive(Debug, Default)]
pub struct SseParser {
    /// The start of a line whose end has not come yet.
    line: Vec<u8>,
    name: Vec<u8>,
    data: Vec<u8>,
    has_data: bool,
    /// The last piece ended with a carriage return: a line feed that follows belongs to it.
    after_cr: bool,
    /// A line has been read: a byte order mark is only skipped before.
    started: bool,
}

impl SseParser {
    /// Takes the next piece of the stream and calls `on_event` for every event that it completes.
    /// An event without its closing blank line is never reported, as the standard demands.
    ///
    /// # Errors
    /// A line or an event beyond its bound; the parser must not be fed again.
    pub fn feed(
        &mut self,
        mut bytes: &[u8],
        on_event: &mut impl FnMut(Event<'_>),
    ) -> Result<(), SseError> {
        if self.after_cr && !bytes.is_empty() {
            self.after_cr = false;
            bytes = bytes.strip_prefix(b"\n").unwrap_or(bytes);
        }
        while let Some(end) = bytes.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
            self.end_line(&bytes[..end], on_event)?;
            let ended_by_cr = bytes[end] == b'\r';
            bytes = &bytes[end + 1..];
            if ended_by_cr {
                self.after_cr = bytes.is_empty();
                bytes = bytes.strip_prefix(b"\n").unwrap_or(bytes);
            }
        }
        self.keep(bytes)
    }

    /// Handles a line whose last part is `tail`; what came of it before lies in `self.line`.
    fn end_line(
        &mut self,
        tail: &[u8],
        on_event: &mut impl FnMut(Event<'_>),
    ) -> Result<(), SseError> {
        if self.line.is_empty() {
            if tail.len() > MAX_LINE_BYTES {
                return Err(SseError::LineTooLong);
            }
            return self.take_line(tail, on_event);
        }
        self.keep(tail)?;
        let mut line = std::mem::take(&mut self.line);
        let taken = self.take_line(&line, on_event);
        line.clear();
        self.line = line;
        taken
    }

    fn keep(&mut self, part: &[u8]) -> Result<(), SseError> {
        if self.line.len() + part.len() > MAX_LINE_BYTES {
            return Err(SseError::LineTooLong);
        }
        self.line.extend_from_slice(part);
        Ok(())
    }

    fn take_line(
        &mut self,
        mut line: &[u8],
        on_event: &mut impl FnMut(Event<'_>),
    ) -> Result<(), SseError> {
        if !std::mem::replace(&mut self.started, true) {
            line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
        }
        if line.is_empty() {
            self.dispatch(on_event);
            return Ok(());
        }
        let (field, value) = split_field(line);
        match field {
            b"data" => self.add_data(value),
            b"event" => {
                self.name.clear();
                self.name.extend_from_slice(value);
                Ok(())
            }
            // Comments have an empty field name; `id`, `retry` and unknown fields mean nothing to a request.
            _ => Ok(()),
        }
    }

    fn add_data(&mut self, value: &[u8]) -> Result<(), SseError> {
        if self.data.len() + value.len() + 1 > MAX_EVENT_BYTES {
            return Err(SseError::EventTooLong);
        }
        if std::mem::replace(&mut self.has_data, true) {
            self.data.push(b'\n');
        }
        self.data.extend_from_slice(value);
        Ok(())
    }

    fn dispatch(&mut self, on_event: &mut impl FnMut(Event<'_>)) {
        if std::mem::take(&mut self.has_data) {
            on_event(Event {
                name: &self.name,
                data: &self.data,
            });
        }
        self.name.clear();
        self.data.clear();
    }
}

/// Splits at the first colon; one space after it belongs to the separator.
fn split_field(line: &[u8]) -> (&[u8], &[u8]) {
    match line.iter().position(|&byte| byte == b':') {
        Some(colon) => {
            let value = &line[colon + 1..];
            (&line[..colon], value.strip_prefix(b" ").unwrap_or(value))
        }
        None => (line, b""),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Owned = (Vec<u8>, Vec<u8>);

    fn parse<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<Owned>, SseError> {
        let mut parser = SseParser::default();
        let mut events = Vec::new();
        for piece in pieces {
            parser.feed(piece, &mut |event| {
                events.push((event.name.to_vec(), event.data.to_vec()));
            })?;
        }
        Ok(events)
    }

    fn data(events: &[Owned]) -> Vec<&str> {
        events
            .iter()
            .map(|event| std::str::from_utf8(&event.1).unwrap())
            .collect()
    }

    #[test]
    fn reads_the_forms_of_the_standard() {
        let stream = b"\xef\xbb\xbf: hello\ndata: one\n\nevent: error\r\ndata:two\r\ndata\r\ndata:  x\r\n\r\n\
            id: 7\rdata: three\r\revent: lost name\n\ndata: cut off";
        let events = parse([&stream[..]]).unwrap();
        assert_eq!(data(&events), ["one", "two\n\n x", "three"]);
        assert_eq!(events[1].0, b"error");
        assert_eq!(events[2].0, b"", "a name belongs to one event only");
    }

    #[test]
    fn an_event_of_empty_data_is_an_event_and_a_blank_line_is_none() {
        assert_eq!(data(&parse([&b"\n\ndata:\n\n\n"[..]]).unwrap()), [""]);
    }

    #[test]
    fn lines_and_events_have_a_bound() {
        let long = vec![b'x'; MAX_LINE_BYTES + 1];
        assert_eq!(parse([&long[..]]), Err(SseError::LineTooLong));
        assert_eq!(parse(long.chunks(4_096)), Err(SseError::LineTooLong));
        let mut line = long;
        line.push(b'\n');
        assert_eq!(parse([&line[..]]), Err(SseError::LineTooLong));
        let event = b"data: 0123456789\n".repeat(MAX_EVENT_BYTES / 10);
        assert_eq!(parse([&event[..]]), Err(SseError::EventTooLong));
    }

    proptest! {
        /// However the network cuts a stream, the events are the same.
        #[test]
        fn splits_do_not_matter(
            parts in prop::collection::vec(
                prop::sample::select(vec![
                    "data: {\"a\":1}", "data:", "data", ":ping", "event: x", "\n", "\n\n", "\r", "\r\n", "\r\n\r\n",
                    "\u{feff}", "é", "zz:",
                ]),
                0..40,
            ),
            cuts in prop::collection::vec(0usize..200, 0..20),
        ) {
            let stream = parts.concat().into_bytes();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(stream.len())).collect();
            cuts.push(stream.len());
            cuts.sort_unstable();
            let mut start = 0;
            let pieces: Vec<&[u8]> = cuts.into_iter().map(|cut| {
                let piece = &stream[start..cut];
                start = cut;
                piece
            }).collect();
            prop_assert_eq!(parse(pieces), parse([&stream[..]]));
        }

        /// Nonsense is no reason to crash.
        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(parse(bytes.chunks(7)).is_ok());
        }
    }
}
