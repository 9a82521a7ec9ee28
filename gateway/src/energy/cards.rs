//! What NVIDIA cards measure of themselves, through the driver's own library (NVML), which is loaded where it is there.
//!
//! A card of the last generations counts the millijoules since its driver was loaded; an older one tells its power alone,
//! which then stands for all of the time since the last look.

use std::ffi::OsStr;
use std::time::Duration;

use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};

use crate::limits::ENERGY_CARDS_MAX;

/// The driver's library, as every version of the driver installs it.
pub(super) const LIBRARY: &str = "libnvidia-ml.so.1";

/// The cards that count.
#[derive(Debug)]
pub(super) struct Cards {
    library: Nvml,
    cards: Vec<Card>,
}

#[derive(Debug)]
struct Card {
    index: u32,
    /// Of its counter; `None` where it has none.
    last_mj: Option<u64>,
}

impl Cards {
    /// Those with an id in `wanted`, or all where that is empty, as far as they tell anything; perhaps none.
    ///
    /// # Errors
    /// Where `library` is not there, or the driver does not answer.
    pub(super) fn open(library: &OsStr, wanted: &[String]) -> Result<Self, NvmlError> {
        let library = Nvml::builder().lib_path(library).init()?;
        let count = library.device_count()?.min(ENERGY_CARDS_MAX);
        let counts = |device: &Device<'_>| {
            wanted.is_empty() || device.uuid().is_ok_and(|id| wanted.contains(&id))
        };
        let card = |index| {
            let device = library.device_by_index(index).ok().filter(counts)?;
            let last_mj = device.total_energy_consumption().ok();
            let tells = last_mj.is_some() || device.power_usage().is_ok();
            tells.then_some(Card { index, last_mj })
        };
        let cards = (0..count).filter_map(card).collect();
        Ok(Self { library, cards })
    }

    /// How many there are.
    pub(super) const fn len(&self) -> usize {
        self.cards.len()
    }

    /// Joules since the last look, `since` ago; `None` where one of them cannot be read any more, or has begun anew.
    pub(super) fn joules(&mut self, since: Duration) -> Option<f64> {
        let mut sum = Some(0.0);
        for card in &mut self.cards {
            // Each is read, whatever became of the others: its counter goes on from here.
            let used = card.joules(&self.library, since);
            sum = sum.zip(used).map(|(sum, used)| sum + used);
        }
        sum
    }
}

impl Card {
    fn joules(&mut self, library: &Nvml, since: Duration) -> Option<f64> {
        let device = library.device_by_index(self.index).ok()?;
        let Some(before) = self.last_mj else {
            let milliwatts = device.power_usage().ok()?;
            return Some(f64::from(milliwatts) / 1e3 * since.as_secs_f64());
        };
        let now = device.total_energy_consumption().ok()?;
        self.last_mj = Some(now);
        Some(now.checked_sub(before)? as f64 / 1e3)
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};
    use std::process::Command;

    use super::*;

    /// A driver of three cards: one that counts 250 J between two looks, one that tells 75 W alone, and one that tells
    /// nothing. A file `lost` beside it loses the first one.
    const DRIVER: &str = r#"
        #include <stdio.h>
        #include <unistd.h>
        static unsigned long long counter;
        static long number(void *card) { return (long)card - 1; }
        int nvmlInit_v2(void) { return 0; }
        int nvmlShutdown(void) { return 0; }
        int nvmlDeviceGetCount_v2(unsigned *count) { *count = 3; return 0; }
        int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **card) { *card = (void *)(long)(index + 1); return 0; }
        int nvmlDeviceGetUUID(void *card, char *id, unsigned room) { snprintf(id, room, "GPU-%ld", number(card)); return 0; }
        int nvmlDeviceGetTotalEnergyConsumption(void *card, unsigned long long *mj) {
            if (number(card) != 0) return 3;
            if (access("LOST", F_OK) == 0) return 15;
            *mj = counter += 250000;
            return 0;
        }
        int nvmlDeviceGetPowerUsage(void *card, unsigned *mw) { *mw = 75000; return number(card) == 2 ? 3 : 0; }
    "#;

    /// Compiled with the compiler that this crate needs anyway (`ring`).
    fn driver(folder: &Path) -> PathBuf {
        let (source, library) = (folder.join("nvml.c"), folder.join(LIBRARY));
        let lost = folder.join("lost").display().to_string();
        std::fs::write(&source, DRIVER.replace("LOST", &lost)).unwrap();
        let mut compiler = Command::new("cc");
        compiler
            .args(["-shared", "-fPIC", "-o"])
            .args([&library, &source]);
        assert!(compiler.status().unwrap().success());
        library
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn counters_and_powers_are_added_up_until_a_card_is_lost() {
        let folder = tempfile::tempdir().unwrap();
        let library = driver(folder.path());
        let mut cards = Cards::open(library.as_os_str(), &[]).unwrap();
        assert_eq!(cards.len(), 2);
        assert_eq!(cards.joules(SECOND), Some(325.0));
        assert_eq!(cards.joules(2 * SECOND), Some(400.0));
        std::fs::write(folder.path().join("lost"), "").unwrap();
        assert_eq!(cards.joules(SECOND), None);
        std::fs::remove_file(folder.path().join("lost")).unwrap();
        assert_eq!(cards.joules(SECOND), Some(325.0));
        let ids = |id: &str| vec![id.to_owned()];
        let mut one = Cards::open(library.as_os_str(), &ids("GPU-1")).unwrap();
        assert_eq!((one.len(), one.joules(SECOND)), (1, Some(75.0)));
        let none = Cards::open(library.as_os_str(), &ids("GPU-7")).unwrap();
        assert_eq!(none.len(), 0);
    }

    #[test]
    fn where_there_is_no_driver_there_are_no_cards() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Cards::open(folder.path().join(LIBRARY).as_os_str(), &[]).is_err());
        // A library of something else.
        let other = folder.path().join("other.so");
        std::fs::write(&other, "no library").unwrap();
        assert!(Cards::open(other.as_os_str(), &[]).is_err());
    }
}
