//! The live view: rates, percentiles of the last requests, and a sparkline for every site, drawn on stderr's terminal
//! while a run goes on. It reads no key, so that an interrupt still ends the run as anywhere else.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Stderr, stderr};
use std::sync::Arc;
use std::time::Duration;

use ratatui::Frame;
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::{Hide, Show};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{EnterAlternateScreen, LeaveAlternateScreen};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style};
use ratatui::text::Line;
use ratatui::widgets::{Block, Gauge, Paragraph, Sparkline};

use super::progress::{Goal, Last, Rates};
use crate::drive::meters::{Meters, Reading, Recent};
use crate::limits::{LIVE_SITES, SPARKS};
use crate::watch::Progress;

/// Time between two drawings.
const PERIOD: Duration = Duration::from_millis(200);

/// Width of the name before a sparkline, in characters.
const NAME_WIDTH: u16 = 18;

/// A terminal that shows a run, and gives it back in the end.
pub(super) struct Live {
    terminal: Terminal<CrosstermBackend<Stderr>>,
    picture: Picture,
    is_open: bool,
}

/// What is drawn.
#[derive(Debug)]
struct Picture {
    goal: Goal,
    last: Last,
    elapsed: Duration,
    reading: Reading,
    rates: Rates,
    recent: Recent,
    /// Good and other requests that ended between drawings, the newest last.
    requests: VecDeque<u64>,
    /// The same by site.
    sites: BTreeMap<Arc<str>, VecDeque<u64>>,
}

impl Live {
    /// Takes the terminal.
    ///
    /// # Errors
    /// It cannot be drawn on.
    pub(super) fn start(goal: Goal) -> io::Result<Self> {
        execute!(stderr(), EnterAlternateScreen, Hide)?;
        let terminal = Terminal::new(CrosstermBackend::new(stderr()));
        if terminal.is_err() {
            execute!(stderr(), LeaveAlternateScreen, Show)?;
        }
        Ok(Self {
            terminal: terminal?,
            picture: Picture::new(goal),
            is_open: true,
        })
    }

    fn give_back(&mut self) {
        if std::mem::replace(&mut self.is_open, false) {
            // Nobody can be told that the terminal is gone.
            execute!(stderr(), LeaveAlternateScreen, Show).ok();
        }
    }
}

impl Progress for Live {
    fn show(&mut self, elapsed: Duration, meters: &Meters) {
        if self.picture.take(elapsed, meters) {
            let picture = &self.picture;
            self.terminal.draw(|frame| picture.draw(frame)).ok();
        }
    }

    fn close(&mut self) {
        self.give_back();
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.give_back();
    }
}

impl Picture {
    fn new(goal: Goal) -> Self {
        Self {
            goal,
            last: Last::default(),
            elapsed: Duration::ZERO,
            reading: Reading::default(),
            rates: Rates::default(),
            recent: Recent::default(),
            requests: VecDeque::new(),
            sites: BTreeMap::new(),
        }
    }

    /// Takes in how a run stands, if it is time for the next drawing.
    fn take(&mut self, elapsed: Duration, meters: &Meters) -> bool {
        let reading = meters.read();
        let Some(rates) = self.last.due(elapsed, reading, PERIOD) else {
            return false;
        };
        let recent = meters.recent();
        for (site, &count) in &recent.sites {
            let before = self.recent.sites.get(site).copied().unwrap_or(0);
            push(
                self.sites.entry(site.clone()).or_default(),
                count.saturating_sub(before),
            );
        }
        push(&mut self.requests, rates.requests.round() as u64);
        (self.elapsed, self.reading, self.rates, self.recent) = (elapsed, reading, rates, recent);
        true
    }

    fn draw(&self, frame: &mut Frame<'_>) {
        let sites = self.sites.len().min(LIVE_SITES) as u16;
        let rows = Layout::vertical([
            Constraint::Length(1),
            Constraint::Length(4),
            Constraint::Length(1 + sites.max(1)),
            Constraint::Min(0),
        ]);
        let [bar, figures, sparks, _] = rows.areas(frame.area());
        let gauge = Gauge::default()
            .gauge_style(Style::default().fg(Color::Blue))
            .ratio(self.goal.part(self.elapsed, &self.reading));
        frame.render_widget(gauge, bar);
        frame.render_widget(Paragraph::new(self.figures()), figures);
        self.draw_sparks(frame, sparks);
    }

