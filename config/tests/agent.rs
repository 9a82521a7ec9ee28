//! What is wrong with an agent, its jobs and those who call is found before anything starts.

use std::path::Path;

use hansa_config::Config;
use hansa_config::schema::{Discover, Origin};

const AGENT: &str = "[peer]\nsecret_file = \"/s\"\n[agent]\ngateway = \"https://g\"\n";
const JOB: &str = "[[job]]\nnode = \"gpu\"\nconfig = \"/n.toml\"\n";
const NODE: &str = "[[node]]\nname = \"gpu\"\nmodels = [\"m\"]\ndiscover = \"agent\"\n";
const PEER: &str = "[peer]\nsecret_file = \"/s\"\n";

/// The paths of all problems of `text`, in the order of the file.
fn paths(text: &str) -> Vec<String> {
    match Config::parse(text, Path::new("f")) {
        Ok(_) => Vec::new(),
        Err(problems) => problems.list().iter().map(|p| p.path.clone()).collect(),
    }
}

#[test]
fn an_agent_needs_jobs_and_a_way_to_prove_who_it_is() {
    assert_eq!(paths(&format!("{AGENT}{JOB}")), [""; 0]);
    assert_eq!(paths(AGENT), ["agent"]);
    assert_eq!(paths(JOB), ["job"]);
    let alone = "[agent]\ngateway = \"https://g\"\n";
    assert_eq!(paths(&format!("{alone}{JOB}")), ["agent"]);
}

#[test]
fn a_job_has_a_node_a_config_and_time_to_finish() {
    let mut missing = paths(&format!("{AGENT}[[job]]\n"));
    missing.sort();
    assert_eq!(missing, ["job[0].config", "job[0].node"]);
    let short = format!("{AGENT}{JOB}time_limit_s = 60\n");
    assert_eq!(paths(&short), ["job[0].time_limit_s"]);
    assert_eq!(paths(&format!("{short}grace_s = 20\n")), [""; 0]);
    assert_eq!(paths(&format!("{AGENT}{JOB}{JOB}")), ["job[1].node"]);
    let lines = format!("{AGENT}{JOB}options = [\"--mem=1G\\n#SBATCH --uid=0\"]\n");
    assert_eq!(paths(&lines), ["job[0].options"]);
}

#[test]
fn a_node_that_calls_has_no_url_and_proves_who_it_is() {
    assert_eq!(paths(&format!("{NODE}{PEER}")), [""; 0]);
    assert_eq!(paths(NODE), ["node[0].discover"]);
    let twice = NODE.replace("gpu", "other");
    assert_eq!(paths(&format!("{NODE}{twice}{PEER}")), [""; 0]);
    let with_url = NODE.replace("models", "url = \"http://a\"\nmodels");
    assert_eq!(paths(&format!("{with_url}{PEER}")), ["node[0].url"]);
    let foreign = format!("{NODE}kind = \"openai\"\n{PEER}");
    assert_eq!(paths(&foreign), ["node[0].discover"]);
    let model = "[[model]]\nid = \"m\"\n";
    let half = format!("{model}[dial]\ngateway = \"http://g\"\n");
    assert_eq!(paths(&half), ["dial.gateway"]);
    assert_eq!(paths(&format!("{half}node = \"gpu\"\n")), [""; 0]);
}

#[test]
fn ends_are_moments_or_times() {
    let text = "[server]\nends_at = 2027-01-01T00:00:00Z\nends_in_s = 60\n[[model]]\nid = \"m\"\n";
    let config = Config::parse(text, Path::new("f")).expect("a config");
    assert_eq!(config.server.ends_at_s, Some(1_798_761_600));
    assert_eq!(config.server.ends_in_s, Some(60));
    let node = format!("{NODE}ends_at = 2027-01-01\n{PEER}");
    let node = Config::parse(&node, Path::new("f")).expect("a config");
    assert_eq!(node.nodes[0].ends_at_s, Some(1_798_761_600));
    assert_eq!(node.nodes[0].discover, Discover::Agent);
}

#[test]
fn the_example_of_an_agent_loads_and_is_described() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/agent.toml");
    let config = Config::load(&file).unwrap_or_else(|problems| panic!("{problems}"));
    let text = config.describe(&Origin::File("agent.toml".into()));
    for line in [
        "agent: carries jobs to https://gateway.example",
        "  job gpu: 2 at once of 86400 s each, with /home/me/node.toml",
    ] {
        assert!(
            text.lines().any(|drawn| drawn == line),
            "no {line} in\n{text}"
        );
    }
}
