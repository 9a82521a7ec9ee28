//! Who holds which KV block: a free list, block tables and reference counts.
//!
//! Only numbers live here; the keys and values are the runner's. Held here: I1, free + used = total, and no block is in
//! two tables unless it was shared as full.

/// KV blocks of one engine.
#[derive(Debug)]
pub(crate) struct BlockManager {
    block_size: u32,
    /// Free blocks, the next one last.
    free: Vec<u32>,
    /// Tables that hold each block.
    references: Vec<u32>,
}

/// Blocks of one sequence in order of position. Neither clonable nor droppable while it holds blocks: it goes back
/// through [`BlockManager::release`].
#[derive(Debug, Default)]
#[must_use]
pub(crate) struct BlockTable {
    blocks: Vec<u32>,
}

impl BlockManager {
    /// `total` free blocks of `block_size` tokens.
    pub(crate) fn new(total: u32, block_size: u32) -> Self {
        assert!(block_size > 0, "a block holds at least one token");
        Self {
            block_size,
            free: (0..total).rev().collect(),
            references: vec![0; total as usize],
        }
    }

    /// Blocks in all.
    pub(crate) fn total(&self) -> u32 {
        self.references.len() as u32
    }

    /// Blocks that nobody holds.
    pub(crate) fn free(&self) -> u32 {
        self.free.len() as u32
    }

    /// Tokens of a block.
    pub(crate) fn block_size(&self) -> u32 {
        self.block_size
    }

    /// Blocks that `tokens` tokens need.
    pub(crate) fn blocks_for(&self, tokens: u32) -> u32 {
        tokens.div_ceil(self.block_size)
    }

    /// Extends `table` to hold `tokens` tokens. False, and nothing changed, where the free blocks do not suffice.
    #[must_use]
    pub(crate) fn grow(&mut self, tokens: u32, table: &mut BlockTable) -> bool {
        let wanted = self.blocks_for(tokens).saturating_sub(table.len());
        if wanted > self.free() {
            return false;
        }
        let fresh = self.free.split_off(self.free.len() - wanted as usize);
        for &block in fresh.iter().rev() {
            self.references[block as usize] = 1;
            table.blocks.push(block);
        }
        true
    }

    /// A second table over the first `blocks` blocks of `table`, which must be full: nobody writes to them again.
    #[cfg_attr(
        not(test),
        expect(
            dead_code,
            reason = "choices of one prompt and the prefix cache share through it"
        )
    )]
    pub(crate) fn share(&mut self, table: &BlockTable, blocks: u32) -> BlockTable {
        let shared = table.blocks[..blocks as usize].to_vec();
        for &block in &shared {
            self.references[block as usize] += 1;
        }
        BlockTable { blocks: shared }
    }

    /// Takes all blocks of `table` back; those that no other table holds are free again.
    pub(crate) fn release(&mut self, table: &mut BlockTable) {
        for block in table.blocks.drain(..).rev() {
            let references = &mut self.references[block as usize];
            assert!(*references > 0, "a block is released once by each holder");
            *references -= 1;
            if *references == 0 {
                self.free.push(block);
            }
        }
    }

    /// Free blocks by number, for the audit.
    pub(crate) fn free_blocks(&self) -> &[u32] {
        &self.free
    }

    /// Tables that hold each block, for the audit.
    pub(crate) fn references(&self) -> &[u32] {
        &self.references
    }
}

impl BlockTable {
    /// Blocks held.
    pub(crate) fn len(&self) -> u32 {
        self.blocks.len() as u32
    }

    /// Blocks by number, in order of position.
    pub(crate) fn blocks(&self) -> &[u32] {
        &self.blocks
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
        Share { from: usize, to: usize },
        Release { table: usize },
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            3 => (0..6_usize, 0..120_u32).prop_map(|(table, tokens)| Op::Grow { table, tokens }),
            1 => (0..6_usize, 0..6_usize).prop_map(|(from, to)| Op::Share { from, to }),
            2 => (0..6_usize).prop_map(|table| Op::Release { table }),
        ]
    }

    /// The naive model: a table is the set of blocks it should hold; a block is used while any table names it.
    fn used(tables: &[BlockTable]) -> usize {
        let blocks: std::collections::BTreeSet<_> =
            tables.iter().flat_map(|t| t.blocks()).collect();
        blocks.len()
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
            Op::Share { from, to } if from != to => {
                manager.release(&mut tables[to]);
                let blocks = tables[from].len() / 2;
                tables[to] = manager.share(&tables[from], blocks);
            }
            Op::Share { .. } => {}
            Op::Release { table } => manager.release(&mut tables[table]),
        }
    }

    proptest! {
        #[test]
        fn free_and_used_blocks_always_sum_to_the_total(ops in prop::collection::vec(op(), 0..80)) {
            let mut manager = BlockManager::new(40, 4);
            let mut tables: Vec<BlockTable> = (0..6).map(|_| BlockTable::default()).collect();
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
}
