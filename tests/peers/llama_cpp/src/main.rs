//! Hansa beside llama-server: the same GGUF file, the same load from `hansa-loadtest`, servers in turn, so that a busy
//! machine slows both. Prints tables of medians, spreads and ratios round by round.

mod case;
mod server;
mod stats;

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;

use case::{CASES, Case, Figures};
use server::{Kind, Server};
use stats::Samples;

/// What to measure, and with which programs.
#[derive(Debug, Parser)]
pub struct Args {
    /// A GGUF file.
    model: PathBuf,
    /// llama.cpp's server.
    #[arg(long)]
    llama_server: PathBuf,
    /// Our server.
    #[arg(long, default_value = "target/release/hansa")]
    hansa: PathBuf,
    /// What both are driven with.
    #[arg(long, default_value = "target/release/hansa-loadtest")]
    loadtest: PathBuf,
    /// Threads of llama-server; ours has its default.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Rounds: each measures every case on both servers.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Only the cases whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
}

/// Everything that was measured of one case: ours and theirs, round by round.
#[derive(Default)]
struct Row {
    ours: Vec<Figures>,
    theirs: Vec<Figures>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let cases: Vec<&Case> = CASES
        .iter()
        .filter(|case| case.name.contains(&args.only))
        .collect();
    let mut rows: Vec<Row> = cases.iter().map(|_| Row::default()).collect();
    let mut memory = [Samples::default(), Samples::default()];
    for round in 0..args.rounds {
        // Who goes first alternates, so that neither always follows the other's heat.
        let mut order = [Kind::Hansa, Kind::LlamaServer];
        order.rotate_left(round % 2);
        for kind in order {
            let server = Server::start(kind, &args)?;
            for (case, row) in cases.iter().zip(&mut rows) {
                let figures = case.run(&args.loadtest, &server)?;
                eprintln!("round {round}, {kind:?}, {}: {figures}", case.name);
                match kind {
                    Kind::Hansa => row.ours.push(figures),
                    Kind::LlamaServer => row.theirs.push(figures),
                }
            }
            memory[usize::from(kind == Kind::LlamaServer)].push(server.peak_resident_mb()?);
        }
    }
    print_table("output tokens per second", &cases, &rows, |figures| {
        figures.tokens_per_s
    });
    print_table("p99 time to first token, ms", &cases, &rows, |figures| {
        figures.ttft_p99_ms
    });
    print_table("median gap between tokens, ms", &cases, &rows, |figures| {
        figures.gap_p50_ms
    });
    println!(
        "Peak resident memory in MB: llama-server {}, Hansa {}",
        memory[1], memory[0]
    );
    Ok(())
}

fn print_table(title: &str, cases: &[&Case], rows: &[Row], figure: impl Fn(&Figures) -> f64) {
    println!("| {title} | llama-server | Hansa | ratio |\n|---|---|---|---|");
    for (case, row) in cases.iter().zip(rows) {
        let ours: Samples = row.ours.iter().map(&figure).collect();
        let theirs: Samples = row.theirs.iter().map(&figure).collect();
        println!(
            "| {} | {theirs} | {ours} | {} |",
            case.name,
            ours.over(&theirs)
        );
    }
    println!();
}
