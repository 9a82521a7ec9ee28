//! The tokenizer of a real model, built from the metadata of its GGUF file or from the `tokenizer.json` of its folder.
//!
//! Byte-level BPE with the crate `tokenizers`, or SentencePiece by scores; the ids are those of llama.cpp, which is what
//! people compare a GGUF file with. Two things are done here and not by that crate. Control tokens are cut out first, where the caller says that the
//! text may hold them; and the vocabulary that BPE sees has no control tokens at all, so that plain text cannot become one.
//! It must not know tensors or requests.

mod alphabet;
mod bpe;
mod detokenizer;
mod end_of_generation;
mod error;
#[cfg(feature = "candle")]
mod folder;
mod pre_tokenizer;
mod sentence_piece;
mod special;
mod vocabulary;

use std::borrow::Cow;
use std::sync::Arc;

pub use error::TokenizerError;

use crate::chat_template::{ChatTemplate, SpecialTexts};
use crate::limits;
use crate::text::{ChatInput, Detokenizer, SpecialTokens, TextCodec, TextError, ToolSyntax};
use crate::weights::gguf::GgufFile;
use bpe::ByteLevelBpe;
use detokenizer::{IncrementalDetokenizer, Pieces};
use sentence_piece::SentencePiece;
use special::{Fragment, SpecialSplitter};
use vocabulary::{Algorithm, Vocabulary};

/// Tokenizer, detokenizer and chat template of a model file.
#[derive(Debug)]
pub struct FileTokenizer {
    words: Words,
    special: SpecialSplitter,
    pieces: Arc<Pieces>,
    /// Set before every text where the model was trained so.
    bos: Option<u32>,
    end_of_generation: Vec<u32>,
    template: Result<ChatTemplate, TextError>,
}

impl FileTokenizer {
    /// Builds the tokenizer that the file describes.
    ///
    /// A chat template that cannot be parsed does not fail the model: completions work, and every chat is told why.
    ///
    /// # Errors
    /// [`TokenizerError`] names the kind of tokenizer or pre-tokenizer that is not known, or what is wrong in the file.
    pub fn from_gguf(file: &GgufFile) -> Result<Self, TokenizerError> {
        let vocabulary = Vocabulary::read(file)?;
        let special_texts = SpecialTexts {
            bos: vocabulary.text(vocabulary.bos).map(str::to_owned),
            eos: vocabulary.text(vocabulary.eos).map(str::to_owned),
        };
        let template = match file.opt_str("tokenizer.chat_template")? {
            Some(source) => ChatTemplate::parse(source, special_texts),
            None => Err(TextError::NoTemplate),
        };
        Ok(Self {
            words: Words::new(&vocabulary)?,
            special: SpecialSplitter::new(&vocabulary)?,
            pieces: Arc::new(Pieces::new(&vocabulary)),
            bos: vocabulary.bos.filter(|_| vocabulary.add_bos),
            end_of_generation: end_of_generation::ids(&vocabulary),
            template,
        })
    }

    /// The bytes that a token stands for: none for control tokens, and perhaps only a part of a character.
    ///
    /// For grammars, which work on the bytes of every token.
    #[must_use]
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        self.pieces.get(id)
    }
}

/// What turns plain text into tokens.
#[derive(Debug)]
enum Words {
    ByteLevel(Box<ByteLevelBpe>),
    SentencePiece(Box<SentencePiece>),
    /// `tokenizer.json` of a Hugging Face folder.
    #[cfg(feature = "candle")]
    Folder(Box<tokenizers::Tokenizer>),
}

impl Words {
    fn new(vocabulary: &Vocabulary) -> Result<Self, TokenizerError> {
        Ok(match &vocabulary.algorithm {
            Algorithm::ByteLevelBpe { pre } => {
                Self::ByteLevel(Box::new(ByteLevelBpe::new(vocabulary, pre)?))
            }
            Algorithm::SentencePiece { space_prefix } => {
                Self::SentencePiece(Box::new(SentencePiece::new(vocabulary, *space_prefix)))
            }
        })
    }

    /// Appends the ids of `text`, which `leads` where nothing or a token stands before it.
    fn encode(&self, text: &str, leads: bool, ids: &mut Vec<u32>) -> Result<(), TextError> {
        match self {
            Self::ByteLevel(bpe) => bpe.encode(text, ids),
            Self::SentencePiece(pieces) => {
                pieces.encode(text, leads, ids);
                Ok(())
            }
            #[cfg(feature = "candle")]
            Self::Folder(tokenizer) => {
                let encoded = tokenizer.encode_fast(text, false);
                ids.extend_from_slice(encoded.map_err(|_| TextError::Tokenizer)?.get_ids());
                Ok(())
            }
        }
    }
}

impl TextCodec for FileTokenizer {
    fn encode(&self, text: &str, special: SpecialTokens) -> Result<Vec<u32>, TextError> {
        if text.len() > limits::TEXT_BYTES_MAX {
            return Err(TextError::TooLong {
                bytes: text.len(),
                bytes_max: limits::TEXT_BYTES_MAX,
            });
        }
        let mut ids = Vec::with_capacity(text.len() / 3 + 1);
        let mut leads = true;
        for fragment in self.special.split(text, special) {
            match fragment {
                Fragment::Token(id) => ids.push(id),
                Fragment::Text(text) => self.words.encode(text, leads, &mut ids)?,
            }
            leads = matches!(fragment, Fragment::Token(_));
        }
        match self.bos {
            // Many templates print it themselves.
            Some(bos) if ids.first() != Some(&bos) => ids.insert(0, bos),
            _ => {}
        }
        Ok(ids)
    }

    fn render_chat(&self, chat: &ChatInput<'_>) -> Result<String, TextError> {
        match &self.template {
            Ok(template) => template.render(chat),
            Err(error) => Err(error.clone()),
        }
    }

    fn tool_syntax(&self) -> ToolSyntax {
        let template = self.template.as_ref();
        template.map_or(ToolSyntax::Tagged, ChatTemplate::tool_syntax)
    }

    fn detokenizer(&self, _seed: u64, _choice: u32) -> Box<dyn Detokenizer> {
        Box::new(IncrementalDetokenizer::new(Arc::clone(&self.pieces)))
    }

    fn piece(&self, _seed: u64, _choice: u32, id: u32) -> Cow<'_, [u8]> {
        Cow::Borrowed(self.token_bytes(id))
    }

    fn vocab_size(&self) -> u32 {
        self.pieces.len()
    }

    fn end_of_generation(&self) -> &[u32] {
        &self.end_of_generation
    }
}

#[cfg(test)]
mod tests;
