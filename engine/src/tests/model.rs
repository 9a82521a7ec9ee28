//! A model for tests that notices every mistake in a batch: its next token is a hash of the whole context as read back
//! through the block table. A wrong slot, a stale block, a skipped or repeated token changes everything after it.

use std::borrow::Cow;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use hansa_models::Batch;
use hansa_models::text::{ChatInput, Detokenizer, SpecialTokens, TextCodec, TextError};

use crate::admissions::Admissions;
use crate::api::{EngineError, Event, Priority, SamplingParams, StopParams, Submission};
use crate::block_manager::BlockManager;
use crate::core::{Core, Turn};
use crate::doorbell::{Alarm, Door, Doorbell, door};
use crate::events::{EventStream, open};
use crate::grammar::{Grammar, GrammarSpec, Grammars};
use crate::link::Link;
use crate::pace::Pace;
use crate::random::{draw, splitmix64};
use crate::request::{Request, choices};
use crate::runner::{RowOutcome, Runner, RunnerError, RunnerProfile, SampleRow, Scores};
use crate::sampler::Sampler;
use crate::scheduler::{Scheduler, Speculation};

/// Tokens that the model produces are below it.
pub(crate) const VOCAB: u32 = 1000;
/// Tokens from here on are single bytes, which only grammars ask for.
const BYTES: u32 = VOCAB + 10;
/// Width of the logits.
const WIDTH: u32 = BYTES + 256;
/// Ends a generation.
pub(crate) const EOS: u32 = 77;
/// A prompt with this token makes the step panic.
pub(crate) const PANICS: u32 = VOCAB + 1;
/// A prompt with this token makes the step fail.
pub(crate) const FAILS: u32 = VOCAB + 2;
/// A prompt with this token has no valid logits.
pub(crate) const IS_NAN: u32 = VOCAB + 3;

/// A prompt that begins with this token is continued in circles, mostly.
pub(crate) const REPEATS: u32 = VOCAB + 4;
/// Tokens of a circle.
const CIRCLE: u32 = 12;

/// The model: a cache of `(position, token)` by slot.
pub(crate) struct HashModel {
    profile: RunnerProfile,
    block_size: u32,
    cache: Vec<(u32, u32)>,
}

impl HashModel {
    pub(crate) fn new(kv_blocks: u32, block_size: u32, context_len: u32) -> Self {
        Self {
            profile: RunnerProfile {
                vocab_size: WIDTH,
                context_len,
                kv_blocks,
            },
            block_size,
            cache: vec![(u32::MAX, u32::MAX); (kv_blocks * block_size) as usize],
        }
    }

    /// The context of a sequence as its block table shows it.
    fn context(&self, table: &[u32], kv_len: u32) -> Vec<u32> {
        let read = |position: u32| {
            let block = table[(position / self.block_size) as usize];
            let (at, token) =
                self.cache[(block * self.block_size + position % self.block_size) as usize];
            assert_eq!(at, position, "the slot holds another position");
            token
        };
        (0..kv_len).map(read).collect()
    }
}

fn hash_of(context: &[u32]) -> u64 {
    let tokens = context.iter();
    tokens.fold(0, |hash, &token| splitmix64(hash ^ u64::from(token)))
}

/// The next token of a circle.
fn successor(context: &[u32]) -> Option<u32> {
    let last = context.last().filter(|_| context[0] == REPEATS)?;
    Some((last % CIRCLE + 5) % CIRCLE)
}

/// The next token by definition.
fn next_token(context: &[u32], seed: u64, choice: u32, index: u32) -> u32 {
    let random = splitmix64(hash_of(context) ^ draw(seed, choice, index));
    match successor(context) {
        Some(token) if !random.is_multiple_of(9) => token,
        Some(_) if random.is_multiple_of(17) => EOS,
        Some(_) => (random % u64::from(CIRCLE)) as u32,
        None => (random % u64::from(VOCAB)) as u32,
    }
}

