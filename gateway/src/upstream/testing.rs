//! Requests for tests.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use super::{Endpoint, GenerateRequest, Prompt, Sampling};

/// A request for tests: a chat of one word.
pub(crate) fn test_request() -> GenerateRequest {
    GenerateRequest {
        id: "r".into(),
        shown_id: "r".into(),
        model: "m".into(),
        endpoint: Endpoint::Chat,
        body: Bytes::from_static(br#"{"model":"m","messages":[{"role":"user","content":"Hi"}]}"#)
            .into(),
        prompt: Prompt::Text("Hi".into()),
        whole: false,
        n: 1,
        max_tokens: None,
        default_max_tokens: None,
        token_ids: OnceLock::new(),
        sampling: Sampling::default(),
        stop: Vec::new(),
        stop_token_ids: Vec::new(),
        min_tokens: 0,
        logprobs: None,
        echo: false,
        prompt_logprobs: false,
        structure: None,
        tools: None,
        seed: 0,
        template_time_s: 0,
        deadline: None,
        flow: 0,
        pool: 0,
        hops: 0,
        resume_token_ids: Vec::new(),
        want_token_ids: false,
        tenant: None,
        charge: None,
        purse: None,
        wishes: Arc::default(),
    }
}
