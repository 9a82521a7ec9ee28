//! Turns prompts into token ids, off the event loop.

use std::sync::Arc;

use hansa_models::text::{ChatInput, SpecialTokens, TextCodec, TextError};

use crate::limits::{TOKENISE_CONCURRENCY, TOKENISE_QUEUE_MAX};
use crate::upstream::pool::Pool;
use crate::upstream::{GenerateRequest, Prompt, UpstreamError, UpstreamErrorKind};

/// The tokenising of one model.
#[derive(Debug)]
pub(super) struct Tokeniser {
    pool: Pool,
}

impl Tokeniser {
    pub(super) fn new() -> Self {
        Self {
            pool: Pool::new(TOKENISE_CONCURRENCY, TOKENISE_QUEUE_MAX),
        }
    }

    /// The prompt's ids.
    pub(super) async fn encode(
        &self,
        codec: Arc<dyn TextCodec>,
        request: Arc<GenerateRequest>,
    ) -> Result<Arc<[u32]>, UpstreamError> {
        if let Prompt::Tokens(ids) = &request.prompt {
            return checked(ids, codec.vocab_size());
        }
        self.pool.run(move || encode(&*codec, &request)).await?
    }
}

fn encode(codec: &dyn TextCodec, request: &GenerateRequest) -> Result<Arc<[u32]>, UpstreamError> {
    let ids = match &request.prompt {
        Prompt::Chat(chat) => {
            let messages = chat.read().ok_or(UpstreamErrorKind::Internal)?;
            let chat = ChatInput {
                messages: &messages,
                tools: request
                    .tools
                    .as_ref()
                    .map_or(&[], |tools| &*tools.definitions),
                add_generation_prompt: true,
                template_time_s: request.template_time_s,
            };
            codec
                .render_chat(&chat)
                .and_then(|text| codec.encode(&text, SpecialTokens::Parse))
        }
        // A plain prompt is all of the model's input: who writes it may write its control tokens, as a template would.
        Prompt::Text(text) => codec.encode(text, SpecialTokens::Parse),
        Prompt::Tokens(ids) => Ok(ids.to_vec()),
    };
    let ids = ids.map_err(|error| refused(&error, param(&request.prompt)))?;
    if ids.is_empty() {
        return Err(invalid("prompt", "The prompt is empty.".to_owned()));
    }
    Ok(Arc::from(ids))
}

fn checked(ids: &Arc<[u32]>, vocab_size: u32) -> Result<Arc<[u32]>, UpstreamError> {
    if ids.is_empty() {
        return Err(invalid("prompt", "The prompt is empty.".to_owned()));
    }
    if let Some(id) = ids.iter().find(|id| **id >= vocab_size) {
        let message = format!("Token id {id} is not below the model's {vocab_size} tokens.");
        return Err(invalid("prompt", message));
    }
    Ok(Arc::clone(ids))
}

fn param(prompt: &Prompt) -> &'static str {
    match prompt {
        Prompt::Chat(_) => "messages",
        Prompt::Text(_) | Prompt::Tokens(_) => "prompt",
    }
}

fn refused(error: &TextError, param: &'static str) -> UpstreamError {
    match error {
        TextError::Tokenizer => UpstreamErrorKind::Internal.into(),
        _ => invalid(param, error.to_string()),
    }
}

fn invalid(param: &'static str, message: String) -> UpstreamError {
    UpstreamErrorKind::InvalidRequest {
        param: Some(param),
        message,
    }
    .into()
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use hansa_models::text::Detokenizer;

    use super::*;
    use crate::upstream::testing::test_request;
    use crate::upstream::{Conversation, Message};

    /// A model that only continues text: a token a byte.
    #[derive(Debug)]
    struct Base;

    impl TextCodec for Base {
        fn encode(&self, text: &str, _special: SpecialTokens) -> Result<Vec<u32>, TextError> {
            Ok(text.bytes().map(u32::from).collect())
        }

        fn render_chat(&self, _chat: &ChatInput<'_>) -> Result<String, TextError> {
            Err(TextError::NoTemplate)
        }

        fn detokenizer(&self, _seed: u64, _choice: u32) -> Box<dyn Detokenizer> {
            unreachable!("nothing is said here")
        }

        fn piece(&self, _seed: u64, _choice: u32, id: u32) -> Cow<'_, [u8]> {
            vec![id as u8].into()
        }

        fn vocab_size(&self) -> u32 {
            256
        }

        fn end_of_generation(&self) -> &[u32] {
            &[]
        }
    }

    fn ids_of(prompt: Prompt) -> Result<Arc<[u32]>, UpstreamError> {
        let request = GenerateRequest {
            prompt,
            ..test_request()
        };
        encode(&Base, &request)
    }

    #[test]
    fn a_base_model_refuses_chats_by_name_and_completes_as_usual() {
        let greeting = Message {
            role: "user",
            content: Some(Vec::new()),
            name: None,
            calls: None,
            result_of: None,
        };
        let chat = Conversation::new(vec![greeting]);
        let refused = ids_of(Prompt::Chat(chat.into())).unwrap_err();
        let UpstreamErrorKind::InvalidRequest { param, message } = &refused.kind else {
            panic!("{refused:?} is not the client's fault");
        };
        assert_eq!(*param, Some("messages"));
        assert!(message.contains("no chat template"), "{message}");
        assert!(message.contains("/v1/completions"), "{message}");
        assert_eq!(*ids_of(Prompt::Text("Hi".into())).unwrap(), [72, 105]);
    }
}
