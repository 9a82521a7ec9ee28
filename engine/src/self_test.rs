//! The start-up self-test: a sequence alone against the same one cut into odd chunks beside others, bit for bit, with the
//! loaded weights.
//!
//! A kernel whose rows depend on their company passes every test of single rows, and then gives a user other text
//! whenever the load changes. So it is looked for on each start, on this processor and with these weights. The same
//! passes warm the model up, and what they give is part of the model's [`crate::numerics::Numerics`]. It must not know
//! how logits are computed: a function from batches to logits comes in.

use hansa_models::Batch;
use hansa_models::fingerprint::Fingerprint;

use crate::api::{SamplingParams, StopParams};
use crate::random::splitmix64;
use crate::runner::{RowOutcome, RunnerError, SampleRow};
use crate::sampler::Sampler;

/// Sequences of the test.
const SEQUENCES: usize = 8;
/// The one that is looked at: neither the first nor the last of a batch.
const SUBJECT: usize = 2;
/// Tokens of the subject in each pass where it is alone.
const ALONE: [usize; 3] = [24, 1, 1];
/// Tokens of every sequence in each pass where it has company: chunks that fill no tile of rows, beside decodes, then
/// decodes alone.
const COMPANY: [[usize; SEQUENCES]; 6] = [
    [13, 0, 5, 0, 0, 0, 0, 0],
    [1, 9, 1, 0, 0, 0, 0, 0],
    [1, 1, 11, 2, 0, 0, 0, 0],
    [1, 1, 7, 1, 3, 0, 0, 0],
    [1; SEQUENCES],
    [1; SEQUENCES],
];

/// What the test needs to know of the model and its cache.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    /// Width of the logits.
    pub(crate) vocab_size: u32,
    /// Tokens of prompt and completion together.
    pub(crate) context_len: u32,
    /// Tokens of a KV block.
    pub(crate) block_size: u32,
    /// KV blocks, all of them free.
    pub(crate) kv_blocks: u32,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The same to the bit, with this fingerprint of the logits.
    Same(u128),
    /// A row differs with its company.
    Differs,
    /// The cache or the context is too small for the test.
    NoRoom,
}

/// A sequence and how far it is computed.
struct Track {
    tokens: Vec<u32>,
    blocks: Vec<u32>,
    computed: usize,
}

/// Runs the test with `forward`, which gives the logits of a batch's rows one after another.
///
/// # Errors
/// Those of `forward`.
pub(crate) fn run(
    room: Room,
    mut forward: impl FnMut(&Batch) -> Result<Vec<f32>, RunnerError>,
) -> Result<Verdict, RunnerError> {
    let Some((mut alone, mut company)) = tracks(room) else {
        return Ok(Verdict::NoRoom);
    };
    let mut fingerprint = Fingerprint::default();
    let mut expected = Vec::new();
    for count in ALONE {
        let batch = pass(&mut [&mut alone], &[count], room.block_size);
        let logits = forward(&batch)?;
        fingerprint.add_numbers(&logits);
        expected.push(logits);
    }
    let mut same = true;
    for (index, counts) in COMPANY.iter().enumerate() {
        let mut tracks: Vec<&mut Track> = company.iter_mut().collect();
        let batch = pass(&mut tracks, counts, room.block_size);
        let logits = forward(&batch)?;
        // The last passes end where those of the lonely one ended.
        if let Some(of_expected) = (index + ALONE.len()).checked_sub(COMPANY.len()) {
            same &= has_row(&logits, row_of_subject(counts), &expected[of_expected]);
        }
    }
    Ok(if same {
        Verdict::Same(fingerprint.finish())
    } else {
        Verdict::Differs
    })
}

/// Fingerprint of what the sampler draws from rows that are a formula: other code draws otherwise.
pub(crate) fn sampler_fingerprint() -> u128 {
    const WIDTH: u64 = 999; // no multiple of any number of lanes
    const DRAWS: u32 = 8;
    let row = |seed: u64| (0..WIDTH).map(move |i| (splitmix64(seed << 32 | i) >> 40) as f32);
    let settings = [
        (0.0, 1.0, 0, 0.0),
        (0.8, 1.0, 0, 0.0),
        (1.0, 0.9, 0, 0.0),
        (0.7, 0.95, 40, 0.02),
    ];
    let stop = StopParams::after(1);
    let (mut sampler, mut all) = (Sampler::default(), Fingerprint::default());
    for (temperature, top_p, top_k, min_p) in settings {
        let sampling = SamplingParams {
            temperature,
            top_p,
            top_k,
            min_p,
            ..SamplingParams::default()
        };
        for index in 0..DRAWS {
            // 24 random bits as logits from 0 to 8.
            let mut logits: Vec<f32> = row(u64::from(index)).map(|x| x / 2_097_152.0).collect();
            let row = SampleRow {
                sampling: &sampling,
                stop: &stop,
                history: None,
                guide: None,
                drafted: &[],
                given: None,
                seed: 1,
                choice: 0,
                index,
            };
            let outcome: RowOutcome = sampler.sample(&mut logits, &row);
            all.add(format!("{:?}", outcome.token()).as_bytes());
        }
    }
    all.finish()
}

