//! Servers that nobody can call, because they stand behind a login node or a firewall: they call, and are called back on
//! the same connection.
//!
//! A node asks `GET /hansa/v1/agent` with an upgrade (`turn.rs`). Then the roles are reversed: the gateway speaks HTTP/2 as
//! the client (`welcome.rs`), and the node serves it like any other connection (`keep.rs`). Where a node cannot reach the
//! gateway either, an agent on a machine that can joins the two connections byte for byte (`relay.rs`): it is a transport,
//! not a hop. The agent also submits the jobs of Slurm that such nodes are (`run.rs`): `chain.rs` decides, without a socket
//! or a clock, `slurm.rs` does, `script.rs` writes and `queue.rs` reads.
//!
//! What goes over the connections, and where requests are routed, is not known here.

pub mod chain;
pub mod keep;
mod lead;
pub mod queue;
pub mod relay;
pub mod run;
pub mod script;
pub mod slurm;
pub mod turn;
pub mod welcome;

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::limits::NAME_BYTES_MAX;

/// The path of calls.
pub(crate) const PATH: &str = "/hansa/v1/agent";

/// The `[[node]]` that calls.
const NODE: HeaderName = HeaderName::from_static("x-hansa-node");
/// Tells one server of a node from another, for as long as it runs.
const INSTANCE: HeaderName = HeaderName::from_static("x-hansa-instance");
/// The job that it runs in.
const JOB: HeaderName = HeaderName::from_static("x-hansa-job");

/// Number of a job.
pub type JobId = u64;

/// Who calls.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Who {
    /// The `[[node]]` of the gateway.
    pub node: Arc<str>,
    /// One server of it.
    pub instance: Arc<str>,
    /// The job that it runs in, where it runs in one.
    pub job: Option<JobId>,
}

impl Who {
    /// Who sent `headers`; `None` where they do not say.
    #[must_use]
    pub fn read(headers: &HeaderMap) -> Option<Self> {
        let text = |name| {
            let text = headers.get(name)?.to_str().ok()?;
            (1..=NAME_BYTES_MAX).contains(&text.len()).then_some(text)
        };
        let job = match headers.contains_key(JOB) {
            true => Some(text(JOB)?.parse().ok()?),
            false => None,
        };
        Some(Self {
            node: text(NODE)?.into(),
            instance: text(INSTANCE)?.into(),
            job,
        })
    }

    /// Says so in `headers`. A name that no header can hold is left out, and the call refused.
    fn write(&self, headers: &mut HeaderMap) {
        let pairs = [(NODE, &self.node), (INSTANCE, &self.instance)];
        for (name, value) in pairs {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(name, value);
            }
        }
        if let Some(job) = self.job {
            headers.insert(JOB, HeaderValue::from(job));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_calls_arrives_as_it_was_said() {
        for job in [None, Some(7)] {
            let who = Who {
                node: "gpu".into(),
                instance: "i-1".into(),
                job,
            };
            let mut headers = HeaderMap::new();
            who.write(&mut headers);
            assert_eq!(Who::read(&headers), Some(who));
            headers.insert(JOB, HeaderValue::from_static("seven"));
            assert_eq!(Who::read(&headers), None);
        }
        assert_eq!(Who::read(&HeaderMap::new()), None);
    }
}
