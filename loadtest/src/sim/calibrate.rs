//! What the steps of a real server cost, fitted to one `drive` run's raw file.
//!
//! A request that decodes sees steps that hold others too. With `n` gaps between its tokens, its decoding lasts
//! `n x (c0 + c3 x sequences beside each other) + c1 x prompt tokens of others that came in between + c2 x their context`, and
//! its first token comes after `c0 + c1 x its prompt` where nobody was before it. Both are linear in the four figures, so they
//! are one system of least squares, solved under the condition that none is negative (Lawson and Hanson, 1974, by leaving
//! out what would be). Who decodes beside whom is known from when the requests' first and last tokens came.
//!
//! It sees one server as one machine: drive a single node.

use std::fmt::Write as _;

use serde::Serialize;

use crate::limits::{MAX_FITTED, MIN_FITTED};
use crate::raw::Run;

/// The four figures, in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Fitted {
    /// Of a step: c0.
    pub step_us: f64,
    /// Of a prompt token: c1.
    pub prefill_token_us: f64,
    /// Of a token of context: c2.
    pub context_token_us: f64,
    /// Of a sequence that decodes: c3.
    pub sequence_us: f64,
    /// Requests that it was fitted to.
    pub requests: usize,
    /// Median relative error of the time that requests decoded for.
    pub decode_error: f64,
}

/// Why nothing was fitted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// There is too little to go by.
    #[error(
        "{0} good requests with known lengths and at least two tokens; {MIN_FITTED} are needed: drive for longer"
    )]
    TooFew(usize),
    /// Who was beside whom is not known.
    #[error("the file holds a sample of the run's requests: drive without --raw-sample")]
    Sample,
    /// The times are the client's own.
    #[error("the run was client-bound: its times say nothing of the server's steps")]
    ClientBound,
}

const FIGURES: usize = 4;

/// A request as the fit sees it, in microseconds and tokens.
#[derive(Debug, Clone, Copy)]
struct Seen {
    sent: f64,
    first: f64,
    last: f64,
    prompt: f64,
    output: f64,
}

/// One equation: what the figures are multiplied by, and what comes of it.
type Row = ([f64; FIGURES], f64);

/// Fits the figures to a run.
///
/// # Errors
/// [`Unfit`].
pub fn fit(run: &Run) -> Result<Fitted, Unfit> {
    if run.is_sample() {
        return Err(Unfit::Sample);
    }
    if run.client_bound {
        return Err(Unfit::ClientBound);
    }
    let mut seen: Vec<Seen> = run.requests.iter().filter_map(seen).collect();
    seen.sort_by(|a, b| a.first.total_cmp(&b.first));
    if seen.len() < MIN_FITTED {
        return Err(Unfit::TooFew(seen.len()));
    }
    // Who is beside whom is asked of each pair.
    seen.truncate(MAX_FITTED);
    let line = Line::new(&seen);
    let decodes: Vec<Row> = seen.iter().map(|one| line.decode(one)).collect();
    let firsts = seen.iter().filter(|one| line.is_first(one)).map(first);
    let rows: Vec<Row> = decodes
        .iter()
        .copied()
        .chain(firsts)
        .map(weighted)
        .collect();
    let figures = least_squares(&rows);
    let error = |row: &Row| {
        let expected: f64 = row.0.iter().zip(figures).map(|(x, f)| x * f).sum();
        (expected / row.1.max(1.0) - 1.0).abs()
    };
    let mut errors: Vec<f64> = decodes.iter().map(error).collect();
    errors.sort_by(f64::total_cmp);
    let [step_us, prefill_token_us, context_token_us, sequence_us] = figures;
    Ok(Fitted {
        step_us,
        prefill_token_us,
        context_token_us,
        sequence_us,
        requests: seen.len(),
        decode_error: errors.get(errors.len() / 2).copied().unwrap_or_default(),
    })
}

impl Fitted {
    /// A `[[machine]]` section for a scenario.
    #[must_use]
    pub fn machine(&self, name: &str) -> String {
        let mut out = format!("[[machine]]\nname = \"{name}\"\n");
        let figures = [
            ("step_us", self.step_us),
            ("prefill_token_us", self.prefill_token_us),
            ("context_token_us", self.context_token_us),
            ("sequence_us", self.sequence_us),
        ];
        for (key, value) in figures {
            // Writing to a string cannot fail.
            let _ = writeln!(out, "{key} = {value:.6}");
        }
        out
    }
}

fn seen(request: &crate::raw::Request) -> Option<Seen> {
    let (record, good) = (&request.record, request.good);
    let usage = record
        .usage
        .filter(|usage| good && usage.completion_tokens > 1)?;
    let stamps = &record.stamps;
    let us = |at: crate::clock::Nanos| at as f64 / 1e3;
    Some(Seen {
        sent: us(stamps.sent?),
        first: us(stamps.first_content?),
        last: us(stamps.last_content?),
        prompt: usage.prompt_tokens as f64,
        output: usage.completion_tokens as f64,
    })
}

/// Times by the square root of what they are: a long answer says more than a short one, but not as much more as it is long.
fn weighted((row, value): Row) -> Row {
    let weight = 1.0 / value.max(1.0).sqrt();
    (row.map(|x| x * weight), value * weight)
}

/// A first token that nobody was before: one step with the whole prompt.
fn first(one: &Seen) -> Row {
    ([1.0, one.prompt, 0.0, 0.0], one.first - one.sent)
}

