//! A local stand-in for the hub speaks as much HTTP as `hf-hub` asks for.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

const CONTENT: &[u8] = b"GGUF of the hub";

/// What the stand-in says about its one file.
#[derive(Clone)]
struct StandIn {
    etag: String,
    commit: String,
    token: Option<&'static str>,
    requests: Arc<AtomicUsize>,
}

fn stand_in() -> StandIn {
    StandIn {
        etag: verify::copy_hashed(&mut &*CONTENT, &mut std::io::sink(), |_| ()).unwrap(),
        commit: "0123abcd".to_owned(),
        token: None,
        requests: Arc::default(),
    }
}

impl StandIn {
    /// Serves until the test process ends; returns the endpoint.
    fn start(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}/", listener.local_addr().unwrap());
        let hub = self.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                hub.answer(stream.unwrap());
            }
        });
        endpoint
    }

    fn answer(&self, mut stream: TcpStream) {
        self.requests.fetch_add(1, Ordering::SeqCst);
        let lines = BufReader::new(stream.try_clone().unwrap()).lines();
        let head: Vec<String> = lines
            .map(Result::unwrap)
            .take_while(|line| !line.is_empty())
            .collect();
        let header = |name: &str| {
            let is_it =
                |line: &&String| line.to_ascii_lowercase().starts_with(&format!("{name}: "));
            head.iter()
                .find(is_it)
                .map(|line| line[name.len() + 2..].to_owned())
        };
        let allowed = self
            .token
            .is_none_or(|token| header("authorization") == Some(format!("Bearer {token}")));
        if !head[0].starts_with("GET /acme/tiny/resolve/main/q4/tiny.gguf ") || !allowed {
            let status = if allowed {
                "404 Not Found"
            } else {
                "401 Unauthorized"
            };
            let text =
                format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            stream.write_all(text.as_bytes()).unwrap();
            return;
        }
        let body = match header("range").as_deref() {
            Some("bytes=0-0") => &CONTENT[..1],
            _ => CONTENT,
        };
        let head = format!(
            "HTTP/1.1 206 Partial Content\r\ncontent-length: {}\r\ncontent-range: bytes 0-{}/{}\r\n\
             x-repo-commit: {}\r\nx-linked-etag: \"{}\"\r\nconnection: close\r\n\r\n",
            body.len(),
            body.len() - 1,
            CONTENT.len(),
            self.commit,
            self.etag
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body).unwrap();
    }
}

fn options(cache_dir: &Path, endpoint: String) -> SourceOptions {
    SourceOptions {
        cache_dir: Some(cache_dir.to_owned()),
        python: "unused".into(),
        hub_endpoint: endpoint,
        hub_token: Some("secret".to_owned()),
        progress: false,
    }
}

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| {
            if path.is_dir() {
                files_below(&path)
            } else {
                vec![path]
            }
        })
        .filter(|path| !path.to_string_lossy().contains(".lock-"))
        .collect()
}

#[test]
fn a_file_of_the_hub_is_fetched_once_and_kept_by_its_own_name() {
    let hub = StandIn {
        token: Some("secret"),
        ..stand_in()
    };
    let dir = tempfile::tempdir().unwrap();
    let options = options(dir.path(), hub.start());
    let file = resolve("acme/tiny/q4/tiny.gguf", &options).unwrap();
    assert_eq!(fs::read(&file.path).unwrap(), CONTENT);
    assert_eq!(file.id, "tiny");
    assert_eq!(
        files_below(dir.path()),
        [dir.path().join("hf/acme/tiny/q4/tiny.gguf")]
    );
    let requests = hub.requests.load(Ordering::SeqCst);
    assert_eq!(resolve("acme/tiny/q4/tiny.gguf", &options).unwrap(), file);
    assert_eq!(
        hub.requests.load(Ordering::SeqCst),
        requests,
        "the second time needs no network"
    );
}

#[test]
fn what_the_hub_gets_wrong_is_named_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let fails = |hub: StandIn, reference: &str| {
        let error = resolve(reference, &options(dir.path(), hub.start())).unwrap_err();
        assert_eq!(files_below(dir.path()), Vec::<PathBuf>::new());
        error.to_string()
    };
    assert!(fails(stand_in(), "acme/tiny/none.gguf").contains("404"));
    let gated = StandIn {
        token: Some("another"),
        ..stand_in()
    };
    assert!(fails(gated, "acme/tiny/q4/tiny.gguf").contains("HF_TOKEN"));
    let altered = StandIn {
        etag: "0".repeat(64),
        ..stand_in()
    };
    assert!(fails(altered, "acme/tiny/q4/tiny.gguf").contains("instead of 0000"));
    let traversal = StandIn {
        etag: "../../../../escaped".to_owned(),
        ..stand_in()
    };
    assert!(fails(traversal, "acme/tiny/q4/tiny.gguf").contains("not safe"));
    let traversal = StandIn {
        commit: "../../escaped".to_owned(),
        ..stand_in()
    };
    assert!(fails(traversal, "acme/tiny/q4/tiny.gguf").contains("not safe"));
    assert!(!dir.path().join("escaped").exists());
}

#[test]
fn nobody_there() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(dir.path(), "http://127.0.0.1:1".to_owned());
    let message = resolve("acme/tiny/tiny.gguf", &options)
        .unwrap_err()
        .to_string();
    assert!(message.contains("HF_ENDPOINT"), "{message}");
}

#[test]
fn names_that_are_no_names_are_refused_before_anything_happens() {
    for reference in [
        "",
        "a.gguf",
        "a/b.gguf",
        "a/b/c",
        "a/b/../c.gguf",
        "../b/c.gguf",
        "a//c.gguf",
        "/a/b/c.gguf",
        "a/b/c.gguf/",
        "a/b/.gguf",
        "a/b/c d.gguf",
        "a/b/c?x=.gguf",
        "a/b/%2e%2e/c.gguf",
        "a/b/1/2/3/4/5/6/7/8/c.gguf",
    ] {
        let options = options(Path::new("/nowhere"), String::new());
        let error = resolve(reference, &options).unwrap_err();
        assert!(
            matches!(error, SourceError::BadHubReference { .. }),
            "{reference}: {error}"
        );
    }
}
