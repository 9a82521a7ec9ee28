//! What a processor measures of itself, as Linux shows it: counters of microjoules that begin anew at their end.

use std::path::{Path, PathBuf};

use crate::limits::{RAPL_ZONES_MAX, SMALL_FILE_BYTES_MAX};

/// Where Linux shows it.
pub(super) const POWERCAP: &str = "/sys/class/powercap";

/// The counters of all packages and their memory.
#[derive(Debug, Default)]
pub(super) struct Rapl {
    zones: Vec<Zone>,
}

#[derive(Debug)]
struct Zone {
    counter: PathBuf,
    /// Where the counter begins anew.
    end_uj: u64,
    last_uj: u64,
}

impl Rapl {
    /// Those below `folder` that this process may read; perhaps none.
    pub(super) fn open(folder: &Path) -> Self {
        let Ok(entries) = std::fs::read_dir(folder) else {
            return Self::default();
        };
        let folders = entries.flatten().take(RAPL_ZONES_MAX);
        let zones = folders.filter_map(|entry| Zone::open(&entry.path()));
        Self {
            zones: zones.collect(),
        }
    }

    /// Whether there is any.
    pub(super) fn is_empty(&self) -> bool {
        self.zones.is_empty()
    }

    /// Joules since the last reading; `None` where one of them cannot be read any more.
    pub(super) fn joules(&mut self) -> Option<f64> {
        let mut sum_uj = 0;
        let mut all = !self.zones.is_empty();
        for zone in &mut self.zones {
            match zone.used_uj() {
                Some(used) => sum_uj += used,
                None => all = false,
            }
        }
        all.then(|| sum_uj as f64 / 1e6)
    }
}

impl Zone {
    /// A package, or memory beside one; whatever else there is lies within these.
    fn open(folder: &Path) -> Option<Self> {
        let name = text(&folder.join("name"))?;
        if !name.starts_with("package") && name != "dram" {
            return None;
        }
        let counter = folder.join("energy_uj");
        Some(Self {
            end_uj: number(&folder.join("max_energy_range_uj"))?,
            last_uj: number(&counter)?,
            counter,
        })
    }

    fn used_uj(&mut self) -> Option<u64> {
        let now = number(&self.counter)?;
        let before = std::mem::replace(&mut self.last_uj, now);
        Some(match now.checked_sub(before) {
            Some(used) => used,
            None => now + self.end_uj.saturating_sub(before),
        })
    }
}

fn number(file: &Path) -> Option<u64> {
    text(file)?.parse().ok()
}

/// The first bytes of a small file, without the end of its line.
pub(super) fn text(file: &Path) -> Option<String> {
    use std::io::Read as _;

    let mut text = String::new();
    let file = std::fs::File::open(file).ok()?;
    file.take(SMALL_FILE_BYTES_MAX)
        .read_to_string(&mut text)
        .ok()?;
    Some(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, files: &[(&str, &str)]) {
        std::fs::create_dir_all(folder).unwrap();
        for (name, text) in files {
            std::fs::write(folder.join(name), text).unwrap();
        }
    }

    #[test]
    fn packages_and_memory_are_added_up_over_their_ends() {
        let root = tempfile::tempdir().unwrap();
        let zone = |name: &str, what: &str, counter: &str| {
            let files = [
                ("name", what),
                ("energy_uj", counter),
                ("max_energy_range_uj", "1000000\n"),
            ];
            write(&root.path().join(name), &files);
        };
        zone("intel-rapl:0", "package-0\n", "900000\n");
        zone("intel-rapl:0:0", "core\n", "5\n");
        zone("intel-rapl:0:1", "dram\n", "100\n");
        zone("psys", "psys\n", "100\n");
        write(&root.path().join("intel-rapl"), &[("enabled", "1")]);
        let mut rapl = Rapl::open(root.path());
        assert_eq!(rapl.joules(), Some(0.0));
        zone("intel-rapl:0", "package-0\n", "400000\n");
        zone("intel-rapl:0:1", "dram\n", "500100\n");
        assert_eq!(rapl.joules(), Some(1.0));
        zone("intel-rapl:0", "package-0\n", "nonsense\n");
        assert_eq!(rapl.joules(), None);
    }

    #[test]
    fn a_machine_without_counters_has_none() {
        let root = tempfile::tempdir().unwrap();
        assert!(Rapl::open(root.path()).is_empty());
        let mut gone = Rapl::open(&root.path().join("nowhere"));
        assert_eq!(gone.joules(), None);
    }
}
