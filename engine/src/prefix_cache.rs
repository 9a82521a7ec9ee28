//! Which full KV blocks hold which tokens, so that a prompt that begins like an earlier one is not computed again.
//!
//! Blocks form chains: a block is found by the hash of its tokens and of all before them, and the root of each chain is
//! salted with the caller's pool, so pools never see each other's blocks (I5). The hash is keyed by chance at start, and on
//! a hit the parent, the pool and the token ids themselves are compared: no collision, made or met, can lend wrong keys
//! and values.
//!
//! A block that no table holds any more stays until its room is wanted. The least recently used end of a chain goes
//! first, and a pool above its equal share loses its own blocks before anybody else's: who floods the cache washes out
//! himself. It must not know sequences: tables and free blocks are the `block_manager`'s.

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher, Hasher, RandomState};

use siphasher::sip128::{Hasher128, SipHasher13};

/// Name of a block's tokens and of all before them.
pub(crate) type BlockKey = u128;

/// The blocks that may be found, held by tables or idle.
#[derive(Debug)]
pub(crate) struct PrefixCache {
    secret: (u64, u64),
    found_by: HashMap<BlockKey, u32>,
    /// By number of the block.
    entries: Vec<Option<Entry>>,
    pools: HashMap<u64, Pool>,
    idle: u32,
    /// Counts uses; the order of eviction, not a time.
    uses: u64,
}

#[derive(Debug)]
struct Entry {
    key: BlockKey,
    parent: Option<u32>,
    pool: u64,
    tokens: Box<[u32]>,
    /// Blocks in the cache that go on from this one.
    children: u32,
    /// Whether no table holds it; then the use that was its last.
    idle_since: Option<u64>,
}

/// Blocks of one pool.
#[derive(Debug, Default)]
struct Pool {
    blocks: u32,
    /// Idle ends of chains, the least recently used first.
    leaves: BTreeSet<(u64, u32)>,
}

impl PrefixCache {
    /// An empty cache over blocks `0..blocks_total`.
    pub(crate) fn new(blocks_total: u32) -> Self {
        let chance = || RandomState::new().build_hasher().finish();
        Self {
            secret: (chance(), chance()),
            found_by: HashMap::new(),
            entries: (0..blocks_total).map(|_| None).collect(),
            pools: HashMap::new(),
            idle: 0,
            uses: 0,
        }
    }

    /// The key of a block with `tokens` after the block with key `parent`, or at the beginning of a chain of `pool`.
    pub(crate) fn key(&self, pool: u64, parent: Option<BlockKey>, tokens: &[u32]) -> BlockKey {
        let mut hasher = SipHasher13::new_with_keys(self.secret.0, self.secret.1);
        hasher.write_u64(pool);
        hasher.write_u128(parent.unwrap_or(0));
        tokens.iter().for_each(|&token| hasher.write_u32(token));
        hasher.finish128().as_u128()
    }

    /// The block that holds `tokens` right after `parent`, for `pool`.
    pub(crate) fn find(
        &self,
        pool: u64,
        parent: Option<u32>,
        key: BlockKey,
        tokens: &[u32],
    ) -> Option<u32> {
        let block = *self.found_by.get(&key)?;
        let entry = self.entries[block as usize].as_ref()?;
        let same = entry.pool == pool && entry.parent == parent && *entry.tokens == *tokens;
        same.then_some(block)
    }

    /// Makes a block that a table holds findable. False where another one has its key or its parent cannot be found: it
    /// stays its table's own.
    pub(crate) fn insert(
        &mut self,
        block: u32,
        pool: u64,
        parent: Option<u32>,
        key: BlockKey,
        tokens: &[u32],
    ) -> bool {
        if self.found_by.contains_key(&key) || parent.is_some_and(|parent| !self.holds(parent)) {
            return false;
        }
        if let Some(parent) = self.entry(parent) {
            parent.children += 1;
        }
        self.pools.entry(pool).or_default().blocks += 1;
        self.found_by.insert(key, block);
        self.entries[block as usize] = Some(Entry {
            key,
            parent,
            pool,
            tokens: tokens.into(),
            children: 0,
            idle_since: None,
        });
        true
    }

