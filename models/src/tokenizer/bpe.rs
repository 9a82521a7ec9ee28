//! Byte-level BPE: text is cut into words, each is spelled in the byte-level alphabet, and merged into tokens.
//!
//! The merging is that of the crate `tokenizers`. Its own pipeline around it is not used: it holds the whole text in
//! pieces with their alignments, some 100 bytes for every byte of a prompt; here one word is in hand at a time.

use tokenizers::Model;
use tokenizers::models::bpe::BPE;

use super::alphabet::Alphabet;
use super::error::TokenizerError;
use super::pre_tokenizer::PreTokenizer;
use super::vocabulary::Vocabulary;
use crate::text::TextError;

/// The BPE of one vocabulary.
#[derive(Debug)]
pub(super) struct ByteLevelBpe {
    pre_tokenizer: PreTokenizer,
    model: BPE,
    /// The character that stands for each byte; `None` where the vocabulary lacks it (SmolLM2: 0x04 and twenty more).
    char_of: [Option<char>; 256],
}

impl ByteLevelBpe {
    /// `pre` names the rule that cuts text into words.
    pub(super) fn new(vocabulary: &Vocabulary, pre: &str) -> Result<Self, TokenizerError> {
        let pre_tokenizer = PreTokenizer::named(pre)?;
        let (tokens, merges) = vocabulary.bpe_parts();
        let alphabet = Alphabet::new();
        let char_of = std::array::from_fn(|byte| {
            let char = alphabet.char_of(u8::try_from(byte).ok()?);
            tokens
                .contains_key(char.encode_utf8(&mut [0; 4]) as &str)
                .then_some(char)
        });
        let model = BPE::builder()
            .ignore_merges(pre_tokenizer.takes_words_whole())
            .vocab_and_merges(tokens, merges)
            .build()
            .map_err(|error| TokenizerError::Broken(error.to_string()))?;
        Ok(Self {
            pre_tokenizer,
            model,
            char_of,
        })
    }

    /// Appends the ids of `text`.
    pub(super) fn encode(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), TextError> {
        let mut spelled = String::new();
        self.pre_tokenizer.for_each_word(text, &mut |word| {
            spelled.clear();
            for byte in word.bytes() {
                match self.char_of[usize::from(byte)] {
                    Some(char) => spelled.push(char),
                    // The byte is lost, and what stands beside it must not be merged over the gap.
                    None => self.merge(&mut spelled, ids)?,
                }
            }
            self.merge(&mut spelled, ids)
        })
    }

    fn merge(&self, spelled: &mut String, ids: &mut Vec<u32>) -> Result<(), TextError> {
        let tokens = self
            .model
            .tokenize(spelled)
            .map_err(|_| TextError::Tokenizer)?;
        ids.extend(tokens.iter().map(|token| token.id));
        spelled.clear();
        Ok(())
    }
}
