//! A federation on loopback: a gateway, its sites, their nodes, each a process, and a fault proxy on every way between two.

use anyhow::{Context, Result};
use hansa_loadtest::faults::{Proxy, ProxyOptions};
use tempfile::TempDir;

use crate::server::Server;

/// What the processes of one federation know each other by.
const SECRET: &str = "the-secret-of-this-federation";

/// A running federation.
#[derive(Debug)]
pub struct Federation {
    /// Where clients ask.
    pub gateway: Server,
    /// Its sites.
    pub sites: Vec<Site>,
    _folder: TempDir,
}

/// A site of it.
#[derive(Debug)]
pub struct Site {
    /// `a`, `b` and so on.
    pub name: String,
    /// Its own gateway.
    pub gateway: Server,
    /// Between the federation's gateway and its own.
    pub wire: Proxy,
    /// Its nodes.
    pub nodes: Vec<Node>,
}

/// A node of a site.
#[derive(Debug)]
pub struct Node {
    /// The process.
    pub server: Server,
    /// Between the site's gateway and it.
    pub wire: Proxy,
}

/// How a federation is made. All nodes simulate the model `sim`.
#[derive(Debug, Clone)]
pub struct Shape {
    /// A site in each of these countries.
    pub countries: Vec<&'static str>,
    /// Nodes of each site.
    pub nodes: usize,
    /// Time of a step, in microseconds.
    pub step_us: u32,
    /// Sequences that a node runs at once.
    pub sequences_max: u32,
    /// Sequences that wait in a node.
    pub queue_max: u32,
    /// A text whose way to the sites is watched.
    pub marker: &'static str,
    /// Further lines of every `[[site]]` of the federation's gateway.
    pub site_lines: &'static str,
    /// How often a stream of the federation's gateway may go on elsewhere.
    pub resumes_max: u32,
}

impl Default for Shape {
    /// Three sites of two nodes, each of which makes 200 tokens a second: 2 sequences, 10 ms a step.
    fn default() -> Self {
        Self {
            countries: vec!["FI", "DE", "IT"],
            nodes: 2,
            step_us: 10_000,
            sequences_max: 2,
            queue_max: 256,
            marker: "",
            site_lines: "",
            resumes_max: 2,
        }
    }
}

impl Federation {
    /// Starts all processes, from the nodes outwards, and waits until each is ready.
    ///
    /// # Errors
    /// Where one does not start; the error holds its log.
    pub async fn start(shape: &Shape) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let secret = folder.path().join("secret");
        std::fs::write(&secret, SECRET)?;
        let peer = format!("[peer]\nsecret_file = \"{}\"\n", secret.display());
        let (mut sites, mut sections) = (Vec::new(), String::new());
        for (name, country) in ["a", "b", "c", "d", "e"].into_iter().zip(&shape.countries) {
            let site = Site::start(shape, name, country, &peer).await?;
            let url = format!("http://{}", site.wire.address());
            sections += &format!(
                "[[site]]\nname = \"{name}\"\nurl = \"{url}\"\nmodels = [\"sim\"]\ncountry = \"{country}\"\n{}\n",
                shape.site_lines
            );
            sites.push(site);
        }
        let resumes = format!("[route]\nresumes_max = {}\n", shape.resumes_max);
        let config = format!("[server]\ngrace_ms = 1000\n{peer}{resumes}{sections}");
        let gateway = Server::with_config(&config).await?;
        Ok(Self {
            gateway,
            sites,
            _folder: folder,
        })
    }

    /// The secret of its peers, for a client that speaks as one.
    #[must_use]
    pub const fn secret() -> &'static str {
        SECRET
    }

    /// Base URL for clients.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.gateway.address)
    }

    /// Requests that the gateway has sent to a site.
    ///
    /// # Errors
    /// Where its metrics cannot be read.
    pub async fn sent_to(&self, site: &str) -> Result<f64> {
        let sent = self
            .gateway
            .metric_with("hansa_routed_total", &format!("site=\"{site}"))
            .await;
        // Before the first one there is no such sample.
        Ok(sent.unwrap_or(0.0))
    }
}

impl Site {
    async fn start(shape: &Shape, name: &str, country: &str, peer: &str) -> Result<Self> {
        let place = format!("[route]\nhome_site = \"{name}\"\nhome_country = \"{country}\"\n");
        let (mut nodes, mut sections) = (Vec::new(), String::new());
        for number in 1..=shape.nodes {
            let config = format!("[server]\ngrace_ms = 1000\n{peer}{place}{}", model(shape));
            let server = Server::with_config(&config).await.context("a node")?;
            let wire = wire(&server, shape).await?;
            let url = format!("http://{}", wire.address());
            sections += &format!(
                "[[node]]\nname = \"{name}-{number}\"\nurl = \"{url}\"\nmodels = [\"sim\"]\n"
            );
            nodes.push(Node { server, wire });
        }
        let config = format!("[server]\ngrace_ms = 1000\n{peer}{place}{sections}");
        let gateway = Server::with_config(&config)
            .await
            .context("a site's gateway")?;
        let wire = wire(&gateway, shape).await?;
        Ok(Self {
            name: name.to_owned(),
            gateway,
            wire,
            nodes,
        })
    }

    /// Kills all of its processes at once.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn kill(&mut self) -> Result<()> {
        self.gateway.kill()?;
        self.nodes
            .iter_mut()
            .try_for_each(|node| node.server.kill())
    }
}

async fn wire(server: &Server, shape: &Shape) -> Result<Proxy> {
    let options = ProxyOptions::to(server.address).watching_for(shape.marker);
    Ok(Proxy::start(options).await?)
}

fn model(shape: &Shape) -> String {
    format!(
        "[[model]]\nid = \"sim\"\nrunner = \"sim\"\nsequences_max = {}\nqueue_max = {}\n\
         [model.sim]\nstep_base_us = {}\nprefill_token_us = 0\ndecode_sequence_us = 0\n",
        shape.sequences_max, shape.queue_max, shape.step_us
    )
}
