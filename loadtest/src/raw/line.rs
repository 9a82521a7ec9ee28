//! What is kept of one request, and what of it a comparison reads back. Holds no prompt and no answer, and knows no format.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::Request;
use crate::clock::Nanos;
use crate::drive::chunk::Usage;
use crate::drive::record::{Labels, Record, Stamps};
use crate::drive::verdict::Verdict;
use crate::extras::Extras;

/// One request. Times are microseconds after the start of the run; those that never came are absent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Line<'a> {
    pub(super) index: u64,
    pub(super) session: u64,
    pub(super) turn: u32,
    pub(super) model: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) tenant: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) stage: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) site: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) form: Option<Cow<'a, str>>,
    /// `good`, `aborted`, or the class of the failure.
    pub(super) verdict: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<Cow<'a, str>>,
    pub(super) due_us: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) sent_us: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) connected_us: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) headers_us: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) first_byte_us: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) first_content_us: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) last_content_us: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) terminal_us: Option<u64>,
    pub(super) end_us: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) prompt_tokens: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) output_tokens: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) cached_tokens: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) joules: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) grams: Option<f64>,
    /// The gateway tried more than once before the first content.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) retried: bool,
    #[serde(default)]
    pub(super) gaps_us: Cow<'a, [u32]>,
}

impl<'a> Line<'a> {
    /// Of a request of a run that began at `began`.
    pub(super) fn of(record: &'a Record, began: Nanos) -> Self {
        let Record {
            labels,
            stamps,
            verdict,
            usage,
            gaps_us,
            extras,
        } = record;
        let at = |at: Option<Nanos>| at.map(|at| at.saturating_sub(began) / 1_000);
        let (verdict, reason) = match verdict {
            Verdict::Good => ("good", None),
            Verdict::Aborted => ("aborted", None),
            Verdict::Failed(failure) => {
                (failure.class.name(), Some(Cow::Borrowed(&*failure.reason)))
            }
        };
        Self {
            index: labels.index,
            session: labels.place.session,
            turn: labels.place.turn,
            model: Cow::Borrowed(&labels.model),
            tenant: labels.tenant.as_deref().map(Cow::Borrowed),
            stage: labels.stage.as_deref().map(Cow::Borrowed),
            site: labels.site.as_deref().map(Cow::Borrowed),
            form: labels.form.as_deref().map(Cow::Borrowed),
            verdict: verdict.into(),
            reason,
            due_us: at(Some(stamps.intended)).unwrap_or(0),
            sent_us: at(stamps.sent),
            connected_us: at(stamps.connected),
            headers_us: at(stamps.headers),
            first_byte_us: at(stamps.first_byte),
            first_content_us: at(stamps.first_content),
            last_content_us: at(stamps.last_content),
            terminal_us: at(stamps.terminal),
            end_us: at(Some(stamps.end)).unwrap_or(0),
            prompt_tokens: usage.map(|usage| usage.prompt_tokens),
            output_tokens: usage.map(|usage| usage.completion_tokens),
            cached_tokens: extras.cached_tokens,
            joules: extras.joules,
            grams: extras.grams,
            retried: extras.retried,
            gaps_us: Cow::Borrowed(gaps_us),
        }
    }

    /// Whether the client gave it up, as it was told to.
    pub(super) fn is_aborted(&self) -> bool {
        self.verdict == "aborted"
    }

    /// The record, as far as latencies need it. Class and reason of a failure are not told apart any more.
    pub(super) fn request(self) -> Request {
        let ns = |us: Option<u64>| us.map(|us| us.saturating_mul(1_000));
        let stamps = Stamps {
            intended: self.due_us.saturating_mul(1_000),
            sent: ns(self.sent_us),
            connected: ns(self.connected_us),
            headers: ns(self.headers_us),
            first_byte: ns(self.first_byte_us),
            first_content: ns(self.first_content_us),
            last_content: ns(self.last_content_us),
            terminal: ns(self.terminal_us),
            end: self.end_us.saturating_mul(1_000),
        };
        let usage = self.output_tokens.map(|completion_tokens| Usage {
            prompt_tokens: self.prompt_tokens.unwrap_or(0),
            completion_tokens,
            total_tokens: None,
        });
        let good = self.verdict == "good";
        let record = Record {
            labels: Labels {
                index: self.index,
                ..Labels::default()
            },
            stamps,
            verdict: Verdict::Good,
            usage,
            gaps_us: self.gaps_us.into_owned(),
            extras: Extras {
                cached_tokens: self.cached_tokens,
                joules: self.joules,
                grams: self.grams,
                retried: self.retried,
            },
        };
        Request { record, good }
    }
}
