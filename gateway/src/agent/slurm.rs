//! Slurm by its commands: `sbatch`, `squeue` and `scancel`, each for a bounded time and with bounded output.
//!
//! It knows how they are called, not why: that is `chain.rs`.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::JobId;
use super::queue::{self, Seen};
use crate::limits;

/// Where the commands are.
#[derive(Debug, Clone)]
pub struct Slurm {
    folder: Option<PathBuf>,
}

/// Why a command came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum SlurmError {
    /// It is not there.
    #[error("{command} cannot be run: {error}; set agent.slurm to its folder")]
    Missing {
        /// The command.
        command: &'static str,
        /// What the system says.
        error: std::io::Error,
    },
    /// It says no.
    #[error("{command} failed: {said}")]
    Failed {
        /// The command.
        command: &'static str,
        /// Its last words.
        said: String,
    },
    /// The controller does not answer.
    #[error("{0} took too long and was ended")]
    Late(&'static str),
    /// It prints something else than it is known to.
    #[error("sbatch printed no number of a job: {0}")]
    Unreadable(String),
}

impl Slurm {
    /// The commands in `folder`, or those that are found in `PATH`.
    #[must_use]
    pub const fn new(folder: Option<PathBuf>) -> Self {
        Self { folder }
    }

    /// Submits `script` with `arguments`.
    ///
    /// # Errors
    /// [`SlurmError`]; the job may be there all the same.
    pub async fn submit(&self, arguments: &[String], script: String) -> Result<JobId, SlurmError> {
        let said = self.run("sbatch", arguments, script).await?;
        // With --parsable: the number, and in a federation the cluster after a semicolon.
        let number = said
            .trim()
            .lines()
            .last()
            .and_then(|line| line.split(';').next());
        let number = number.and_then(|number| number.trim().parse().ok());
        number.ok_or_else(|| SlurmError::Unreadable(shortened(&said)))
    }

    /// All jobs of this user that Slurm still knows.
    ///
    /// # Errors
    /// [`SlurmError`]; then nothing is known, which is not the same as no jobs.
    pub async fn list(&self) -> Result<Vec<Seen>, SlurmError> {
        let arguments = ["--noheader", "--me", "--states=all"].map(str::to_owned);
        let format = format!("--format={}", queue::FORMAT);
        let arguments = [&arguments[..], &[format]].concat();
        let said = self.run("squeue", &arguments, String::new()).await?;
        Ok(queue::read(&said))
    }

    /// Time until the limit of `job`, where it has one.
    ///
    /// # Errors
    /// [`SlurmError`].
    pub async fn left(&self, job: JobId) -> Result<Option<Duration>, SlurmError> {
        let format = format!("--format={}", queue::FORMAT);
        let arguments = ["--noheader".to_owned(), format!("--jobs={job}"), format];
        let said = self.run("squeue", &arguments, String::new()).await?;
        let seen = queue::read(&said).into_iter();
        Ok(seen
            .filter(|seen| seen.id == job)
            .find_map(|seen| seen.left))
    }

    /// Asks the server of a job to finish what it has.
    ///
    /// # Errors
    /// [`SlurmError`].
    pub async fn finish(&self, job: JobId) -> Result<(), SlurmError> {
        let arguments = [
            "--batch".to_owned(),
            "--signal=TERM".to_owned(),
            job.to_string(),
        ];
        self.run("scancel", &arguments, String::new()).await?;
        Ok(())
    }

    /// Ends a job.
    ///
    /// # Errors
    /// [`SlurmError`].
    pub async fn cancel(&self, job: JobId) -> Result<(), SlurmError> {
        self.run("scancel", &[job.to_string()], String::new())
            .await?;
        Ok(())
    }

    /// Runs a command on `input` and gives what it prints.
    async fn run(
        &self,
        command: &'static str,
        arguments: &[String],
        input: String,
    ) -> Result<String, SlurmError> {
        let program = match &self.folder {
            Some(folder) => folder.join(command),
            None => command.into(),
        };
        let mut child = Command::new(program)
            .args(arguments)
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| SlurmError::Missing { command, error })?;
        let spoken = converse(&mut child, input);
        let Ok((said, complaint)) = timeout(limits::SLURM_TIME, spoken).await else {
            // It may have ended just now.
            let _ = child.kill();
            let _ = spawn_blocking(move || child.wait()).await;
            return Err(SlurmError::Late(command));
        };
        let ended = spawn_blocking(move || child.wait()).await;
        match ended {
            Ok(Ok(status)) if status.success() => Ok(said),
            _ => Err(SlurmError::Failed {
                command,
                said: shortened(&complaint),
            }),
        }
    }
}

