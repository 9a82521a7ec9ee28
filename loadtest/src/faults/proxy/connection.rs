//! One proxied connection: two flows between two sockets, under faults that come and go.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::watch;

use super::Shared;
use super::conditions::{Active, Conditions, Ending, Share};
use super::flow::{Direction, Flow, Ready};
use super::frames::{Frames, GOAWAY, PREFACE};
use super::marker::Marker;
use crate::clock::{Clock, Nanos};
use crate::limits::FLOW_PIECE_BYTES;
use crate::rng::SplitMix64;

/// A connection's flows and what holds for them.
pub(super) struct Wire {
    shared: Arc<Shared>,
    rules: watch::Receiver<Arc<Active>>,
    share: Share,
    conditions: Conditions,
    up: Flow,
    down: Flow,
    /// The client spoke last: its request is on its way or at work.
    asking: bool,
    /// What the first bytes said; None before them.
    http2: Option<bool>,
    frames: Frames,
    /// The server's clients were told to go elsewhere, for the errors that are at work.
    dismissed: bool,
    /// Bytes vanished: healed or not, what is left of the connection makes no sense.
    lossy: bool,
    marker: Marker,
}

/// The sockets of a connection.
struct Ends<'s> {
    near_read: ReadHalf<'s>,
    near_write: WriteHalf<'s>,
    far_read: ReadHalf<'s>,
    far_write: WriteHalf<'s>,
    near_over: Side,
    far_over: Side,
}

/// How far a side's end has been passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Open,
    Over,
    PassedOn,
}

/// What happened to a connection.
enum Happened {
    Rules(bool),
    Time,
    Read(Direction, std::io::Result<usize>),
    Wrote(Direction, std::io::Result<usize>),
}

impl Wire {
    pub(super) fn new(
        shared: Arc<Shared>,
        rules: watch::Receiver<Arc<Active>>,
        number: u64,
    ) -> Self {
        let seed = shared.seed;
        let rng = |direction| SplitMix64::for_item(seed.wrapping_add(direction), number);
        let mut wire = Self {
            share: Share::new(seed, number),
            conditions: Conditions::default(),
            up: Flow::new(Direction::Up, rng(1)),
            down: Flow::new(Direction::Down, rng(2)),
            asking: false,
            http2: None,
            frames: Frames::default(),
            dismissed: false,
            lossy: false,
            marker: Marker::new(&shared.marker),
            shared,
            rules,
        };
        wire.look();
        wire
    }

    /// What holds now.
    pub(super) fn conditions(&self) -> &Conditions {
        &self.conditions
    }

    /// Waits for a fault to begin or to be healed; false where the proxy is gone.
    pub(super) async fn change(&mut self) -> bool {
        let told = self.rules.changed().await.is_ok();
        self.look();
        told
    }

    /// Carries bytes until the connection ends.
    pub(super) async fn carry(&mut self, near: &mut TcpStream, far: &mut TcpStream) -> Ending {
        let (near_read, near_write) = near.split();
        let (far_read, far_write) = far.split();
        let mut ends = Ends {
            near_read,
            near_write,
            far_read,
            far_write,
            near_over: Side::Open,
            far_over: Side::Open,
        };
        let (mut up, mut down) = (BytesMut::new(), BytesMut::new());
        loop {
            if let Some(ending) = self.ending() {
                return ending;
            }
            if let Err(ending) = ends.pass_on_ends(self).await {
                return ending;
            }
            let happened = self.wait(&mut ends, &mut up, &mut down).await;
            if let Err(ending) = self.take(&happened, &mut ends, &mut up, &mut down) {
                return ending;
            }
        }
    }

    /// Waits for anything that moves.
    async fn wait(
        &mut self,
        ends: &mut Ends<'_>,
        up: &mut BytesMut,
        down: &mut BytesMut,
    ) -> Happened {
        let now = self.shared.clock.now();
        let (to_far, to_near) = (
            self.up.ready(now, &self.conditions),
            self.down.ready(now, &self.conditions),
        );
        let open = !self.conditions.parted;
        let hears_near = open && ends.near_over == Side::Open && self.up.has_room();
        let hears_far = open && ends.far_over == Side::Open && self.down.has_room();
        up.reserve(FLOW_PIECE_BYTES);
        down.reserve(FLOW_PIECE_BYTES);
        tokio::select! {
            biased;
            told = self.rules.changed() => Happened::Rules(told.is_ok()),
            wrote = ends.far_write.write(self.up.front(count(to_far))), if count(to_far) > 0 => Happened::Wrote(Direction::Up, wrote),
            wrote = ends.near_write.write(self.down.front(count(to_near))), if count(to_near) > 0 => Happened::Wrote(Direction::Down, wrote),
            read = ends.near_read.read_buf(up), if hears_near => Happened::Read(Direction::Up, read),
            read = ends.far_read.read_buf(down), if hears_far => Happened::Read(Direction::Down, read),
            () = sleep_until(self.shared.clock, to_far, to_near) => Happened::Time,
        }
    }