/// The next token where a grammar or a penalty has a say: drawn from logits that are hashes of the context.
fn sampled(context: &[u32], row: &SampleRow<'_>) -> RowOutcome {
    let hash = hash_of(context);
    let logit = |token: u32| (splitmix64(hash ^ u64::from(token)) % 1000) as f32 / 250.0;
    let mut logits: Vec<f32> = (0..WIDTH).map(logit).collect();
    // What makes the model fail comes in prompts only.
    logits[VOCAB as usize..BYTES as usize].fill(f32::NEG_INFINITY);
    if let Some(token) = successor(context) {
        logits[token as usize] += 11.0;
    }
    Sampler::new(&[EOS]).sample(&mut logits, row)
}

/// A grammar over the model's tokens.
pub(crate) fn grammar(spec: &GrammarSpec) -> Grammar {
    let grammars = Grammars::new(Arc::new(NumberCodec), WIDTH);
    grammars.compile(spec).expect("a sound grammar")
}

/// The log-probabilities that go with a token by definition: itself and its successor.
pub(crate) fn scores(token: u32) -> Scores {
    let logprob = -(token as f32) / 1000.0;
    Scores {
        logprob,
        top: vec![(token, logprob), (token + 1, -9.0)],
    }
}

/// The log-probabilities of a prompt's tokens by definition, each made of all tokens up to its own.
pub(crate) fn prompt_scores(prompt: &[u32]) -> Vec<(u32, Scores)> {
    let of = |end: usize| (prompt[end], scores_after(&prompt[..end], prompt[end]));
    (1..prompt.len()).map(of).collect()
}

fn scores_after(context: &[u32], token: u32) -> Scores {
    let logprob = -((hash_of(context) % 1000) as f32) / 100.0;
    Scores {
        logprob,
        top: vec![(token, logprob)],
    }
}

/// The whole completion by definition.
pub(crate) fn completion(submission: &Submission, choice: u32, context_len: u32) -> Vec<u32> {
    let mut context = submission.prompt.to_vec();
    let room = context_len - context.len() as u32;
    let mut output = Vec::new();
    let goes_on = |last: Option<&u32>| last != Some(&EOS) || submission.stop.ignore_eos;
    let length = submission.stop.max_tokens.min(room);
    while (output.len() as u32) < length && goes_on(output.last()) {
        let token = next_token(&context, submission.seed, choice, output.len() as u32);
        context.push(token);
        output.push(token);
    }
    output
}

impl Runner for HashModel {
    fn profile(&self) -> RunnerProfile {
        self.profile
    }

    fn text(&self) -> Arc<dyn TextCodec> {
        Arc::new(NumberCodec)
    }

    fn step(
        &mut self,
        batch: &Batch,
        rows: &[SampleRow<'_>],
        outcomes: &mut Vec<RowOutcome>,
    ) -> Result<(), RunnerError> {
        assert!(
            !batch.tokens.contains(&PANICS),
            "a prompt made the model panic"
        );
        if batch.tokens.contains(&FAILS) {
            return Err(RunnerError::Step("a prompt made the model fail".to_owned()));
        }
        for ((&slot, &position), &token) in
            batch.slots.iter().zip(&batch.positions).zip(&batch.tokens)
        {
            self.cache[slot as usize] = (position, token);
        }
        let mut ends = batch
            .q_lens
            .iter()
            .zip(0..)
            .scan(0, |end, (q_len, sequence)| {
                *end += q_len;
                Some((*end, sequence))
            });
        let mut here = ends.next();
        for (&logit_row, row) in batch.logit_rows.iter().zip(rows) {
            while here.is_some_and(|(end, _)| end <= logit_row) {
                here = ends.next();
            }
            let (end, sequence): (u32, usize) = here.expect("every row belongs to a sequence");
            let length = batch.kv_lens[sequence] - (end - 1 - logit_row);
            let context = self.context(&batch.block_tables[sequence], length);
            outcomes.push(outcome(&context, row));
        }
        Ok(())
    }
}

fn outcome(context: &[u32], row: &SampleRow<'_>) -> RowOutcome {
    if context.contains(&IS_NAN) {
        return RowOutcome::InvalidLogits;
    }
    if let Some(token) = row.given {
        return RowOutcome::Scored(token, Box::new(scores_after(context, token)));
    }
    if row.guide.is_some() || row.history.is_some() {
        return sampled(context, row);
    }
    let token = next_token(context, row.seed, row.choice, row.index);
    match row.sampling.logprobs {
        None => RowOutcome::Token(token),
        Some(_) => RowOutcome::Scored(token, Box::new(scores(token))),
    }
}

/// Token 12 reads `12 `; the last ones read as a byte each.
#[derive(Debug)]
pub(crate) struct NumberCodec;

impl TextCodec for NumberCodec {
    fn encode(&self, text: &str, _special: SpecialTokens) -> Result<Vec<u32>, TextError> {
        text.split_whitespace()
            .map(|n| n.parse().map_err(|_| TextError::Tokenizer))
            .collect()
    }

