//! The bed of a run: its mock sites and proxies, on a thread of their own, and the plan that breaks them.
//!
//! A mock that has faults stands behind a proxy, so that one piece of code breaks both. The thread spares the measuring
//! client's event loop, not its processor: for the highest rates, run `mock` and `proxy` as processes of their own.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use tokio::runtime::Builder;
use tokio::sync::watch;

use super::mock::Mock;
use super::plan::FaultPlan;
use super::proxy::{FaultId, Proxy, ProxyOptions};
use crate::clock::{Clock, Nanos};

/// Servers that run and wait for their faults. Dropping it ends all of them.
#[derive(Debug)]
pub struct Bed {
    targets: Vec<Target>,
    /// When the plan begins; dropped, the bed ends.
    began: Option<watch::Sender<Option<Nanos>>>,
    thread: Option<JoinHandle<()>>,
}

/// A server of a bed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Its name in the plan.
    pub name: Arc<str>,
    /// Where clients connect.
    pub address: SocketAddr,
}

/// Why a bed cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum BedError {
    /// A server cannot be started.
    #[error("cannot start {name:?} at {at}: {error}; is the port taken?")]
    Listen {
        /// Its name.
        name: Arc<str>,
        /// Where it was to listen.
        at: SocketAddr,
        /// What the system said.
        error: io::Error,
    },
    /// No thread, or no event loop for it.
    #[error("cannot start the thread of mock sites and proxies")]
    Thread(#[from] io::Error),
}

/// The running servers, as far as they are broken.
struct Stage {
    _mocks: Vec<Mock>,
    proxies: Vec<(Arc<str>, Proxy)>,
    targets: Vec<Target>,
}

impl Bed {
    /// Starts all servers of a plan; its faults wait for [`Bed::begin`].
    ///
    /// # Errors
    /// A server cannot listen where it must, or the system refuses a thread.
    pub fn start(plan: &FaultPlan, clock: Clock, seed: u64) -> Result<Self, BedError> {
        let (began, begins) = watch::channel(None);
        let (ready, started) = sync_channel(1);
        let plan = plan.clone();
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let run = move || runtime.block_on(serve(&plan, seed, clock, begins, &ready));
        let thread = std::thread::Builder::new()
            .name("faults".to_owned())
            .spawn(run)?;
        let gone = || io::Error::other("it ended at once");
        let targets = started.recv().map_err(|_| gone())??;
        Ok(Self {
            targets,
            began: Some(began),
            thread: Some(thread),
        })
    }

    /// Begins the plan: its times count from `at`, on the clock that the bed was started with.
    pub fn begin(&self, at: Nanos) {
        if let Some(began) = &self.began {
            began.send_replace(Some(at));
        }
    }

    /// The servers, mocks first.
    pub fn targets(&self) -> &[Target] {
        &self.targets
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        drop(self.began.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has ended its servers, which the run has seen.
            thread.join().ok();
        }
    }
}

async fn serve(
    plan: &FaultPlan,
    seed: u64,
    clock: Clock,
    mut begins: watch::Receiver<Option<Nanos>>,
    ready: &SyncSender<Result<Vec<Target>, BedError>>,
) {
    let stage = match Stage::build(plan, seed).await {
        Ok(stage) => stage,
        Err(error) => {
            ready.send(Err(error)).ok();
            return;
        }
    };
    if ready.send(Ok(stage.targets.clone())).is_err() {
        return;
    }
    let Ok(began) = begins
        .wait_for(Option::is_some)
        .await
        .map(|began| began.unwrap_or(0))
    else {
        return;
    };
    tokio::select! {
        () = stage.play(plan, clock, began) => {}
        _ = begins.wait_for(|_| false) => {}
    }
}

impl Stage {
    async fn build(plan: &FaultPlan, seed: u64) -> Result<Self, BedError> {
        let (mut mocks, mut proxies, mut targets) = (Vec::new(), Vec::new(), Vec::new());
        for mock in &plan.mocks {
            let broken = plan.faults.iter().any(|fault| fault.befalls(&mock.name));
            let failed = |error| BedError::Listen {
                name: mock.name.clone(),
                at: mock.listen,
                error,
            };
            let inner = if broken {
                (Ipv4Addr::LOCALHOST, 0).into()
            } else {
                mock.listen
            };
            let site = Mock::listen(&mock.name, inner, mock.options.clone())
                .await
                .map_err(failed)?;
            let mut address = site.address();
            if broken {
                let proxy = Proxy::start(options(
                    mock.listen,
                    address.to_string(),
                    seed,
                    proxies.len(),
                ))
                .await;
                let proxy = proxy.map_err(failed)?;
                address = proxy.address();
                proxies.push((mock.name.clone(), proxy));
            }
            mocks.push(site);
            let name = mock.name.clone();
            targets.push(Target { name, address });
        }
        for plan in &plan.proxies {
            let proxy =
                Proxy::start(options(plan.listen, plan.to.clone(), seed, proxies.len())).await;
            let proxy = proxy.map_err(|error| BedError::Listen {
                name: plan.name.clone(),
                at: plan.listen,
                error,
            })?;
            let (name, address) = (plan.name.clone(), proxy.address());
            targets.push(Target { name, address });
            proxies.push((plan.name.clone(), proxy));
        }
        Ok(Self {
            _mocks: mocks,
            proxies,
            targets,
        })
    }

    /// Does what the plan says when it says so, and then nothing. Never returns.
    async fn play(&self, plan: &FaultPlan, clock: Clock, began: Nanos) {
        let mut at_work: Vec<(usize, usize, FaultId)> = Vec::new();
        for step in plan.steps() {
            tokio::time::sleep_until(clock.instant_at(began.saturating_add(step.at))).await;
            let planned = &plan.faults[step.fault];
            if step.begins {
                let befallen = self
                    .proxies
                    .iter()
                    .enumerate()
                    .filter(|(_, (name, _))| planned.befalls(name));
                at_work.extend(
                    befallen.map(|(place, (_, proxy))| {
                        (step.fault, place, proxy.inject(planned.fault))
                    }),
                );
            } else {
                let over = at_work.extract_if(.., |(fault, ..)| *fault == step.fault);
                over.for_each(|(_, place, id)| self.proxies[place].1.heal(id));
            }
        }
        std::future::pending().await
    }
}

fn options(listen: SocketAddr, to: String, seed: u64, number: usize) -> ProxyOptions {
    ProxyOptions {
        listen,
        to,
        seed: seed.wrapping_add(number as u64),
        marker: String::new(),
    }
}
