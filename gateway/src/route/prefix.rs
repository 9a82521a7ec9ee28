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
const NOBODIES: [u16; HOLDERS] = [NOBODY; HOLDERS];

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

/// Bytes of a prompt's first `blocks` blocks. The first sixteen are equal, and from there every eight are twice as long as the
/// eight before: beyond the first eight a block is an eighth of what comes before it at most, so a long prompt takes few of
/// them and its depth is known as well as it matters.
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
    sets: Vec<Set>,
    /// Counts notes, to tell old from new.
    turn: u32,
}

/// Some hashes and the candidates that served each, the last one first. A line of a cache for the hashes and one for the
/// candidates are all that a decision reads; both are far away.
#[derive(Clone)]
#[repr(C, align(64))]
struct Set {
    hashes: [u64; WAYS],
    holders: [[u16; HOLDERS]; WAYS],
    /// When each was noted last.
    turns: [u32; WAYS],
}

const EMPTY: Set = Set {
    hashes: [0; WAYS],
    holders: [NOBODIES; WAYS],
    turns: [0; WAYS],
};

impl PrefixIndex {
    /// An index of at most so many bytes, at least one set.
    pub(super) fn new(bytes_max: u64) -> Self {
        let sets = usize::try_from(bytes_max).unwrap_or(usize::MAX) / size_of::<Set>();
        let sets = (sets / 2 + 1).next_power_of_two();
        Self {
            sets: vec![EMPTY; sets],
            turn: 0,
        }
    }

    /// How many of `hashes` from the first on candidates have seen; of those who served the first one last, all others
    /// count as having seen none.
    pub(super) fn depths(&self, hashes: &[u64]) -> impl Iterator<Item = (CandidateId, u32)> {
        let mut before = hashes.first().map_or(NOBODIES, |hash| self.held(*hash));
        // Who they are, and what each has seen where it has not seen all.
        let mut seen = before.map(|holder| (holder, (holder == NOBODY).then_some(0)));
        let rest = match before {
            NOBODIES => &[],
            _ => hashes.get(1..).unwrap_or_default(),
        };
        for (depth, hash) in (1..).zip(rest) {
            let holders = self.held(*hash);
            // Mostly the same have seen all of a prompt.
            if holders == before {
                continue;
            }
            before = holders;
            for (holder, until) in &mut seen {
                if until.is_none() && !holders.contains(holder) {
                    *until = Some(depth);
                }
            }
            if seen.iter().all(|(_, until)| until.is_some()) {
                break;
            }
        }
        let all = u32::try_from(hashes.len()).unwrap_or(u32::MAX);
        let depths = seen.map(|(holder, depth)| (CandidateId(holder), depth.unwrap_or(all)));
        depths.into_iter().filter(|(_, depth)| *depth > 0)
    }

    /// The candidates that served `hash`, the last one first.
    pub(super) fn holders(&self, hash: u64) -> impl Iterator<Item = CandidateId> {
        let holders = self.held(hash).into_iter();
        holders.filter(|holder| *holder != NOBODY).map(CandidateId)
    }

    /// The same, and nobody in the places that are left.
    fn held(&self, hash: u64) -> [u16; HOLDERS] {
        let found = self.sets.get(self.index(hash)).and_then(|set| {
            let way = set.hashes.iter().position(|known| *known == hash)?;
            set.holders.get(way)
        });
        found.copied().unwrap_or(NOBODIES)
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
        let sets = hashes
            .iter()
            .filter_map(|hash| self.sets.get(self.index(*hash)));
        let sum = sets.fold(0_u64, |sum, set| {
            let held = u64::from(set.holders[0][0]) + u64::from(set.turns[0]);
            sum.wrapping_add(set.hashes[0]).wrapping_add(held)
        });
        std::hint::black_box(sum);
    }

    fn note_one(&mut self, hash: u64, candidate: CandidateId) {
        let (turn, index) = (self.turn, self.index(hash));
        let Some(set) = self.sets.get_mut(index) else {
            return;
        };
        let known = set.hashes.iter().position(|known| *known == hash);
        let oldest = || set.turns.iter().enumerate().min_by_key(|(_, turn)| **turn);
        let way = known.or_else(|| Some(oldest()?.0)).unwrap_or_default();
        if known.is_none() {
            set.hashes[way] = hash;
            set.holders[way] = NOBODIES;
        }
        set.turns[way] = turn;
        let holders = &mut set.holders[way];
        let place = holders.iter().position(|holder| *holder == candidate.0);
        holders[..=place.unwrap_or(HOLDERS - 1)].rotate_right(1);
        holders[0] = candidate.0;
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
    use proptest::prelude::*;

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
        let mut depths: Vec<_> = index.depths(&[10, 11, 12, 13]).collect();
        depths.sort_unstable();
        assert_eq!(depths, [(CandidateId(0), 3), (CandidateId(2), 2)]);
        assert_eq!(index.depths(&[13, 10]).count(), 0);
    }

    proptest! {
        #[test]
        fn depths_are_those_of_a_plain_count(
            notes in prop::collection::vec((0..6_u16, 0..8_usize, 1..8_usize), 0..30),
        ) {
            let mut index = PrefixIndex::new(1 << 16);
            let hashes: Vec<u64> = (1..=8).collect();
            for (candidate, from, count) in notes {
                let seen = hashes.iter().skip(from).take(count);
                index.note(&seen.copied().collect::<Vec<_>>(), CandidateId(candidate));
            }
            let plain = (0..6_u16).map(CandidateId).map(|candidate| {
                let holds = |hash: &&u64| index.holders(**hash).any(|holder| holder == candidate);
                (candidate, hashes.iter().take_while(holds).count() as u32)
            });
            let plain: Vec<_> = plain.filter(|(_, depth)| *depth > 0).collect();
            let mut depths: Vec<_> = index.depths(&hashes).collect();
            depths.sort_unstable();
            prop_assert_eq!(depths, plain);
        }
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
        assert!(size_of::<Set>() * sets <= 4096);
        assert_eq!(index.holders(splitmix(0)).count(), 0);
    }

    fn splitmix(x: u64) -> u64 {
        super::super::draw::mixed(x)
    }
}
