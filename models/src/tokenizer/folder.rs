//! The tokenizer of a Hugging Face folder: `tokenizer.json` runs in the crate `tokenizers`, and around it stands the same
//! code as for GGUF files: control tokens are cut out first, and ids become text one at a time.

use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;
use tokenizers::Tokenizer;

use super::detokenizer::Pieces;
use super::error::TokenizerError;
use super::special::SpecialSplitter;
use super::vocabulary::{Algorithm, Kind, Vocabulary};
use super::{FileTokenizer, Words, end_of_generation, sentence_piece};
use crate::chat_template::{ChatTemplate, SpecialTexts};
use crate::limits;
use crate::text::TextError;
use crate::weights::folder::{FolderError, parse_json, read_json};

const TOKENIZER: &str = "tokenizer.json";
const SETTINGS: &str = "tokenizer_config.json";
const TEMPLATE: &str = "chat_template.jinja";
const GENERATION: &str = "generation_config.json";

/// What `tokenizer_config.json` says beside the tokenizer itself.
#[derive(Default, Deserialize)]
struct Settings {
    bos_token: Option<Value>,
    eos_token: Option<Value>,
    chat_template: Option<Value>,
}

/// What `generation_config.json` and `config.json` say about the end: one id or several.
#[derive(Default, Deserialize)]
struct Ends {
    eos_token_id: Option<Value>,
}

impl FileTokenizer {
    /// Builds the tokenizer of a folder.
    ///
    /// A chat template that cannot be parsed does not fail the model: completions work, and every chat is told why.
    ///
    /// # Errors
    /// [`TokenizerError`] names the file that is missing or damaged.
    pub fn from_folder(dir: &Path) -> Result<Self, TokenizerError> {
        let json = read_json(dir, TOKENIZER)?.ok_or_else(|| FolderError::Missing {
            path: dir.join(TOKENIZER),
        })?;
        let broken = |error: tokenizers::Error| TokenizerError::Broken(error.to_string());
        let mut tokenizer = Tokenizer::from_str(&json).map_err(broken)?;
        // Text is cut at control tokens here, and what is left of it holds none.
        tokenizer.set_encode_special_tokens(true);
        let settings: Settings = optional(dir, SETTINGS)?;
        let special_texts = SpecialTexts {
            bos: token_text(settings.bos_token.as_ref()),
            eos: token_text(settings.eos_token.as_ref()),
        };
        let vocabulary = vocabulary(&tokenizer, &json, &special_texts)?;
        let template = match template_text(dir, &settings)? {
            Some(source) => ChatTemplate::parse(&source, special_texts),
            None => Err(TextError::NoTemplate),
        };
        let mut end_of_generation = end_of_generation::ids(&vocabulary);
        for name in [GENERATION, "config.json"] {
            end_of_generation.extend(ids(optional::<Ends>(dir, name)?.eos_token_id.as_ref()));
        }
        end_of_generation.sort_unstable();
        end_of_generation.dedup();
        let leading = tokenizer.encode_fast("", true).map_err(broken)?;
        Ok(Self {
            special: SpecialSplitter::new(&vocabulary)?,
            pieces: Arc::new(Pieces::new(&vocabulary)),
            bos: leading.get_ids().first().copied(),
            words: Words::Folder(Box::new(tokenizer)),
            end_of_generation,
            template,
        })
    }
}

fn optional<T: Default + for<'de> Deserialize<'de>>(
    dir: &Path,
    name: &str,
) -> Result<T, FolderError> {
    match read_json(dir, name)? {
        Some(_) => parse_json(dir, name),
        None => Ok(T::default()),
    }
}

/// Ids, texts and kinds of all tokens, as a GGUF file would list them.
fn vocabulary(
    tokenizer: &Tokenizer,
    json: &str,
    special: &SpecialTexts,
) -> Result<Vocabulary, TokenizerError> {
    let tokens = tokenizer.get_vocab(true);
    let len = tokens.values().max().map_or(0, |&id| id as usize + 1);
    if len == 0 || len > limits::VOCAB_TOKENS_MAX {
        let reason = format!("{len} tokens, not 1 to {}", limits::VOCAB_TOKENS_MAX);
        return Err(TokenizerError::Broken(reason));
    }
    let algorithm = if decodes_bytes(json)? {
        Algorithm::ByteLevelBpe { pre: String::new() }
    } else {
        Algorithm::SentencePiece {
            space_prefix: false,
        }
    };
    let mut texts = vec![String::new(); len];
    let mut kinds = vec![Kind::Unused; len];
    let added = tokenizer.get_added_tokens_decoder();
    for (text, id) in tokens {
        kinds[id as usize] = match added.get(&id) {
            Some(token) if token.special || end_of_generation::is_end(&text) => Kind::Control,
            Some(_) => Kind::UserDefined,
            None if sentence_piece::byte_of(&text).is_some() => Kind::Byte,
            None => Kind::Normal,
        };
        texts[id as usize] = text;
    }
    let id_of = |text: &Option<String>| tokenizer.token_to_id(text.as_deref()?);
    Ok(Vocabulary {
        texts,
        kinds,
        scores: Vec::new(),
        merges: Vec::new(),
        algorithm,
        bos: id_of(&special.bos),
        eos: id_of(&special.eos),
        eot: None,
        eom: None,
        unknown: None,
        add_bos: false,
    })
}

/// Whether tokens are spelled in the byte-level alphabet.
fn decodes_bytes(json: &str) -> Result<bool, TokenizerError> {
    #[derive(Deserialize)]
    struct Head {
        decoder: Option<Value>,
    }
    let head: Head =
        serde_json::from_str(json).map_err(|error| TokenizerError::Broken(error.to_string()))?;
    let is_byte_level = |decoder: &Value| decoder["type"] == "ByteLevel";
    Ok(head.decoder.is_some_and(|decoder| {
        let parts = decoder["decoders"].as_array();
        is_byte_level(&decoder) || parts.is_some_and(|parts| parts.iter().any(is_byte_level))
    }))
}

/// A token is written as its text or as an object with it.
fn token_text(token: Option<&Value>) -> Option<String> {
    let token = token?;
    let text = token.as_str().or_else(|| token["content"].as_str())?;
    Some(text.to_owned())
}

/// The template of its own file, or that of the settings: one, or the one of several that is called `default`.
fn template_text(dir: &Path, settings: &Settings) -> Result<Option<String>, FolderError> {
    if let Some(text) = read_json(dir, TEMPLATE)? {
        return Ok(Some(text));
    }
    let Some(template) = &settings.chat_template else {
        return Ok(None);
    };
    let named = || {
        let several = template.as_array()?;
        let default = several.iter().find(|entry| entry["name"] == "default")?;
        default["template"].as_str()
    };
    Ok(template.as_str().or_else(named).map(str::to_owned))
}

/// One id, or a list of them.
fn ids(value: Option<&Value>) -> Vec<u32> {
    let id = |value: &Value| u32::try_from(value.as_u64()?).ok();
    match value {
        Some(Value::Array(several)) => several.iter().filter_map(id).collect(),
        Some(single) => id(single).into_iter().collect(),
        None => Vec::new(),
    }
}