    /// Whether a block is in the cache.
    pub(crate) fn holds(&self, block: u32) -> bool {
        self.entries[block as usize].is_some()
    }

    /// Blocks in the cache that no table holds: as good as free.
    pub(crate) fn idle(&self) -> u32 {
        self.idle
    }

    /// A table holds the block now.
    pub(crate) fn hold(&mut self, block: u32) {
        let Some(entry) = self.entries[block as usize].as_mut() else {
            return;
        };
        let Some(since) = entry.idle_since.take() else {
            return;
        };
        self.idle -= 1;
        if let Some(pool) = self.pools.get_mut(&entry.pool) {
            pool.leaves.remove(&(since, block));
        }
    }

    /// No table holds the block any more. False where the cache does not know it either.
    pub(crate) fn rest(&mut self, block: u32) -> bool {
        self.uses += 1;
        let Some(entry) = self.entries[block as usize].as_mut() else {
            return false;
        };
        entry.idle_since = Some(self.uses);
        self.idle += 1;
        self.note_leaf(block);
        true
    }

    /// Hides a block whose keys and values are in doubt: nobody finds it or what goes on from it again.
    pub(crate) fn hide(&mut self, block: u32) {
        if let Some(entry) = &self.entries[block as usize]
            && self.found_by.get(&entry.key) == Some(&block)
        {
            self.found_by.remove(&entry.key);
        }
    }

    /// Gives up one idle block for `pool` to use; `None` where there is none.
    pub(crate) fn evict(&mut self, pool: u64) -> Option<u32> {
        let block = self.victim(pool)?;
        self.hide(block);
        let entry = self.entries[block as usize].take()?;
        self.idle -= 1;
        if let Some(owner) = self.pools.get_mut(&entry.pool) {
            owner.blocks -= 1;
            owner.leaves.remove(&(entry.idle_since?, block));
            if owner.blocks == 0 {
                self.pools.remove(&entry.pool);
            }
        }
        if let Some(parent) = self.entry(entry.parent) {
            parent.children -= 1;
        }
        if let Some(parent) = entry.parent {
            self.note_leaf(parent);
        }
        Some(block)
    }

    /// The oldest leaf of `pool` itself where it has its share, then of those above theirs, then of anybody.
    fn victim(&self, pool: u64) -> Option<u32> {
        let share = (self.entries.len() / self.pools.len().max(1)) as u32;
        let own = self.pools.get(&pool).filter(|own| own.blocks >= share);
        let above = || self.pools.values().filter(|other| other.blocks > share);
        let oldest = own.and_then(Pool::oldest);
        let oldest = oldest.or_else(|| above().filter_map(Pool::oldest).min());
        let oldest = oldest.or_else(|| self.pools.values().filter_map(Pool::oldest).min());
        oldest.map(|(_, block)| block)
    }

    fn entry(&mut self, block: Option<u32>) -> Option<&mut Entry> {
        self.entries[block? as usize].as_mut()
    }

    /// Puts an idle block among the leaves of its pool where nothing goes on from it.
    fn note_leaf(&mut self, block: u32) {
        let Some(entry) = &self.entries[block as usize] else {
            return;
        };
        if let (Some(since), 0) = (entry.idle_since, entry.children) {
            let pool = self.pools.entry(entry.pool).or_default();
            pool.leaves.insert((since, block));
        }
    }

