//! Stop strings across token edges: what may be said, what must wait, and where it ends.
//!
//! A stop string can begin in one token and end five tokens later, and no part of it may reach the client. So text that
//! could be the beginning of one is held back until it is decided. Each string runs its own Knuth-Morris-Pratt automaton
//! over the bytes: its state is how much of the text's end could still become it, which is what must be held back.

use std::sync::Arc;

/// Watches one choice's text. A clone that has seen nothing yet watches another one's, and shares the strings.
#[derive(Debug, Clone)]
pub(crate) struct StopStrings {
    automata: Vec<Automaton>,
    /// The end of the text so far that could be the beginning of a stop string.
    held: String,
}

#[derive(Debug, Clone)]
struct Automaton {
    string: Arc<[u8]>,
    /// For each prefix, the length of its longest proper suffix that is a prefix too.
    borders: Arc<[usize]>,
    /// Bytes of the string that the text ends with.
    state: usize,
}

impl StopStrings {
    /// Watches for `strings`, none of them empty.
    pub(crate) fn new(strings: &[String]) -> Self {
        Self {
            automata: strings
                .iter()
                .map(|s| Automaton::new(s.as_bytes()))
                .collect(),
            held: String::new(),
        }
    }

    /// Takes the next piece of text and appends to `out` what has become certain. True where a stop string is complete:
    /// `out` then ends right before it, and nothing may be pushed any more.
    ///
    /// Of several matches the one that ends first counts, and of those the longest: so the result does not depend on how
    /// the text was cut into pieces.
    pub(crate) fn push(&mut self, text: &str, out: &mut String) -> bool {
        if self.automata.is_empty() {
            out.push_str(text);
            return false;
        }
        for (index, byte) in text.bytes().enumerate() {
            if let Some(matched) = self.step(byte) {
                self.held.push_str(&text[..=index]);
                self.emit_all_but(matched, out);
                self.held.clear();
                return true;
            }
        }
        self.held.push_str(text);
        let undecided = self.automata.iter().map(|a| a.state).max();
        self.emit_all_but(undecided.unwrap_or(0), out);
        false
    }

    /// Appends what was held back: the text ended without completing a stop string.
    pub(crate) fn finish(&mut self, out: &mut String) {
        out.push_str(&self.held);
        self.held.clear();
    }

    /// Feeds one byte to all automata; the length of the longest string that it completes.
    fn step(&mut self, byte: u8) -> Option<usize> {
        let completed = self.automata.iter_mut().filter_map(|a| a.step(byte));
        completed.max()
    }

    /// Moves `held` to `out` but for its last `bytes` bytes. They begin like a stop string, so at a character's edge.
    fn emit_all_but(&mut self, bytes: usize, out: &mut String) {
        out.extend(self.held.drain(..self.held.len() - bytes));
    }
}

impl Automaton {
    fn new(string: &[u8]) -> Self {
        let mut borders = vec![0; string.len()];
        let mut border = 0;
        for index in 1..string.len() {
            while border > 0 && string[index] != string[border] {
                border = borders[border - 1];
            }
            border += usize::from(string[index] == string[border]);
            borders[index] = border;
        }
        Self {
            string: string.into(),
            borders: borders.into(),
            state: 0,
        }
    }

    /// Feeds one byte; the string's length where it is complete.
    fn step(&mut self, byte: u8) -> Option<usize> {
        while self.state > 0 && self.string[self.state] != byte {
            self.state = self.borders[self.state - 1];
        }
        self.state += usize::from(self.string[self.state] == byte);
        (self.state == self.string.len()).then_some(self.state)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What the whole text says: everything before the match that ends first (of those, the longest), and whether there
    /// is one.
    fn oracle(text: &str, stops: &[String]) -> (String, bool) {
        for end in 1..=text.len() {
            let ends_here = stops
                .iter()
                .filter(|s| text.as_bytes()[..end].ends_with(s.as_bytes()));
            if let Some(length) = ends_here.map(String::len).max() {
                return (text[..end - length].to_owned(), true);
            }
        }
        (text.to_owned(), false)
    }

    /// Pushes the pieces; after each one, what is held back must be needed: some stop string begins with it.
    fn streamed(pieces: &[String], stops: &[String]) -> (String, bool) {
        let mut watch = StopStrings::new(stops);
        let mut out = String::new();
        for piece in pieces {
            if watch.push(piece, &mut out) {
                return (out, true);
            }
            let held = &watch.held;
            assert!(held.is_empty() || stops.iter().any(|s| s.starts_with(held.as_str())));
        }
        watch.finish(&mut out);
        (out, false)
    }

    proptest! {
        #[test]
        fn any_cut_of_the_text_gives_what_the_whole_text_gives(
            pieces in prop::collection::vec("[abé\u{1F600}]{0,4}", 0..12),
            stops in prop::collection::vec("[abé\u{1F600}]{1,5}", 0..4),
        ) {
            prop_assert_eq!(streamed(&pieces, &stops), oracle(&pieces.concat(), &stops));
        }
    }

    #[test]
    fn a_match_over_three_tokens_is_not_emitted() {
        let mut watch = StopStrings::new(&["<end>".to_owned()]);
        let mut out = String::new();
        assert!(!watch.push("Hi <e", &mut out));
        assert_eq!(out, "Hi ");
        assert!(!watch.push("n", &mut out));
        assert!(watch.push("d> and more", &mut out));
        assert_eq!(out, "Hi ");
    }

    #[test]
    fn text_that_only_began_like_a_stop_string_is_emitted() {
        let mut watch = StopStrings::new(&["<end>".to_owned()]);
        let mut out = String::new();
        assert!(!watch.push("<en", &mut out));
        assert!(!watch.push("<en", &mut out));
        assert_eq!(out, "<en");
        watch.finish(&mut out);
        assert_eq!(out, "<en<en");
    }
}
