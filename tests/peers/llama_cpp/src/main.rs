//! Hansa beside llama-server: the same GGUF file, the same load from `hansa-loadtest`, servers in turn, so that a busy
//! machine slows both. Prints tables of medians, spreads and ratios round by round.

mod case;
mod company;
mod completion;
mod server;
mod stats;

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;

use case::{CASES, Case, Figures};
use company::Company;
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
    /// Memory of our keys and values, so that both hold as many tokens as llama-server's context of 10,240: 23,040 bytes each
    /// for SmolLM2-135M, 18,432 for Gemma 3 270M. Without it ours takes its default share of the machine.
    #[arg(long)]
    kv_bytes: Option<u64>,
    /// Rounds: each measures every case on both servers.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Only the cases whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
    /// Send completions instead of chats: for base models.
    #[arg(long)]
    completions: bool,
    /// Instead of the cases: 16 streams beside a prompt of 1,500 tokens, and a prompt of 1,000 tokens sent twice.
    #[arg(long)]
    company: bool,
    /// With `--company`: leave llama-server out.
    #[arg(long)]
    ours_only: bool,
}

/// Everything that was measured of one case: ours and theirs, round by round.
#[derive(Default)]
struct Row {
    ours: Vec<Figures>,
    theirs: Vec<Figures>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    if args.company {
        return measure_company(&args);
    }
    let cases: Vec<&Case> = CASES
        .iter()
        .filter(|case| case.name.contains(&args.only))
        .collect();
    let mut rows: Vec<Row> = cases.iter().map(|_| Row::default()).collect();
    let mut memory = [Samples::default(), Samples::default()];
    for round in 0..args.rounds {
        for kind in order(round) {
            let server = Server::start(kind, &args)?;
            for (case, row) in cases.iter().zip(&mut rows) {
                let figures = case.run(&args, &server)?;
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

/// Who goes first alternates, so that neither always follows the other's heat.
fn order(round: usize) -> [Kind; 2] {
    let mut order = [Kind::Hansa, Kind::LlamaServer];
    order.rotate_left(round % 2);
    order
}

fn measure_company(args: &Args) -> Result<()> {
    println!(
        "| | median gap before | p99 gap beside the prompt | ratio | the prompt's TTFT | new prefix | known prefix | ratio |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    let mut ratios = [Samples::default(), Samples::default()];
    let mut speedups = [Samples::default(), Samples::default()];
    for round in 0..args.rounds {
        for kind in order(round) {
            if args.ours_only && kind == Kind::LlamaServer {
                continue;
            }
            let server = Server::start(kind, args)?;
            let company = Company::measure(&server, round)?;
            let (first, again) = company::prefix(&server, round)?;
            println!(
                "| {kind:?} | {:.1} ms | {:.1} ms | {:.2} | {:.2} s ({} tokens) | {:.0} ms | {:.0} ms | {:.1} |",
                company.median_gap_before_ms,
                company.p99_gap_ms,
                company.ratio(),
                company.long_ttft_s,
                company.long_tokens,
                first * 1e3,
                again * 1e3,
                first / again,
            );
            let index = usize::from(kind == Kind::LlamaServer);
            ratios[index].push(company.ratio());
            speedups[index].push(first / again);
        }
    }
    println!(
        "p99 gap over median gap: llama-server {}, Hansa {}",
        ratios[1], ratios[0]
    );
    println!(
        "TTFT new over known: llama-server {}, Hansa {}",
        speedups[1], speedups[0]
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
