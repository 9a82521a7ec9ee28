//! One direction of a connection: bytes wait until they may go on. Pure: time comes in, and what may be written comes out.

use std::collections::VecDeque;

use bytes::{Buf, Bytes};

use super::conditions::Conditions;
use crate::clock::Nanos;
use crate::limits::{FLOW_BUFFER_BYTES, SLOW_HEAD_BYTES};
use crate::rng::SplitMix64;

/// Bytes are handed on in portions of this much time, so that a low rate is even.
const PORTIONS_PER_S: u64 = 100;

/// Where bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// To the server.
    Up,
    /// To the client.
    Down,
}

/// Bytes on their way.
#[derive(Debug)]
pub(super) struct Flow {
    direction: Direction,
    queue: VecDeque<(Nanos, Bytes)>,
    queued: usize,
    /// When the last byte taken in may go on; later ones not before it.
    last_due: Nanos,
    /// When the next byte may go on as far as its pace allows.
    next_write: Nanos,
    /// Bytes that went on.
    passed: u64,
    /// Bytes left of an answer's beginning.
    head_left: usize,
    /// How much of the blank line that ends it has passed.
    blank: usize,
    rng: SplitMix64,
}

/// What may be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ready {
    /// So many bytes may go on.
    Write(usize),
    /// Look again then.
    At(Nanos),
    /// Nothing, until something changes.
    Nothing,
}

impl Flow {
    pub(super) fn new(direction: Direction, rng: SplitMix64) -> Self {
        Self {
            direction,
            queue: VecDeque::new(),
            queued: 0,
            last_due: 0,
            next_write: 0,
            passed: 0,
            head_left: 0,
            blank: 0,
            rng,
        }
    }

    /// Takes in bytes that came now.
    pub(super) fn push(&mut self, bytes: Bytes, now: Nanos, conditions: &Conditions) {
        let jitter = (self.rng.next_unit() * conditions.jitter as f64) as Nanos;
        let due = now.saturating_add(conditions.delay).saturating_add(jitter);
        self.last_due = self.last_due.max(due);
        self.queued += bytes.len();
        if !bytes.is_empty() {
            self.queue.push_back((self.last_due, bytes));
        }
    }