    fn figures(&self) -> Vec<Line<'static>> {
        let Reading {
            good,
            failed,
            in_flight,
            ..
        } = self.reading;
        let Rates {
            requests,
            events,
            tokens,
        } = self.rates;
        let percentiles = |name: &str, values: &VecDeque<u64>| {
            let at = |share| {
                percentile(values, share)
                    .map_or("-".to_owned(), |us| format!("{:.1}", us as f64 / 1e3))
            };
            Line::from(format!(
                "{name} ms  p50 {}  p90 {}  p99 {}",
                at(0.5),
                at(0.9),
                at(0.99)
            ))
        };
        let elapsed = self.elapsed.as_secs_f64();
        vec![
            Line::from(format!(
                "{elapsed:.0} s  {good} good  {failed} failed  {in_flight} in flight"
            )),
            Line::from(format!(
                "{requests:.1} requests/s  {tokens:.0} tok/s  {events:.0} events/s"
            )),
            percentiles("ttft", &self.recent.ttft_us),
            percentiles("tpot", &self.recent.tpot_us),
        ]
    }

    /// A line for every site, or one for all requests where no site tells its name.
    fn draw_sparks(&self, frame: &mut Frame<'_>, area: Rect) {
        let block = Block::default().title(if self.sites.is_empty() {
            "requests"
        } else {
            "requests by site"
        });
        let inside = block.inner(area);
        frame.render_widget(block, area);
        if self.sites.is_empty() {
            spark(frame, inside, "all", &self.requests);
            return;
        }
        let shown = self.sites.iter().take(LIVE_SITES).enumerate();
        for (row, (site, values)) in shown {
            let line = Rect {
                y: inside.y + row as u16,
                height: 1,
                ..inside
            };
            spark(frame, line.intersection(inside), site, values);
        }
    }
}

fn spark(frame: &mut Frame<'_>, area: Rect, name: &str, values: &VecDeque<u64>) {
    if area.is_empty() {
        return;
    }
    let [left, right] =
        Layout::horizontal([Constraint::Length(NAME_WIDTH), Constraint::Min(0)]).areas(area);
    frame.render_widget(Paragraph::new(name.to_owned()), left);
    let room = usize::from(right.width);
    let newest = values
        .iter()
        .skip(values.len().saturating_sub(room))
        .copied();
    let line = Sparkline::default()
        .style(Style::default().fg(Color::Cyan))
        .data(newest.collect::<Vec<u64>>());
    frame.render_widget(line, right);
}

fn push(values: &mut VecDeque<u64>, value: u64) {
    values.push_back(value);
    if values.len() > SPARKS {
        values.pop_front();
    }
}

/// The smallest value that `share` of all do not exceed.
fn percentile(values: &VecDeque<u64>, share: f64) -> Option<u64> {
    let mut sorted: Vec<u64> = values.iter().copied().collect();
    sorted.sort_unstable();
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied()
}

#[cfg(test)]
mod tests {
    use ratatui::backend::TestBackend;

    use super::*;
    use crate::drive::record::tests::record;

    fn drawn(picture: &Picture, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| picture.draw(frame)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn a_reader_sees_rates_percentiles_and_a_line_for_every_site() {
        let meters = Meters::default();
        let mut picture = Picture::new(Goal::Requests(20));
        for second in 1..=5 {
            for site in ["lumi", "bsc"] {
                let mut record = record();
                record.labels.site = Some(site.into());
                meters.judged(&record);
            }
            assert!(picture.take(Duration::from_secs(second), &meters));
            assert!(
                !picture.take(Duration::from_millis(second * 1_000 + 50), &meters),
                "too soon"
            );
        }
        let text = drawn(&picture, 60, 12);
        for expected in [
            "10 good",
            "50%",
            "2.0 requests/s  20 tok/s",
            "ttft ms  p50 60.0",
            "tpot ms  p50 10.0",
            "lumi",
            "bsc",
            "█████",
        ] {
            assert!(
                text.contains(expected),
                "{expected:?} is missing in\n{text}"
            );
        }
    }

    #[test]
    fn the_smallest_terminal_and_an_empty_run_are_drawn() {
        let picture = Picture::new(Goal::Time(Duration::from_secs(1)));
        for (width, height) in [(1, 1), (5, 3), (200, 60)] {
            drawn(&picture, width, height);
        }
        assert!(drawn(&picture, 60, 12).contains("p99 -"));
    }
}
