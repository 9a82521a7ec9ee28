//! One choice of one submission, as the scheduler sees it: tokens, how many of them are computed, and their blocks.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use crate::api::{Priority, Submission};
use crate::block_manager::{BlockManager, BlockTable};
use crate::draft::Text;
use crate::grammar::{Grammar, Guide};
use crate::history::History;
use crate::prefix_cache::BlockKey;
use crate::speculate::Speculator;

/// Number of a submission in order of arrival.
pub(crate) type RequestId = u64;

/// A sequence in order of arrival: its submission, then its choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SequenceId {
    /// The submission.
    pub(crate) request: RequestId,
    /// The choice.
    pub(crate) choice: u32,
}

/// Tokens of a prompt and its completion so far.
///
/// `computed` of them have keys and values in `table`. Prefill, decode and recompute after a preemption are one thing:
/// computing the `remaining` ones. When none remain, the model has said what comes next.
#[derive(Debug)]
pub(crate) struct Sequence {
    /// Who it is, and who came first.
    pub(crate) id: SequenceId,
    /// What was asked.
    pub(crate) submission: Arc<Submission>,
    /// Its KV blocks.
    pub(crate) table: BlockTable,
    /// Tokens that it brings to the step in hand, the guessed ones included.
    pub(crate) scheduled: u32,
    /// When it came, on the engine's clock.
    pub(crate) arrived: Duration,
    /// Its class: the submission's, until it has waited so long that it is raised.
    pub(crate) priority: Priority,
    output: Vec<u32>,
    /// What its penalties count.
    history: Option<History>,
    /// What its grammar allows next.
    guide: Option<Guide>,
    /// Tokens that the last draw brought, those that a grammar forces after it included.
    drawn: u32,
    computed: u32,
    /// What it guesses.
    speculator: Speculator,
    /// Leading tokens of the prompt whose log-probabilities were told, or are not wanted.
    weighed: u32,
    /// Names of its full blocks, as far as they were asked for.
    block_keys: Vec<BlockKey>,
    /// Prompt tokens that it found computed when it first started.
    cached: Option<u32>,
    /// Leading tokens that its flow has been charged for, or got for nothing.
    charged: u32,
    paused_since: Option<Duration>,
}

impl Sequence {
    /// A choice that has produced nothing here yet; what it produced elsewhere is part of its output.
    pub(crate) fn new(id: SequenceId, submission: Arc<Submission>, arrived: Duration) -> Self {
        let emitted = submission.resume.get(id.choice as usize);
        let mut history = History::of(&submission.prompt, &submission.sampling);
        let guide = submission.grammar.as_ref().map(Grammar::guide);
        for &token in emitted.into_iter().flatten() {
            history.iter_mut().for_each(|history| history.push(token));
            guide.iter().for_each(|guide| guide.push(token));
        }
        Self {
            id,
            history,
            guide,
            drawn: 0,
            table: BlockTable::new(submission.pool),
            scheduled: 0,
            arrived,
            priority: submission.priority,
            output: emitted.cloned().unwrap_or_default(),
            computed: 0,
            speculator: Speculator::default(),
            weighed: weighed_from_the_start(id, &submission),
            block_keys: Vec::new(),
            cached: None,
            charged: 0,
            paused_since: None,
            submission,
        }
    }

    /// Tokens of prompt and completion.
    pub(crate) fn len(&self) -> u32 {
        (self.submission.prompt.len() + self.output.len()) as u32
    }

    /// Tokens of the prompt.
    pub(crate) fn prompt_len(&self) -> u32 {
        self.submission.prompt.len() as u32
    }

    /// Tokens produced, here or elsewhere.
    pub(crate) fn produced(&self) -> u32 {
        self.output.len() as u32
    }

    /// Tokens whose keys and values are in the cache.
    pub(crate) fn computed(&self) -> u32 {
        self.computed
    }

    /// Tokens still to compute; never 0 between steps.
    pub(crate) fn remaining(&self) -> u32 {
        self.len() - self.computed
    }

    /// Prompt tokens that it found computed when it first started; 0 before.
    pub(crate) fn cached(&self) -> u32 {
        self.cached.unwrap_or(0)
    }

    /// Who goes first where there is not room for all: the higher class, then the earlier arrival.
    pub(crate) fn rank(&self) -> (Priority, SequenceId) {
        (self.priority, self.id)
    }

    /// Whether it goes on by what the last draw brought, mostly one token; otherwise it is still to be prefilled.
    pub(crate) fn is_decoding(&self) -> bool {
        self.remaining() <= self.drawn.max(1) && !self.output.is_empty()
    }

