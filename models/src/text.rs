//! Text and tokens: what the engine and the gateway need of a tokenizer and a chat template.
//!
//! [`TextCodec`] is the seam: a real model implements it from its GGUF metadata, the simulated model by formula.

use std::borrow::Cow;

use serde_json::Value;

/// Turns text into token ids and back, and a conversation into a prompt.
///
/// Shared by many threads; every call is pure.
pub trait TextCodec: Send + Sync {
    /// Tokenises `text`. `special` says whether control tokens written in the text (`<|im_end|>`) become their ids, as
    /// in a rendered template, or stay text; either way the model's own begin-of-sequence rule applies.
    ///
    /// # Errors
    /// [`TextError::TooLong`] where the text is beyond the crate's bound.
    fn encode(&self, text: &str, special: SpecialTokens) -> Result<Vec<u32>, TextError>;

    /// Renders a conversation through the model's chat template.
    ///
    /// # Errors
    /// [`TextError::NoTemplate`] for a base model; [`TextError::Template`] where the template refuses the messages,
    /// runs out of fuel or prints too much.
    fn render_chat(&self, chat: &ChatInput<'_>) -> Result<String, TextError>;

    /// The form in which the model is shown calls of tools.
    fn tool_syntax(&self) -> ToolSyntax {
        ToolSyntax::Tagged
    }

    /// A fresh incremental detokenizer for one choice of one request. A real model ignores both arguments; the simulated
    /// model's text is a function of them.
    fn detokenizer(&self, seed: u64, choice: u32) -> Box<dyn Detokenizer>;

    /// The bytes that `id` stands for in a choice's text: none for control tokens and ids outside of the vocabulary, and
    /// perhaps only a part of a character. A real model ignores the first two arguments, as in
    /// [`TextCodec::detokenizer`].
    fn piece(&self, seed: u64, choice: u32, id: u32) -> Cow<'_, [u8]>;

    /// Width of the model's logits: every id the model can emit is below it.
    fn vocab_size(&self) -> u32;

    /// Ids that end a generation (end of sequence, end of turn).
    fn end_of_generation(&self) -> &[u32];
}

/// Turns a stream of token ids into text that never splits a UTF-8 character.
pub trait Detokenizer: Send {
    /// Appends the text that `id` completes to `out`; nothing where `id` ends in the middle of a character.
    fn push(&mut self, id: u32, out: &mut String);

    /// Appends what is still held back: an incomplete character becomes U+FFFD.
    fn finish(&mut self, out: &mut String);
}

/// Whether control tokens spelled out in a text are taken as such.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpecialTokens {
    /// The text was written by a template: control tokens are control tokens.
    Parse,
    /// The text was written by a user: control tokens are plain characters.
    AsText,
}

/// How a model writes that it calls functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToolSyntax {
    /// `<tool_call>{"name": .., "arguments": {..}}</tool_call>`: Hermes, Qwen, and models without a form of their own.
    Tagged,
    /// `{"name": .., "parameters": {..}}` and nothing else: Llama 3.
    Object,
    /// `[TOOL_CALLS] [{"name": .., "arguments": {..}}]`: Mistral.
    List,
}

/// A conversation on its way through a chat template.
#[derive(Debug, Clone, Copy)]
pub struct ChatInput<'a> {
    /// OpenAI messages in order, calls and results of tools among them; `content` is a string or null, never a list of
    /// parts.
    pub messages: &'a [Value],
    /// OpenAI tool definitions, empty where there are none.
    pub tools: &'a [Value],
    /// Whether the prompt ends with the opening of the assistant's turn.
    pub add_generation_prompt: bool,
    /// The moment that `strftime_now` prints, in seconds since the epoch: fixed by the first server of the request, so
    /// that a retry elsewhere renders the same prompt.
    pub template_time_s: i64,
}

/// Why a text could not be turned into tokens.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// The model is a base model.
    #[error("the model has no chat template; use /v1/completions")]
    NoTemplate,
    /// The template refused the conversation; the message is the template's own, cut to a bound.
    #[error("the chat template refused the messages: {0}")]
    Template(String),
    /// The text is longer than any context could hold.
    #[error("the text has {bytes} bytes, more than the {bytes_max} that are tokenised")]
    TooLong {
        /// Bytes of the text.
        bytes: usize,
        /// Bytes allowed.
        bytes_max: usize,
    },
    /// The tokenizer failed on the text.
    #[error("the text could not be tokenised")]
    Tokenizer,
}
