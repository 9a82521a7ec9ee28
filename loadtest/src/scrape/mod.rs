//! What the server under test says of itself, on the same time axis as what its users felt: its metrics page is read
//! every second by a thread of its own, which cannot delay the event loop.

pub mod text;

use std::collections::BTreeMap;
use std::io;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, Uri};
use http_body_util::Full;
use serde::Serialize;
use tokio::sync::oneshot;
use tokio::time::{sleep_until, timeout};

use crate::clock::{Clock, Nanos, nanos};
use crate::drive::link::Link;
use crate::drive::target::Target;
use crate::limits::{MAX_METRICS_BYTES, MAX_SCRAPES, MAX_SERIES};

/// Which page, and how often.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The page.
    pub target: Target,
    /// Time between two looks.
    pub every: Duration,
}

/// The running thread.
#[derive(Debug)]
pub struct Scraper {
    thread: JoinHandle<Scraped>,
    /// Dropping it ends the thread.
    stop: oneshot::Sender<()>,
}

/// What a server said in the course of a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Scraped {
    /// The page.
    pub url: String,
    /// Looks that brought a page.
    pub scrapes: u64,
    /// Looks that brought none.
    pub failed: u64,
    /// Lines, over all looks, that make no sense.
    pub unreadable_lines: u64,
    /// Series that never changed, or came after the bound was full: not among those below.
    pub left_out: u64,
    /// Seconds after the start of the run, one for each point of a series.
    pub at_s: Vec<f64>,
    /// The others, by name and labels.
    pub series: Vec<Series>,
}

/// A metric with its labels.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Series {
    /// `name{labels}`.
    pub name: String,
    /// It only ever grows: its rate is of interest.
    pub is_counter: bool,
    /// Its values; none where a page did not have it.
    pub values: Vec<Option<f64>>,
}

impl Scraper {
    /// Begins to look, at times that count from `began`.
    ///
    /// # Errors
    /// The system refuses a thread or its event loop.
    pub fn start(plan: Plan, clock: Clock, began: Nanos) -> io::Result<Self> {
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let thread = std::thread::Builder::new()
            .name("scraper".to_owned())
            .spawn(move || runtime.block_on(watch(&plan, clock, began, stopped)))?;
        Ok(Self { thread, stop })
    }

    /// Looks a last time and says what was seen; nothing, if the thread broke down.
    pub fn finish(self) -> Scraped {
        drop(self.stop);
        self.thread.join().unwrap_or_default()
    }
}

async fn watch(
    plan: &Plan,
    clock: Clock,
    began: Nanos,
    mut stopped: oneshot::Receiver<()>,
) -> Scraped {
    let mut pages = Pages::new(plan.target.url());
    let mut every = plan.every;
    let mut due = clock.now();
    loop {
        let over = tokio::select! {
            biased;
            _ = &mut stopped => true,
            () = sleep_until(clock.instant_at(due)) => false,
        };
        let at_s = clock.now().saturating_sub(began) as f64 / 1e9;
        match timeout(plan.every, page(&plan.target)).await {
            Ok(Some(page)) => pages.take(at_s, &page),
            Ok(None) | Err(_) => pages.scraped.failed += 1,
        }
        if over {
            return pages.finish();
        }
        if pages.scraped.at_s.len() >= MAX_SCRAPES {
            pages.halve();
            every = every.saturating_mul(2);
        }
        due = due.saturating_add(nanos(every)).max(clock.now());
    }
}

/// The text of the page, if there is one.
async fn page(target: &Target) -> Option<String> {
    let addresses = target.resolve().await.ok()?;
    let mut link = Link::connect(&addresses, target.tls()).await.ok()?;
    let mut request = Request::new(Full::new(Bytes::new()));
    *request.method_mut() = Method::GET;
    *request.uri_mut() = Uri::from(target.path().clone());
    request.headers_mut().clone_from(target.headers());
    let response = link.send(request).await.ok()?;
    if response.status() != StatusCode::OK {
        return None;
    }
    let mut body = response.into_body();
    let mut text = Vec::new();
    while let Some(frame) = link.next_frame(&mut body).await {
        if let Ok(data) = frame.ok()?.into_data() {
            text.extend_from_slice(&data);
        }
        if text.len() > MAX_METRICS_BYTES {
            return None;
        }
    }
    String::from_utf8(text).ok()
}

/// Pages put side by side.
#[derive(Debug)]
struct Pages {
    scraped: Scraped,
    series: BTreeMap<String, Series>,
}

