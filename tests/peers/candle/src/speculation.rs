//! One stream of our engine with guessed tokens and without, alternating, so that a busy machine slows both. Prints tokens a
//! second and checks that both say the same.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hansa_engine::api::{EngineState, Event, Priority, SamplingParams, StopParams, Submission};
use hansa_engine::{CandleOptions, DeviceOptions, EngineHandle, EngineOptions, RunnerOptions};
use hansa_models::KvType;
use hansa_models::text::SpecialTokens;

use crate::stats::Samples;

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

/// Prints the table for the model, with so many rounds for each text.
pub fn measure(model: &Path, rounds: usize) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    runtime.block_on(compare(model, rounds))
}

async fn compare(model: &Path, rounds: usize) -> Result<()> {
    let (plain, guessing) = (start(model, 0).await?, start(model, 15).await?);
    println!("| tokens a second, one stream | plain | guessing | ratio | guessed right |");
    println!("|---|---|---|---|---|");
    for (name, prompt) in [
        ("code edit", EDIT),
        ("extraction", EXTRACTION),
        ("prose", PROSE),
    ] {
        let (mut without, mut with) = (Samples::default(), Samples::default());
        let before = guessing.stats();
        // The first round warms the caches and is thrown away.
        for round in 0..=rounds {
            let (slow, text) = rate(&plain, prompt).await?;
            let (fast, same) = rate(&guessing, prompt).await?;
            ensure!(text == same, "guesses changed what is said");
            if round > 0 {
                without.push(slow);
                with.push(fast);
            }
        }
        let after = guessing.stats();
        let accepted = after.accepted_tokens - before.accepted_tokens;
        let drafted = after.drafted_tokens - before.drafted_tokens;
        let ratio = with.over(&without);
        println!("| {name} | {without} | {with} | {ratio} | {accepted} of {drafted} |");
    }
    Ok(())
}

/// Tokens a second from the first token on, and the answer.
async fn rate(engine: &EngineHandle, prompt: &str) -> Result<(f64, Vec<u32>)> {
    let text = engine.text().context("the engine is not loaded")?;
    let prompt = text.encode(prompt, SpecialTokens::Parse)?;
    let mut events = engine.submit(submission(prompt))?;
    let (mut tokens, mut began) = (Vec::new(), None);
    while let Some(event) = events.recv().await {
        if let Event::Delta { token_ids, .. } = event {
            began.get_or_insert_with(Instant::now);
            tokens.extend(token_ids);
        }
    }
    ensure!(tokens.len() == TOKENS as usize, "the answer broke off");
    let took = began.context("there is no answer")?.elapsed();
    Ok((f64::from(TOKENS - 1) / took.as_secs_f64(), tokens))
}

fn submission(prompt: Vec<u32>) -> Submission {
    Submission {
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
    }
}

async fn start(model: &Path, draft_tokens_max: u32) -> Result<EngineHandle> {
    let origin = Instant::now();
    let options = EngineOptions {
        clock: Arc::new(move || origin.elapsed()),
        sequences_max: 8,
        step_tokens_max: 512,
        queue_max: 8,
        queue_tokens_max: 1 << 20,
        block_size: 16,
        context_max: None,
        kv_bytes_max: 64 << 20,
        inter_token_target: Duration::from_millis(50),
        draft_tokens_max,
        stall_after: Duration::from_secs(60),
    };
    let candle = CandleOptions {
        model_path: model.to_owned(),
        device: DeviceOptions::Cpu,
        kv_type: KvType::F16,
        quantise: None,
        threads: None,
        allow_inexact: false,
    };
    let engine = EngineHandle::start(options, RunnerOptions::Candle(candle));
    let mut state = engine.watch_state();
    let settled =
        |state: &EngineState| matches!(state, EngineState::Ready | EngineState::Failed(_));
    let reached = state.wait_for(settled).await?.clone();
    ensure!(reached == EngineState::Ready, "the engine is {reached:?}");
    Ok(engine)
}
