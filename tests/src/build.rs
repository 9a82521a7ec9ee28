//! Where the repository and its binaries are; builds the binaries once for each test process.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The binary `hansa`, built from the sources as they are.
#[must_use]
pub fn hansa_binary() -> PathBuf {
    binary("hansa")
}

/// The binary `hansa-loadtest`, built from the sources as they are.
#[must_use]
pub fn loadtest_binary() -> PathBuf {
    binary("hansa-loadtest")
}

/// The top of the checkout.
#[must_use]
pub fn repository_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .map(Path::to_path_buf)
        .unwrap_or_default()
}

/// The folder of the profile that this test was built with, for example `target/debug`.
#[must_use]
fn profile_dir() -> PathBuf {
    let mut dir = std::env::current_exe().unwrap_or_default();
    dir.pop();
    if dir.ends_with("deps") {
        dir.pop();
    }
    dir
}

/// Cargo's target folder.
#[must_use]
pub fn target_dir() -> PathBuf {
    profile_dir()
        .parent()
        .map(Path::to_path_buf)
        .unwrap_or_default()
}

/// Names a folder that holds the binaries already, for whoever built them in another way (without Candle, in release).
const BINARIES: &str = "HANSA_TEST_BINARIES";

fn binary(name: &str) -> PathBuf {
    if let Some(folder) = std::env::var_os(BINARIES) {
        return PathBuf::from(folder).join(name);
    }
    static BUILT: OnceLock<Result<(), String>> = OnceLock::new();
    let built = BUILT.get_or_init(build_binaries);
    assert!(built.is_ok(), "the binaries could not be built: {built:?}");
    profile_dir().join(name)
}

/// Builds the whole workspace's binaries: the same features as `cargo test --workspace` resolves to, so that after it
/// there is nothing left to compile.
fn build_binaries() -> Result<(), String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .current_dir(repository_root())
        .args(["build", "--workspace", "--bins", "--quiet"]);
    command.arg("--target-dir").arg(target_dir());
    // Cargo describes the package under test in the environment. Some build scripts look at that and would run again, and
    // with them everything that depends on them.
    let described =
        |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    for name in names.filter(|name| described(name)) {
        command.env_remove(name);
    }
    if profile_dir().ends_with("release") {
        command.arg("--release");
    }
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("cargo build ended with {status}")),
        Err(error) => Err(format!("cargo could not be started: {error}")),
    }
}
