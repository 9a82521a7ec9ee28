//! Who holds which KV block: a free list, block tables, reference counts, and full blocks kept for whoever needs them next.
//!
//! Only numbers live here; the keys and values are the runner's. Held here: I1, free + used = total, and no block is in
//! two tables unless it is full and found through the prefix cache. A block that only the cache knows counts as free.

use crate::prefix_cache::{BlockKey, PrefixCache};

/// KV blocks of one engine.
#[derive(Debug)]
pub(crate) struct BlockManager {
    block_size: u32,
    /// Blocks that hold nothing of use, the next one last.
    empty: Vec<u32>,
    /// Tables that hold each block.
    references: Vec<u32>,
    cache: PrefixCache,
}

/// Blocks of one sequence in order of position. Neither clonable nor droppable while it holds blocks: it goes back
/// through [`BlockManager::release`].
#[derive(Debug, Default)]
#[must_use]
pub(crate) struct BlockTable {
    pool: u64,
    blocks: Vec<u32>,
    /// Of these, the leading ones that are in the prefix cache.
    findable: u32,
}

impl BlockManager {
    /// `total` free blocks of `block_size` tokens.
    pub(crate) fn new(total: u32, block_size: u32) -> Self {
        assert!(block_size > 0, "a block holds at least one token");
        Self {
            block_size,
            empty: (0..total).rev().collect(),
            references: vec![0; total as usize],
            cache: PrefixCache::new(total),
        }
    }

    /// Blocks in all.
    pub(crate) fn total(&self) -> u32 {
        self.references.len() as u32
    }

    /// Blocks that no table holds.
    pub(crate) fn free(&self) -> u32 {
        self.empty.len() as u32 + self.cache.idle()
    }

    /// Tokens of a block.
    pub(crate) fn block_size(&self) -> u32 {
        self.block_size
    }

    /// Blocks that `tokens` tokens need.
    pub(crate) fn blocks_for(&self, tokens: u32) -> u32 {
        tokens.div_ceil(self.block_size)
    }

    /// Blocks that a table for `tokens` tokens would take from the free ones, where it begins with `found` ones.
    pub(crate) fn blocks_taken(&self, tokens: u32, found: &[u32]) -> u32 {
        let held = |block: &&u32| self.references[**block as usize] > 0;
        let held = found.iter().filter(held).count() as u32;
        self.blocks_for(tokens).saturating_sub(held)
    }

    /// Extends `table` to hold `tokens` tokens. False, and nothing changed, where the free blocks do not suffice.
    #[must_use]
    pub(crate) fn grow(&mut self, tokens: u32, table: &mut BlockTable) -> bool {
        let wanted = self.blocks_for(tokens).saturating_sub(table.len());
        if wanted > self.free() {
            return false;
        }
        for _ in 0..wanted {
            let block = self.empty.pop().or_else(|| self.cache.evict(table.pool));
            let Some(block) = block else { return false };
            self.references[block as usize] = 1;
            table.blocks.push(block);
        }
        true
    }

    /// Begins an empty table with blocks that were found for it.
    pub(crate) fn adopt(&mut self, found: &[u32], table: &mut BlockTable) {
        debug_assert!(table.blocks.is_empty(), "a table begins with found blocks");
        for &block in found {
            self.hold(block);
            table.blocks.push(block);
        }
        table.findable = found.len() as u32;
    }

    /// Makes the next block of `table` findable: it is full of `tokens`, computed. Where another table was faster its
    /// block is taken instead of this one, for they hold the same. False where it cannot be.
    pub(crate) fn publish(
        &mut self,
        table: &mut BlockTable,
        key: BlockKey,
        tokens: &[u32],
    ) -> bool {
        let index = table.findable as usize;
        let (own, parent) = (table.blocks[index], table.last_findable());
        if let Some(same) = self.cache.find(table.pool, parent, key, tokens) {
            self.hold(same);
            self.let_go(own);
            table.blocks[index] = same;
        } else if !self.cache.insert(own, table.pool, parent, key, tokens) {
            return false;
        }
        table.findable += 1;
        true
    }

