//! Checks the text of a simulated model byte for byte, so that a lost, doubled or reordered token is found wherever the
//! gateway between lost, doubled or reordered it. An implementation of its own of the published formula: token `i` of
//! choice `c` is 16 hex digits of `s(s(s(seed) + c) + i)` and a space, `s` being one step of SplitMix64.

use crate::rng::{GOLDEN_GAMMA, mix};

/// Bytes of one token: 16 hex digits and a space.
const TOKEN_BYTES: u64 = 17;

/// Follows the text of one choice as it arrives; needs no memory of what came.
#[derive(Debug, Clone)]
pub struct TokenCheck {
    of_choice: u64,
    bytes_seen: u64,
    wrong: bool,
}

impl TokenCheck {
    /// A check of the text that `seed` leads to for `choice`.
    pub fn new(seed: u64, choice: u64) -> Self {
        Self {
            of_choice: step(step(seed).wrapping_add(choice)),
            bytes_seen: 0,
            wrong: false,
        }
    }

    /// Compares the next piece of text with what must come.
    pub fn follow(&mut self, text: &str) {
        for &byte in text.as_bytes() {
            let token = token_text(self.of_choice, self.bytes_seen / TOKEN_BYTES);
            self.wrong |= token[(self.bytes_seen % TOKEN_BYTES) as usize] != byte;
            self.bytes_seen += 1;
        }
    }

    /// Whether every byte so far was right and exactly `tokens` whole tokens came.
    pub fn is_whole(&self, tokens: u64) -> bool {
        !self.wrong && Some(self.bytes_seen) == tokens.checked_mul(TOKEN_BYTES)
    }
}

/// Token `index` of `choice`, as a simulated model says it.
pub fn text(seed: u64, choice: u64, index: u64) -> String {
    let of_choice = step(step(seed).wrapping_add(choice));
    token_text(of_choice, index)
        .map(char::from)
        .iter()
        .collect()
}

fn step(x: u64) -> u64 {
    mix(x.wrapping_add(GOLDEN_GAMMA))
}

fn token_text(of_choice: u64, index: u64) -> [u8; TOKEN_BYTES as usize] {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let bits = step(of_choice.wrapping_add(index));
    std::array::from_fn(|at| match at {
        16 => b' ',
        _ => HEX[(bits >> (60 - 4 * at)) as usize & 0xf],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first tokens of seed 0, choice 0, worked out apart from this code (Python integers).
    const SEED_0: &str = include_str!("../../tests/data/sim_tokens_seed0.txt");

    fn check(pieces: &[&str], tokens: u64) -> bool {
        let mut check = TokenCheck::new(0, 0);
        pieces.iter().for_each(|piece| check.follow(piece));
        check.is_whole(tokens)
    }

    #[test]
    fn the_right_text_passes_however_it_is_cut() {
        assert!(check(&[SEED_0], 3));
        let (head, tail) = SEED_0.split_at(20);
        assert!(check(&[head, "", tail], 3));
    }

    #[test]
    fn lost_doubled_and_reordered_tokens_are_found() {
        let (a, b, c) = (&SEED_0[..17], &SEED_0[17..34], &SEED_0[34..]);
        for pieces in [
            &[a, c][..],
            &[a, b],
            &[a, a, b, c],
            &[b, a, c],
            &[a, b, &c[..16]],
        ] {
            assert!(!check(pieces, 3), "{pieces:?}");
        }
        assert!(!check(&[SEED_0, " "], 3));
        assert!(!check(&[SEED_0], u64::MAX));
    }
}
