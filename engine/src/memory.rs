//! How much memory a device has left, as the system says.

use std::path::Path;

use candle_core::Device;

/// Bytes that can still be taken on `device`; `None` where the system does not tell.
pub(crate) fn free_bytes(device: &Device) -> Option<u64> {
    match device {
        Device::Cpu => available(&std::fs::read_to_string("/proc/meminfo").ok()?),
        #[cfg(feature = "cuda")]
        Device::Cuda(card) => {
            use candle_core::cuda::cudarc::driver::result::mem_get_info;
            // The question is about the card of the calling thread's context.
            card.cuda_stream().context().bind_to_thread().ok()?;
            let (free, _total) = mem_get_info().ok()?;
            u64::try_from(free).ok()
        }
        _ => None,
    }
}

/// Bytes of a weights file, or of all of a folder.
pub(crate) fn file_bytes(path: &Path) -> u64 {
    let bytes = |path: &Path| path.metadata().map_or(0, |metadata| metadata.len());
    let Ok(entries) = path.read_dir() else {
        return bytes(path);
    };
    let files = entries.flatten().map(|entry| entry.path());
    let weights = files.filter(|file| file.extension().is_some_and(|end| end == "safetensors"));
    weights.map(|file| bytes(&file)).sum()
}

/// `MemAvailable` of Linux' `/proc/meminfo`, in bytes.
fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linux_says_what_is_available() {
        let meminfo =
            "MemTotal:       32614556 kB\nMemFree:         1 kB\nMemAvailable:    2048 kB\n";
        assert_eq!(available(meminfo), Some(2 << 20));
        assert_eq!(available("MemTotal: 1 kB\n"), None);
        assert_eq!(available("MemAvailable:  lots kB\n"), None);
    }
}
