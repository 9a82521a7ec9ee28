//! Keeps the figures of this process's own models true, for as long as it runs.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hansa_config::schema;
use tokio::time::sleep;

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
    let mut power = Power::open(&config);
    let mut grid = config.grid_file.clone().map(|file| (file, Grid::default()));
    if !power.tells() && grid.is_none() {
        return;
    }
    loop {
        let file = grid.as_ref().map(|(file, _)| file.clone());
        // Of sysfs and a small file: short, but nothing for the event loop.
        let reading = tokio::task::spawn_blocking(move || {
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
    watts: Option<f64>,
    share: Share,
}

impl Power {
    /// As `config` says; nothing where it names the energy of a token itself.
    fn open(config: &schema::Energy) -> Self {
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
        Self {
            rapl,
            watts: config.watts.filter(|_| wanted).map(|watts| watts as f64),
            share: Share::default(),
        }
    }

    fn tells(&self) -> bool {
        self.watts.is_some() || !self.rapl.is_empty()
    }

    /// Joules since the last look, a period ago.
    fn joules(&mut self) -> Option<f64> {
        let accelerators = self.watts.map(|watts| watts * ENERGY_PERIOD.as_secs_f64());
        if self.rapl.is_empty() {
            return accelerators;
        }
        Some(self.rapl.joules()? + accelerators.unwrap_or(0.0))
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