    /// Whether the step in hand computes its last token, so that the next one is drawn.
    pub(crate) fn samples(&self) -> bool {
        self.scheduled > 0 && self.scheduled - self.drafted() == self.remaining()
    }

    /// Whether its reader is behind.
    pub(crate) fn is_paused(&self) -> bool {
        self.paused_since.is_some()
    }

    /// How long its reader has been behind.
    pub(crate) fn paused_for(&self, now: Duration) -> Option<Duration> {
        self.paused_since.map(|since| now.saturating_sub(since))
    }

    /// Keeps it out of steps until [`Sequence::resume`].
    pub(crate) fn pause(&mut self, now: Duration) {
        self.paused_since.get_or_insert(now);
    }

    /// Lets it into steps again.
    pub(crate) fn resume(&mut self) {
        self.paused_since = None;
    }

    /// The tokens that the step in hand computes, in order, appended to `out`.
    pub(crate) fn extend_with_scheduled(&self, out: &mut Vec<u32>) {
        let own = self.scheduled - self.drafted();
        self.extend_with(self.computed..self.computed + own, out);
        out.extend_from_slice(self.draft());
    }

    fn extend_with(&self, positions: Range<u32>, out: &mut Vec<u32>) {
        let prompt = &self.submission.prompt;
        let (from, to) = (positions.start as usize, positions.end as usize);
        out.extend_from_slice(&prompt[from.min(prompt.len())..to.min(prompt.len())]);
        let output = from.saturating_sub(prompt.len())..to.saturating_sub(prompt.len());
        out.extend_from_slice(&self.output[output]);
    }

    /// The step went well: what it brought is computed, but for what was guessed.
    pub(crate) fn advance(&mut self) {
        self.weighed = self.weighed.max(self.prompt_rows().end + 1);
        self.computed += std::mem::take(&mut self.scheduled) - self.drafted();
    }

    /// Takes it out of the step in hand.
    pub(crate) fn unschedule(&mut self) {
        self.scheduled = 0;
        self.speculator.truncate(0);
    }

    /// The model's next token, which is paid for as output. Returns those that its grammar forces after it, where `end` is the one that ends a
    /// generation; they are the caller's to [`Sequence::append`].
    pub(crate) fn push(&mut self, token: u32, end: Option<u32>) -> Vec<u32> {
        self.drawn = 0;
        self.append(token);
        let (Some(guide), Some(end)) = (&self.guide, end) else {
            return Vec::new();
        };
        guide.push(token);
        // What is forced was never drawn, so nobody would know how likely it was.
        if self.submission.sampling.logprobs.is_some() {
            return guide.end_if_over(end).into_iter().collect();
        }
        guide.force(end)
    }

    /// One more token of the last draw.
    pub(crate) fn append(&mut self, token: u32) {
        self.drawn += 1;
        self.output.push(token);
        self.charged = self.charged.max(self.len());
        if let Some(history) = &mut self.history {
            history.push(token);
        }
    }

    /// What its grammar allows next.
    pub(crate) fn guide(&self) -> Option<&Guide> {
        self.guide.as_ref()
    }

    /// What its penalties count.
    pub(crate) fn history(&self) -> Option<&History> {
        self.history.as_ref()
    }

    /// Of the tokens before position `end`, those that nobody has paid for yet; now they are paid.
    pub(crate) fn charge_until(&mut self, end: u32) -> u32 {
        let due = end.saturating_sub(self.charged);
        self.charged += due;
        due
    }

    /// Its keys and values are gone: everything is to be computed again.
    pub(crate) fn forget(&mut self) {
        self.computed = 0;
        self.scheduled = 0;
        self.drawn = 0;
        self.speculator.forget();
    }
}

/// Tokens that are guessed.
impl Sequence {
    /// Guesses up to `max` tokens after its last one, as far as each is worth `price`.
    pub(crate) fn guess(&mut self, max: u32, price: f64) {
        let text = Text {
            prompt: &self.submission.prompt,
            output: &self.output,
        };
        self.speculator.guess(text, max, price);
        if let Some(guide) = self.guide.as_ref().filter(|_| self.drafted() > 0) {
            let allowed = guide.allowed(self.speculator.draft());
            self.speculator.truncate(allowed);
        }
    }

    /// Keeps the first `count` tokens of the guess and brings them to the step in hand.
    pub(crate) fn schedule_draft(&mut self, count: u32) {
        self.speculator.truncate(count as usize);
        self.scheduled += self.drafted();
    }

    /// The tokens that are guessed in the step in hand.
    pub(crate) fn draft(&self) -> &[u32] {
        self.speculator.draft()
    }

