//! A model's tokens as llguidance wants them: a trie of their bytes, and its tokenizer for text that must come.

use std::sync::Arc;

use hansa_models::text::{SpecialTokens, TextCodec};
use llguidance::toktrie::{TokEnv, TokRxInfo, TokTrie, TokenId, TokenizerEnv};

use super::GrammarError;
use crate::limits::{FORCED_TOKENISED_BYTES_MAX, GRAMMAR_VOCABULARY_MAX};

/// Tokens of one model.
pub(super) struct Tokens {
    text: Arc<dyn TextCodec>,
    trie: TokTrie,
    /// What the tokenizer puts before every text.
    prefix: Vec<TokenId>,
    /// Whether every byte is a token: what must come can then be cut into tokens wherever it ends.
    has_every_byte: bool,
}

impl Tokens {
    /// The tokens below `vocab_size`; control tokens and ids that the tokenizer does not know have no bytes, so that no
    /// grammar allows them.
    pub(super) fn new(text: Arc<dyn TextCodec>, vocab_size: u32) -> Result<Self, GrammarError> {
        let ends = text.end_of_generation();
        let Some(&end) = ends.first() else {
            return Err(GrammarError::Unsupported(
                "none of its tokens ends a generation",
            ));
        };
        if vocab_size > GRAMMAR_VOCABULARY_MAX {
            return Err(GrammarError::Unsupported("it has too many tokens"));
        }
        let is_end = |id: &u32| ends.contains(id);
        let bytes_of = |id: u32| {
            // What ends a generation is no text, whatever it looks like.
            let bytes = (!is_end(&id)).then(|| text.piece(0, 0, id).into_owned());
            bytes.unwrap_or_default()
        };
        let words: Vec<Vec<u8>> = (0..vocab_size).map(bytes_of).collect();
        let trie = TokTrie::from(&TokRxInfo::new(vocab_size, end), &words);
        let has_every_byte = (0..=u8::MAX).all(|byte| {
            // The one that marks special tokens is in no text.
            byte == TokTrie::SPECIAL_TOKEN_MARKER || trie.token_id(&[byte]).is_some()
        });
        let prefix = text.encode("", SpecialTokens::AsText).unwrap_or_default();
        Ok(Self {
            trie: trie.with_eos_tokens(ends),
            prefix,
            has_every_byte,
            text,
        })
    }

    /// Whether tokens that must come can be named.
    pub(super) fn can_force(&self) -> bool {
        self.has_every_byte
    }

    pub(super) fn into_env(self) -> TokEnv {
        Arc::new(self)
    }

    fn tokenize(&self, text: &str) -> Vec<TokenId> {
        let ids = self.text.encode(text, SpecialTokens::AsText);
        let ids = ids.unwrap_or_default();
        let ids = ids.strip_prefix(&*self.prefix).unwrap_or(&ids);
        // A tokenizer may add or drop a space; forced text is forced to the byte.
        if self.trie.decode_raw(ids) == text.as_bytes() {
            ids.to_vec()
        } else {
            self.trie.greedy_tokenize(text.as_bytes())
        }
    }
}

impl TokenizerEnv for Tokens {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    /// Of a long text only the beginning, which is all that is taken at a time; its last token might be longer.
    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        let beginning = &bytes[..bytes.len().min(FORCED_TOKENISED_BYTES_MAX)];
        let tokenize = |text: &str| self.tokenize(text);
        let mut ids = self.trie.tokenize_with_greedy_fallback(beginning, tokenize);
        if beginning.len() < bytes.len() {
            ids.pop();
        }
        ids
    }

    fn tokenize_is_canonical(&self) -> bool {
        self.has_every_byte
    }
}