    /// Whether the books agree with `references`, the tables that hold each block; for the audit.
    pub(crate) fn agrees_with(&self, references: &[u32]) -> bool {
        let entries = || (0_u32..).zip(&self.entries);
        let known = || entries().filter_map(|(block, entry)| Some((block, entry.as_ref()?)));
        let idle = known().filter(|(_, entry)| entry.idle_since.is_some());
        let leaves = self.pools.values().flat_map(|pool| &pool.leaves);
        let is_leaf = |&(since, block): &(u64, u32)| {
            let entry = self.entries[block as usize].as_ref();
            entry.is_some_and(|e| e.children == 0 && e.idle_since == Some(since))
        };
        let children = known().filter(|(_, entry)| entry.parent.is_some()).count();
        let counted: u32 = known().map(|(_, entry)| entry.children).sum();
        let in_pools: u32 = self.pools.values().map(|pool| pool.blocks).sum();
        known().all(|(b, e)| e.idle_since.is_some() == (references[b as usize] == 0))
            && idle.count() == self.idle as usize
            && leaves.clone().all(is_leaf)
            && (self.idle == 0 || leaves.count() > 0)
            && children == counted as usize
            && known().count() == in_pools as usize
    }
}

impl Pool {
    fn oldest(&self) -> Option<(u64, u32)> {
        self.leaves.first().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Puts a chain of one-token blocks into the cache and lets go of it, the last block first.
    fn store(cache: &mut PrefixCache, pool: u64, blocks: &[u32]) {
        let (mut parent, mut key) = (None, None);
        for &block in blocks {
            let tokens = [block + 1000];
            let next = cache.key(pool, key, &tokens);
            assert!(cache.insert(block, pool, parent, next, &tokens));
            (parent, key) = (Some(block), Some(next));
        }
        blocks
            .iter()
            .rev()
            .for_each(|&block| assert!(cache.rest(block)));
    }

    #[test]
    fn a_block_is_found_by_its_own_pool_parent_and_tokens_only() {
        let mut cache = PrefixCache::new(4);
        let key = cache.key(1, None, &[5, 6]);
        assert!(cache.insert(0, 1, None, key, &[5, 6]));
        assert_eq!(cache.find(1, None, key, &[5, 6]), Some(0));
        assert_ne!(cache.key(2, None, &[5, 6]), key);
        // As if the hash had collided.
        assert_eq!(cache.find(2, None, key, &[5, 6]), None);
        assert_eq!(cache.find(1, Some(3), key, &[5, 6]), None);
        assert_eq!(cache.find(1, None, key, &[5, 7]), None);
        assert!(!cache.insert(1, 1, None, key, &[5, 7]));
    }

    #[test]
    fn two_caches_name_the_same_tokens_differently() {
        let key = || PrefixCache::new(1).key(0, None, &[1, 2, 3]);
        assert_ne!(key(), key());
    }

    #[test]
    fn chains_are_evicted_from_their_ends_and_the_oldest_first() {
        let mut cache = PrefixCache::new(8);
        store(&mut cache, 0, &[0, 1, 2]);
        store(&mut cache, 0, &[3, 4]);
        // The first chain is used again.
        for block in 0..3 {
            cache.hold(block);
        }
        for block in (0..3).rev() {
            cache.rest(block);
        }
        let order: Vec<u32> = std::iter::from_fn(|| cache.evict(0)).collect();
        assert_eq!(order, [4, 3, 2, 1, 0]);
        assert!(cache.pools.is_empty() && cache.found_by.is_empty());
    }

    #[test]
    fn a_flooder_washes_out_its_own_blocks() {
        let mut cache = PrefixCache::new(8);
        store(&mut cache, 1, &[0, 1]);
        store(&mut cache, 2, &[2, 3, 4, 5, 6, 7]);
        // Pool 1 is the older one, but pool 2 is above its share, whoever asks.
        assert_eq!(cache.evict(2), Some(7));
        assert_eq!(cache.evict(3), Some(6));
        // Now nobody is above its share, and the oldest goes.
        assert_eq!(cache.evict(3), Some(1));
    }

    #[test]
    fn a_hidden_block_is_not_found_but_still_given_up() {
        let mut cache = PrefixCache::new(2);
        store(&mut cache, 0, &[0]);
        cache.hide(0);
        let key = cache.key(0, None, &[1000]);
        assert_eq!(cache.find(0, None, key, &[1000]), None);
        assert_eq!(cache.evict(0), Some(0));
        assert_eq!((cache.idle(), cache.evict(0)), (0, None));
    }
}
