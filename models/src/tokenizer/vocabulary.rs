//! What the keys `tokenizer.ggml.*` of a GGUF file say.

use tokenizers::models::bpe::{Merges, Vocab};

use super::end_of_generation;
use super::error::TokenizerError;
use crate::limits;
use crate::weights::gguf::GgufFile;

/// The vocabulary as the file has it; a token's id is its index.
#[derive(Debug)]
pub(super) struct Vocabulary {
    pub(super) texts: Vec<String>,
    pub(super) kinds: Vec<Kind>,
    /// How good each token is; SentencePiece alone.
    pub(super) scores: Vec<f32>,
    /// Byte-level BPE alone.
    pub(super) merges: Vec<String>,
    pub(super) algorithm: Algorithm,
    pub(super) bos: Option<u32>,
    pub(super) eos: Option<u32>,
    pub(super) eot: Option<u32>,
    pub(super) eom: Option<u32>,
    pub(super) unknown: Option<u32>,
    pub(super) add_bos: bool,
}

/// How text becomes tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Algorithm {
    /// `gpt2`: byte-level BPE.
    ByteLevelBpe {
        /// Name of the rule that cuts text into words.
        pre: String,
    },
    /// `llama`: SentencePiece by scores.
    SentencePiece {
        /// Whether text gets a space before it.
        space_prefix: bool,
    },
}

/// What a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Text in the byte-level alphabet.
    Normal,
    /// A mark for the model; never text.
    Control,
    /// Text that always becomes this token, written as it is.
    UserDefined,
    /// A byte of a character that has no token; SentencePiece alone.
    Byte,
    /// Takes a place and means nothing.
    Unused,
}

impl Kind {
    /// Values of GGUF's `tokenizer.ggml.token_type`. An unknown-token mark behaves like a control token.
    fn of(token_type: i32) -> Self {
        match token_type {
            1 => Self::Normal,
            2 | 3 => Self::Control,
            4 => Self::UserDefined,
            6 => Self::Byte,
            _ => Self::Unused,
        }
    }
}

impl Vocabulary {
    pub(super) fn read(file: &GgufFile) -> Result<Self, TokenizerError> {
        let algorithm = Algorithm::read(file)?;
        let texts = file.strings("tokenizer.ggml.tokens")?.to_vec();
        if texts.is_empty() || texts.len() > limits::VOCAB_TOKENS_MAX {
            let reason = format!(
                "{} tokens, not 1 to {}",
                texts.len(),
                limits::VOCAB_TOKENS_MAX
            );
            return Err(TokenizerError::Broken(reason));
        }
        let kinds = kinds(file, &texts)?;
        let (scores, merges) = match &algorithm {
            Algorithm::ByteLevelBpe { .. } => {
                (Vec::new(), file.strings("tokenizer.ggml.merges")?.to_vec())
            }
            Algorithm::SentencePiece { .. } => {
                (file.f32s("tokenizer.ggml.scores")?.to_vec(), Vec::new())
            }
        };
        let vocabulary = Self {
            kinds,
            scores,
            merges,
            bos: file.opt_u32("tokenizer.ggml.bos_token_id")?,
            eos: file.opt_u32("tokenizer.ggml.eos_token_id")?,
            eot: file.opt_u32("tokenizer.ggml.eot_token_id")?,
            eom: file.opt_u32("tokenizer.ggml.eom_token_id")?,
            unknown: file.opt_u32("tokenizer.ggml.unknown_token_id")?,
            add_bos: file
                .opt_bool("tokenizer.ggml.add_bos_token")?
                .unwrap_or_else(|| algorithm.adds_bos()),
            algorithm,
            texts,
        };
        vocabulary.check()?;
        Ok(vocabulary)
    }

    pub(super) fn text(&self, id: Option<u32>) -> Option<&str> {
        self.texts.get(id? as usize).map(String::as_str)
    }

    /// Ids, texts and kinds in order.
    pub(super) fn tokens(&self) -> impl Iterator<Item = (u32, &str, Kind)> {
        let tokens = self.texts.iter().zip(&self.kinds);
        (0..)
            .zip(tokens)
            .map(|(id, (text, kind))| (id, text.as_str(), *kind))
    }

