//! Hansa beside SMG, in front of two upstreams that answer at once: how many requests and events a processor second of the
//! gateway carries, and what memory it takes. Only the gateway's own time counts, so the figures hold on a busy machine too.

mod gateway;
mod load;
mod upstream;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;

use gateway::{Gateway, Kind};
use load::{Answer, Case};
use upstream::{EVENTS, Upstream};

/// What to measure, and with which programs.
#[derive(Debug, Parser)]
pub struct Args {
    /// SMG's launcher; without it only ours is measured.
    #[arg(long)]
    smg: Option<PathBuf>,
    /// Our server.
    #[arg(long, default_value = "target/release/hansa")]
    hansa: PathBuf,
    /// Rounds: each measures every case on both gateways.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds of each case.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Only the cases whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
    /// Measure what the gateway adds to the time to the first event of 2,000 streams a second too: on a quiet machine alone.
    #[arg(long)]
    paced: bool,
    /// Do not measure streams that stay open.
    #[arg(long)]
    no_open: bool,
    /// Streams that stay open while memory is looked at. Few of them share what any number would take.
    #[arg(long, default_value_t = 256)]
    open: usize,
}

/// Streams a second that begin while the time to their first event is looked at.
const RATE: u32 = 2_000;
/// Connections that ask without pause.
const CONNECTIONS: usize = 32;

/// What prompts are made of: words, which JSON writes as they are, and code, which it writes with an escape or two a line.
const WORDS: &str = "which cities were in the league ";
const CODE: &str = "\tif city in league:\n\t\tprint(\"member\", city)\n";

const CASES: [Case; 4] = [
    Case {
        name: "short requests",
        prompt_bytes: 200,
        text: WORDS,
        answer: Answer::Whole,
        unit: "requests",
        per_request: 1,
    },
    Case {
        name: "requests of 100 kB",
        prompt_bytes: 100_000,
        text: WORDS,
        answer: Answer::Whole,
        unit: "requests",
        per_request: 1,
    },
    Case {
        name: "requests of 100 kB of code",
        prompt_bytes: 100_000,
        text: CODE,
        answer: Answer::Whole,
        unit: "requests",
        per_request: 1,
    },
    Case {
        name: "streams",
        prompt_bytes: 200,
        text: WORDS,
        answer: Answer::Stream,
        unit: "events",
        per_request: EVENTS,
    },
];

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    let upstreams = [Upstream::start().await?, Upstream::start().await?];
    println!("| gateway | case | per CPU second | per second | mean of a request | memory |");
    println!("|---|---|---|---|---|---|");
    for _ in 0..args.rounds {
        for kind in [Kind::Hansa, Kind::Smg] {
            for case in CASES.iter().filter(|case| case.name.contains(&args.only)) {
                let Some(gateway) = Gateway::start(kind, &args, &upstreams).await? else {
                    continue;
                };
                measure(&args, &gateway, case).await?;
            }
            if args.paced
                && let Some(gateway) = Gateway::start(kind, &args, &upstreams).await?
            {
                measure_added(&args, &gateway, &upstreams[0]).await?;
            }
            if args.no_open {
                continue;
            }
            if let Some(gateway) = Gateway::start(kind, &args, &upstreams).await? {
                measure_open(&args, &gateway).await?;
            }
        }
    }
    Ok(())
}

/// A case after a second of warming up.
async fn measure(args: &Args, gateway: &Gateway, case: &Case) -> Result<()> {
    load::run(gateway, case, CONNECTIONS, Duration::from_secs(1)).await?;
    let before = gateway.cpu()?;
    let ran = load::run(
        gateway,
        case,
        CONNECTIONS,
        Duration::from_secs(args.seconds),
    )
    .await?;
    let cpu = gateway.cpu()? - before;
    let units = (ran.requests * case.per_request) as f64;
    println!(
        "| {:?} | {} | {:.0} {} | {:.0} | {:.1} ms | {:.0} MB |",
        gateway.kind,
        case.name,
        units / cpu.as_secs_f64(),
        case.unit,
        units / ran.took.as_secs_f64(),
        ran.took.as_secs_f64() * 1e3 * CONNECTIONS as f64 / ran.requests as f64,
        gateway.resident_kb()? as f64 / 1e3
    );
    Ok(())
}

/// The time to the first event of streams that begin at an even pace, beside that without a gateway.
async fn measure_added(args: &Args, gateway: &Gateway, upstream: &Upstream) -> Result<()> {
    let time = Duration::from_secs(args.seconds);
    let direct = load::first_events(upstream, RATE, time).await?;
    let through = load::first_events(gateway, RATE, time).await?;
    let ms = |waits: &[Duration], percent: usize| {
        let wait = waits.get(waits.len() * percent / 100);
        wait.map_or(0.0, |wait| wait.as_secs_f64() * 1e3)
    };
    println!(
        "| {:?} | first event of {RATE} streams a second | p50 {:.2} ms, p99 {:.2} ms | {} in all | without it p50 {:.2} ms, p99 {:.2} ms | |",
        gateway.kind,
        ms(&through, 50),
        ms(&through, 99),
        through.len(),
        ms(&direct, 50),
        ms(&direct, 99),
    );
    Ok(())
}

/// Streams that have begun and go on for as long as the client wants.
async fn measure_open(args: &Args, gateway: &Gateway) -> Result<()> {
    let warm = load::open(gateway, 8).await?;
    drop(warm);
    let before = gateway.resident_kb()?;
    let open = load::open(gateway, args.open).await?;
    let after = gateway.resident_kb()?;
    println!(
        "| {:?} | {} open streams | {:.1} kB a stream | | | {:.0} MB |",
        gateway.kind,
        args.open,
        after.saturating_sub(before) as f64 / open.len() as f64,
        after as f64 / 1e3
    );
    Ok(())
}
