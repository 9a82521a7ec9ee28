//! Where cargo builds, for what tests keep there.

use std::path::{Path, PathBuf};

/// Cargo's target folder.
pub(crate) fn target_dir() -> PathBuf {
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR"));
    kept.parent().map(Path::to_path_buf).unwrap_or_default()
}