    /// The tokens that BPE may make, and the merges among them in order of rank.
    ///
    /// A merge that needs a token outside of these can never happen; the builder would refuse it.
    pub(super) fn bpe_parts(&self) -> (Vocab, Merges) {
        let makeable = |kind| matches!(kind, Kind::Normal | Kind::UserDefined);
        let tokens: Vocab = self
            .tokens()
            .filter(|(_, _, kind)| makeable(*kind))
            .map(|(id, text, _)| (text.to_owned(), id))
            .collect();
        let merges = self
            .merges
            .iter()
            .filter_map(|merge| split_merge(merge))
            .filter(|(left, right)| {
                let whole = [*left, *right].concat();
                [*left, *right, &whole]
                    .iter()
                    .all(|text| tokens.contains_key(*text))
            })
            .map(|(left, right)| (left.to_owned(), right.to_owned()))
            .collect();
        (tokens, merges)
    }

    fn check(&self) -> Result<(), TokenizerError> {
        let named = [
            ("bos", self.bos),
            ("eos", self.eos),
            ("eot", self.eot),
            ("eom", self.eom),
            ("unknown", self.unknown),
        ];
        for (name, id) in named {
            if id.is_some() && self.text(id).is_none() {
                let reason = format!("its {name} token is outside of the vocabulary");
                return Err(TokenizerError::Broken(reason));
            }
        }
        if self.add_bos && self.bos.is_none() {
            let reason = "it adds a bos token and names none".to_owned();
            return Err(TokenizerError::Broken(reason));
        }
        let scored = matches!(self.algorithm, Algorithm::SentencePiece { .. });
        if scored && self.scores.len() != self.texts.len() {
            let (scores, tokens) = (self.scores.len(), self.texts.len());
            let reason = format!("{scores} scores for {tokens} tokens");
            return Err(TokenizerError::Broken(reason));
        }
        Ok(())
    }
}

impl Algorithm {
    fn read(file: &GgufFile) -> Result<Self, TokenizerError> {
        match file.str("tokenizer.ggml.model")? {
            "gpt2" => Ok(Self::ByteLevelBpe {
                pre: file
                    .opt_str("tokenizer.ggml.pre")?
                    .unwrap_or("(none)")
                    .to_owned(),
            }),
            "llama" => Ok(Self::SentencePiece {
                space_prefix: file
                    .opt_bool("tokenizer.ggml.add_space_prefix")?
                    .unwrap_or(true),
            }),
            other => Err(TokenizerError::Model(other.to_owned())),
        }
    }

    /// Whether a begin-of-sequence token is set where the file does not say.
    fn adds_bos(&self) -> bool {
        match self {
            Self::ByteLevelBpe { pre } => super::pre_tokenizer::adds_bos(pre),
            Self::SentencePiece { .. } => true,
        }
    }
}

/// The kinds in the file. A token that reads like the end of a turn is a control token even where the file forgot to
/// say so, as in llama.cpp: otherwise users could write it.
fn kinds(file: &GgufFile, texts: &[String]) -> Result<Vec<Kind>, TokenizerError> {
    let mut kinds = match file.opt_i32s("tokenizer.ggml.token_type")? {
        Some(types) => types.iter().map(|kind| Kind::of(*kind)).collect(),
        None => vec![Kind::Normal; texts.len()],
    };
    if kinds.len() != texts.len() {
        let reason = format!("{} token types for {} tokens", kinds.len(), texts.len());
        return Err(TokenizerError::Broken(reason));
    }
    for (kind, text) in kinds.iter_mut().zip(texts) {
        if end_of_generation::is_end(text) {
            *kind = Kind::Control;
        }
    }
    Ok(kinds)
}

/// `left right`; the left half has at least one character, which may be anything.
fn split_merge(merge: &str) -> Option<(&str, &str)> {
    let first = merge.chars().next()?.len_utf8();
    let space = first + merge[first..].find(' ')?;
    Some((&merge[..space], &merge[space + 1..]))
}
