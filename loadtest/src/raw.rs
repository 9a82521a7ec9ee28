//! One line of JSON for every request, or for as many as were asked for, and the way back: what `--raw` writes and
//! `compare` reads. Holds no prompt and no answer.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::clock::Nanos;
use crate::drive::chunk::Usage;
use crate::drive::record::{Labels, Record, Stamps};
use crate::drive::verdict::Verdict;
use crate::extras::Extras;
use crate::limits::{MAX_COMPARED, MAX_RAW_LINE_BYTES};
use crate::problems::Problems;
use crate::rng::{SplitMix64, mix};

/// Name and version of the first line.
pub const SCHEMA: &str = "hansa-loadtest/raw/1";

/// The first line.
#[derive(Debug, Serialize, Deserialize)]
struct Head<'a> {
    schema: Cow<'a, str>,
}

/// The last line of a run that came to its report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tail {
    client_bound: bool,
    interrupted: bool,
    /// Requests of the run, where the lines are a sample of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sampled_from: Option<u64>,
}

/// One request. Times are microseconds after the start of the run; those that never came are absent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Line<'a> {
    index: u64,
    session: u64,
    turn: u32,
    model: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tenant: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stage: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    site: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    form: Option<Cow<'a, str>>,
    /// `good`, `aborted`, or the class of the failure.
    verdict: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<Cow<'a, str>>,
    due_us: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sent_us: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    connected_us: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    headers_us: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    first_byte_us: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    first_content_us: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_content_us: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    terminal_us: Option<u64>,
    end_us: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    prompt_tokens: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    output_tokens: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cached_tokens: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    joules: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    grams: Option<f64>,
    /// The gateway tried more than once before the first content.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    retried: bool,
    #[serde(default)]
    gaps_us: Cow<'a, [u32]>,
}

/// A run as its raw file tells it.
#[derive(Debug, Clone)]
pub struct Run {
    /// Requests that were good or failed, in the order in which they were due.
    pub requests: Vec<Request>,
    /// Requests that the client gave up, as it was told to.
    pub aborted: u64,
    /// The client was the bottleneck.
    pub client_bound: bool,
    /// It was stopped early.
    pub interrupted: bool,
    /// Requests of the run for each one here: 1, but for samples.
    pub weight: f64,
}

impl Default for Run {
    fn default() -> Self {
        Self {
            requests: Vec::new(),
            aborted: 0,
            client_bound: false,
            interrupted: false,
            weight: 1.0,
        }
    }
}

/// A sample of a run's lines in which each request is as likely as any other, however many there are (algorithm R of
/// Vitter, 1985).
#[derive(Debug)]
pub struct Reservoir {
    room: usize,
    seen: u64,
    lines: Vec<String>,
    rng: SplitMix64,
}

impl Reservoir {
    /// An empty sample with room for so many lines.
    pub fn new(room: u64, seed: u64) -> Self {
        let room = usize::try_from(room).unwrap_or(usize::MAX);
        Self {
            room,
            seen: 0,
            lines: Vec::new(),
            rng: SplitMix64::new(mix(seed)),
        }
    }

    /// Takes a request of a run that began at `began`, or leaves it.
    pub fn take(&mut self, record: &Record, began: Nanos) {
        self.seen += 1;
        let at = if self.lines.len() < self.room {
            self.lines.push(String::new());
            self.lines.len() - 1
        } else {
            usize::try_from(self.rng.next_u64() % self.seen).unwrap_or(usize::MAX)
        };
        if let Some(line) = self.lines.get_mut(at) {
            // Numbers and names can always be written.
            *line = serde_json::to_string(&Line::of(record, began)).unwrap_or_default();
        }
    }

    /// Writes all lines that were kept, and the last one.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn end(
        self,
        out: &mut impl Write,
        client_bound: bool,
        interrupted: bool,
    ) -> io::Result<()> {
        for line in &self.lines {
            writeln!(out, "{line}")?;
        }
        let sampled_from = Some(self.seen);
        line(
            out,
            &Tail {
                client_bound,
                interrupted,
                sampled_from,
            },
        )?;
        out.flush()
    }
}

/// A judged request as [`Record`] defines its latencies; they count only where it was good.
#[derive(Debug, Clone)]
pub struct Request {
    /// What is known of it.
    pub record: Record,
    /// It was good.
    pub good: bool,
}

