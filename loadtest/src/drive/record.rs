//! What is known of one request when it is over, and the times that follow from its stamps. The definitions of the
//! metrics are here and nowhere else; the report quotes them.

use std::sync::Arc;

use super::chunk::Usage;
use super::verdict::Verdict;
use crate::clock::Nanos;
use crate::extras::Extras;
use crate::workload::Place;

/// Everything about one finished request that statistics are made of.
#[derive(Debug, Clone)]
pub struct Record {
    /// Which request it was.
    pub labels: Labels,
    /// When things happened.
    pub stamps: Stamps,
    /// Whether it was good, or what was wrong.
    pub verdict: Verdict,
    /// What the server counted.
    pub usage: Option<Usage>,
    /// Gaps between successive content events, in microseconds.
    pub gaps_us: Vec<u32>,
    /// What else the server told.
    pub extras: Extras,
}

/// Which request it was: what reports group by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Labels {
    /// Number in the run.
    pub index: u64,
    /// Its session and turn.
    pub place: Place,
    /// The model asked for.
    pub model: Arc<str>,
    /// Who asked.
    pub tenant: Option<Arc<str>>,
    /// The stage of the schedule.
    pub stage: Option<Arc<str>>,
    /// The site that answered, as the response header `x-hansa-site` named it before a `/`.
    pub site: Option<Arc<str>>,
    /// The form that the answer had to have, where a scenario has forms.
    pub form: Option<Arc<str>>,
}

/// Moments of one request on the monotonic clock, in the order in which they happen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stamps {
    /// When it was due: its place in the schedule, or the end of its user's request before.
    pub intended: Nanos,
    /// When the client began it. Opening a connection, where none was idle, comes after: a user waits for that too.
    pub sent: Option<Nanos>,
    /// When it had a connection.
    pub connected: Option<Nanos>,
    /// When the response headers were read.
    pub headers: Option<Nanos>,
    /// When the first bytes of the body were read.
    pub first_byte: Option<Nanos>,
    /// The first event with content.
    pub first_content: Option<Nanos>,
    /// The last event with content.
    pub last_content: Option<Nanos>,
    /// The `[DONE]` event.
    pub terminal: Option<Nanos>,
    /// The end of the body, or of the attempt.
    pub end: Nanos,
}

/// From when a user's waiting is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    /// From `sent`: what the server did with what reached it.
    Service,
    /// From `intended`: what a user felt who came on schedule, the client's own lateness included.
    Response,
}

impl Record {
    /// Time to the first byte of the body, in microseconds.
    pub fn ttfb_us(&self, view: View) -> Option<u64> {
        self.since(view, self.stamps.first_byte)
    }

    /// Time to first token: to the first event with content, in microseconds.
    pub fn ttft_us(&self, view: View) -> Option<u64> {
        self.since(view, self.stamps.first_content)
    }

    /// End to end: to the `[DONE]` event, in microseconds.
    pub fn e2e_us(&self, view: View) -> Option<u64> {
        self.since(view, self.stamps.terminal)
    }

    /// Time per output token after the first: (last content - first content) / (n - 1), n from the usage, in
    /// microseconds. None where all content came in one event: it would be a zero that nobody felt.
    pub fn tpot_us(&self) -> Option<u64> {
        let tokens = self.usage?.completion_tokens;
        let spread = self
            .stamps
            .last_content?
            .checked_sub(self.stamps.first_content?)?;
        (tokens > 1 && !self.gaps_us.is_empty()).then(|| micros(spread) / (tokens - 1))
    }

    /// Time per output token of the whole answer: end to end / n, in microseconds.
    pub fn ntpot_us(&self, view: View) -> Option<u64> {
        self.e2e_us(view)?
            .checked_div(self.usage?.completion_tokens)
    }

    /// Tokens of a good request's prompt and answer, as the server counted them.
    pub fn good_tokens(&self) -> Option<(u64, u64)> {
        let usage = self.usage.filter(|_| self.verdict == Verdict::Good)?;
        Some((usage.prompt_tokens, usage.completion_tokens))
    }

    /// How late the client was, in microseconds; None if it was never sent.
    pub fn lag_us(&self) -> Option<u64> {
        Some(micros(
            self.stamps.sent?.saturating_sub(self.stamps.intended),
        ))
    }

    /// Time to get a connection, in microseconds.
    pub fn connect_us(&self) -> Option<u64> {
        self.since(View::Service, self.stamps.connected)
    }

    fn since(&self, view: View, at: Option<Nanos>) -> Option<u64> {
        let from = match view {
            View::Service => self.stamps.sent?,
            View::Response => self.stamps.intended,
        };
        at?.checked_sub(from).map(micros)
    }
}

/// Whole microseconds, rounded to the nearest.
fn micros(nanos: Nanos) -> u64 {
    nanos.saturating_add(500) / 1_000
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A good request of 10 tokens.
    pub(crate) fn record() -> Record {
        let ms = |ms: u64| ms * 1_000_000;
        Record {
            labels: Labels::default(),
            stamps: Stamps {
                intended: ms(100),
                sent: Some(ms(110)),
                connected: Some(ms(111)),
                headers: Some(ms(150)),
                first_byte: Some(ms(151)),
                first_content: Some(ms(160)),
                last_content: Some(ms(250)),
                terminal: Some(ms(252)),
                end: ms(253),
            },
            verdict: Verdict::Good,
            usage: Some(Usage {
                prompt_tokens: 1,
                completion_tokens: 10,
                total_tokens: None,
            }),
            gaps_us: vec![45_000, 45_000],
            extras: Extras::default(),
        }
    }

    #[test]
    fn metrics_follow_their_definitions_in_both_views() {
        let record = record();
        let both = |of: fn(&Record, View) -> Option<u64>| {
            (
                of(&record, View::Service).unwrap(),
                of(&record, View::Response).unwrap(),
            )
        };
        assert_eq!(both(Record::ttfb_us), (41_000, 51_000));
        assert_eq!(both(Record::ttft_us), (50_000, 60_000));
        assert_eq!(both(Record::e2e_us), (142_000, 152_000));
        assert_eq!(record.tpot_us(), Some(10_000));
        assert_eq!(record.ntpot_us(View::Service), Some(14_200));
        assert_eq!(
            (record.lag_us(), record.connect_us()),
            (Some(10_000), Some(1_000))
        );
    }

    #[test]
    fn an_answer_in_one_event_has_no_tpot() {
        let mut record = record();
        record.gaps_us.clear();
        record.stamps.last_content = record.stamps.first_content;
        assert_eq!(record.tpot_us(), None);
    }

    #[test]
    fn one_token_has_no_tpot() {
        let mut record = record();
        record.usage = Some(Usage {
            prompt_tokens: 1,
            completion_tokens: 1,
            total_tokens: None,
        });
        assert_eq!(record.tpot_us(), None);
    }
}
