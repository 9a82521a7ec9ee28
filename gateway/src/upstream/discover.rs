//! Finds the instances of a node or site: one at each address of a name, or one at each line of a file.
//!
//! A look-up that fails, or finds nothing, changes nothing: an instance that is known and works is worth more than a
//! name server's bad minute. So does a file that cannot be read.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use hansa_config::schema::{Discover, Upstream};
use tokio::time::sleep;

use crate::limits;
use crate::upstream::link::LinkTasks;

/// Who is told what was found.
pub trait Lists: Send + Sync + 'static {
    /// Name of the node or site in the config.
    fn name(&self) -> &str;

    /// Host and port of its URL.
    fn host(&self) -> (String, u16);

    /// These are all instances, at least one, each once and in order.
    fn list(&mut self, found: &[SocketAddr]);
}

/// Tells `lists` the instances of `config` as soon as they are found, and again whenever they may have changed.
pub fn start(config: &Upstream, lists: impl Lists, tasks: &LinkTasks) {
    match (config.discover, &config.addresses_file) {
        (Discover::Dns, _) => tasks.spawn(by_name(lists)),
        (Discover::File, Some(file)) => tasks.spawn(by_file(lists, file.clone())),
        // `hansa check` refuses it.
        (Discover::File, None) => {}
        // One stands in the config, and the others come by themselves (`agent/welcome.rs`).
        (Discover::Static | Discover::Agent, _) => {}
    }
}

async fn by_name(mut lists: impl Lists) {
    let (host, port) = lists.host();
    loop {
        match tokio::net::lookup_host((host.as_str(), port)).await {
            Ok(found) => list(&mut lists, found.collect()),
            Err(error) => {
                tracing::warn!(upstream = lists.name(), host, %error, "the name cannot be looked up");
            }
        }
        sleep(limits::DISCOVER_DNS_PERIOD).await;
    }
}

async fn by_file(mut lists: impl Lists, file: PathBuf) {
    let mut before = None;
    loop {
        // The whole text is compared: a time of change may stay the same within a second.
        match read(&file).await {
            Ok(text) if before.as_ref() != Some(&text) => {
                list(&mut lists, addresses(&text, &file));
                before = Some(text);
            }
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(upstream = lists.name(), file = %file.display(), %error, "the file cannot be read");
            }
        }
        sleep(limits::DISCOVER_FILE_PERIOD).await;
    }
}

async fn read(file: &Path) -> std::io::Result<String> {
    use std::io::Read as _;

    let file = file.to_owned();
    let read = move || {
        let mut text = String::new();
        let file = std::fs::File::open(file)?;
        file.take(limits::DISCOVER_FILE_BYTES_MAX)
            .read_to_string(&mut text)?;
        Ok(text)
    };
    let read = tokio::task::spawn_blocking(read).await;
    read.unwrap_or_else(|_| Err(std::io::Error::other("reading it panicked")))
}

/// One address a line; `#` begins a comment. A line that is none is named and left out.
fn addresses(text: &str, file: &Path) -> Vec<SocketAddr> {
    let lines = text
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default().trim());
    let mut found = Vec::new();
    for (number, line) in (1..).zip(lines).filter(|(_, line)| !line.is_empty()) {
        match line.parse() {
            Ok(address) => found.push(address),
            Err(_) => {
                let file = file.display();
                tracing::warn!(%file, line = number, "no IP address with a port, as in 10.0.0.7:8080");
            }
        }
    }
    found
}

fn list(lists: &mut impl Lists, mut found: Vec<SocketAddr>) {
    found.sort_unstable();
    found.dedup();
    if found.len() > limits::INSTANCES_MAX {
        tracing::warn!(
            upstream = lists.name(),
            found = found.len(),
            "more instances than are used"
        );
        found.truncate(limits::INSTANCES_MAX);
    }
    if found.is_empty() {
        tracing::warn!(
            upstream = lists.name(),
            "no instance was found; those that are known stay"
        );
        return;
    }
    lists.list(&found);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_lists_addresses_and_says_what_is_none() {
        let text = "# nodes\n10.0.0.7:8080\n\n [::1]:1 # here\nnode-7:80\n";
        let found = addresses(text, Path::new("f"));
        let expected = ["10.0.0.7:8080", "[::1]:1"].map(|address| address.parse().unwrap());
        assert_eq!(found, expected);
    }
}