/// Writes the first line.
///
/// # Errors
/// Those of the writer.
pub fn begin(out: &mut impl Write) -> io::Result<()> {
    let head = Head {
        schema: SCHEMA.into(),
    };
    line(out, &head)
}

/// Writes a request of a run that began at `began`.
///
/// # Errors
/// Those of the writer.
pub fn write(out: &mut impl Write, record: &Record, began: Nanos) -> io::Result<()> {
    line(out, &Line::of(record, began))
}

/// Writes the last line.
///
/// # Errors
/// Those of the writer.
pub fn end(out: &mut impl Write, client_bound: bool, interrupted: bool) -> io::Result<()> {
    let sampled_from = None;
    let tail = Tail {
        client_bound,
        interrupted,
        sampled_from,
    };
    line(out, &tail)?;
    out.flush()
}

fn line(out: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, value)?;
    out.write_all(b"\n")
}

impl<'a> Line<'a> {
    fn of(record: &'a Record, began: Nanos) -> Self {
        let Record {
            labels,
            stamps,
            verdict,
            usage,
            gaps_us,
            extras,
        } = record;
        let at = |at: Option<Nanos>| at.map(|at| at.saturating_sub(began) / 1_000);
        let (verdict, reason) = match verdict {
            Verdict::Good => ("good", None),
            Verdict::Aborted => ("aborted", None),
            Verdict::Failed(failure) => {
                (failure.class.name(), Some(Cow::Borrowed(&*failure.reason)))
            }
        };
        Self {
            index: labels.index,
            session: labels.place.session,
            turn: labels.place.turn,
            model: Cow::Borrowed(&labels.model),
            tenant: labels.tenant.as_deref().map(Cow::Borrowed),
            stage: labels.stage.as_deref().map(Cow::Borrowed),
            site: labels.site.as_deref().map(Cow::Borrowed),
            form: labels.form.as_deref().map(Cow::Borrowed),
            verdict: verdict.into(),
            reason,
            due_us: at(Some(stamps.intended)).unwrap_or(0),
            sent_us: at(stamps.sent),
            connected_us: at(stamps.connected),
            headers_us: at(stamps.headers),
            first_byte_us: at(stamps.first_byte),
            first_content_us: at(stamps.first_content),
            last_content_us: at(stamps.last_content),
            terminal_us: at(stamps.terminal),
            end_us: at(Some(stamps.end)).unwrap_or(0),
            prompt_tokens: usage.map(|usage| usage.prompt_tokens),
            output_tokens: usage.map(|usage| usage.completion_tokens),
            cached_tokens: extras.cached_tokens,
            joules: extras.joules,
            grams: extras.grams,
            retried: extras.retried,
            gaps_us: Cow::Borrowed(gaps_us),
        }
    }

    /// The record, as far as latencies need it. Class and reason of a failure are not told apart any more.
    fn request(self) -> Request {
        let ns = |us: Option<u64>| us.map(|us| us.saturating_mul(1_000));
        let stamps = Stamps {
            intended: self.due_us.saturating_mul(1_000),
            sent: ns(self.sent_us),
            connected: ns(self.connected_us),
            headers: ns(self.headers_us),
            first_byte: ns(self.first_byte_us),
            first_content: ns(self.first_content_us),
            last_content: ns(self.last_content_us),
            terminal: ns(self.terminal_us),
            end: self.end_us.saturating_mul(1_000),
        };
        let usage = self.output_tokens.map(|completion_tokens| Usage {
            prompt_tokens: self.prompt_tokens.unwrap_or(0),
            completion_tokens,
            total_tokens: None,
        });
        let good = self.verdict == "good";
        let record = Record {
            labels: Labels {
                index: self.index,
                ..Labels::default()
            },
            stamps,
            verdict: Verdict::Good,
            usage,
            gaps_us: self.gaps_us.into_owned(),
            extras: Extras {
                cached_tokens: self.cached_tokens,
                joules: self.joules,
                grams: self.grams,
                retried: self.retried,
            },
        };
        Request { record, good }
    }
}

