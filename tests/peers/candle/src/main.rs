//! Our forward pass beside candle-transformers' `quantized_llama`: same file, same run, alternating, so that a busy
//! machine slows both. Prints a table of medians and spreads.

mod ours;
mod speculation;
mod stats;
mod theirs;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use clap::Parser;
use hansa_models::KvType;
use hansa_models::testing::{TinyLlama, TinyType};

use ours::Ours;
use stats::Samples;
use theirs::Theirs;

/// What to measure.
#[derive(Debug, Parser)]
struct Args {
    /// A GGUF file of architecture `llama`.
    model: PathBuf,
    /// Tokens of the prompt that is prefilled.
    #[arg(long, default_value_t = 512)]
    prefill: usize,
    /// Tokens that each stream decodes.
    #[arg(long, default_value_t = 64)]
    decode: usize,
    /// Streams that decode together.
    #[arg(long, default_value_t = 8)]
    streams: usize,
    /// Repetitions of every measurement.
    #[arg(long, default_value_t = 5)]
    repeat: usize,
    /// Cut the measurement of speed; only compare what both say.
    #[arg(long)]
    check_only: bool,
    /// Leave the peer out: our speed and memory alone, for a profiler.
    #[arg(long)]
    ours_only: bool,
    /// Our engine with guessed tokens and without, and nothing else.
    #[arg(long)]
    speculation: bool,
}

/// Tokens of a prompt that are computed beside streams, and steps of that kind in a repetition.
const PART: usize = 16;
const STEPS: usize = 4;
/// Tokens of that prompt that are in the cache already.
const KNOWN: [usize; 2] = [16, 900];

fn main() -> Result<()> {
    let args = Args::parse();
    if args.ours_only {
        return measure_ours(&args);
    }
    if args.speculation {
        return speculation::measure(&args.model, args.repeat);
    }
    compare_tiny()?;
    let mut ours = Ours::load(&args.model, KvType::F16)?;
    let mut theirs = Theirs::load(&args.model)?;
    for seed in [3, 40, 500] {
        compare_logits(
            &format!("prompt {seed}"),
            &mut ours,
            &mut theirs,
            &prompt(24, seed, 30_000),
        )?;
    }
    println!();
    if !args.check_only {
        compare_speed(&args, &mut ours, &mut theirs)?;
    }
    Ok(())
}

/// Without quantisation on either side nothing but rounding may differ.
fn compare_tiny() -> Result<()> {
    println!("| model | same choice | same where the margin is clear | largest logit difference |");
    println!("|---|---|---|---|");
    let path = std::env::temp_dir().join(format!("hansa-peer-{}.gguf", std::process::id()));
    let tiny = TinyLlama {
        matrix_type: TinyType::F32,
        ..TinyLlama::default()
    };
    // The peer wants this key, which is ours by default.
    tiny.writer()
        .u32("llama.rope.dimension_count", 16)
        .write_to(&path)?;
    let loaded = Ours::load(&path, KvType::F32).and_then(|ours| Ok((ours, Theirs::load(&path)?)));
    std::fs::remove_file(&path)?;
    let (mut ours, mut theirs) = loaded?;
    compare_logits("tiny, F32", &mut ours, &mut theirs, &prompt(24, 1, 90))
}

/// Feeds both the same tokens, chosen by theirs, and compares every distribution.
fn compare_logits(name: &str, ours: &mut Ours, theirs: &mut Theirs, prompt: &[u32]) -> Result<()> {
    const STEPS: usize = 32;
    const CLEAR_MARGIN: f32 = 0.5;
    let (mut same, mut clear, mut clear_same, mut largest) = (0, 0, 0, 0f32);
    let mut a = ours.prefill(0, prompt)?;
    let mut b = theirs.prefill(prompt)?;
    for _ in 0..STEPS {
        let (choice, margin) = top(&b);
        let agree = usize::from(top(&a).0 == choice);
        same += agree;
        if margin > CLEAR_MARGIN {
            clear += 1;
            clear_same += agree;
        }
        largest = a
            .iter()
            .zip(&b)
            .map(|(a, b)| (a - b).abs())
            .fold(largest, f32::max);
        a = ours.decode(&[choice])?.remove(0);
        b = theirs.decode(choice)?;
    }
    println!("| {name} | {same}/{STEPS} | {clear_same}/{clear} | {largest:.5} |");
    Ok(())
}

