//! Perplexity of our forward pass beside llama.cpp's, by llama-perplexity's own rule: windows of 512 tokens that do not
//! overlap, of which the second half is judged.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use candle_core::{D, Device, Tensor};
use clap::Parser;
use hansa_models::text::SpecialTokens;
use hansa_models::{Batch, KvType, LoadOptions, LoadedModel, PagedKv, ThreadPool, load_gguf};

/// Tokens of a window.
const WINDOW: usize = 512;
const BLOCK: u32 = 16;

/// What to measure.
#[derive(Debug, Parser)]
struct Args {
    /// A GGUF file.
    model: PathBuf,
    /// Any text of some thousand words.
    text: PathBuf,
    /// llama.cpp's program.
    #[arg(long)]
    llama_perplexity: PathBuf,
    /// Attention of llama.cpp: its fused one rounds more.
    #[arg(long, default_value = "off")]
    flash_attention: String,
    /// Windows to judge.
    #[arg(long, default_value_t = 8)]
    windows: usize,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let ours = ours(&args)?;
    let theirs = theirs(&args)?;
    let off = (ours / theirs - 1.0) * 100.0;
    println!("perplexity: llama.cpp {theirs:.4}, ours {ours:.4}, {off:+.2} %");
    Ok(())
}

fn ours(args: &Args) -> Result<f64> {
    let options = LoadOptions {
        device: Device::Cpu,
        kv_type: KvType::F16,
        quantise: None,
    };
    let mut loaded = load_gguf(&args.model, &options)?;
    let text = std::fs::read_to_string(&args.text)?;
    let tokens = loaded.text.encode(&text, SpecialTokens::AsText)?;
    ensure!(
        tokens.len() >= args.windows * WINDOW,
        "the text has only {} tokens",
        tokens.len()
    );
    let pool = ThreadPool::new(candle_core::utils::get_num_threads())?;
    let (mut loss, mut judged) = (0.0, 0);
    for window in tokens.chunks_exact(WINDOW).take(args.windows) {
        loss += pool.install(|| window_loss(&mut loaded, window))?;
        judged += WINDOW - WINDOW / 2 - 1;
    }
    Ok((loss / f64::from(judged as u32)).exp())
}

/// Sum of the negative log-likelihoods of the second half.
fn window_loss(loaded: &mut LoadedModel, tokens: &[u32]) -> Result<f64> {
    let blocks = WINDOW as u32 / BLOCK;
    let mut kv = PagedKv::new(
        loaded.model.spec(),
        blocks,
        BLOCK,
        KvType::F16,
        &Device::Cpu,
    )?;
    let all = 0..WINDOW as u32;
    let judged = WINDOW as u32 / 2..WINDOW as u32 - 1;
    let batch = Batch {
        tokens: tokens.to_vec(),
        positions: all.clone().collect(),
        slots: all.collect(),
        q_lens: vec![WINDOW as u32],
        kv_lens: vec![WINDOW as u32],
        block_tables: vec![(0..blocks).collect()],
        logit_rows: judged.clone().collect(),
    };
    let logits = loaded.model.forward(&batch, &mut kv)?;
    let next = &tokens[judged.start as usize + 1..];
    let next = Tensor::new(next, &Device::Cpu)?.unsqueeze(1)?;
    let chosen = logits.gather(&next, 1)?.squeeze(1)?;
    let loss = (logits.log_sum_exp(D::Minus1)? - chosen)?.sum_all()?;
    Ok(f64::from(loss.to_scalar::<f32>()?))
}

fn theirs(args: &Args) -> Result<f64> {
    let output = Command::new(&args.llama_perplexity)
        .args(["-m", path(&args.model)?, "-f", path(&args.text)?, "-t", "2"])
        .args([
            "-c",
            &WINDOW.to_string(),
            "--chunks",
            &args.windows.to_string(),
        ])
        .args(["-fa", &args.flash_attention])
        .output()?;
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    let (_, after) = said
        .split_once("PPL = ")
        .with_context(|| format!("no estimate in: {said}"))?;
    let figure = after.split_whitespace().next().context("no figure")?;
    Ok(figure.parse()?)
}

fn path(path: &Path) -> Result<&str> {
    path.to_str().context("the path is no text")
}
