//! A proxy before one server: carries TCP connections and does to them what its faults say. What runs over them it need
//! not know, but where a fault is one of HTTP: errors are answered to both versions, and clients of HTTP/2 are told to
//! come again.
//!
//! In tests of a product it stands between two of its processes:
//! ```no_run
//! # async fn example(server: std::net::SocketAddr) -> std::io::Result<()> {
//! use hansa_loadtest::faults::fault::FaultKind;
//! use hansa_loadtest::faults::{Proxy, ProxyOptions};
//!
//! let proxy = Proxy::start(ProxyOptions::to(server)).await?;
//! let fault = proxy.inject(FaultKind::Partition);
//! proxy.heal(fault);
//! # Ok(())
//! # }
//! ```

mod conditions;
mod connection;
mod errors;
mod flow;
mod frames;
mod listen;
mod marker;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use tokio::sync::watch;
use tokio::task::JoinSet;

use self::conditions::Active;
use super::fault::Fault;
use crate::clock::Clock;
use crate::limits::{MAX_FAULTS, MAX_MARKER_BYTES};

/// A running proxy. Dropping it ends it and all of its connections.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    rules: watch::Sender<Arc<Active>>,
    next: AtomicU64,
    // Aborted when dropped.
    _tasks: JoinSet<()>,
}

/// How a proxy is set up.
#[derive(Debug, Clone)]
pub struct ProxyOptions {
    /// Where clients connect; port 0 takes any.
    pub listen: SocketAddr,
    /// Host and port of the server behind it.
    pub to: String,
    /// Fixes what is drawn: jitter, and which connections a share is.
    pub seed: u64,
    /// A text whose passing to the server is counted, for proofs that a request never went this way. As long as
    /// [`MAX_MARKER_BYTES`] at most; none where it is empty. It is found in what is neither compressed nor encrypted, as bodies of
    /// requests are without TLS.
    pub marker: String,
}

/// The number of a fault at work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FaultId(u64);

/// What a proxy has seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    /// Connections taken.
    pub connections: u64,
    /// Those of them that are open.
    pub open: u64,
    /// Bytes that clients sent.
    pub bytes_up: u64,
    /// Bytes that the server sent.
    pub bytes_down: u64,
    /// Times that the marker came on its way to the server.
    pub sightings: u64,
    /// Requests answered with an error.
    pub refused: u64,
}

/// What all connections of a proxy share.
#[derive(Debug)]
struct Shared {
    to: String,
    seed: u64,
    marker: Vec<u8>,
    clock: Clock,
    counts: Counts,
}

#[derive(Debug, Default)]
struct Counts {
    connections: AtomicU64,
    open: AtomicU64,
    bytes_up: AtomicU64,
    bytes_down: AtomicU64,
    sightings: AtomicU64,
    refused: AtomicU64,
}

impl ProxyOptions {
    /// A proxy on a free port of loopback.
    pub fn to(server: SocketAddr) -> Self {
        Self {
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            to: server.to_string(),
            seed: 0,
            marker: String::new(),
        }
    }

    /// The same with a text to look out for.
    #[must_use]
    pub fn watching_for(self, marker: &str) -> Self {
        Self {
            marker: marker.to_owned(),
            ..self
        }
    }
}

impl Proxy {
    /// Starts a proxy. The server behind it need not be there yet.
    ///
    /// # Errors
    /// The address cannot be listened on, or the marker is too long.
    pub async fn start(options: ProxyOptions) -> io::Result<Self> {
        if options.marker.len() > MAX_MARKER_BYTES {
            let message = format!("a marker of more than {MAX_MARKER_BYTES} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        let listener = listen::bind(options.listen)?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            to: options.to,
            seed: options.seed,
            marker: options.marker.into_bytes(),
            clock: Clock::start(),
            counts: Counts::default(),
        });
        let (rules, heard) = watch::channel(Arc::default());
        let mut tasks = JoinSet::new();
        tasks.spawn(listen::accept(
            listener,
            address,
            Arc::clone(&shared),
            heard,
        ));
        Ok(Self {
            address,
            shared,
            rules,
            next: AtomicU64::new(0),
            _tasks: tasks,
        })
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Begins a fault. Beyond [`MAX_FAULTS`] at a time the oldest is healed.
    pub fn inject(&self, fault: impl Into<Fault>) -> FaultId {
        let number = self.next.fetch_add(1, Relaxed);
        self.change(|active| {
            active.faults.insert(number, fault.into());
            if active.faults.len() > MAX_FAULTS {
                active.faults.pop_first();
            }
        });
        FaultId(number)
    }

    /// Ends a fault; nothing where it has ended already.
    pub fn heal(&self, fault: FaultId) {
        self.change(|active| {
            active.faults.remove(&fault.0);
        });
    }

    /// Ends all faults.
    pub fn heal_all(&self) {
        self.change(|active| active.faults.clear());
    }

    /// What it has seen so far.
    pub fn seen(&self) -> Seen {
        let counts = &self.shared.counts;
        Seen {
            connections: counts.connections.load(Relaxed),
            open: counts.open.load(Relaxed),
            bytes_up: counts.bytes_up.load(Relaxed),
            bytes_down: counts.bytes_down.load(Relaxed),
            sightings: counts.sightings.load(Relaxed),
            refused: counts.refused.load(Relaxed),
        }
    }

    fn change(&self, change: impl FnOnce(&mut Active)) {
        self.rules
            .send_modify(|active| change(Arc::make_mut(active)));
    }
}

#[cfg(test)]
pub(in crate::faults) mod testing;
#[cfg(test)]
mod tests;
