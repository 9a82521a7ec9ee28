//! Keeps the figures of this process's own models true, for as long as it runs.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hansa_config::schema;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::cards::{Cards, LIBRARY};
use super::grid::{Grid, Standing};
use super::rapl::{POWERCAP, Rapl, text};
use super::work::{Share, Work};
use super::{Energy, pue};
use crate::clock::Clock;
use crate::limits::ENERGY_PERIOD;
use crate::upstream::registry::Models;

/// Reads counters and the grid's file again and again, and writes what they say into `energy`. Resolves at once where
/// there is nothing to read.
pub async fn watch(energy: Energy, config: schema::Energy, models: Arc<Models>, clock: Clock) {
    let wanted = config.clone();
    // A driver may take seconds to answer for the first time.
    let opening = spawn_blocking(move || Power::open(&wanted, LIBRARY.as_ref()));
    let Ok(mut power) = opening.await else {
        return;
    };
    let mut grid = config.grid_file.clone().map(|file| (file, Grid::default()));
    if !power.tells() && grid.is_none() {
        return;
    }
    loop {
        let file = grid.as_ref().map(|(file, _)| file.clone());
        // Of sysfs, a driver and a small file: short, but nothing for the event loop.
        let reading = spawn_blocking(move || {
            let joules = power.joules();
            let read = file.as_deref().and_then(text);
            (power, joules, read)
        });
        let Ok((read_power, joules, read)) = reading.await else {
            return;
        };
        power = read_power;
        if power.tells() {
            power.share.observe(work(&models), joules);
            let per_token = power.share.joules_per_token();
            let per_token = per_token.map(|joules| joules * pue(&config));
            energy.figures.joules_per_token.set(per_token);
        }
        if let Some((file, grid)) = &mut grid {
            let keep = Duration::from_secs(config.grid_keep_s);
            let (grams, turned) = grid.read(read.as_deref(), keep, clock.now());
            let otherwise = config.grams_per_kwh.map(|grams| grams as f64);
            energy.figures.grams_per_kwh.set(grams.or(otherwise));
            if let Some(standing) = turned {
                say(standing, file, grams);
            }
        }
        sleep(ENERGY_PERIOD).await;
    }
}

fn say(standing: Standing, file: &Path, grams_per_kwh: Option<f64>) {
    let file = file.display();
    match standing {
        Standing::Fresh => tracing::info!(%file, grams_per_kwh, "the grid's file tells"),
        Standing::Old => {
            tracing::warn!(%file, grams_per_kwh, "the grid's file is away or holds no number; its last one counts on");
        }
        Standing::Unknown => {
            tracing::warn!(%file, "the grid's file has held no number for too long; energy.grams_per_kwh counts, if it is set");
        }
    }
}

/// What tells the energy of the moment.
#[derive(Debug)]
struct Power {
    rapl: Rapl,
    cards: Option<Cards>,
    /// Of accelerators that do not tell.
    watts: Option<f64>,
    share: Share,
}

impl Power {
    /// As `config` says; nothing where it names the energy of a token itself. `library` is that of NVIDIA's driver.
    fn open(config: &schema::Energy, library: &OsStr) -> Self {
        let wanted = config.millijoules_per_token.is_none();
        let rapl = match wanted && config.rapl {
            true => Rapl::open(Path::new(POWERCAP)),
            false => Rapl::default(),
        };
        if wanted && config.rapl && rapl.is_empty() {
            tracing::warn!(
                "energy.rapl is on, but {POWERCAP} shows no counter that this process may read"
            );
        }
        let cards = match wanted && config.nvml {
            true => cards(library, &config.cards),
            false => None,
        };
        let watts = config.watts.filter(|_| wanted && cards.is_none());
        Self {
            rapl,
            cards,
            watts: watts.map(|watts| watts as f64),
            share: Share::default(),
        }
    }

    fn tells(&self) -> bool {
        self.watts.is_some() || self.cards.is_some() || !self.rapl.is_empty()
    }

    /// Joules since the last look, a period ago; `None` where something that told does not.
    fn joules(&mut self) -> Option<f64> {
        let none = Some(0.0);
        // Both are read whatever becomes of one: their counters go on from here.
        let of_cards = self
            .cards
            .as_mut()
            .map_or(none, |c| c.joules(ENERGY_PERIOD));
        let of_processor = match self.rapl.is_empty() {
            true => none,
            false => self.rapl.joules(),
        };
        let configured = self.watts.unwrap_or(0.0) * ENERGY_PERIOD.as_secs_f64();
        let joules = of_cards? + of_processor? + configured;
        self.tells().then_some(joules)
    }
}

/// The cards that measure themselves, if there are any.
fn cards(library: &OsStr, wanted: &[String]) -> Option<Cards> {
    match Cards::open(library, wanted) {
        Ok(cards) if cards.len() > 0 => {
            tracing::info!(cards = cards.len(), "the energy of cards is read");
            Some(cards)
        }
        Ok(_) => {
            tracing::warn!(
                "energy.nvml is on, but no card that it may read tells its energy; energy.watts counts, if it is set"
            );
            None
        }
        Err(error) => {
            tracing::warn!(%error, "energy.nvml is on, but NVIDIA's driver cannot be asked; energy.watts counts, if it is set");
            None
        }
    }
}

/// What all models of this process have done.
fn work(models: &Models) -> Work {
    let totals = models.totals();
    totals.iter().fold(Work::default(), |sum, (_, one)| Work {
        prefill_tokens: sum.prefill_tokens + one.prefill_tokens,
        decode_tokens: sum.decode_tokens + one.decode_tokens,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_driver_the_configured_watts_count() {
        let config = schema::Energy {
            nvml: true,
            watts: Some(500),
            ..schema::Energy::default()
        };
        let mut power = Power::open(&config, OsStr::new("no-such-library.so"));
        assert_eq!(power.joules(), Some(500.0));
        let config = schema::Energy {
            watts: None,
            ..config
        };
        let mut dark = Power::open(&config, OsStr::new("no-such-library.so"));
        assert!(!dark.tells());
        assert_eq!(dark.joules(), None);
    }
}
