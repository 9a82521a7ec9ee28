//! The one thread of a device, and whose turn it is: models that share a processor or a card take their steps one after
//! another instead of fighting for cores.
//!
//! The thread owns every model of the device. It asks each whether something came, lets the one take a step that got the
//! least time for its weight (`time_share`), and sleeps while nobody has work. It must not know what a step does. A model
//! that panics is removed, and the others go on.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread;
use std::time::Duration;

use crate::api::EngineState;
use crate::doorbell::Alarm;
use crate::limits::{DEVICE_ARRIVALS_MAX, PARK_MAX};
#[cfg(feature = "candle")]
use crate::pools::Pools;
use crate::runner::RunnerError;
use crate::shared::{Busy, Shared};
use crate::time_share::{Account, TimeShare};

/// A device whose models take turns. Clones share it; its thread ends when the last clone and the last model are gone.
#[derive(Clone)]
pub struct Device {
    // Dropped before the waker, so that the thread which is woken by it finds the channel closed.
    arrivals: SyncSender<Arrival>,
    waker: Alarm,
    residents: Arc<AtomicUsize>,
    busy: Arc<Busy>,
    /// Pools of kernel threads, shared by the models.
    #[cfg(feature = "candle")]
    pools: Arc<Pools>,
}

/// A model that lives on a device's thread.
pub(crate) trait Resident {
    /// Takes in what came, without waiting.
    fn listen(&mut self) -> Heard;

    /// One turn: a step, where there is something to do.
    fn turn(&mut self) -> After;
}

/// What a resident heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heard {
    /// Nothing.
    Nothing,
    /// Something came: it may have work.
    Something,
    /// Nobody needs it any more, and it has ended all that it held.
    Farewell,
}

/// How a resident's turn went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum After {
    /// A step took so long; there may be another one.
    Stepped(Duration),
    /// There is work, but it must wait, and be looked at within [`PARK_MAX`].
    Paused,
    /// There is nothing to do until something is heard.
    Idle,
    /// It has ended all that it held.
    Over,
}

/// What makes a resident on the device's thread.
pub(crate) type Settle = Box<dyn FnOnce() -> Result<Box<dyn Resident>, RunnerError> + Send>;

/// A model that moves in.
pub(crate) struct Arrival {
    /// Its life.
    pub(crate) shared: Arc<Shared>,
    /// Its share of the time beside others.
    pub(crate) weight: u32,
    /// Makes it, warm.
    pub(crate) settle: Settle,
}

impl Device {
    /// A device without models. Where the system refuses the thread, every model that is started on it fails and says so.
    #[must_use]
    pub fn start() -> Self {
        let (arrivals, receiver) = sync_channel(DEVICE_ARRIVALS_MAX);
        let residents = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&residents);
        let named = thread::Builder::new().name("hansa-engine".to_owned());
        let spawned = named.spawn(move || {
            let floor = Floor {
                arrivals: receiver,
                tenants: Vec::new(),
                shares: TimeShare::default(),
                count: counted,
            };
            floor.run();
        });
        let waker = match spawned {
            Ok(handle) => Alarm::of(handle.thread().clone()),
            Err(error) => {
                tracing::error!(%error, "no thread for a device");
                Alarm::default()
            }
        };
        Self {
            arrivals,
            waker,
            residents,
            busy: Arc::default(),
            #[cfg(feature = "candle")]
            pools: Arc::default(),
        }
    }

    /// Wakes the device's thread.
    pub(crate) fn waker(&self) -> Alarm {
        self.waker.clone()
    }

    /// Since when a step runs on the device.
    pub(crate) fn busy(&self) -> Arc<Busy> {
        Arc::clone(&self.busy)
    }

    /// Whether models that live here may be at work, so that what is done beside them should be modest.
    #[cfg(feature = "candle")]
    pub(crate) fn is_inhabited(&self) -> bool {
        self.residents.load(Ordering::Acquire) > 0
    }

    /// Pools of kernel threads. Each is used by one thread at a time.
    #[cfg(feature = "candle")]
    pub(crate) fn pools(&self) -> &Pools {
        &self.pools
    }

    /// Lets a model move in. Waits where many do at once, so it is not for an event loop.
    pub(crate) fn welcome(&self, arrival: Arrival) {
        if let Err(refused) = self.arrivals.send(arrival) {
            let reason = "the device's thread is gone; the log says why, restart the server";
            let shared = &refused.0.shared;
            shared.set_state(EngineState::Failed(reason.to_owned()));
        }
        self.waker.wake();
    }
}