/// Sums over time of what was decoded, for quick means over any interval.
struct Line<'s> {
    seen: &'s [Seen],
    /// Moments at which someone began or ended; up to each, sequence-microseconds and token-microseconds.
    moments: Vec<(f64, f64, f64)>,
    /// Prompts by the moment at which they were computed: running sums.
    prompts: Vec<f64>,
}

impl<'s> Line<'s> {
    /// `seen` is in the order of first tokens.
    fn new(seen: &'s [Seen]) -> Self {
        let mut changes: Vec<(f64, f64, f64, f64)> = Vec::new();
        for one in seen {
            // Its context grows from its prompt on, by a token a gap.
            let pace = (one.output - 1.0) / (one.last - one.first).max(1.0);
            changes.push((one.first, 1.0, one.prompt, pace));
            changes.push((one.last, -1.0, -(one.prompt + one.output - 1.0), -pace));
        }
        changes.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut moments = Vec::new();
        let (mut at, mut count, mut context, mut pace) = (0.0, 0.0, 0.0, 0.0);
        let (mut counts, mut contexts) = (0.0, 0.0);
        for (when, more, tokens, faster) in changes {
            let passed = when - at;
            counts += count * passed;
            contexts += context * passed + pace * passed * passed / 2.0;
            context += pace * passed + tokens;
            (at, count, pace) = (when, count + more, pace + faster);
            moments.push((at, counts, contexts));
        }
        let mut sum = 0.0;
        let prompts = seen.iter().map(|one| {
            sum += one.prompt;
            sum
        });
        Self {
            seen,
            moments,
            prompts: prompts.collect(),
        }
    }

    /// What the decoding of `one` was made of.
    fn decode(&self, one: &Seen) -> Row {
        let gaps = one.output - 1.0;
        let took = (one.last - one.first).max(1.0);
        let (from, to) = (self.sums(one.first), self.sums(one.last));
        let beside = (to.0 - from.0) / took;
        let context = (to.1 - from.1) / took;
        // Prompts whose first token came in between were computed in between, for the most part.
        let computed = self.prompts_until(one.last) - self.prompts_until(one.first);
        ([gaps, computed, gaps * context, gaps * beside], took)
    }

    /// Whether nobody's prompt or answer was under way when `one` was sent.
    fn is_first(&self, one: &Seen) -> bool {
        let other = |other: &&Seen| other.sent < one.first && other.last > one.sent;
        self.seen.iter().filter(other).count() == 1
    }

    fn sums(&self, at: f64) -> (f64, f64) {
        let place = self.moments.partition_point(|moment| moment.0 < at);
        let moment = self.moments.get(place).or_else(|| self.moments.last());
        moment.map_or((0.0, 0.0), |moment| (moment.1, moment.2))
    }

    fn prompts_until(&self, at: f64) -> f64 {
        let place = self.seen.partition_point(|one| one.first <= at);
        let before = place.checked_sub(1).and_then(|last| self.prompts.get(last));
        before.copied().unwrap_or(0.0)
    }
}

/// The figures, none negative, with the least sum of squares. Those that would be negative are 0 and the rest is fitted again;
/// with four figures that ends after four rounds.
fn least_squares(rows: &[Row]) -> [f64; FIGURES] {
    let mut used = [true; FIGURES];
    for _ in 0..FIGURES {
        let figures = solve(rows, used);
        let worst = (0..FIGURES).min_by(|a, b| figures[*a].total_cmp(&figures[*b]));
        match worst.filter(|worst| figures[*worst] < 0.0) {
            Some(worst) => used[worst] = false,
            None => return figures,
        }
    }
    [0.0; FIGURES]
}

/// Normal equations by Gaussian elimination over the figures in use, each column scaled to one size.
fn solve(rows: &[Row], used: [bool; FIGURES]) -> [f64; FIGURES] {
    let size = |i: usize| rows.iter().map(|(x, _)| x[i] * x[i]).sum::<f64>().sqrt();
    let scale: [f64; FIGURES] = std::array::from_fn(|i| size(i).max(1e-12));
    let mut left = [[0.0; FIGURES]; FIGURES];
    let mut right = [0.0; FIGURES];
    for (x, y) in rows {
        for i in 0..FIGURES {
            right[i] += x[i] / scale[i] * y;
            for j in 0..FIGURES {
                left[i][j] += x[i] / scale[i] * x[j] / scale[j];
            }
        }
    }
    for i in 0..FIGURES {
        // Columns that say the same share what they say.
        left[i][i] += 1e-9;
        if !used[i] {
            left[i] = std::array::from_fn(|j| if i == j { 1.0 } else { 0.0 });
            right[i] = 0.0;
        }
    }
    for pivot in 0..FIGURES {
        for row in pivot + 1..FIGURES {
            let factor = left[row][pivot] / left[pivot][pivot];
            let above = left[pivot];
            left[row] = std::array::from_fn(|j| left[row][j] - factor * above[j]);
            right[row] -= factor * right[pivot];
        }
    }
    for row in (0..FIGURES).rev() {
        let known: f64 = (row + 1..FIGURES).map(|j| left[row][j] * right[j]).sum();
        right[row] = (right[row] - known) / left[row][row];
    }
    std::array::from_fn(|i| right[i] / scale[i])
}

#[cfg(test)]
mod tests;