    fn render_chat(&self, _chat: &ChatInput<'_>) -> Result<String, TextError> {
        Err(TextError::NoTemplate)
    }

    fn detokenizer(&self, _seed: u64, _choice: u32) -> Box<dyn Detokenizer> {
        Box::new(Self)
    }

    fn piece(&self, _seed: u64, _choice: u32, id: u32) -> Cow<'_, [u8]> {
        match id.checked_sub(BYTES) {
            Some(byte) => vec![byte as u8].into(),
            None => format!("{id} ").into_bytes().into(),
        }
    }

    fn vocab_size(&self) -> u32 {
        WIDTH
    }

    fn end_of_generation(&self) -> &[u32] {
        &[EOS]
    }
}

impl Detokenizer for NumberCodec {
    fn push(&mut self, id: u32, out: &mut String) {
        out.push_str(&String::from_utf8_lossy(&self.piece(0, 0, id)));
    }

    fn finish(&mut self, _out: &mut String) {}
}

/// An engine without a thread, over simulated time.
pub(crate) struct Bench {
    pub(crate) core: Core,
    pub(crate) now: Duration,
    /// What a step takes of the device.
    pub(crate) step_time: Duration,
    pub(crate) context_len: u32,
    text: Arc<dyn TextCodec>,
    admissions: Arc<Admissions>,
    bell: Doorbell,
    door: Door,
}

impl Bench {
    /// `kv_blocks` blocks of 4 tokens, and nothing is guessed.
    pub(crate) fn new(sequences_max: u32, step_tokens_max: u32, kv_blocks: u32) -> Self {
        Self::guessing(0, sequences_max, step_tokens_max, kv_blocks)
    }

    /// The same, where sequences guess so many tokens.
    pub(crate) fn guessing(
        draft_tokens_max: u32,
        sequences_max: u32,
        step_tokens_max: u32,
        kv_blocks: u32,
    ) -> Self {
        let model = Box::new(HashModel::new(kv_blocks, 4, kv_blocks * 4));
        Self::with(model, 4, sequences_max, step_tokens_max, draft_tokens_max)
    }

    /// Over a model of the caller's own, with blocks of `block_size` tokens; nothing is guessed.
    #[cfg(feature = "candle")]
    pub(crate) fn over(
        model: Box<dyn Runner>,
        block_size: u32,
        sequences_max: u32,
        step_tokens_max: u32,
    ) -> Self {
        Self::with(model, block_size, sequences_max, step_tokens_max, 0)
    }

    fn with(
        model: Box<dyn Runner>,
        block_size: u32,
        sequences_max: u32,
        step_tokens_max: u32,
        draft_tokens_max: u32,
    ) -> Self {
        let RunnerProfile {
            kv_blocks,
            context_len,
            ..
        } = model.profile();
        let blocks = BlockManager::new(kv_blocks, block_size);
        let pace = Pace::new(Duration::from_millis(50));
        let scheduler = Scheduler::new(sequences_max, step_tokens_max, blocks, pace)
            .with_speculation(Speculation {
                draft_tokens_max,
                context_len,
            });
        let (bell, door) = door(10_000, Alarm::default());
        Self {
            text: model.text(),
            core: Core::new(model, scheduler),
            now: Duration::ZERO,
            step_time: Duration::ZERO,
            context_len,
            admissions: Admissions::new(10_000, u64::MAX),
            bell,
            door,
        }
    }

    pub(crate) fn submit(&mut self, submission: Submission) -> EventStream {
        let link = Arc::new(Link::default());
        let admission = self
            .admissions
            .admit(
                &submission.id,
                &link,
                submission.n,
                submission.prompt.len() as u64,
            )
            .expect("a seat");
        let choices = choices(&submission, &self.text, self.context_len).expect("choices go on");
        let (outlet, stream) = open(link, admission, self.bell.clone());
        let request = Request::new(Arc::new(submission), choices, outlet);
        assert!(self.bell.submit(Box::new(request)));
        stream
    }

