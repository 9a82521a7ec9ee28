//! SentencePiece by scores: the two neighbours whose union is the best token are merged until no union is a token.
//!
//! The rule and its order are llama.cpp's for `tokenizer.ggml.model = "llama"`: by score, and of equal scores the leftmost.
//! A union of which one half has merged elsewhere in the meantime is dropped. No merges are needed, so files that have only
//! scores do. Characters without a token become the tokens of their bytes.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};

use super::vocabulary::{Kind, Vocabulary};

/// What stands for a space inside of tokens.
pub(super) const SPACE: &str = "\u{2581}";

/// The tokens and scores of one vocabulary.
#[derive(Debug)]
pub(super) struct SentencePiece {
    tokens: HashMap<String, Token>,
    /// Token of each byte, for characters that have none; the unknown token where the vocabulary lacks it.
    bytes: [Option<u32>; 256],
    /// Whether text at the start, and after a control token, gets a space before it.
    space_prefix: bool,
}

#[derive(Debug, Clone, Copy)]
struct Token {
    id: u32,
    score: f32,
}

impl SentencePiece {
    pub(super) fn new(vocabulary: &Vocabulary, space_prefix: bool) -> Self {
        let score = |id: u32| vocabulary.scores.get(id as usize).copied().unwrap_or(0.0);
        // Control tokens and bytes are never made of text, or users could write them.
        let tokens = vocabulary
            .tokens()
            .filter(|(_, _, kind)| matches!(kind, Kind::Normal | Kind::UserDefined | Kind::Unused))
            .map(|(id, text, _)| {
                (
                    text.to_owned(),
                    Token {
                        id,
                        score: score(id),
                    },
                )
            })
            .collect();
        let mut bytes = [vocabulary.unknown; 256];
        for (id, text, kind) in vocabulary.tokens() {
            if let Some(byte) = (kind == Kind::Byte).then(|| byte_of(text)).flatten() {
                bytes[usize::from(byte)] = Some(id);
            }
        }
        Self {
            tokens,
            bytes,
            space_prefix,
        }
    }

    /// Appends the ids of `text`. `leads` says whether it is the first of its text or follows a control token.
    pub(super) fn encode(&self, text: &str, leads: bool, ids: &mut Vec<u32>) {
        let mut escaped = String::with_capacity(text.len() + SPACE.len());
        if self.space_prefix && leads {
            escaped.push_str(SPACE);
        }
        for part in text.split_inclusive(' ') {
            match part.strip_suffix(' ') {
                Some(before) => escaped.extend([before, SPACE]),
                None => escaped.push_str(part),
            }
        }
        let mut merging = Merging::new(self, &escaped);
        merging.run();
        for piece in merging.pieces() {
            match self.tokens.get(piece) {
                Some(token) => ids.push(token.id),
                None => ids.extend(
                    piece
                        .bytes()
                        .filter_map(|byte| self.bytes[usize::from(byte)]),
                ),
            }
        }
    }
}

/// The byte that `<0x0A>` stands for.
pub(super) fn byte_of(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    u8::from_str_radix(digits, 16).ok()
}

/// One text on its way from characters to tokens.
struct Merging<'a> {
    tokens: &'a HashMap<String, Token>,
    text: &'a str,
    symbols: Vec<Symbol>,
    unions: BinaryHeap<Union>,
}

/// A piece of the text, in a list from left to right. One that was merged into its left neighbour is empty.
#[derive(Debug, Clone, Copy)]
struct Symbol {
    start: u32,
    end: u32,
    left: u32,
    right: u32,
}

/// No neighbour.
const NONE: u32 = u32::MAX;

/// Two neighbours that could become one token.
#[derive(Debug, PartialEq)]
struct Union {
    score: f32,
    left: u32,
    right: u32,
    bytes: u32,
}

impl Eq for Union {}

impl Ord for Union {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_score = self.score.total_cmp(&other.score);
        by_score.then(other.left.cmp(&self.left))
    }
}

impl PartialOrd for Union {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<'a> Merging<'a> {
    /// One symbol a character. Texts are far below 4 GiB, so 32 bits do.
    fn new(sentence_piece: &'a SentencePiece, text: &'a str) -> Self {
        let mut symbols: Vec<Symbol> = Vec::with_capacity(text.len());
        for (start, char) in text.char_indices() {
            let at = symbols.len() as u32;
            symbols.push(Symbol {
                start: start as u32,
                end: (start + char.len_utf8()) as u32,
                left: at.wrapping_sub(1),
                right: at + 1,
            });
        }
        if let Some(last) = symbols.last_mut() {
            last.right = NONE;
        }
        Self {
            tokens: &sentence_piece.tokens,
            text,
            symbols,
            unions: BinaryHeap::new(),
        }
    }

    fn run(&mut self) {
        for left in 1..self.symbols.len() as u32 {
            self.consider(left - 1, left);
        }
        while let Some(union) = self.unions.pop() {
            let (left, right) = (self.symbol(union.left), self.symbol(union.right));
            let (left_bytes, right_bytes) = (left.end - left.start, right.end - right.start);
            let stale = left_bytes == 0 || right_bytes == 0;
            if stale || left_bytes + right_bytes != union.bytes {
                continue;
            }
            self.symbols[union.left as usize].end = right.end;
            self.symbols[union.left as usize].right = right.right;
            self.symbols[union.right as usize].end = right.start;
            if right.right != NONE {
                self.symbols[right.right as usize].left = union.left;
            }
            self.consider(left.left, union.left);
            self.consider(union.left, right.right);
        }
    }

    /// Queues two neighbours where their union is a token.
    fn consider(&mut self, left: u32, right: u32) {
        if left == NONE || right == NONE {
            return;
        }
        let (start, end) = (self.symbol(left).start, self.symbol(right).end);
        let Some(token) = self.tokens.get(&self.text[start as usize..end as usize]) else {
            return;
        };
        self.unions.push(Union {
            score: token.score,
            left,
            right,
            bytes: end - start,
        });
    }

    fn symbol(&self, at: u32) -> Symbol {
        self.symbols[at as usize]
    }

    /// What is left, from left to right.
    fn pieces(&self) -> impl Iterator<Item = &'a str> {
        let whole = self
            .symbols
            .iter()
            .filter(|symbol| symbol.end > symbol.start);
        whole.map(|symbol| &self.text[symbol.start as usize..symbol.end as usize])
    }
}
