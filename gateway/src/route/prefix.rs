//! Who has seen the beginning of a prompt: a bounded index of hashes of message bytes.
//!
//! A prompt's bytes are cut into blocks that grow with it, each hashed together with all before it and with the tenant's pool, under a key of
//! this process: no text leaves a request, and no tenant finds what another's prompts begin with (I5). The index is a
//! table of fixed size in sets of eight; where a set is full its oldest entry gives way. So its memory is what it was
//! made with, whatever comes.

use std::hash::Hasher as _;

use foldhash::SharedSeed;
use foldhash::quality::FoldHasher;

use super::facts::CandidateId;
use crate::limits::{PREFIX_BLOCK_BYTES, PREFIX_BLOCKS_MAX};

/// Entries that a hash may be in.
const WAYS: usize = 8;
/// Candidates remembered for one block: the last ones.
const HOLDERS: usize = 4;
/// No candidate.
const NOBODY: u16 = u16::MAX;

/// Key of the hashes of one process.
#[derive(Clone, Copy)]
pub struct HashKey(u64, u64);

impl HashKey {
    /// A key of these bits, which should be random.
    #[must_use]
    pub const fn new(bits: (u64, u64)) -> Self {
        Self(bits.0, bits.1)
    }

    /// The hash of a session's name within its tenant's pool.
    #[must_use]
    pub fn session(self, pool: u64, name: &str) -> u64 {
        self.chained(&self.seed(), SESSION ^ pool, name.as_bytes())
    }

    /// The chained hashes of a prompt that is these pieces end to end, whole blocks only.
    pub fn blocks<'p>(self, pool: u64, pieces: impl IntoIterator<Item = &'p [u8]>) -> Vec<u64> {
        let seed = self.seed();
        let (mut hashes, mut begun) = (Vec::new(), Vec::new());
        for mut piece in pieces {
            while !piece.is_empty() {
                let length = covered(hashes.len() + 1) - covered(hashes.len());
                let missing = length - begun.len();
                let (head, rest) = piece.split_at(missing.min(piece.len()));
                if head.len() < missing {
                    begun.extend_from_slice(head);
                    break;
                }
                let before = hashes.last().copied().unwrap_or(pool);
                if begun.is_empty() {
                    hashes.push(self.chained(&seed, before, head));
                } else {
                    begun.extend_from_slice(head);
                    hashes.push(self.chained(&seed, before, &begun));
                    begun.clear();
                }
                if hashes.len() == PREFIX_BLOCKS_MAX {
                    return hashes;
                }
                piece = rest;
            }
        }
        hashes
    }

    fn seed(self) -> SharedSeed {
        SharedSeed::from_u64(self.1)
    }

    /// The hash of `bytes` and of `before`, which covers all that comes before them.
    ///
    /// A fast hash rather than one that holds out against people who look for collisions: they know neither key nor hashes,
    /// and one that they met would cost them a worse pick.
    fn chained(self, seed: &SharedSeed, before: u64, bytes: &[u8]) -> u64 {
        let mut hasher = FoldHasher::with_seed(self.0, seed);
        hasher.write_u64(before);
        hasher.write(bytes);
        hasher.finish()
    }
}

/// Bytes of a prompt's first `blocks` blocks. From the sixteenth on every eight blocks are twice as long as the eight before: a
/// block is an eighth of what comes before it at most, so a long prompt takes few of them and its depth is known as well as
/// it matters.
#[must_use]
pub const fn covered(blocks: usize) -> usize {
    let (octave, step) = (blocks / 8, blocks % 8);
    match octave {
        0 => blocks * PREFIX_BLOCK_BYTES,
        _ => (8 + step) * (PREFIX_BLOCK_BYTES << (octave - 1)),
    }
}

/// What tells names of sessions from beginnings of prompts.
const SESSION: u64 = 0x5e55_1011_5e55_1011;

impl std::fmt::Debug for HashKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HashKey(..)")
    }
}

/// Which candidates have served which hashes.
pub(super) struct PrefixIndex {
    /// A power of two of sets.
    sets: Vec<[Entry; WAYS]>,
    /// Counts notes, to tell old from new.
    turn: u32,
}

#[derive(Clone, Copy)]
struct Entry {
    hash: u64,
    turn: u32,
    holders: [u16; HOLDERS],
}

const EMPTY: Entry = Entry {
    hash: 0,
    turn: 0,
    holders: [NOBODY; HOLDERS],
};

impl PrefixIndex {
    /// An index of at most so many bytes, at least one set.
    pub(super) fn new(bytes_max: u64) -> Self {
        let sets = usize::try_from(bytes_max).unwrap_or(usize::MAX) / size_of::<[Entry; WAYS]>();
        let sets = (sets / 2 + 1).next_power_of_two();
        Self {
            sets: vec![[EMPTY; WAYS]; sets],
            turn: 0,
        }
    }

    /// Blocks of `hashes` from the first on that each candidate has seen, into `depths` by the candidate's index.
    pub(super) fn depths(&self, hashes: &[u64], depths: &mut [u32]) {
        depths.fill(0);
        for (depth, hash) in (0_u32..).zip(hashes) {
            let mut deeper = false;
            for holder in self.holders(*hash) {
                match depths.get_mut(holder.index()) {
                    Some(seen) if *seen == depth => {
                        *seen += 1;
                        deeper = true;
                    }
                    _ => {}
                }
            }
            if !deeper {
                return;
            }
        }
    }