    pub(crate) fn abort(&self, id: &str) {
        if self.admissions.cancel(id) {
            self.bell.ring();
        }
    }

    /// What the engine's thread does in a turn, and a millisecond passes.
    pub(crate) fn turn(&mut self) -> Turn {
        let turn = self.untimed_turn();
        if turn == Turn::Stepped {
            self.core.took(Duration::from_millis(1));
        }
        turn
    }

    fn untimed_turn(&mut self) -> Turn {
        while let Ok(request) = self.door.submissions.try_recv() {
            self.core.accept(*request, self.now);
        }
        if self.door.take_ring() {
            self.core.look_around();
        }
        let after = self.now + self.step_time;
        let turn = self.core.turn(self.now, &move || after);
        self.now += Duration::from_millis(1);
        assert_eq!(self.core.audit(), Ok(()));
        turn
    }

    /// A turn on a machine whose steps take `base + prefill tokens x token + decodes x decode` milliseconds; that time.
    pub(crate) fn timed_turn(&mut self, base: u64, token: u64, decode: u64) -> u64 {
        let before = self.core.stats();
        self.untimed_turn();
        let after = self.core.stats();
        let prefill = after.prefill_tokens - before.prefill_tokens;
        let took_ms = base + prefill * token + u64::from(after.running) * decode;
        self.core.took(Duration::from_millis(took_ms));
        took_ms
    }

    /// Turns until nothing is left to do; the number of steps.
    pub(crate) fn finish(&mut self) -> u32 {
        (0..1_000_000)
            .find(|_| self.turn() != Turn::Stepped)
            .expect("the engine comes to rest")
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.core.fail_all(&EngineError::ShuttingDown);
    }
}

/// The next event if there is one now.
pub(crate) fn take(stream: &mut EventStream) -> Option<Event> {
    match stream.poll_recv(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(event) => event,
        Poll::Pending => None,
    }
}

/// All events that are there now.
pub(crate) fn take_all(stream: &mut EventStream) -> Vec<Event> {
    std::iter::from_fn(|| take(stream)).collect()
}

/// A submission whose prompt begins with `shared` tokens of text `text`, and goes on with tokens of its own.
pub(crate) fn after_text(text: u64, shared: u32, id: u64, own: u32, max_tokens: u32) -> Submission {
    let mut prompt = submission(1 << 30 | text, shared, 1).prompt.to_vec();
    prompt.extend_from_slice(&submission(id, own, 1).prompt);
    Submission {
        prompt: prompt.into(),
        ..submission(id, 1, max_tokens)
    }
}

/// Token ids of a choice among events.
pub(crate) fn ids_of(events: &[Event], wanted: u32) -> Vec<u32> {
    let ids = |event: &Event| match event {
        Event::Delta {
            choice, token_ids, ..
        } if *choice == wanted => token_ids.clone(),
        _ => Vec::new(),
    };
    events.iter().flat_map(ids).collect()
}

/// Text of a choice among events.
pub(crate) fn text_of(events: &[Event], wanted: u32) -> String {
    let text = |event: &Event| match event {
        Event::Delta { choice, text, .. } if *choice == wanted => text.clone(),
        _ => String::new(),
    };
    events.iter().map(text).collect()
}

/// A submission of `prompt_tokens` tokens that are peculiar to it.
pub(crate) fn submission(id: u64, prompt_tokens: u32, max_tokens: u32) -> Submission {
    let prompt =
        (0..prompt_tokens).map(|i| (splitmix64(id << 32 | u64::from(i)) % u64::from(VOCAB)) as u32);
    Submission {
        id: id.to_string().into(),
        prompt: prompt.collect(),
        n: 1,
        sampling: SamplingParams::default(),
        stop: StopParams::after(max_tokens),
        grammar: None,
        seed: id,
        priority: Priority::Interactive,
        resume: Vec::new(),
        flow: 0,
        pool: 0,
        deadline: None,
        want_token_ids: true,
        prompt_logprobs: false,
    }
}