    /// Lets nobody find the blocks of `table` again: what they hold is in doubt.
    pub(crate) fn hide(&mut self, table: &BlockTable) {
        table
            .blocks
            .iter()
            .for_each(|&block| self.cache.hide(block));
    }

    /// Takes all blocks of `table` back; those that no other table holds are free again.
    pub(crate) fn release(&mut self, table: &mut BlockTable) {
        table.findable = 0;
        // From the end, so that a chain's beginning is the last to be given up.
        for block in table.blocks.drain(..).rev() {
            self.let_go(block);
        }
    }

    fn hold(&mut self, block: u32) {
        self.references[block as usize] += 1;
        self.cache.hold(block);
    }

    fn let_go(&mut self, block: u32) {
        let references = &mut self.references[block as usize];
        assert!(*references > 0, "a block is released once by each holder");
        *references -= 1;
        if *references == 0 && !self.cache.rest(block) {
            self.empty.push(block);
        }
    }

    /// Free blocks that hold nothing of use, by number, for the audit.
    pub(crate) fn empty_blocks(&self) -> &[u32] {
        &self.empty
    }

    /// Tables that hold each block, for the audit.
    pub(crate) fn references(&self) -> &[u32] {
        &self.references
    }

    /// The blocks that may be found.
    pub(crate) fn cache(&self) -> &PrefixCache {
        &self.cache
    }
}

impl BlockTable {
    /// An empty table of `pool`.
    pub(crate) fn new(pool: u64) -> Self {
        Self {
            pool,
            blocks: Vec::new(),
            findable: 0,
        }
    }

    /// Blocks held.
    pub(crate) fn len(&self) -> u32 {
        self.blocks.len() as u32
    }

    /// Blocks by number, in order of position.
    pub(crate) fn blocks(&self) -> &[u32] {
        &self.blocks
    }

    /// The leading blocks that are in the prefix cache.
    pub(crate) fn findable(&self) -> u32 {
        self.findable
    }

    fn last_findable(&self) -> Option<u32> {
        let last = self.findable.checked_sub(1)?;
        self.blocks.get(last as usize).copied()
    }
}

impl Drop for BlockTable {
    fn drop(&mut self) {
        debug_assert!(
            self.blocks.is_empty() || std::thread::panicking(),
            "a block table was dropped without being released"
        );
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::invariants::check_blocks;

    #[derive(Debug, Clone)]
    enum Op {
        Grow { table: usize, tokens: u32 },
        Publish { table: usize, text: u32 },
        Adopt { table: usize, text: u32 },
        Hide { table: usize },
        Release { table: usize },
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            3 => (0..6_usize, 0..120_u32).prop_map(|(table, tokens)| Op::Grow { table, tokens }),
            3 => (0..6_usize, 0..3_u32).prop_map(|(table, text)| Op::Publish { table, text }),
            2 => (0..6_usize, 0..3_u32).prop_map(|(table, text)| Op::Adopt { table, text }),
            1 => (0..6_usize).prop_map(|table| Op::Hide { table }),
            2 => (0..6_usize).prop_map(|table| Op::Release { table }),
        ]
    }

    /// The naive model: a table is the set of blocks it should hold; a block is used while any table names it.
    fn used(tables: &[BlockTable]) -> usize {
        let blocks: std::collections::BTreeSet<_> =
            tables.iter().flat_map(|t| t.blocks()).collect();
        blocks.len()
    }

    /// The tokens of block `index` of one of three texts.
    fn tokens(text: u32, index: u32) -> [u32; 4] {
        [text, index, 0, 0]
    }

    fn key(manager: &BlockManager, pool: u64, text: u32, index: u32) -> BlockKey {
        let blocks = 0..=index;
        let key = blocks.fold(None, |key, i| {
            Some(manager.cache().key(pool, key, &tokens(text, i)))
        });
        key.expect("at least one block")
    }

