//! Where a JSON object ends, found byte by byte in text that comes in pieces.
//!
//! Brackets in strings do not count. Whether it is JSON at all is for a parser to say.

/// How far an object has come.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Extent {
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl Extent {
    /// Goes on with `bytes`, and says after how many of them the object ends, if it does. The first byte of all is its
    /// brace.
    pub(super) fn end(&mut self, bytes: &[u8]) -> Option<usize> {
        bytes
            .iter()
            .position(|byte| self.ends_with(*byte))
            .map(|at| at + 1)
    }

    fn ends_with(&mut self, byte: u8) -> bool {
        if self.in_string {
            self.in_string = self.escaped || byte != b'"';
            self.escaped = byte == b'\\' && !self.escaped;
            return false;
        }
        match byte {
            b'"' => self.in_string = true,
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
        self.depth == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets_and_quotes_in_strings_do_not_count() {
        let object = r#"{"a": "}\"}\\", "b": [{}]}"#;
        let text = format!("{object} }}");
        for cut in 0..object.len() {
            let (before, after) = text.as_bytes().split_at(cut);
            let mut extent = Extent::default();
            assert_eq!(extent.end(before), None);
            assert_eq!(extent.end(after), Some(object.len() - cut));
        }
    }
}
