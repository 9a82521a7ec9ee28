//! One streamed completion, and when each of its tokens came.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::server::Server;

/// Longest silence on a stream.
const SILENCE_MAX: Duration = Duration::from_secs(300);

/// What came back.
pub struct Completion {
    pub sent: Instant,
    /// Arrival of each piece of text.
    pub arrivals: Vec<Instant>,
    pub prompt_tokens: u64,
}

impl Completion {
    /// Sends `prompt` and reads `tokens` tokens to the end. They are drawn, since a greedy model soon repeats itself, and a server
    /// that guesses then says several tokens at once.
    pub fn run(server: &Server, prompt: &str, tokens: usize) -> Result<Self> {
        let body = json!({
            "model": server.model, "prompt": prompt, "max_tokens": tokens, "temperature": 1.0, "seed": 1, "stream": true,
            "stream_options": {"include_usage": true}, "ignore_eos": true,
        })
        .to_string();
        let host = server.url.trim_start_matches("http://");
        let mut stream = TcpStream::connect(host)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SILENCE_MAX))?;
        let sent = Instant::now();
        write!(
            stream,
            "POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nConnection: close\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        )?;
        let mut completion = Self {
            sent,
            arrivals: Vec::new(),
            prompt_tokens: 0,
        };
        let mut lines = BufReader::new(stream).lines();
        let status = lines.next().context("no answer")??;
        ensure!(status.contains(" 200 "), "answered {status}");
        for line in lines {
            match line?.strip_prefix("data: ") {
                Some("[DONE]") => return Ok(completion),
                Some(event) => completion.take(event)?,
                None => {}
            }
        }
        bail!("the stream ended without [DONE]")
    }

    fn take(&mut self, event: &str) -> Result<()> {
        let event: Value = serde_json::from_str(event)?;
        ensure!(
            event.get("error").is_none(),
            "an error in the stream: {event}"
        );
        let text = event.pointer("/choices/0/text").and_then(Value::as_str);
        if text.is_some_and(|text| !text.is_empty()) {
            self.arrivals.push(Instant::now());
        }
        let tokens = event
            .pointer("/usage/prompt_tokens")
            .and_then(Value::as_u64);
        self.prompt_tokens = tokens.unwrap_or(self.prompt_tokens);
        Ok(())
    }

    /// Seconds from sending to the first token.
    pub fn ttft(&self) -> Result<f64> {
        let first = self.arrivals.first().context("no token came")?;
        Ok((*first - self.sent).as_secs_f64())
    }
}

/// A prompt of so many words, about as many tokens; different for each `seed` from the first word on.
pub fn prompt(words: usize, seed: usize) -> String {
    const WORDS: [&str; 16] = [
        "time", "house", "water", "people", "right", "place", "world", "hand", "part", "work",
        "week", "case", "point", "number", "group", "fact",
    ];
    let mut state = seed as u64;
    let mut word = || {
        // Knuth's MMIX generator: the text has to differ, not to be random.
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        WORDS[(state >> 60) as usize]
    };
    (0..words).map(|_| word()).collect::<Vec<_>>().join(" ")
}