    fn take(
        &mut self,
        happened: &Happened,
        ends: &mut Ends<'_>,
        up: &mut BytesMut,
        down: &mut BytesMut,
    ) -> Result<(), Ending> {
        let now = self.shared.clock.now();
        match *happened {
            Happened::Rules(true) => self.look(),
            Happened::Rules(false) | Happened::Read(_, Err(_)) | Happened::Wrote(_, Err(_)) => {
                return Err(Ending::Reset);
            }
            Happened::Time => {}
            Happened::Read(Direction::Up, Ok(0)) => ends.near_over = Side::Over,
            Happened::Read(Direction::Down, Ok(0)) => ends.far_over = Side::Over,
            Happened::Read(Direction::Up, Ok(_)) => self.hear_client(up.split().freeze(), now)?,
            Happened::Read(Direction::Down, Ok(_)) => self.hear_server(down.split().freeze(), now),
            Happened::Wrote(Direction::Up, Ok(count)) => {
                self.up.wrote(count, now, &self.conditions)
            }
            Happened::Wrote(Direction::Down, Ok(count)) => {
                self.down.wrote(count, now, &self.conditions)
            }
        }
        Ok(())
    }

    /// Takes in what the client sent; a new request may be the connection's last.
    fn hear_client(&mut self, bytes: Bytes, now: Nanos) -> Result<(), Ending> {
        let http2 = *self.http2.get_or_insert_with(|| bytes.starts_with(PREFACE));
        if let Some(status) = self.conditions.status.filter(|_| !self.asking && !http2) {
            return Err(Ending::Answer(status));
        }
        if !self.asking {
            self.asking = true;
            self.down.begin_head();
        }
        let counts = &self.shared.counts;
        counts.bytes_up.fetch_add(bytes.len() as u64, Relaxed);
        if self.conditions.swallowed {
            self.lossy = true;
            return Ok(());
        }
        counts
            .sightings
            .fetch_add(self.marker.follow(&bytes), Relaxed);
        self.up.push(bytes, now, &self.conditions);
        Ok(())
    }

    fn hear_server(&mut self, mut bytes: Bytes, now: Nanos) {
        self.asking = false;
        self.shared
            .counts
            .bytes_down
            .fetch_add(bytes.len() as u64, Relaxed);
        if self.conditions.swallowed {
            self.lossy = true;
            return;
        }
        if self.http2 == Some(true)
            && let Some(place) = self.frames.follow(&bytes)
            && self.is_to_dismiss()
        {
            self.down.push(bytes.split_to(place), now, &self.conditions);
            self.dismiss(now);
        }
        self.down.push(bytes, now, &self.conditions);
    }

    /// Whether clients of HTTP/2, who keep one connection, must still be told to make a new one.
    fn is_to_dismiss(&self) -> bool {
        self.conditions.status.is_some() && !self.dismissed && self.http2 == Some(true)
    }

    fn dismiss(&mut self, now: Nanos) {
        self.dismissed = true;
        self.down
            .push(Bytes::from_static(&GOAWAY), now, &self.conditions);
    }

    /// Learns which faults are at work.
    fn look(&mut self) {
        let active = Arc::clone(&self.rules.borrow_and_update());
        self.conditions = self.share.conditions(&active, self.down.passed());
        self.dismissed &= self.conditions.status.is_some();
        if self.is_to_dismiss() && self.frames.is_between() {
            self.dismiss(self.shared.clock.now());
        }
        if self.conditions.swallowed && !(self.up.is_empty() && self.down.is_empty()) {
            self.lossy = true;
            self.up.clear();
            self.down.clear();
        }
    }

    fn ending(&self) -> Option<Ending> {
        let lost = (self.lossy && !self.conditions.swallowed).then_some(Ending::Reset);
        lost.or_else(|| self.conditions.ending(self.down.passed()))
    }
}

impl Ends<'_> {
    /// Tells each side that the other has ended, once all before it has been passed on.
    ///
    /// # Errors
    /// Both have, or one cannot be told.
    async fn pass_on_ends(&mut self, wire: &Wire) -> Result<(), Ending> {
        if wire.conditions.silent() {
            return Ok(());
        }
        if self.near_over == Side::Over && wire.up.is_empty() {
            self.near_over = Side::PassedOn;
            self.far_write.shutdown().await.map_err(|_| Ending::Reset)?;
        }
        if self.far_over == Side::Over && wire.down.is_empty() {
            self.far_over = Side::PassedOn;
            self.near_write
                .shutdown()
                .await
                .map_err(|_| Ending::Reset)?;
        }
        let over = self.near_over == Side::PassedOn && self.far_over == Side::PassedOn;
        if over { Err(Ending::Close) } else { Ok(()) }
    }
}

fn count(ready: Ready) -> usize {
    match ready {
        Ready::Write(most) => most,
        Ready::At(_) | Ready::Nothing => 0,
    }
}

/// Ready at the earlier of two moments, if there is one.
async fn sleep_until(clock: Clock, one: Ready, other: Ready) {
    let at = |ready| match ready {
        Ready::At(at) => at,
        Ready::Write(_) | Ready::Nothing => Nanos::MAX,
    };
    match at(one).min(at(other)) {
        Nanos::MAX => std::future::pending().await,
        at => tokio::time::sleep_until(clock.instant_at(at)).await,
    }
}