impl Pages {
    fn new(url: String) -> Self {
        let scraped = Scraped {
            url,
            ..Scraped::default()
        };
        Self {
            scraped,
            series: BTreeMap::new(),
        }
    }

    fn take(&mut self, at_s: f64, page: &str) {
        let before = self.scraped.at_s.len();
        let mut refused = 0;
        let unreadable = text::parse(page, &mut |sample| {
            let name = match sample.labels {
                "" => sample.name.to_owned(),
                labels => format!("{}{{{labels}}}", sample.name),
            };
            if !self.series.contains_key(&name) && self.series.len() >= MAX_SERIES {
                refused += 1;
                return;
            }
            let series = self.series.entry(name.clone()).or_insert_with(|| Series {
                name,
                is_counter: sample.is_counter,
                values: Vec::new(),
            });
            series.values.resize(before, None);
            series
                .values
                .push(sample.value.is_finite().then_some(sample.value));
        });
        self.scraped.at_s.push(at_s);
        self.scraped.scrapes += 1;
        self.scraped.unreadable_lines += unreadable;
        self.scraped.left_out = self.scraped.left_out.max(refused);
    }

    /// Forgets every second page.
    fn halve(&mut self) {
        let mut at = 0..;
        self.scraped
            .at_s
            .retain(|_| at.next().is_some_and(|at| at % 2 == 0));
        for series in self.series.values_mut() {
            let mut at = 0..;
            series
                .values
                .retain(|_| at.next().is_some_and(|at| at % 2 == 0));
        }
    }

    fn finish(self) -> Scraped {
        let mut scraped = self.scraped;
        for mut series in self.series.into_values() {
            series.values.resize(scraped.at_s.len(), None);
            let mut seen = series.values.iter().flatten();
            let first = seen.next();
            if seen.any(|value| Some(value) != first) {
                scraped.series.push(series);
            } else {
                scraped.left_out += 1;
            }
        }
        scraped
    }
}

impl Series {
    /// What is to be drawn over `at_s`: the value, or the growth by second of a counter, which is none where it fell
    /// (the server began anew) or was not told.
    pub fn drawn(&self, at_s: &[f64]) -> Vec<(f64, f64)> {
        let told = at_s.iter().zip(&self.values);
        let points = told.filter_map(|(&at, value)| Some((at, (*value)?)));
        if !self.is_counter {
            return points.collect();
        }
        let points: Vec<(f64, f64)> = points.collect();
        let pairs = points.windows(2).filter_map(|pair| match pair {
            [(from, before), (to, after)] if after >= before && to > from => {
                Some((*to, (after - before) / (to - from)))
            }
            _ => None,
        });
        pairs.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_that_change_are_kept_and_the_others_counted() {
        let mut pages = Pages::new("u".to_owned());
        pages.take(0.0, "queue 1\nsame 4\ndone_total{m=\"a\"} 10\n");
        pages.take(1.0, "queue 3\nsame 4\n");
        pages.take(3.0, "queue 1\nsame 4\ndone_total{m=\"a\"} 70\nnonsense\n");
        let scraped = pages.finish();
        assert_eq!(
            (scraped.scrapes, scraped.left_out, scraped.unreadable_lines),
            (3, 1, 1)
        );
        let names: Vec<&str> = scraped.series.iter().map(|series| &*series.name).collect();
        assert_eq!(names, ["done_total{m=\"a\"}", "queue"]);
        assert_eq!(scraped.series[0].values, [Some(10.0), None, Some(70.0)]);
        assert_eq!(scraped.series[0].drawn(&scraped.at_s), [(3.0, 20.0)]);
        assert_eq!(scraped.series[1].drawn(&scraped.at_s).len(), 3);
    }

    #[test]
    fn a_server_that_begins_anew_has_no_rate_below_nothing() {
        let series = Series {
            name: "c".to_owned(),
            is_counter: true,
            values: vec![Some(9.0), Some(2.0), Some(4.0)],
        };
        assert_eq!(series.drawn(&[0.0, 1.0, 2.0]), [(2.0, 2.0)]);
    }

    #[test]
    fn pages_and_series_are_bounded() {
        let mut pages = Pages::new("u".to_owned());
        let many: String = (0..MAX_SERIES + 5).map(|n| format!("m{n} 1\n")).collect();
        for at in 0..6 {
            pages.take(f64::from(at), &many);
        }
        pages.halve();
        assert_eq!(pages.scraped.at_s, [0.0, 2.0, 4.0]);
        let scraped = pages.finish();
        assert_eq!(scraped.left_out, MAX_SERIES as u64 + 5);
    }
}
