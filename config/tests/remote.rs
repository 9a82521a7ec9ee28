//! What is wrong with nodes, sites and peers is found before a server starts.

use std::path::Path;

use hansa_config::Config;
use hansa_config::schema::{Discover, Kind};

const NODE: &str = "[[node]]\nname = \"a\"\nurl = \"http://10.0.0.1:80\"\nmodels = [\"m\"]\n";

/// The paths of all problems of `text`, in the order of the file.
fn paths(text: &str) -> Vec<String> {
    match Config::parse(text, Path::new("f")) {
        Ok(_) => Vec::new(),
        Err(problems) => {
            let shown = problems.to_string();
            assert!(!shown.contains("hunter2"), "{shown}");
            problems.list().iter().map(|p| p.path.clone()).collect()
        }
    }
}

#[test]
fn a_node_needs_a_name_a_url_and_models() {
    let missing = ["node[0].models", "node[0].name", "node[0].url"];
    let mut found = paths("[[node]]\n");
    found.sort();
    assert_eq!(found, missing);
    assert_eq!(paths(&NODE.replace("[\"m\"]", "[]")), ["node[0].models"]);
    assert_eq!(
        paths(&NODE.replace("[\"m\"]", "[\"m\", \"m = n\"]")),
        ["node[0].models"]
    );
    assert_eq!(paths(NODE), [""; 0]);
}

#[test]
fn secrets_are_never_repeated() {
    let url = NODE.replace("http://", "http://me:hunter2@");
    assert_eq!(paths(&url), ["node[0].url"]);
    assert_eq!(
        paths(&format!("{NODE}[peer]\nsecret_file = \"hunter2\\u0000\"\n")),
        ["peer.secret_file"]
    );
}

#[test]
fn keys_fit_the_kind() {
    let foreign = format!("{NODE}kind = \"openai\"\nkey_file = \"env:K\"\npass_fields = [\"x\"]\n");
    assert_eq!(paths(&foreign), [""; 0]);
    let ours = foreign.replace("openai", "hansa");
    assert_eq!(paths(&ours), ["node[0].key_file", "node[0].pass_fields"]);
    let site = foreign.replace("[[node]]", "[[site]]");
    assert_eq!(paths(&site), ["site[0].kind"]);
    assert_eq!(
        paths(&format!("{NODE}discover = \"file\"\n")),
        ["node[0].discover"]
    );
    assert_eq!(
        paths(&format!("{NODE}ca_file = \"/ca\"\n")),
        ["node[0].ca_file"]
    );
    assert_eq!(
        paths(&format!("{NODE}country = \"Finland\"\n")),
        ["node[0].country"]
    );
    assert_eq!(
        paths(&format!("{NODE}[peer]\ncert = \"/c\"\n")),
        ["peer.cert"]
    );
}

#[test]
fn a_passed_field_is_known_wherever_the_model_is() {
    let both = format!(
        "{NODE}kind = \"openai\"\npass_fields = [\"x\"]\n{}",
        NODE.replace("\"a\"", "\"b\"")
            .replace("10.0.0.1", "10.0.0.2")
    );
    assert_eq!(paths(&both), ["node[0].pass_fields"]);
    let apart = both.replacen("[\"m\"]", "[\"n\"]", 1);
    assert_eq!(paths(&apart), [""; 0]);
}

#[test]
fn servers_that_call_themselves_or_each_other_twice_are_found() {
    for host in ["127.0.0.1", "localhost", "[::1]"] {
        let text = NODE.replace("10.0.0.1:80", &format!("{host}:8080"));
        assert_eq!(paths(&text), ["node[0].url"], "{host}");
    }
    let twice = format!("{NODE}{}", NODE.replace("node", "site"));
    let mut found = paths(&twice);
    found.sort();
    assert_eq!(found, ["site[0].name", "site[0].url"]);
}

#[test]
fn values_arrive_where_they_belong() {
    let text = "[[node]]\nname = \"gpu\"\nurl = \"https://vllm.example/base/\"\nkind = \"openai\"\ndiscover = \"dns\"\n\
                models = [\"ours = their/Name\", \"same\"]\nexperimental = true\nrtt_ms = 7\ncountry = \"ES\"\n";
    let config = Config::parse(text, Path::new("f")).expect("a config");
    let node = &config.nodes[0];
    assert_eq!((node.kind, node.discover), (Kind::OpenAi, Discover::Dns));
    assert_eq!(node.url, "https://vllm.example/base");
    assert_eq!(
        (node.models[0].ours.as_str(), node.models[0].theirs.as_str()),
        ("ours", "their/Name")
    );
    assert_eq!(
        (node.models[1].ours.as_str(), node.models[1].theirs.as_str()),
        ("same", "same")
    );
    assert_eq!(
        (node.experimental, node.rtt_ms, node.country.as_deref()),
        (true, Some(7), Some("ES"))
    );
}