/// Tells a command its input and hears it out on both of its outputs.
async fn converse(child: &mut Child, input: String) -> (String, String) {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let told = spawn_blocking(move || {
        if let Some(mut stdin) = stdin {
            // A command that does not want to hear says why on its other side.
            let _ = stdin.write_all(input.as_bytes());
        }
    });
    let said = spawn_blocking(move || hear(stdout));
    let complaint = spawn_blocking(move || hear(stderr));
    let (_, said, complaint) = futures::join!(told, said, complaint);
    (said.unwrap_or_default(), complaint.unwrap_or_default())
}

fn hear(from: Option<impl Read>) -> String {
    let mut bytes = Vec::new();
    if let Some(from) = from {
        // What was heard before an error counts.
        let _ = from
            .take(limits::SLURM_OUTPUT_BYTES_MAX)
            .read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The end of what was said, on one line: that is where commands say what is wrong.
fn shortened(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    let line = words.join(" ");
    let skipped = line
        .chars()
        .count()
        .saturating_sub(limits::SLURM_COMPLAINT_CHARS_MAX);
    line.chars().skip(skipped).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;

    use super::super::queue::State;
    use super::*;

    /// A folder whose `command` is a shell script of `body`.
    fn fake(folder: &Path, command: &str, body: &str) {
        let own = folder.join(format!("{command}.new"));
        std::fs::write(&own, format!("#!/bin/sh\n{body}\n")).unwrap();
        std::fs::set_permissions(&own, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::rename(own, folder.join(command)).unwrap();
    }

    #[tokio::test]
    async fn commands_are_called_and_understood() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let slurm = Slurm::new(Some(path.to_owned()));
        let noted = path.join("noted");
        let note = format!("echo \"$0 $*\" >> {0}; cat >> {0}", noted.display());
        fake(
            path,
            "sbatch",
            &format!("{note}; echo 'notice: hello' >&2; echo '41;cluster'"),
        );
        fake(path, "scancel", &note);
        fake(path, "squeue", "echo '41|hansa-a.0|RUNNING|10:00|0:05'");
        let arguments = ["--parsable".to_owned(), "--mem=1 G".to_owned()];
        let job = slurm
            .submit(&arguments, "exec true\n".to_owned())
            .await
            .unwrap();
        assert_eq!(job, 41);
        let jobs = slurm.list().await.unwrap();
        assert_eq!((jobs[0].id, jobs[0].state), (41, State::Running));
        let left = slurm.left(41).await.unwrap();
        assert_eq!(left, Some(Duration::from_secs(600)));
        assert_eq!(slurm.left(42).await.unwrap(), None);
        slurm.finish(41).await.unwrap();
        slurm.cancel(41).await.unwrap();
        let noted = std::fs::read_to_string(noted).unwrap();
        for line in [
            "--parsable --mem=1 G",
            "exec true",
            "--batch --signal=TERM 41",
        ] {
            assert!(noted.contains(line), "no {line} in {noted}");
        }
    }

    #[tokio::test]
    async fn what_goes_wrong_is_told_in_one_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let slurm = Slurm::new(Some(path.to_owned()));
        let missing = slurm.list().await.unwrap_err().to_string();
        assert!(missing.contains("agent.slurm"), "{missing}");
        fake(
            path,
            "squeue",
            "echo 'slurm_load_jobs error:\n Unable to contact' >&2; exit 1",
        );
        let failed = slurm.list().await.unwrap_err().to_string();
        assert_eq!(
            failed,
            "squeue failed: slurm_load_jobs error: Unable to contact"
        );
        fake(path, "sbatch", "echo Submitted");
        let odd = slurm.submit(&[], String::new()).await.unwrap_err();
        assert!(matches!(odd, SlurmError::Unreadable(_)), "{odd}");
    }

    #[test]
    fn long_complaints_keep_their_end() {
        let text = format!("{} the end", "x".repeat(5_000));
        let short = shortened(&text);
        assert!(short.ends_with("the end"));
        assert_eq!(short.chars().count(), limits::SLURM_COMPLAINT_CHARS_MAX);
    }
}
