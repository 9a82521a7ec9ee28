//! Mock sites: OpenAI-compatible servers of known speed and known words, to test what stands before them or what measures
//! them. Their texts are those of Hansa's simulated model, so that a lost or doubled token is found to the byte.

mod answer;
mod cost;
mod metrics;
mod serve;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

pub use self::cost::Cost;
use self::metrics::Counts;
use crate::clock::Clock;
use crate::stats::Distribution;

/// A running mock site. Dropping it ends it and all of its connections.
#[derive(Debug)]
pub struct Mock {
    address: SocketAddr,
    site: Arc<Site>,
    // Aborted when dropped.
    _tasks: JoinSet<()>,
}

/// How a mock site answers.
#[derive(Debug, Clone, PartialEq)]
pub struct MockOptions {
    /// The model that it serves.
    pub model: Arc<str>,
    /// What work costs.
    pub cost: Cost,
    /// Names the texts of requests that bring no seed.
    pub seed: u64,
}

/// What the requests of a site share.
#[derive(Debug)]
struct Site {
    name: Arc<str>,
    options: MockOptions,
    slots: Arc<Semaphore>,
    clock: Clock,
    counts: Counts,
    /// Requests so far.
    asked: AtomicU64,
    told: Mutex<Told>,
}

/// When content was handed to the network, as the site itself saw it: what a client's figures must come near to.
#[derive(Debug, Clone, Default)]
pub struct Told {
    /// From the request to its first content.
    pub ttft: Distribution,
    /// Between tokens after the first, the mean of each stream that came to its end.
    pub tpot: Distribution,
}

impl Default for MockOptions {
    fn default() -> Self {
        Self {
            model: "mock".into(),
            cost: Cost::default(),
            seed: 0,
        }
    }
}

impl Mock {
    /// Starts a site on a free port of loopback.
    ///
    /// # Errors
    /// No port is free.
    pub async fn start(options: MockOptions) -> io::Result<Self> {
        Self::listen("mock", (Ipv4Addr::LOCALHOST, 0).into(), options).await
    }

    /// Starts a site that calls itself `name` in its answers' `x-hansa-site`.
    ///
    /// # Errors
    /// The address cannot be listened on.
    pub async fn listen(name: &str, at: SocketAddr, options: MockOptions) -> io::Result<Self> {
        let listener = TcpListener::bind(at).await?;
        let address = listener.local_addr()?;
        let site = Arc::new(Site {
            name: name.into(),
            slots: Arc::new(Semaphore::new(options.cost.slots as usize)),
            options,
            clock: Clock::start(),
            counts: Counts::default(),
            asked: AtomicU64::new(0),
            told: Mutex::default(),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(serve::accept(listener, Arc::clone(&site)));
        Ok(Self {
            address,
            site,
            _tasks: tasks,
        })
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Requests for answers that came so far.
    pub fn asked(&self) -> u64 {
        self.site.asked.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// When it said what, so far.
    pub fn told(&self) -> Told {
        self.site.told().clone()
    }
}

impl Site {
    fn told(&self) -> std::sync::MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