/// Everything that the device's thread owns.
struct Floor {
    arrivals: Receiver<Arrival>,
    tenants: Vec<Tenant>,
    shares: TimeShare,
    /// Tenants, for others to see.
    count: Arc<AtomicUsize>,
}

struct Tenant {
    shared: Arc<Shared>,
    resident: Box<dyn Resident>,
    account: Account,
    /// It must be looked at again soon.
    paused: bool,
}

impl Floor {
    /// The life of the device's thread.
    fn run(mut self) {
        while self.take_in() {
            self.listen();
            let accounts = self.tenants.iter().map(|tenant| &tenant.account);
            match self.shares.next(accounts) {
                Some(index) => self.turn(index),
                None => self.sleep(),
            }
        }
    }

    /// Takes in who arrived. False where nobody lives here and nobody will.
    fn take_in(&mut self) -> bool {
        loop {
            match self.arrivals.try_recv() {
                Ok(arrival) => self.settle(arrival),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return !self.tenants.is_empty(),
            }
        }
    }

    fn settle(&mut self, arrival: Arrival) {
        let Arrival {
            shared,
            weight,
            settle,
        } = arrival;
        if shared.drain_at().is_some() {
            return shared.set_state(EngineState::Stopped);
        }
        match catch_unwind(AssertUnwindSafe(settle)) {
            Ok(Ok(resident)) => {
                let mut account = Account::new(weight);
                self.shares.wake(&mut account);
                self.tenants.push(Tenant {
                    shared,
                    resident,
                    account,
                    paused: false,
                });
                self.count.store(self.tenants.len(), Ordering::Release);
            }
            Ok(Err(error)) => shared.set_state(EngineState::Failed(error.to_string())),
            Err(_) => {
                shared.end_step();
                panicked(&shared);
            }
        }
    }

    fn listen(&mut self) {
        let mut index = 0;
        while let Some(tenant) = self.tenants.get_mut(index) {
            match fenced(tenant, |resident| resident.listen()) {
                Some(Heard::Nothing) => {}
                Some(Heard::Something) => self.shares.wake(&mut tenant.account),
                Some(Heard::Farewell) | None => {
                    self.remove(index);
                    continue;
                }
            }
            index += 1;
        }
    }

    fn turn(&mut self, index: usize) {
        let Some(tenant) = self.tenants.get_mut(index) else {
            return;
        };
        tenant.paused = false;
        match fenced(tenant, |resident| resident.turn()) {
            Some(After::Stepped(took)) => self.shares.charge(&mut tenant.account, took),
            Some(After::Paused) => {
                tenant.account.rest();
                tenant.paused = true;
            }
            Some(After::Idle) => tenant.account.rest(),
            Some(After::Over) | None => self.remove(index),
        }
    }

    /// Sleeps until somebody wakes the thread, or until those who are paused must be looked at.
    fn sleep(&self) {
        if self.tenants.iter().any(|tenant| tenant.paused) {
            thread::park_timeout(PARK_MAX);
        } else {
            thread::park();
        }
    }

    /// Frees all that a resident holds, then says that it has stopped.
    fn remove(&mut self, index: usize) {
        let tenant = self.tenants.remove(index);
        self.count.store(self.tenants.len(), Ordering::Release);
        let Tenant {
            shared, resident, ..
        } = tenant;
        if catch_unwind(AssertUnwindSafe(move || drop(resident))).is_err() {
            panicked(&shared);
        }
        shared.set_state(EngineState::Stopped);
    }
}

/// Runs a resident behind a fence: a fault of our own ends that engine, not the device and not the process, and every
/// stream still gets its last event because its request is dropped.
fn fenced<T>(tenant: &mut Tenant, work: impl FnOnce(&mut dyn Resident) -> T) -> Option<T> {
    let done = catch_unwind(AssertUnwindSafe(|| work(&mut *tenant.resident)));
    if done.is_err() {
        tenant.shared.end_step();
        panicked(&tenant.shared);
    }
    done.ok()
}

fn panicked(shared: &Shared) {
    tracing::error!("an engine panicked");
    let reason = "the engine panicked; restart it".to_owned();
    shared.set_state(EngineState::Failed(reason));
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device")
            .field("residents", &self.residents)
            .finish_non_exhaustive()
    }
}