    /// The candidates that served `hash`, the last one first.
    pub(super) fn holders(&self, hash: u64) -> impl Iterator<Item = CandidateId> {
        let found = self.set(hash).iter().find(|e| e.hash == hash && e.turn > 0);
        let holders = found.map_or([NOBODY; HOLDERS], |entry| entry.holders);
        holders
            .into_iter()
            .filter(|holder| *holder != NOBODY)
            .map(CandidateId)
    }

    /// Notes that `candidate` has served these.
    pub(super) fn note(&mut self, hashes: &[u64], candidate: CandidateId) {
        self.turn = self.turn.wrapping_add(1).max(1);
        self.fetch(hashes);
        hashes
            .iter()
            .for_each(|hash| self.note_one(*hash, candidate));
    }

    /// Brings the sets of `hashes` into the processor's cache all at once; when they are changed one after the other, each would
    /// be waited for.
    fn fetch(&self, hashes: &[u64]) {
        let entries = hashes.iter().flat_map(|hash| self.set(*hash));
        let turns = entries.fold(0_u32, |sum, entry| sum.wrapping_add(entry.turn));
        std::hint::black_box(turns);
    }

    fn note_one(&mut self, hash: u64, candidate: CandidateId) {
        let turn = self.turn;
        let index = self.index(hash);
        let Some(set) = self.sets.get_mut(index) else {
            return;
        };
        let known = set.iter().position(|e| e.hash == hash && e.turn > 0);
        let oldest = || (0..WAYS).min_by_key(|way| set.get(*way).map(|e| e.turn));
        let Some(entry) = known.or_else(oldest).and_then(|way| set.get_mut(way)) else {
            return;
        };
        if entry.hash != hash || entry.turn == 0 {
            *entry = Entry { hash, ..EMPTY };
        }
        entry.turn = turn;
        let place = entry.holders.iter().position(|h| *h == candidate.0);
        entry.holders[..=place.unwrap_or(HOLDERS - 1)].rotate_right(1);
        entry.holders[0] = candidate.0;
    }

    fn set(&self, hash: u64) -> &[Entry] {
        self.sets.get(self.index(hash)).map_or(&[], |set| set)
    }

    fn index(&self, hash: u64) -> usize {
        // The number of sets is a power of two, and its bits of the hash are as good as any others.
        (hash as usize) & (self.sets.len() - 1)
    }
}

impl std::fmt::Debug for PrefixIndex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PrefixIndex")
            .field("sets", &self.sets.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: HashKey = HashKey::new((1, 2));

    fn text(blocks: usize, fill: u8) -> Vec<u8> {
        vec![fill; covered(blocks)]
    }

    #[test]
    fn blocks_grow_with_what_comes_before_them() {
        let lengths: Vec<usize> = (0..PREFIX_BLOCKS_MAX)
            .map(|block| covered(block + 1) - covered(block))
            .collect();
        assert_eq!(lengths[..16], [PREFIX_BLOCK_BYTES; 16]);
        assert_eq!(lengths[16..24], [2 * PREFIX_BLOCK_BYTES; 8]);
        assert_eq!(lengths[56..], [64 * PREFIX_BLOCK_BYTES; 8]);
        assert_eq!(covered(PREFIX_BLOCKS_MAX), 1 << 20);
    }

    #[test]
    fn equal_beginnings_have_equal_hashes_however_they_are_cut_and_only_within_a_pool() {
        let long = text(20, b'a');
        let whole = KEY.blocks(7, [long.as_slice()]);
        assert_eq!(whole.len(), 20);
        for cut in [1, 1_000, PREFIX_BLOCK_BYTES, 18 * PREFIX_BLOCK_BYTES + 1] {
            let (one, other) = long.split_at(cut);
            assert_eq!(whole, KEY.blocks(7, [one, &[], other]), "{cut}");
        }
        let mut forked = long.clone();
        forked[2 * PREFIX_BLOCK_BYTES] = b'b';
        let forked = KEY.blocks(7, [forked.as_slice()]);
        assert_eq!(whole[..2], forked[..2]);
        assert_ne!(whole[2], forked[2]);
        assert_ne!(whole[0], KEY.blocks(8, [long.as_slice()])[0]);
        let endless = text(PREFIX_BLOCKS_MAX + 5, b'a');
        assert_eq!(KEY.blocks(7, [endless.as_slice()]).len(), PREFIX_BLOCKS_MAX);
    }

    #[test]
    fn depth_counts_leading_blocks_of_each_candidate() {
        let mut index = PrefixIndex::new(1 << 16);
        index.note(&[10, 11, 12], CandidateId(0));
        index.note(&[10, 11], CandidateId(2));
        // It holds a later block without the earlier ones: of no use.
        index.note(&[12], CandidateId(1));
        let mut depths = [9; 3];
        index.depths(&[10, 11, 12, 13], &mut depths);
        assert_eq!(depths, [3, 0, 2]);
    }

    #[test]
    fn memory_stays_and_the_oldest_give_way() {
        let mut index = PrefixIndex::new(4096);
        let sets = index.sets.len();
        for round in 0..1_000_u64 {
            let hashes: Vec<u64> = (0..10).map(|i| splitmix(round * 10 + i)).collect();
            index.note(&hashes, CandidateId(1));
            assert!(hashes.iter().all(|h| index.holders(*h).count() == 1));
        }
        assert_eq!(index.sets.len(), sets);
        assert!(size_of::<[Entry; WAYS]>() * sets <= 4096);
        assert_eq!(index.holders(splitmix(0)).count(), 0);
    }

    fn splitmix(x: u64) -> u64 {
        super::super::draw::mixed(x)
    }
}