    /// Publishes the next block of a table as if it held the text.
    fn publish(manager: &mut BlockManager, table: &mut BlockTable, text: u32) {
        let index = table.findable();
        if index < table.len() {
            let key = key(manager, table.pool, text, index);
            let published = manager.publish(table, key, &tokens(text, index));
            assert_eq!(table.findable(), index + u32::from(published));
        }
    }

    fn found(manager: &BlockManager, pool: u64, text: u32) -> Vec<u32> {
        let mut found = Vec::new();
        let next = |found: &Vec<u32>| {
            let index = found.len() as u32;
            let key = key(manager, pool, text, index);
            manager
                .cache()
                .find(pool, found.last().copied(), key, &tokens(text, index))
        };
        while let Some(block) = next(&found) {
            found.push(block);
        }
        found
    }

    fn apply(manager: &mut BlockManager, tables: &mut [BlockTable], op: &Op) {
        match *op {
            Op::Grow { table, tokens } => {
                let before = tables[table].len();
                let needed = tokens.div_ceil(4).saturating_sub(before);
                let fits = needed <= manager.free();
                assert_eq!(manager.grow(tokens, &mut tables[table]), fits);
                let expected = if fits { before + needed } else { before };
                assert_eq!(tables[table].len(), expected);
            }
            Op::Publish { table, text } => publish(manager, &mut tables[table], text),
            Op::Adopt { table, text } => {
                manager.release(&mut tables[table]);
                let found = found(manager, tables[table].pool, text);
                manager.adopt(&found, &mut tables[table]);
            }
            Op::Hide { table } => manager.hide(&tables[table]),
            Op::Release { table } => manager.release(&mut tables[table]),
        }
    }

    proptest! {
        #[test]
        fn free_and_used_blocks_always_sum_to_the_total(ops in prop::collection::vec(op(), 0..80)) {
            let mut manager = BlockManager::new(40, 4);
            let mut tables: Vec<BlockTable> = (0..6).map(|i| BlockTable::new(i % 2)).collect();
            for op in &ops {
                apply(&mut manager, &mut tables, op);
                prop_assert_eq!(manager.free() as usize + used(&tables), 40);
                prop_assert_eq!(check_blocks(&manager, tables.iter()), Ok(()));
            }
            for table in &mut tables {
                manager.release(table);
            }
            prop_assert_eq!(manager.free(), manager.total());
        }
    }

    #[test]
    fn growing_is_all_or_nothing() {
        let mut manager = BlockManager::new(3, 16);
        let mut table = BlockTable::default();
        assert!(manager.grow(17, &mut table));
        assert_eq!(table.blocks(), [0, 1]);
        assert!(!manager.grow(49, &mut table));
        assert_eq!((table.len(), manager.free()), (2, 1));
        assert!(manager.grow(48, &mut table));
        manager.release(&mut table);
        assert_eq!(manager.free(), 3);
    }

    #[test]
    fn of_two_equal_blocks_one_is_kept() {
        let mut manager = BlockManager::new(4, 4);
        let mut tables = [BlockTable::new(0), BlockTable::new(0)];
        for table in &mut tables {
            assert!(manager.grow(4, table));
            publish(&mut manager, table, 0);
        }
        assert_eq!(tables[0].blocks(), tables[1].blocks());
        assert_eq!(manager.free(), 3);
        tables.iter_mut().for_each(|table| manager.release(table));
        assert_eq!(manager.free(), 4);
    }

    #[test]
    fn an_idle_block_is_found_until_its_room_is_wanted() {
        let mut manager = BlockManager::new(2, 4);
        let mut table = BlockTable::new(0);
        assert!(manager.grow(4, &mut table));
        publish(&mut manager, &mut table, 1);
        manager.release(&mut table);
        assert_eq!((manager.free(), found(&manager, 0, 1).len()), (2, 1));
        assert!(
            found(&manager, 1, 1).is_empty(),
            "another pool sees nothing"
        );
        assert!(manager.grow(8, &mut table));
        assert!(found(&manager, 0, 1).is_empty());
        manager.release(&mut table);
    }
}