/// The lonely sequence, and all with their company, each in blocks of its own; `None` where there are not enough.
fn tracks(room: Room) -> Option<(Track, Vec<Track>)> {
    let mut free = 0..room.kv_blocks;
    let mut track = |sequence: usize, length: usize| {
        let blocks = length.div_ceil(room.block_size as usize);
        let blocks: Vec<u32> = free.by_ref().take(blocks).collect();
        let token = |i: usize| splitmix64((sequence as u64) << 32 | i as u64);
        let tokens = (0..length).map(|i| (token(i) % u64::from(room.vocab_size.max(1))) as u32);
        let fits = length <= room.context_len as usize
            && blocks.len() * room.block_size as usize >= length;
        fits.then(|| Track {
            tokens: tokens.collect(),
            blocks,
            computed: 0,
        })
    };
    let alone = track(SUBJECT, ALONE.iter().sum())?;
    let length = |sequence: usize| COMPANY.iter().map(|counts| counts[sequence]).sum();
    let company = (0..SEQUENCES).map(|sequence| track(sequence, length(sequence)));
    Some((alone, company.collect::<Option<_>>()?))
}

/// The next tokens of each sequence as one batch, with the logits of each one's last.
fn pass(tracks: &mut [&mut Track], counts: &[usize], block_size: u32) -> Batch {
    let mut batch = Batch::default();
    for (track, &count) in tracks.iter_mut().zip(counts) {
        if count == 0 {
            continue;
        }
        let end = track.computed + count;
        for position in track.computed..end {
            let position_in = position as u32;
            let block = track.blocks[(position_in / block_size) as usize];
            batch.tokens.push(track.tokens[position]);
            batch.positions.push(position_in);
            batch
                .slots
                .push(block * block_size + position_in % block_size);
        }
        track.computed = end;
        batch.q_lens.push(count as u32);
        batch.kv_lens.push(end as u32);
        batch.block_tables.push(track.blocks.clone());
        batch.logit_rows.push(batch.tokens.len() as u32 - 1);
    }
    batch
}

/// The place of the subject among the rows of a pass.
fn row_of_subject(counts: &[usize]) -> usize {
    counts[..SUBJECT].iter().filter(|&&count| count > 0).count()
}

fn has_row(logits: &[f32], row: usize, expected: &[f32]) -> bool {
    let width = expected.len();
    let found = logits.get(row * width..(row + 1) * width);
    let bits = |row: &[f32]| row.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    found.is_some_and(|found| bits(found) == bits(expected))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: Room = Room {
        vocab_size: 10,
        context_len: 64,
        block_size: 4,
        kv_blocks: 40,
    };

    /// A model over a cache of tokens by slot: a row is a sum over its context, plus what `company` makes of the batch.
    fn model(company: fn(&Batch) -> f32) -> impl FnMut(&Batch) -> Result<Vec<f32>, RunnerError> {
        let mut cache = vec![u32::MAX; (ROOM.kv_blocks * ROOM.block_size) as usize];
        move |batch| {
            for (&slot, &token) in batch.slots.iter().zip(&batch.tokens) {
                assert_eq!(cache[slot as usize], u32::MAX, "a slot is written once");
                cache[slot as usize] = token;
            }
            let rows = batch.block_tables.iter().zip(&batch.kv_lens);
            let row = |(table, &kv_len): (&Vec<u32>, &u32)| {
                let slot = |at: u32| table[(at / 4) as usize] * 4 + at % 4;
                let sum: u32 = (0..kv_len)
                    .map(|at| (at + 1) * cache[slot(at) as usize])
                    .sum();
                vec![sum as f32 + company(batch); 10]
            };
            Ok(rows.flat_map(row).collect())
        }
    }

    #[test]
    fn a_model_that_minds_nobody_passes_and_has_a_name() {
        let first = run(ROOM, model(|_| 0.0)).unwrap();
        assert!(matches!(first, Verdict::Same(_)));
        assert_eq!(first, run(ROOM, model(|_| 0.0)).unwrap());
        assert_ne!(first, run(ROOM, model(|_| 1.0)).unwrap());
    }

    #[test]
    fn the_least_of_differences_is_found() {
        let by_rows = |batch: &Batch| if batch.tokens.len() > 20 { 0.0 } else { 1e-4 };
        assert_eq!(run(ROOM, model(by_rows)).unwrap(), Verdict::Differs);
        let by_sequences = |batch: &Batch| if batch.q_lens.len() == 8 { -0.0 } else { 0.001 };
        assert_eq!(run(ROOM, model(by_sequences)).unwrap(), Verdict::Differs);
    }

    #[test]
    fn a_cache_or_context_without_room_is_told() {
        let small = Room {
            kv_blocks: 12,
            ..ROOM
        };
        assert_eq!(run(small, model(|_| 0.0)).unwrap(), Verdict::NoRoom);
        let short = Room {
            context_len: 25,
            ..ROOM
        };
        assert_eq!(run(short, model(|_| 0.0)).unwrap(), Verdict::NoRoom);
    }

    #[test]
    fn an_error_of_the_model_is_handed_on() {
        let fault = RunnerError::Step("gone".to_owned());
        assert_eq!(run(ROOM, |_| Err(fault.clone())), Err(fault));
    }

    #[test]
    fn what_the_sampler_draws_stays() {
        assert_eq!(sampler_fingerprint(), sampler_fingerprint());
        assert_eq!(
            sampler_fingerprint(),
            GOLDEN_DRAWS,
            "continuing across versions breaks"
        );
    }

    const GOLDEN_DRAWS: u128 = 252_528_871_647_884_230_861_643_238_532_239_077_592;
}