impl Run {
    /// Reads a raw file.
    ///
    /// # Errors
    /// Every line that is none of such a file; a file without a last line is that of a run that broke down.
    pub fn load(path: &Path) -> Result<Self, Problems> {
        let unreadable = |error: io::Error| Problems::one(path, format!("cannot be read: {error}"));
        let mut reader = BufReader::new(File::open(path).map_err(unreadable)?);
        let mut problems = Problems::new(path);
        let mut run = Self::default();
        let mut tail = None;
        let mut text = String::new();
        for number in 1.. {
            text.clear();
            let mut bounded = reader.by_ref().take(MAX_RAW_LINE_BYTES);
            if bounded.read_line(&mut text).map_err(unreadable)? == 0 {
                break;
            }
            if number == 1 {
                let head: Option<Head<'_>> = serde_json::from_str(&text).ok();
                if head.is_none_or(|head| head.schema != SCHEMA) {
                    return Err(Problems::one(
                        path,
                        format!("is no raw file of this program ({SCHEMA})"),
                    ));
                }
            } else if let Ok(line) = serde_json::from_str::<Line<'_>>(&text) {
                run.take(line);
            } else if let Ok(end) = serde_json::from_str::<Tail>(&text) {
                tail = Some(end);
            } else {
                problems.add(number, "is no request");
            }
            if run.requests.len() > MAX_COMPARED {
                return Err(Problems::one(
                    path,
                    format!("has more than {MAX_COMPARED} requests"),
                ));
            }
        }
        match tail {
            Some(tail) => {
                (run.client_bound, run.interrupted) = (tail.client_bound, tail.interrupted);
                let lines = run.requests.len() as f64 + run.aborted as f64;
                let all = tail.sampled_from.map_or(lines, |all| all as f64);
                run.weight = if lines > 0.0 { all / lines } else { 1.0 };
            }
            None => problems.add(0, "has no last line: the run did not come to its end"),
        }
        run.requests
            .sort_by_key(|request| request.record.stamps.intended);
        problems.or(run)
    }

    fn take(&mut self, line: Line<'_>) {
        if line.verdict == "aborted" {
            self.aborted += 1;
        } else {
            self.requests.push(line.request());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drive::record::View;
    use crate::drive::record::tests::record;
    use crate::drive::verdict::Class;

    fn written(records: &[Record], closed: bool) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        begin(&mut file).unwrap();
        records
            .iter()
            .for_each(|record| write(&mut file, record, 0).unwrap());
        if closed {
            end(&mut file, true, false).unwrap();
        }
        file
    }

    #[test]
    fn what_is_written_is_read_again() {
        let mut failed = record();
        failed.verdict = Verdict::Failed(Class::Timeout.because("mid-stream"));
        failed.stamps.intended += 1_000_000;
        let mut aborted = record();
        aborted.verdict = Verdict::Aborted;
        let file = written(&[failed, record(), aborted], true);
        let run = Run::load(file.path()).unwrap();
        assert_eq!(
            (run.requests.len(), run.aborted, run.client_bound),
            (2, 1, true)
        );
        let (first, second) = (&run.requests[0], &run.requests[1]);
        assert!(first.good && !second.good);
        for of in [
            Record::ttfb_us,
            Record::ttft_us,
            Record::e2e_us,
            Record::ntpot_us,
        ] {
            assert_eq!(
                of(&first.record, View::Response),
                of(&record(), View::Response)
            );
        }
        assert_eq!(first.record.tpot_us(), record().tpot_us());
        assert_eq!(first.record.gaps_us, record().gaps_us);
    }

    #[test]
    fn a_sample_is_even_and_says_what_it_is_of() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        begin(&mut file).unwrap();
        let mut sample = Reservoir::new(200, 7);
        for at in 0..10_000u64 {
            let mut record = record();
            record.stamps.intended = at * 1_000;
            sample.take(&record, 0);
        }
        sample.end(&mut file, false, false).unwrap();
        let run = Run::load(file.path()).unwrap();
        assert_eq!((run.requests.len(), run.weight), (200, 50.0));
        let early = run
            .requests
            .iter()
            .filter(|request| request.record.stamps.intended < 5_000_000);
        assert!((70..130).contains(&early.count()));
    }

    #[test]
    fn other_files_and_torn_ones_are_refused() {
        let load = |file: &tempfile::NamedTempFile| Run::load(file.path()).unwrap_err().to_string();
        assert!(load(&written(&[record()], false)).contains("has no last line"));
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"{\"schema\": \"x\"}\n").unwrap();
        assert!(load(&file).contains("is no raw file of this program"));
        let mut file = written(&[record()], true);
        file.write_all(b"nonsense\n").unwrap();
        assert!(load(&file).contains(":4: is no request"), "{}", load(&file));
    }
}
