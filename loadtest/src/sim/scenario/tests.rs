//! Simulation scenarios: what they read as, and what is wrong with one, all at once.

use super::*;

fn parse(text: &str) -> Result<Plan, String> {
    super::parse(Path::new("s.toml"), text).map_err(|problems| problems.to_string())
}

const SMALL: &str = r#"
[run]
duration = "10m"
[load]
kind = "poisson"
utilisation = 0.5
[[machine]]
name = "m"
step_us = 10000
prefill_token_us = 50
[[site]]
name = "a"
machine = "m"
lat = 60
lon = 20
nodes = 7
"#;

#[test]
fn what_is_not_said_has_a_default_and_the_rate_follows_from_the_capacity() {
    let plan = parse(SMALL).unwrap();
    assert_eq!(plan.policies.len(), 3);
    assert_eq!((plan.gateways.len(), plan.nodes()), (1, 7));
    assert_eq!(plan.network.status_period, 100_000_000);
    let Arriving::Poisson { rate } = plan.arriving else {
        panic!("{:?}", plan.arriving)
    };
    assert!((rate / plan.capacity() - 0.5).abs() < 1e-9, "{rate}");
}

#[test]
fn thinning_takes_nodes_and_requests_alike() {
    let text = SMALL
        .replace("[run]", "[run]\nthinning = 3")
        .replace("utilisation = 0.5", "rate = 12");
    let plan = parse(&text).unwrap();
    assert_eq!((plan.nodes(), plan.words.rate), (3, 4.0));
}

#[test]
fn every_problem_is_named_with_its_line() {
    let text = r#"
[run]
policies = ["cost", "best"]
[load]
kind = "daily"
swing = 2
[[machine]]
name = "m"
step_us = -1
[[site]]
name = "a"
machine = "n"
lat = 91
lon = 0
contry = "FI"
[[tenant]]
name = "t"
allocations = ["b = 5"]
[[outage]]
site = "c"
at = "1m"
"#;
    let problems = parse(text).unwrap_err();
    let lines = [
        "s.toml:3: run: no policy \"best\"",
        "s.toml:4: [load]: needs either a rate or a utilisation",
        "s.toml:6: load.swing: expected a number from 0 to 1",
        "s.toml:7: [machine[0]]: needs prefill_token_us",
        "s.toml:9: machine[0].step_us: expected a number from 0",
        "s.toml:12: site[0].machine: no machine \"n\"; there are m",
        "s.toml:13: site[0].lat: expected a number from -90 to 90",
        "s.toml:15: site[0].contry: unknown key; did you mean \"country\"?",
        "s.toml:18: tenant[0]: expected \"SITE = TOKENS\"",
        "s.toml:20: outage[0].site: no site \"c\"",
        "s.toml:19: [outage[0]]: needs at and lasts",
        "[run] needs a duration",
    ];
    for line in lines {
        assert!(problems.contains(line), "{line} is not in\n{problems}");
    }
}

const RECORDED: &str = r#"
[trace]
file = "a.csv"
format = "azure"
"#;

/// A scenario beside a recorded load of `requests`, one a second.
fn recorded(scenario: &str, requests: u32) -> Result<Plan, String> {
    let folder = tempfile::tempdir().unwrap();
    let line = |n: u32| format!("2024-05-10 00:{:02}:{:02}.000000,100,10\n", n / 60, n % 60);
    let lines: String = (0..requests).map(line).collect();
    let head = "TIMESTAMP,ContextTokens,GeneratedTokens\n";
    std::fs::write(folder.path().join("a.csv"), head.to_owned() + &lines).unwrap();
    let read = super::parse(&folder.path().join("s.toml"), scenario);
    read.map_err(|problems| problems.to_string())
}

#[test]
fn thinning_takes_requests_of_a_recorded_load_too() {
    let kind = "kind = \"trace\"\n".to_owned() + RECORDED;
    let text = SMALL.replace("kind = \"poisson\"\nutilisation = 0.5", &kind);
    let entries = |text: &str| match recorded(text, 2_000).unwrap().arriving {
        Arriving::Recorded(trace) => trace.entries().len(),
        other => panic!("{other:?}"),
    };
    assert_eq!(entries(&text), 2_000);
    let thinned = entries(&text.replace("[run]", "[run]\nthinning = 4"));
    assert!((440..=560).contains(&thinned), "{thinned}");
    let nothing = recorded(&text.replace("[run]", "[run]\nthinning = 1000000"), 5);
    let problem = "run.thinning leaves nothing of the recorded load";
    assert!(nothing.unwrap_err().ends_with(problem));
}

#[test]
fn a_recorded_load_is_used_or_refused_but_never_ignored() {
    let ignored = recorded(&(SMALL.to_owned() + RECORDED), 5).unwrap_err();
    assert!(
        ignored.contains("trace: needs load.kind = \"trace\""),
        "{ignored}"
    );
    let stray = SMALL.replace("utilisation = 0.5", "utilisation = 0.5\nswing = 0.2");
    let stray = parse(&stray).unwrap_err();
    assert_eq!(stray, "s.toml:7: load.swing: needs kind = \"daily\"");
    let kind = "kind = \"trace\"\n[prefix]\ntokens = 256\n".to_owned() + RECORDED;
    let text = SMALL.replace("kind = \"poisson\"\nutilisation = 0.5", &kind);
    let own = recorded(&text, 5).unwrap_err();
    assert!(
        own.contains("prefix: a recorded load brings its own"),
        "{own}"
    );
}

#[test]
fn what_is_wrong_in_a_recorded_load_is_told_beside_what_is_wrong_in_the_scenario() {
    let folder = tempfile::tempdir().unwrap();
    let lines = "TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-10 00:00:00,1,1\nyesterday,1,1\n";
    std::fs::write(folder.path().join("a.csv"), lines).unwrap();
    let text = SMALL.replace("nodes = 7", "nodes = 0") + RECORDED;
    let problems = super::parse(&folder.path().join("s.toml"), &text).unwrap_err();
    let problems = problems.to_string();
    for line in [
        "s.toml:16: site[0].nodes",
        "a.csv:3: TIMESTAMP \"yesterday\"",
    ] {
        assert!(problems.contains(line), "{line} is not in\n{problems}");
    }
}
