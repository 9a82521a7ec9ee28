//! A Python virtual environment under `target/`, with the packages a test asks for.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::build::target_dir;

/// The interpreter of a virtual environment that has `packages`, each pinned as `name==version`. Made once and kept.
///
/// # Errors
/// Where there is no `python3` with `venv` and `pip`, or the packages cannot be fetched.
pub fn python_with(name: &str, packages: &[&str]) -> Result<PathBuf> {
    let folder = target_dir().join("python").join(name);
    let python = folder.join("bin/python");
    let stamp = folder.join("packages.txt");
    let wanted = packages.join("\n");
    if std::fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) && python.exists() {
        return Ok(python);
    }
    run(Command::new("python3")
        .args(["-m", "venv", "--clear"])
        .arg(&folder))?;
    run(Command::new(&python)
        .args(["-m", "pip", "install", "--quiet"])
        .args(packages))?;
    std::fs::write(&stamp, wanted)?;
    Ok(python)
}

/// Runs a Python script and shows what it printed if it fails.
///
/// # Errors
/// Where the script ends with another status than 0.
pub fn run_script(python: &Path, script: &Path, arguments: &[&str]) -> Result<()> {
    run(Command::new(python).arg(script).args(arguments))
}

fn run(command: &mut Command) -> Result<()> {
    let output = command
        .output()
        .with_context(|| format!("{command:?} could not be started"))?;
    ensure!(
        output.status.success(),
        "{command:?} ended with {}:\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
