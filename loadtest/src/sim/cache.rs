//! The prefix cache of one simulated node: which blocks of prompts it still has. What was not used for longest goes
//! first when running sequences need the room.

use std::collections::{HashMap, VecDeque};

/// Blocks by the chained hash of all up to them.
#[derive(Debug, Default)]
pub(super) struct Cache {
    /// When each was used last, in turns.
    used: HashMap<u64, u64>,
    /// Uses in order; those that are not the block's last one mean nothing any more.
    order: VecDeque<(u64, u64)>,
    turn: u64,
}

impl Cache {
    /// Leading blocks of `hashes` that are there.
    pub(super) fn depth(&self, hashes: &[u64]) -> u64 {
        hashes
            .iter()
            .take_while(|hash| self.used.contains_key(hash))
            .count() as u64
    }

    /// Notes a use of these blocks, new or not.
    pub(super) fn note(&mut self, hashes: &[u64]) {
        // The end of a chain goes before its beginning, which more prompts share.
        for hash in hashes.iter().rev() {
            self.turn += 1;
            self.used.insert(*hash, self.turn);
            self.order.push_back((*hash, self.turn));
        }
    }

    /// Gives up the oldest blocks beyond `blocks_max`.
    pub(super) fn shrink(&mut self, blocks_max: u64) {
        while self.used.len() as u64 > blocks_max {
            if !self.drop_oldest() {
                return;
            }
        }
        // Uses that mean nothing any more are at most as many as those that do.
        while self.order.len() > 2 * self.used.len() + 1 {
            let Some((hash, turn)) = self.order.pop_front() else {
                return;
            };
            if self.used.get(&hash) == Some(&turn) {
                self.order.push_front((hash, turn));
                self.compact();
                return;
            }
        }
    }

    /// All of it is gone.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    fn drop_oldest(&mut self) -> bool {
        while let Some((hash, turn)) = self.order.pop_front() {
            if self.used.get(&hash) == Some(&turn) {
                self.used.remove(&hash);
                return true;
            }
        }
        false
    }

    fn compact(&mut self) {
        let used = &self.used;
        self.order
            .retain(|(hash, turn)| used.get(hash) == Some(turn));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ends_of_the_chains_used_longest_ago_go_first() {
        let mut cache = Cache::default();
        cache.note(&[1, 2, 3]);
        cache.note(&[1, 2, 4]);
        cache.shrink(3);
        // Block 3 is the oldest use that is not a later one's.
        assert_eq!((cache.depth(&[1, 2, 3]), cache.depth(&[1, 2, 4])), (2, 3));
        cache.note(&[9]);
        cache.shrink(2);
        assert_eq!((cache.depth(&[1, 2]), cache.depth(&[9])), (1, 1));
        cache.shrink(0);
        assert_eq!(cache.depth(&[9]), 0);
    }

    #[test]
    fn its_memory_is_bounded_by_what_it_holds() {
        let mut cache = Cache::default();
        for _ in 0..10_000 {
            cache.note(&[1, 2, 3]);
            cache.shrink(3);
        }
        assert!(cache.order.len() <= 8, "{}", cache.order.len());
    }
}
