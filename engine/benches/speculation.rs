//! One stream of the real default model with guessed tokens and without, alternating, so that a busy machine slows both:
//! `cargo bench -p hansa-engine --bench speculation [-- ROUNDS]`. Prints tokens a second as medians with their spread, and
//! checks that both said the same.
#![expect(
    clippy::expect_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark is a binary of its own: it prints, brings the clock, and stops where something is missing"
)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use hansa_engine::api::{EngineState, Event, Priority, SamplingParams, StopParams, Submission};
use hansa_engine::{CandleOptions, DeviceOptions, EngineHandle, EngineOptions, RunnerOptions};
use hansa_models::KvType;
use hansa_models::source::{SourceOptions, resolve};
use hansa_models::text::SpecialTokens;

/// Tokens that each answer has.
const TOKENS: u32 = 192;

const EDIT: &str = "```python
def mean(values):
    total = 0
    for value in values:
        total += value
    return total / len(values)

def variance(values):
    center = mean(values)
    total = 0
    for value in values:
        total += (value - center) ** 2
    return total / len(values)

def deviation(values):
    return variance(values) ** 0.5
```
The same code, with the names of the functions in capital letters:
```python
def MEAN(values):
";

const EXTRACTION: &str = "Order 1041: Ada Lovelace, 12 St James's Square, London; 3 copies of Notes on the Analytical Engine.
Order 1042: Charles Babbage, 1 Dorset Street, London; 1 copy of Passages from the Life of a Philosopher.
Order 1043: Mary Somerville, 27 Royal Crescent, Bath; 2 copies of On the Connexion of the Physical Sciences.
Order 1044: George Boole, 5 Grenville Place, Cork; 4 copies of An Investigation of the Laws of Thought.
The same orders as JSON, one object a line:
{\"order\": 1041, \"name\": \"Ada Lovelace\", \"address\": \"12 St James's Square, London\", \"copies\": 3, \"title\": \"Notes on the Analytical Engine\"}
";

const PROSE: &str = "The history of the Hanseatic League begins with";

#[tokio::main]
async fn main() {
    let rounds = std::env::args()
        .filter_map(|arg| arg.parse().ok())
        .next()
        .unwrap_or(5_u32);
    let (plain, guessing) = (start(0).await, start(15).await);
    println!("| tokens a second, one stream | plain | guessing | ratio | guessed right |");
    println!("|---|---|---|---|---|");
    for (name, prompt) in [
        ("code edit", EDIT),
        ("extraction", EXTRACTION),
        ("prose", PROSE),
    ] {
        let (mut without, mut with, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        let before = guessing.stats();
        // The first round warms the caches and is thrown away.
        for round in 0..=rounds {
            let (slow, text) = rate(&plain, prompt).await;
            let (fast, same) = rate(&guessing, prompt).await;
            assert_eq!(text, same, "guesses changed what is said");
            if round > 0 {
                without.push(slow);
                with.push(fast);
                ratios.push(fast / slow);
            }
        }
        let after = guessing.stats();
        let accepted = after.accepted_tokens - before.accepted_tokens;
        let drafted = after.drafted_tokens - before.drafted_tokens;
        println!(
            "| {name} | {} | {} | {} | {accepted} of {drafted} |",
            spread(without, 0),
            spread(with, 0),
            spread(ratios, 2)
        );
    }
}

/// Tokens a second from the first token on, and the answer.
async fn rate(engine: &EngineHandle, prompt: &str) -> (f64, Vec<u32>) {
    let text = engine.text().expect("a loaded engine has a tokenizer");
    let prompt = text
        .encode(prompt, SpecialTokens::Parse)
        .expect("the prompt is short");
    let submission = Submission {
        id: "bench".into(),
        prompt: prompt.into(),
        n: 1,
        sampling: SamplingParams {
            temperature: 0.0,
            ..SamplingParams::default()
        },
        stop: StopParams {
            ignore_eos: true,
            ..StopParams::after(TOKENS)
        },
        grammar: None,
        seed: 0,
        priority: Priority::Interactive,
        resume: Vec::new(),
        flow: 0,
        pool: 0,
        deadline: None,
        want_token_ids: true,
        prompt_logprobs: false,
    };
    let mut events = engine.submit(submission).expect("the engine takes it");
    let (mut tokens, mut began) = (Vec::new(), None);
    while let Some(event) = events.recv().await {
        if let Event::Delta { token_ids, .. } = event {
            began.get_or_insert_with(Instant::now);
            tokens.extend(token_ids);
        }
    }
    let took = began.map_or(Duration::MAX, |began| began.elapsed());
    assert_eq!(tokens.len(), TOKENS as usize);
    (f64::from(TOKENS - 1) / took.as_secs_f64(), tokens)
}

async fn start(draft_tokens_max: u32) -> EngineHandle {
    let origin = Instant::now();
    let model = resolve("smollm2-135m-instruct", &SourceOptions::from_env())
        .expect("the default model is there");
    let options = EngineOptions {
        clock: Arc::new(move || origin.elapsed()),
        sequences_max: 8,
        step_tokens_max: 512,
        queue_max: 8,
        block_size: 16,
        context_max: None,
        kv_bytes_max: 64 << 20,
        inter_token_target: Duration::from_millis(50),
        draft_tokens_max,
        queue_tokens_max: 1 << 20,
        stall_after: Duration::from_secs(60),
    };
    let candle = CandleOptions {
        model_path: model.path,
        device: DeviceOptions::Cpu,
        kv_type: KvType::F16,
        quantise: None,
        threads: None,
    };
    let engine = EngineHandle::start(options, RunnerOptions::Candle(candle));
    let mut state = engine.watch_state();
    let settled =
        |state: &EngineState| matches!(state, EngineState::Ready | EngineState::Failed(_));
    let reached = state
        .wait_for(settled)
        .await
        .expect("the engine lives")
        .clone();
    assert_eq!(reached, EngineState::Ready);
    engine
}

/// Median, least and most.
fn spread(mut samples: Vec<f64>, digits: usize) -> String {
    samples.sort_by(f64::total_cmp);
    let (least, most) = (samples[0], samples[samples.len() - 1]);
    let median = samples[samples.len() / 2];
    format!("{median:.digits$} ({least:.digits$} to {most:.digits$})")
}