    /// Whether more may be taken in.
    pub(super) fn has_room(&self) -> bool {
        self.queued < FLOW_BUFFER_BYTES
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Bytes that went on so far.
    pub(super) fn passed(&self) -> u64 {
        self.passed
    }

    /// What comes next begins an answer.
    pub(super) fn begin_head(&mut self) {
        self.head_left = SLOW_HEAD_BYTES;
        self.blank = 0;
    }

    /// The next `most` bytes, or fewer.
    pub(super) fn front(&self, most: usize) -> &[u8] {
        let front = self.queue.front().map_or(&[][..], |(_, bytes)| bytes);
        &front[..front.len().min(most)]
    }

    /// What may go on now.
    pub(super) fn ready(&self, now: Nanos, conditions: &Conditions) -> Ready {
        let Some((due, bytes)) = self.queue.front() else {
            return Ready::Nothing;
        };
        let most = self.most(conditions).min(bytes.len() as u64);
        if conditions.silent() || most == 0 {
            return Ready::Nothing;
        }
        match (*due).max(self.next_write) {
            at if at > now => Ready::At(at),
            _ => Ready::Write(usize::try_from(most).unwrap_or(usize::MAX)),
        }
    }

    /// Notes that `count` bytes of the front went on.
    pub(super) fn wrote(&mut self, count: usize, now: Nanos, conditions: &Conditions) {
        let mut left = count;
        while left > 0
            && let Some((_, bytes)) = self.queue.front_mut()
        {
            let part = left.min(bytes.len());
            let ended = head_end(&bytes[..part], &mut self.blank);
            self.head_left = if ended {
                0
            } else {
                self.head_left.saturating_sub(part)
            };
            bytes.advance(part);
            left -= part;
            if bytes.is_empty() {
                self.queue.pop_front();
            }
        }
        let count = (count - left) as u64;
        self.queued -= count as usize;
        self.passed += count;
        let mut next = now;
        if let Some(rate) = conditions.bytes_per_s {
            next = self.next_write.max(now) + count.saturating_mul(1_000_000_000) / rate;
        }
        if self.in_slow_head(conditions) {
            next = next.max(now + conditions.head_pause.unwrap_or(0));
        }
        self.next_write = next;
    }

    /// Forgets all that is on its way.
    pub(super) fn clear(&mut self) {
        self.queue.clear();
        self.queued = 0;
    }

    /// How many bytes may go on at once.
    fn most(&self, conditions: &Conditions) -> u64 {
        let mut most = conditions
            .bytes_per_s
            .map_or(u64::MAX, |rate| (rate / PORTIONS_PER_S).max(1));
        if self.direction == Direction::Down {
            let stall = conditions.stall_at.into_iter();
            let limits = stall.chain(conditions.ends_at.map(|(at, _)| at));
            most = limits.fold(most, |most, at| most.min(at.saturating_sub(self.passed)));
        }
        if self.in_slow_head(conditions) {
            most.min(1)
        } else {
            most
        }
    }

    fn in_slow_head(&self, conditions: &Conditions) -> bool {
        self.head_left > 0 && conditions.head_pause.is_some()
    }
}

/// Follows a text to its first blank line; `seen` is how much of its mark has come.
fn head_end(bytes: &[u8], seen: &mut usize) -> bool {
    const MARK: &[u8; 4] = b"\r\n\r\n";
    for &byte in bytes {
        *seen = match MARK.get(*seen) {
            Some(&wanted) if wanted == byte => *seen + 1,
            _ => usize::from(byte == b'\r'),
        };
        if *seen == MARK.len() {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::conditions::Ends;
    use super::*;

    const MS: Nanos = 1_000_000;

    fn flow(direction: Direction) -> Flow {
        Flow::new(direction, SplitMix64::new(3))
    }

    /// Lets everything go on that ever will, by the shortest way in time: when each byte went.
    fn drain(flow: &mut Flow, conditions: &Conditions, mut now: Nanos) -> Vec<(Nanos, Vec<u8>)> {
        let mut out = Vec::new();
        loop {
            match flow.ready(now, conditions) {
                Ready::Nothing => return out,
                Ready::At(at) => now = at,
                Ready::Write(most) => {
                    let bytes = flow.front(most).to_vec();
                    flow.wrote(bytes.len(), now, conditions);
                    out.push((now, bytes));
                }
            }
        }
    }

    #[test]
    fn latency_delays_all_and_keeps_the_order() {
        let mut flow = flow(Direction::Up);
        let slow = Conditions {
            delay: 50 * MS,
            jitter: 20 * MS,
            ..Conditions::default()
        };
        for at in 0..20u8 {
            flow.push(Bytes::copy_from_slice(&[at]), u64::from(at) * MS, &slow);
        }
        let out = drain(&mut flow, &slow, 0);
        let order: Vec<u8> = out.iter().flat_map(|(_, bytes)| bytes.clone()).collect();
        assert_eq!(order, (0..20).collect::<Vec<u8>>());
        assert!(
            out.iter()
                .all(|(at, bytes)| *at >= (u64::from(bytes[0]) + 50) * MS && *at <= 90 * MS),
            "{out:?}"
        );
    }

    #[test]
    fn bandwidth_is_what_it_says() {
        let mut flow = flow(Direction::Up);
        let narrow = Conditions {
            bytes_per_s: Some(10_000),
            ..Conditions::default()
        };
        flow.push(Bytes::from(vec![1; 5_000]), 0, &narrow);
        let out = drain(&mut flow, &narrow, 0);
        let last = out.last().map(|(at, _)| *at);
        assert_eq!(last, Some(490 * MS), "the last of 50 portions of 100 bytes");
    }

    #[test]
    fn answers_stop_where_they_stall_and_go_on_when_healed() {
        let mut flow = flow(Direction::Down);
        let stalled = Conditions {
            stall_at: Some(4),
            ..Conditions::default()
        };
        flow.push(Bytes::from_static(b"abcdefgh"), 0, &stalled);
        assert_eq!(drain(&mut flow, &stalled, 0), [(0, b"abcd".to_vec())]);
        let healed = Conditions::default();
        assert_eq!(drain(&mut flow, &healed, 9), [(9, b"efgh".to_vec())]);
        let cut = Conditions {
            ends_at: Some((10, Ends::Reset)),
            ..Conditions::default()
        };
        flow.push(Bytes::from_static(b"ijkl"), 9, &cut);
        assert_eq!(drain(&mut flow, &cut, 9), [(9, b"ij".to_vec())]);
        assert_eq!(flow.passed(), 10);
    }

    #[test]
    fn heads_come_byte_by_byte_and_bodies_do_not() {
        let mut flow = flow(Direction::Down);
        let slow = Conditions {
            head_pause: Some(10 * MS),
            ..Conditions::default()
        };
        flow.begin_head();
        flow.push(
            Bytes::from_static(b"HTTP/1.1 200 OK\r\n\r\nthe body"),
            0,
            &slow,
        );
        let out = drain(&mut flow, &slow, 0);
        assert_eq!(out.len(), 20);
        assert_eq!(out[18].0, 180 * MS);
        assert_eq!(out[19].1, b"the body");
    }

    #[test]
    fn what_is_parted_waits() {
        let mut flow = flow(Direction::Up);
        let parted = Conditions {
            parted: true,
            ..Conditions::default()
        };
        flow.push(Bytes::from_static(b"x"), 0, &parted);
        assert_eq!(flow.ready(1, &parted), Ready::Nothing);
        assert_eq!(flow.ready(1, &Conditions::default()), Ready::Write(1));
    }

    proptest! {
        /// No byte is lost, doubled or moved, whatever changes while bytes are on their way.
        #[test]
        fn all_bytes_pass_in_order(pieces in prop::collection::vec((1usize..300, 0u64..5, 0usize..6), 1..40)) {
            let mut flow = flow(Direction::Down);
            let (mut now, mut sent, mut got) = (0, Vec::new(), Vec::new());
            for (size, ms, weather) in pieces {
                now += ms * MS;
                let conditions = match weather {
                    0 => Conditions { delay: 3 * MS, jitter: 9 * MS, ..Conditions::default() },
                    1 => Conditions { bytes_per_s: Some(20_000), ..Conditions::default() },
                    2 => Conditions { stall_at: Some(flow.passed() + 7), ..Conditions::default() },
                    3 => Conditions { parted: true, ..Conditions::default() },
                    4 => Conditions { head_pause: Some(MS), ..Conditions::default() },
                    _ => Conditions::default(),
                };
                let bytes: Vec<u8> = (0..size).map(|at| (sent.len() + at) as u8).collect();
                sent.extend_from_slice(&bytes);
                flow.push(bytes.into(), now, &conditions);
                while let Ready::Write(most) = flow.ready(now, &conditions) {
                    let part = flow.front(most.div_ceil(2)).to_vec();
                    flow.wrote(part.len(), now, &conditions);
                    got.extend(part);
                }
            }
            for (_, bytes) in drain(&mut flow, &Conditions::default(), now) {
                got.extend(bytes);
            }
            prop_assert_eq!(flow.passed(), sent.len() as u64);
            prop_assert_eq!(got, sent);
            prop_assert!(flow.is_empty());
        }
    }
}