fn compare_speed(args: &Args, ours: &mut Ours, theirs: &mut Theirs) -> Result<()> {
    let long = prompt(args.prefill, 7, 30_000);
    let mut rates: [Samples; 5] = Default::default();
    // The first round warms caches and threads and is thrown away.
    for round in 0..=args.repeat {
        let measured = [
            rate(long.len(), || theirs.prefill(&long).map(drop))?,
            rate(long.len(), || ours.prefill(0, &long).map(drop))?,
            decode_theirs(args, theirs)?,
            decode_ours(args, ours, 1)?,
            decode_ours(args, ours, args.streams)?,
        ];
        if round > 0 {
            rates
                .iter_mut()
                .zip(measured)
                .for_each(|(all, one)| all.push(one));
        }
    }
    let [
        their_prefill,
        our_prefill,
        their_decode,
        our_decode,
        our_streams,
    ] = rates;
    println!("| tokens per second | candle-transformers | ours | ratio |");
    println!("|---|---|---|---|");
    print_row(
        &format!("prefill {}", args.prefill),
        &their_prefill,
        &our_prefill,
    );
    print_row(
        &format!("decode {}", args.decode),
        &their_decode,
        &our_decode,
    );
    println!();
    println!(
        "| tokens per second | 1 stream | {} streams | ratio |",
        args.streams
    );
    println!("|---|---|---|---|");
    print_row(
        &format!("decode {}, ours", args.decode),
        &our_decode,
        &our_streams,
    );
    println!(
        "\nPeak resident memory of both together: {} MB",
        stats::peak_resident_mb()
    );
    Ok(())
}

fn measure_ours(args: &Args) -> Result<()> {
    let mut ours = Ours::load(&args.model, KvType::F16)?;
    let long = prompt(args.prefill, 7, 30_000);
    let mut rates: [Samples; 3] = Default::default();
    for _ in 0..args.repeat {
        rates[0].push(rate(long.len(), || ours.prefill(0, &long).map(drop))?);
        rates[1].push(decode_ours(args, &mut ours, 1)?);
        rates[2].push(decode_ours(args, &mut ours, args.streams)?);
    }
    let [prefill, single, streams] = rates;
    println!(
        "prefill {prefill}, decode {single}, {} streams {streams} tok/s",
        args.streams
    );
    for known in KNOWN {
        print_company(args, &mut ours, known)?;
    }
    println!("peak resident memory {} MB", stats::peak_resident_mb());
    Ok(())
}

/// How long a step of the streams takes, and one beside the next tokens of a prompt of which `known` are in the cache.
fn print_company(args: &Args, ours: &mut Ours, known: usize) -> Result<()> {
    let [mut alone, mut beside] = [Samples::default(), Samples::default()];
    for _ in 0..args.repeat {
        decode_ours(args, ours, args.streams)?;
        ours.prefill(args.streams, &prompt(known, 9, 30_000))?;
        let tokens = vec![100; args.streams];
        for _ in 0..STEPS {
            alone.push(1e3 / rate(1, || ours.decode(&tokens).map(drop))?);
            let part = prompt(PART, 10, 30_000);
            beside.push(1e3 / rate(1, || ours.decode_beside(&tokens, &part).map(drop))?);
        }
    }
    println!(
        "a step of {} streams {alone} ms, beside {PART} tokens of a prompt after its first {known} {beside} ms",
        args.streams
    );
    Ok(())
}

fn print_row(name: &str, base: &Samples, other: &Samples) {
    println!("| {name} | {base} | {other} | {} |", other.over(base));
}

fn decode_theirs(args: &Args, theirs: &mut Theirs) -> Result<f64> {
    theirs.prefill(&prompt(16, 1, 30_000))?;
    rate(args.decode, || {
        (0..args.decode).try_for_each(|i| theirs.decode(100 + i as u32).map(drop))
    })
}

fn decode_ours(args: &Args, ours: &mut Ours, streams: usize) -> Result<f64> {
    ours.clear();
    for stream in 0..streams {
        ours.prefill(stream, &prompt(16, 1 + stream as u32, 30_000))?;
    }
    rate(args.decode * streams, || {
        (0..args.decode).try_for_each(|i| ours.decode(&vec![100 + i as u32; streams]).map(drop))
    })
}

/// Tokens per second of `work` over `tokens` tokens.
fn rate(tokens: usize, work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    work()?;
    Ok(tokens as f64 / start.elapsed().as_secs_f64())
}

/// Token ids that look like nothing in particular.
fn prompt(len: usize, seed: u32, vocab: u32) -> Vec<u32> {
    (0..len as u32)
        .map(|i| (i * i * 31 + i * 977 + seed * 7919) % vocab)
        .collect()
}

/// The likeliest token and by how much its logit is ahead.
fn top(logits: &[f32]) -> (u32, f32) {
    let (mut best, mut second) = ((0, f32::NEG_INFINITY), f32::NEG_INFINITY);
    for (id, &logit) in logits.iter().enumerate() {
        if logit > best.1 {
            second = best.1;
            best = (id as u32, logit);
        } else if logit > second {
            second = logit;
        }
    }
    (best.0, best.1 - second)
}
