//! What a job runs, and how it is submitted: made from the config and nothing else.
//!
//! Options are arguments of `sbatch`, so that no value needs quotes; only the lines of the script do.

use std::path::{Path, PathBuf};

use hansa_config::schema::agent::Job;

/// What jobs of one agent have in common.
#[derive(Debug, Clone)]
pub struct Common {
    /// The program `hansa` on the nodes.
    pub program: PathBuf,
    /// Where jobs reach the agent.
    pub url: String,
    /// Folder for their output.
    pub output: PathBuf,
}

/// The name of the jobs of one replica, by which they are found again.
#[must_use]
pub fn name(job: &Job, replica: u32) -> String {
    format!("hansa-{}.{replica}", job.node)
}

/// The arguments of `sbatch`, which then reads the script.
#[must_use]
pub fn arguments(job: &Job, name: &str, common: &Common) -> Vec<String> {
    let output = common.output.join(format!("{name}-%j.log"));
    let mut all = vec![
        "--parsable".to_owned(),
        format!("--job-name={name}"),
        format!("--time={}", job.time_limit_s.div_ceil(60)),
        // To the shell alone, in whose place the server is by then.
        format!("--signal=B:TERM@{}", job.grace_s),
        "--nodes=1".to_owned(),
        "--ntasks=1".to_owned(),
        // The agent submits the next one itself, and would count a job that came back twice.
        "--no-requeue".to_owned(),
        format!("--output={}", output.display()),
    ];
    let places = [
        ("partition", &job.partition),
        ("account", &job.account),
        ("gres", &job.gres),
    ];
    for (option, value) in places {
        all.extend(value.as_ref().map(|value| format!("--{option}={value}")));
    }
    all.extend(job.options.iter().cloned());
    all
}

/// The script of a job.
#[must_use]
pub fn script(job: &Job, common: &Common) -> String {
    let setup: String = job.setup.iter().map(|line| format!("{line}\n")).collect();
    let config = job.config.as_deref().unwrap_or(Path::new(""));
    let (program, config) = (quoted(&common.program), quoted(config));
    let (url, node) = (quote(&common.url), quote(&job.node));
    let limit = job.time_limit_s;
    // A login shell, since that is where sites define their modules. Older versions of Slurm do not tell a job its end.
    format!(
        "#!/bin/bash -l\n\
         : \"${{SLURM_JOB_END_TIME:=$(($(date +%s) + {limit}))}}\"\n\
         export SLURM_JOB_END_TIME\n\
         {setup}\
         exec {program} serve --config {config} --listen 127.0.0.1:0 --admin-listen none --dial {url} --dial-as {node}\n"
    )
}

fn quoted(path: &Path) -> String {
    quote(&path.display().to_string())
}

/// `text` as one word of a shell.
fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn common() -> Common {
        Common {
            program: "/opt/hansa's/hansa".into(),
            url: "http://10.0.0.1:8090".to_owned(),
            output: "/scratch/out".into(),
        }
    }

    fn job() -> Job {
        Job {
            node: "gpu".to_owned(),
            config: Some("/home/me/node.toml".into()),
            time_limit_s: 3_601,
            partition: Some("gpu".to_owned()),
            gres: Some("gpu:1".to_owned()),
            options: vec!["--mem=64G".to_owned()],
            setup: vec!["module load CUDA".to_owned()],
            ..Job::default()
        }
    }

    #[test]
    fn a_job_is_submitted_with_what_the_config_says() {
        let arguments = arguments(&job(), &name(&job(), 3), &common());
        for wanted in [
            "--job-name=hansa-gpu.3",
            "--time=61",
            "--signal=B:TERM@60",
            "--partition=gpu",
            "--gres=gpu:1",
            "--mem=64G",
            "--output=/scratch/out/hansa-gpu.3-%j.log",
        ] {
            assert!(
                arguments.iter().any(|a| a == wanted),
                "no {wanted} in {arguments:?}"
            );
        }
        assert!(!arguments.iter().any(|a| a.starts_with("--account")));
    }

    #[test]
    fn the_script_becomes_the_server() {
        let script = script(&job(), &common());
        let last = script.lines().last().unwrap();
        assert!(
            last.starts_with(r"exec '/opt/hansa'\''s/hansa' serve --config '/home/me/node.toml'"),
            "{last}"
        );
        assert!(
            last.ends_with("--dial 'http://10.0.0.1:8090' --dial-as 'gpu'"),
            "{last}"
        );
        let setup = script.find("module load CUDA\n").unwrap();
        assert!(setup < script.find("exec").unwrap());
    }
}