    /// Their number.
    pub(crate) fn drafted(&self) -> u32 {
        self.draft().len() as u32
    }

    /// Where all that was said after the first `before` tokens was guessed, how many these are: so many rows further the
    /// next draw stands on what was really said.
    pub(crate) fn confirmed(&self, before: u32) -> Option<usize> {
        let said = &self.output[before as usize..];
        self.draft().starts_with(said).then_some(said.len())
    }

    /// Ends the guess in hand, after which everything beyond the first `before` tokens was said. What was guessed right is
    /// computed, but for the last token said: the model must still say what comes next. Returns the tokens guessed right.
    pub(crate) fn check(&mut self, before: u32) -> u32 {
        let said = &self.output[before as usize..];
        let pairs = self.draft().iter().zip(said);
        let right = pairs.take_while(|(guess, token)| guess == token).count();
        self.computed += right.min(said.len().saturating_sub(1)) as u32;
        self.speculator.check(right);
        right as u32
    }
}

/// Log-probabilities of its prompt.
impl Sequence {
    /// Whether its step must still say how likely tokens of its prompt were.
    pub(crate) fn weighs_prompt(&self) -> bool {
        self.weighed < self.prompt_len()
    }

    /// Positions of the step in hand after which a token of the prompt comes that is to be weighed.
    pub(crate) fn prompt_rows(&self) -> Range<u32> {
        let end = self.computed + self.scheduled;
        let end = end.min(self.prompt_len() - 1);
        let start = self.computed.max(self.weighed - 1);
        start.min(end)..end
    }

    /// Rows of logits that it wants from the step in hand.
    pub(crate) fn rows(&self) -> usize {
        let draws = if self.samples() {
            1 + self.drafted()
        } else {
            0
        };
        self.prompt_rows().len() + draws as usize
    }
}

/// One choice weighs the prompt for all, at its beginning. Nobody says how likely the first token was.
fn weighed_from_the_start(id: SequenceId, submission: &Submission) -> u32 {
    let begins = submission.resume.iter().all(Vec::is_empty);
    if submission.prompt_logprobs && id.choice == 0 && begins {
        1
    } else {
        submission.prompt.len() as u32
    }
}

/// Blocks that sequences share.
impl Sequence {
    /// Tokens of the prompt in full blocks, without its last token: what another choice of it could share.
    pub(crate) fn shareable(&self, block_size: u32) -> u32 {
        let before_last = self.prompt_len() - 1;
        before_last / block_size * block_size
    }

    /// The blocks of its beginning that are computed already. Its last token is not among them: the model must still say
    /// what comes next. Nor are there any while it weighs its prompt: what is not computed again has no logits.
    pub(crate) fn found_in(&mut self, blocks: &BlockManager) -> Vec<u32> {
        let (mut found, mut tokens) = (Vec::new(), Vec::new());
        let usable = if self.weighs_prompt() {
            0
        } else {
            (self.len() - 1) / blocks.block_size()
        };
        for index in 0..usable {
            let key = self.block(index, blocks, &mut tokens);
            let parent = found.last().copied();
            match blocks
                .cache()
                .find(self.submission.pool, parent, key, &tokens)
            {
                Some(block) => found.push(block),
                None => break,
            }
        }
        found
    }

    /// Starts with the blocks that were found. True the first time.
    pub(crate) fn adopt(&mut self, found: &[u32], blocks: &mut BlockManager) -> bool {
        blocks.adopt(found, &mut self.table);
        self.computed = found.len() as u32 * blocks.block_size();
        self.charged = self.charged.max(self.computed);
        let is_first = self.cached.is_none();
        self.cached
            .get_or_insert(self.computed.min(self.prompt_len()));
        is_first
    }

    /// Makes its full, computed blocks findable for others.
    pub(crate) fn publish(&mut self, blocks: &mut BlockManager) {
        let full = self.computed / blocks.block_size();
        let mut tokens = Vec::new();
        while self.table.findable() < full {
            let key = self.block(self.table.findable(), blocks, &mut tokens);
            if !blocks.publish(&mut self.table, key, &tokens) {
                return;
            }
        }
    }

    /// Key and tokens of its full block `index`. Blocks are asked for in order.
    fn block(&mut self, index: u32, blocks: &BlockManager, tokens: &mut Vec<u32>) -> BlockKey {
        let from = index * blocks.block_size();
        tokens.clear();
        self.extend_with(from..from + blocks.block_size(), tokens);
        if let Some(&key) = self.block_keys.get(index as usize) {
            return key;
        }
        let parent = self.block_keys.last().copied();
        let key = blocks.cache().key(self.submission.pool, parent, tokens);
        self.block_keys.push(key);
        key
    }
}
