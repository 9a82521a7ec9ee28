//! What must hold between any two steps: predicates shared by property tests, simulation and the idle audit.

use crate::block_manager::{BlockManager, BlockTable};
use crate::scheduler::Scheduler;

/// An invariant that does not hold; the text names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("broken invariant: {0}")]
pub(crate) struct Violation(&'static str);

/// All invariants of a scheduler between two steps.
pub(crate) fn check(scheduler: &Scheduler) -> Result<(), Violation> {
    let (waiting, running) = (scheduler.waiting(), scheduler.running());
    let tables = waiting.iter().chain(running).map(|s| &s.table);
    check_blocks(scheduler.blocks(), tables)?;
    require(
        waiting.iter().is_sorted_by_key(|s| s.id) && running.iter().is_sorted_by_key(|s| s.rank()),
        "sequences in line are kept in order of arrival, running ones in order of rank",
    )?;
    require(
        running.len() <= scheduler.sequences_max(),
        "no more sequences run than may",
    )?;
    require(
        waiting
            .iter()
            .all(|s| s.table.len() == 0 && s.computed() == 0),
        "a waiting sequence holds nothing",
    )?;
    let block_size = scheduler.blocks().block_size();
    require(
        running
            .iter()
            .all(|s| s.computed() <= s.table.len() * block_size),
        "computed tokens lie in blocks of their sequence",
    )?;
    require(
        waiting.iter().chain(running).all(|s| s.remaining() > 0),
        "every sequence has a token to compute",
    )
}

/// I1: each block is either free, once, or held by as many tables as are counted.
pub(crate) fn check_blocks<'a>(
    blocks: &BlockManager,
    tables: impl Iterator<Item = &'a BlockTable>,
) -> Result<(), Violation> {
    let mut holders = vec![0_u32; blocks.total() as usize];
    for &block in tables.flat_map(BlockTable::blocks) {
        holders[block as usize] += 1;
    }
    require(
        holders == blocks.references(),
        "references are the tables that hold a block",
    )?;
    let used = holders.iter().filter(|&&n| n > 0).count() as u32;
    require(
        blocks.free() + used == blocks.total(),
        "free and used blocks are all blocks",
    )?;
    let is_empty = |&block: &u32| holders[block as usize] == 0 && !blocks.cache().holds(block);
    require(
        blocks.empty_blocks().iter().all(is_empty),
        "an empty block is in no table and not in the prefix cache",
    )?;
    require(
        blocks.cache().agrees_with(&holders),
        "the prefix cache knows who is held and who is a leaf",
    )
}

fn require(holds: bool, invariant: &'static str) -> Result<(), Violation> {
    if holds {
        Ok(())
    } else {
        Err(Violation(invariant))
    }
}
