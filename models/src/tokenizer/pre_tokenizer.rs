//! How text is cut into words before BPE: by regular expressions that a file names in `tokenizer.ggml.pre`.
//!
//! The expressions are those the models were trained with (GPT-2's `encoder.py`, Llama 3's and Qwen 2's tokenizers); the
//! names and which step follows which are llama.cpp's.

use tokenizers::models::bpe::Vocab;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::tokenizer::SplitDelimiterBehavior;

use super::error::TokenizerError;

const GPT_2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA_3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN_2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const EVERY_DIGIT: &str = r"\p{N}";

/// A known rule.
struct Rule {
    names: &'static [&'static str],
    /// Each cuts the pieces that the one before left.
    cuts: &'static [&'static str],
    /// Whether a word that is a token is taken whole, whatever the merges say.
    whole_words_first: bool,
    /// Whether a begin-of-sequence token is set where the file does not say.
    adds_bos: bool,
}

const RULES: &[Rule] = &[
    Rule {
        names: &["smollm", "starcoder"],
        cuts: &[EVERY_DIGIT, GPT_2],
        whole_words_first: false,
        adds_bos: false,
    },
    Rule {
        names: &["gpt-2"],
        cuts: &[GPT_2],
        whole_words_first: false,
        adds_bos: false,
    },
    Rule {
        names: &["default"],
        cuts: &[r"[\p{P}\$\+<=>\^~\|]+", GPT_2, r"\p{N}+", "[0-9][0-9][0-9]"],
        whole_words_first: false,
        adds_bos: false,
    },
    Rule {
        names: &["llama-bpe", "llama3", "llama-v3"],
        cuts: &[LLAMA_3],
        whole_words_first: true,
        adds_bos: true,
    },
    Rule {
        names: &["qwen2", "deepseek-r1-qwen"],
        cuts: &[QWEN_2],
        whole_words_first: false,
        adds_bos: false,
    },
];

/// A pre-tokenizer, and what goes with it.
pub(super) struct PreTokenizer {
    pub(super) steps: Sequence,
    pub(super) whole_words_first: bool,
}

/// The pre-tokenizer called `name`, for a vocabulary of `tokens`.
///
/// # Errors
/// [`TokenizerError::PreTokenizer`] where the name is not known.
pub(super) fn build(name: &str, tokens: &Vocab) -> Result<PreTokenizer, TokenizerError> {
    let rule = rule(name).ok_or_else(|| {
        let supported: Vec<&str> = RULES.iter().flat_map(|rule| rule.names).copied().collect();
        TokenizerError::PreTokenizer {
            name: name.to_owned(),
            supported: supported.join(", "),
        }
    })?;
    let mut steps: Vec<PreTokenizerWrapper> = Vec::new();
    for cut in rule.cuts {
        steps.push(split(cut, SplitDelimiterBehavior::Isolated)?);
    }
    steps.push(ByteLevel::new(false, false, false).into());
    if let Some(missing) = bytes_without_token(tokens) {
        steps.push(split(&missing, SplitDelimiterBehavior::Removed)?);
    }
    Ok(PreTokenizer {
        steps: Sequence::new(steps),
        whole_words_first: rule.whole_words_first,
    })
}

/// Whether the rule sets a begin-of-sequence token where the file does not say.
pub(super) fn adds_bos(name: &str) -> bool {
    rule(name).is_some_and(|rule| rule.adds_bos)
}

fn rule(name: &str) -> Option<&'static Rule> {
    RULES.iter().find(|rule| rule.names.contains(&name))
}

fn split(
    pattern: &str,
    behaviour: SplitDelimiterBehavior,
) -> Result<PreTokenizerWrapper, TokenizerError> {
    Split::new(SplitPattern::Regex(pattern.to_owned()), behaviour, false)
        .map(Into::into)
        .map_err(|error| TokenizerError::Broken(error.to_string()))
}

/// A set of the byte-level characters that are no tokens, which some vocabularies lack (SmolLM2: 0x04 and twenty more).
/// Text holding them loses them, and what stood beside them must not be merged over the gap.
fn bytes_without_token(tokens: &Vocab) -> Option<String> {
    let is_missing = |char: &char| !tokens.contains_key(char.encode_utf8(&mut [0; 4]) as &str);
    let missing: Vec<char> = ByteLevel::alphabet()
        .into_iter()
        .filter(is_missing)
        .collect();
    let escaped = missing
        .iter()
        .map(|char| format!(r"\x{{{:x}}}", u32::from(*char)));
    (!missing.is_empty()).then(|| format!("[{}]", escaped.collect::<String>()))
}
