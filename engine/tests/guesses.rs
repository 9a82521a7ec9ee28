//! Guessed tokens on the real default model: what it says, greedy and drawn, is the same with and without them, to the
//! token, where the text repeats its input and where it does not.
#![cfg(feature = "candle")]
#![expect(
    clippy::expect_used,
    reason = "a test program: what is missing fails it"
)]

mod real;

use std::time::Duration;

use hansa_engine::api::SamplingParams;
use hansa_engine::{EngineHandle, EngineOptions};
use hansa_models::KvType;
use hansa_models::text::SpecialTokens;

/// A text that the model goes on repeating, and one that it does not.
const PROMPTS: [&str; 2] = [
    "Name: Ada Lovelace, born 1815 in London, mathematician.\nName: Alan Turing, born 1912 in London, mathematician.\n\
     Name: Grace Hopper, born 1906 in New York, admiral.\nThe same list again:\nName: Ada Lovelace, born",
    "Write a poem about the sea and the ships of Lubeck.\n",
];

/// How a completion is drawn.
const TEMPERATURES: [f32; 2] = [0.0, 0.7];

#[tokio::test]
async fn guesses_change_no_token_of_the_real_model() {
    let (plain, _) = say_all(0).await;
    let (guessed, accepted) = say_all(15).await;
    assert_eq!(guessed, plain);
    // How many depends on how long steps take on the machine; some are always tried.
    assert!(accepted > 0, "nothing was guessed right");
}

/// The completions of all prompts with so many guesses, and how many of these were right.
async fn say_all(draft_tokens_max: u32) -> (Vec<Vec<u32>>, u64) {
    let (options, runner) = real::options(KvType::F16);
    let options = EngineOptions {
        draft_tokens_max,
        // Whatever the machine does meanwhile, there is time for guesses.
        inter_token_target: Duration::from_secs(10),
        ..options
    };
    let engine = EngineHandle::start(options, runner);
    real::ready(&engine).await;
    let text = engine.text().expect("a loaded engine has a tokenizer");
    let cases = PROMPTS
        .iter()
        .flat_map(|prompt| TEMPERATURES.map(|t| (prompt, t)));
    let mut said = Vec::new();
    // One after another: alone a guess is worth most.
    for (prompt, temperature) in cases {
        let prompt = text
            .encode(prompt, SpecialTokens::Parse)
            .expect("the prompt is short");
        let sampling = SamplingParams {
            temperature,
            top_p: 0.95,
            ..SamplingParams::default()
        };
        let tokens = real::say(&engine, &prompt, 48, sampling).await;
        assert_eq!(tokens.len(), 48);
        said.push(tokens);
    }
    (said, engine.stats().accepted_tokens)
}
