//! Cuts a text at the tokens that are written out in it.

use aho_corasick::{AhoCorasick, MatchKind};

use super::error::TokenizerError;
use super::vocabulary::{Kind, Vocabulary};
use crate::limits;
use crate::text::SpecialTokens;

/// A piece of a text.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fragment<'a> {
    /// Plain text, for BPE.
    Text(&'a str),
    /// A token that was spelled out.
    Token(u32),
}

/// Finds spelled-out tokens in one pass, the leftmost first and of those the longest.
#[derive(Debug)]
pub(super) struct SpecialSplitter {
    /// Control and user-defined tokens, for text written by a template.
    all: Finder,
    /// User-defined tokens alone, for text written by a user: those are text, only spelled as one token.
    user_defined: Finder,
}

#[derive(Debug)]
struct Finder {
    automaton: AhoCorasick,
    ids: Vec<u32>,
}

impl SpecialSplitter {
    pub(super) fn new(vocabulary: &Vocabulary) -> Result<Self, TokenizerError> {
        Ok(Self {
            all: Finder::new(vocabulary, &[Kind::Control, Kind::UserDefined])?,
            user_defined: Finder::new(vocabulary, &[Kind::UserDefined])?,
        })
    }

    /// The fragments of `text`; put together again they are `text`.
    pub(super) fn split<'a>(&self, text: &'a str, special: SpecialTokens) -> Vec<Fragment<'a>> {
        let finder = match special {
            SpecialTokens::Parse => &self.all,
            SpecialTokens::AsText => &self.user_defined,
        };
        let mut fragments = Vec::new();
        let mut plain_from = 0;
        for found in finder.automaton.find_iter(text) {
            if found.start() > plain_from {
                fragments.push(Fragment::Text(&text[plain_from..found.start()]));
            }
            fragments.push(Fragment::Token(finder.ids[found.pattern().as_usize()]));
            plain_from = found.end();
        }
        if plain_from < text.len() {
            fragments.push(Fragment::Text(&text[plain_from..]));
        }
        fragments
    }
}

impl Finder {
    fn new(vocabulary: &Vocabulary, kinds: &[Kind]) -> Result<Self, TokenizerError> {
        let is_wanted = |text: &str, kind| kinds.contains(&kind) && !text.is_empty();
        let (ids, texts): (Vec<u32>, Vec<&str>) = vocabulary
            .tokens()
            .filter(|(_, text, kind)| is_wanted(text, *kind))
            .map(|(id, text, _)| (id, text))
            .unzip();
        if ids.len() > limits::SPECIAL_TOKENS_MAX {
            let reason = format!(
                "{} control tokens, more than {}",
                ids.len(),
                limits::SPECIAL_TOKENS_MAX
            );
            return Err(TokenizerError::Broken(reason));
        }
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(texts)
            .map_err(|error| TokenizerError::Broken(error.to_string()))?;
        Ok(Self { automaton, ids })
    }
}
