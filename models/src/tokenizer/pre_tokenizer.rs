//! How text is cut into words before BPE: by regular expressions that a file names in `tokenizer.ggml.pre`.
//!
//! The expressions are those the models were trained with (GPT-2's `encoder.py`, Llama 3's and Qwen 2's tokenizers); the
//! names and which step follows which are llama.cpp's.

use tokenizers::utils::SysRegex;

use super::error::TokenizerError;
use crate::text::TextError;

const GPT_2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA_3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN_2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Mistral Nemo's, with llama.cpp's reading of upper and lower case: letters that are not `a` to `z`, or not `A` to `Z`.
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?((?=[\p{L}])([^a-z]))*((?=[\p{L}])([^A-Z]))+|[^\r\n\p{L}\p{N}]?((?=[\p{L}])([^a-z]))+((?=[\p{L}])([^A-Z]))*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const EVERY_DIGIT: &str = r"\p{N}";

/// A known rule.
#[derive(Debug)]
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
        names: &["smollm", "starcoder", "minerva-7b"],
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
        names: &["llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral"],
        cuts: &[LLAMA_3],
        whole_words_first: true,
        adds_bos: true,
    },
    Rule {
        names: &["smaug-bpe", "dbrx"],
        cuts: &[LLAMA_3],
        whole_words_first: false,
        adds_bos: false,
    },
    Rule {
        names: &["tekken"],
        cuts: &[TEKKEN],
        whole_words_first: true,
        adds_bos: true,
    },
    Rule {
        names: &["qwen2", "deepseek-r1-qwen", "megrez"],
        cuts: &[QWEN_2],
        whole_words_first: false,
        adds_bos: false,
    },
];

/// Cuts text into words by one of the known rules.
#[derive(Debug)]
pub(super) struct PreTokenizer {
    rule: &'static Rule,
    cuts: Vec<SysRegex>,
}

impl PreTokenizer {
    /// The pre-tokenizer called `name`.
    ///
    /// # Errors
    /// [`TokenizerError::PreTokenizer`] where the name is not known.
    pub(super) fn named(name: &str) -> Result<Self, TokenizerError> {
        let rule = rule(name).ok_or_else(|| {
            let supported: Vec<&str> = RULES.iter().flat_map(|rule| rule.names).copied().collect();
            TokenizerError::PreTokenizer {
                name: name.to_owned(),
                supported: supported.join(", "),
            }
        })?;
        let compile = |cut: &&str| {
            SysRegex::new(cut).map_err(|error| TokenizerError::Broken(error.to_string()))
        };
        Ok(Self {
            rule,
            cuts: rule.cuts.iter().map(compile).collect::<Result<_, _>>()?,
        })
    }

    /// Whether a word that is a token is taken whole, whatever the merges say.
    pub(super) fn takes_words_whole(&self) -> bool {
        self.rule.whole_words_first
    }

    /// Calls `visit` with each word of `text` in order; put together again the words are `text`.
    pub(super) fn for_each_word(&self, text: &str, visit: &mut Visit<'_>) -> Result<(), TextError> {
        cut(text, &self.cuts, visit)
    }
}

/// What is done with a word.
type Visit<'a> = dyn FnMut(&str) -> Result<(), TextError> + 'a;

/// Applies the first expression and hands its matches, and what lies between them, to the others.
fn cut(text: &str, cuts: &[SysRegex], visit: &mut Visit<'_>) -> Result<(), TextError> {
    let Some((first, others)) = cuts.split_first() else {
        return visit(text);
    };
    let mut done = 0;
    for (start, end) in first.find_iter(text) {
        if start > done {
            cut(&text[done..start], others, visit)?;
        }
        if end > start {
            cut(&text[start..end], others, visit)?;
        }
        done = end;
    }
    if done < text.len() {
        cut(&text[done..], others, visit)?;
    }
    Ok(())
}

/// Whether the rule sets a begin-of-sequence token where the file does not say.
pub(super) fn adds_bos(name: &str) -> bool {
    rule(name).is_some_and(|rule| rule.adds_bos)
}

fn rule(name: &str) -> Option<&'static Rule> {
    RULES.iter().find(|rule| rule.names.contains(&name))
}
