//! Scenario files: what they read as, and what is wrong with one, all at once.

use std::fs;
use std::path::PathBuf;

use super::*;
use crate::workload::Place;

fn parse(text: &str) -> Result<Scenario, String> {
    let env = |name: &str| (name == "KEY_B").then(|| "sk-b".to_owned());
    Scenario::parse(Path::new("s.toml"), text, &env).map_err(|problems| problems.to_string())
}

const WHOLE: &str = r#"
[target]
url = "http://127.0.0.1:8080"

[run]
seed = 7
requests = 900
warmup = 5
timeout = "20s"
ignore_eos = true

[load]
kind = "gamma"
shape = 0.5

[[stage]]
name = "ramp"
duration = "10s"
rate = 0
rate_end = 40

[[stage]]
duration = "20s"
rate = 40

[prompt]
tokens = { dist = "lognormal", mean = 200, sd = 150, max = 900 }
[output]
tokens = { dist = "uniform", min = 10, max = 20 }
[prefix]
tokens = 64
share = 0.5
count = 3

[[model]]
name = "a"
weight = 3
[[model]]
name = "b"

[[tenant]]
name = "gold"
key = "sk-a"
[[tenant]]
name = "free"
key_env = "KEY_B"
weight = 4

[[priority]]
value = -1

[abort]
share = 0.1
after_events = { dist = "uniform", min = 1, max = 5 }

[slo]
objectives = ["ttft.p99 < 500ms", "tpot < 50ms", "goodput > 95%"]
"#;

#[test]
fn a_whole_scenario_becomes_a_load() {
    let scenario = parse(WHOLE).unwrap();
    assert_eq!(
        scenario.load_words,
        "open loop, gamma of shape 0.5, 2 stages"
    );
    let Load::Open(schedule) = &scenario.load else {
        panic!("{:?}", scenario.load)
    };
    assert_eq!(schedule.due().len(), 900);
    assert_eq!(schedule.stage(0).map(|name| &**name), Some("ramp"));
    assert_eq!(schedule.stage(899).map(|name| &**name), Some("stage 2"));
    assert_eq!(
        (scenario.warmup, scenario.timeout),
        (5, Duration::from_secs(20))
    );
    assert_eq!(scenario.objectives.len(), 3);
    let workload = &scenario.workload;
    assert_eq!(
        workload.tenant_shares(),
        [("gold".into(), 0.2), ("free".into(), 0.8)]
    );
    let keys = workload
        .tenants
        .items()
        .iter()
        .map(|tenant| tenant.authorization.clone().unwrap());
    assert_eq!(keys.collect::<Vec<_>>(), ["Bearer sk-a", "Bearer sk-b"]);
    let place = Place {
        session: 4,
        turn: 0,
    };
    let item = workload.item(place, workload.begin(4));
    assert!((10..=20).contains(&item.ask.output_tokens) && item.ask.ignore_eos);
    assert_eq!(item.ask.priority, Some(-1));
}

#[test]
fn a_closed_loop_has_users_who_think_and_chat() {
    let scenario = parse(
        "[run]\nduration = \"1m\"\n[load]\nkind = \"closed\"\nusers = 4\nthink = { dist = \"exponential\", mean = \"2s\" }\n\
         [session]\nturns = { dist = \"uniform\", min = 1, max = 4 }\n[[model]]\nname = \"m\"\n",
    )
    .unwrap();
    let Load::Closed { users, think, .. } = &scenario.load else {
        panic!("{:?}", scenario.load)
    };
    assert_eq!(
        (*users, *think),
        (4, Some(Spread::Exponential { mean: 2.0 }))
    );
    let turns: Vec<u32> = (0..200)
        .map(|session| scenario.workload.turns(session))
        .collect();
    assert!((1..=4).all(|count| turns.contains(&count)));
}

#[test]
fn all_problems_are_told_at_once_with_their_lines() {
    let problems = parse(
        "[load]\nkind = \"poisson\"\nusers = 3\nrat = 5\n[prompt]\ntokens = { dist = \"normal\", mean = 5 }\n\
         [[model]]\nname = 5\n[[tenant]]\nname = \"t\"\nkey_env = \"NO_SUCH\"\n[slo]\nobjectives = [\"ttft.p99 < 5\"]\n\
         [session]\nturns = 0\n[surprise]\n[[form]]\nkind = \"shape\"\n[abort]\nshare = 2\n",
    )
    .unwrap_err();
    for expected in [
        "s.toml:3: load.users: needs kind = \"closed\"",
        "s.toml:4: load.rat: unknown key; did you mean \"rate\"?",
        "an open loop needs a rate or [[stage]]",
        "s.toml:6: [prompt.tokens]: sd is missing",
        "s.toml:8: model[0].name: expected a text in quotes, not this integer",
        "s.toml:11: tenant[0].key_env: the environment has no \"NO_SUCH\"",
        "s.toml:13: slo: \"ttft.p99 < 5\" is no objective",
        "s.toml:15: session.turns: expected a number from 1 to 1000",
        "surprise: unknown key",
        "s.toml:18: form[0].kind: expected one of",
        "s.toml:20: abort.share: expected a number from 0 to 1",
        "needs a [[model]] with a name",
    ] {
        assert!(
            problems.contains(expected),
            "{expected:?} is missing in\n{problems}"
        );
    }
}

#[test]
fn what_does_not_go_together_is_refused() {
    let base = "[[model]]\nname = \"m\"\n";
    let problem = |text: &str| parse(&format!("{base}{text}")).unwrap_err();
    assert!(problem("").contains("needs a kind"));
    assert!(problem("[load]\nkind = \"constant\"\nrate = 1\n").contains("needs a duration"));
    let turns =
        "[run]\nrequests = 5\n[load]\nkind = \"constant\"\nrate = 1\n[session]\nturns = 2\n";
    assert!(problem(turns).contains("turns need a closed loop"));
    assert!(problem("[load]\nkind = \"trace\"\n").contains("needs a [trace]"));
    let staged = "[run]\nduration = \"5s\"\n[load]\nkind = \"poisson\"\n[[stage]]\nduration = \"1s\"\nrate = 1\n";
    assert!(problem(staged).contains("remove run.duration"));
    assert!(problem("[load]\nkind = \"closed\"\n").contains("a closed loop needs users"));
    let missing = "[load]\nkind = \"trace\"\n[trace]\nfile = \"/no/such\"\nformat = \"azure\"\n";
    assert!(problem(missing).contains("/no/such: cannot be read"));
}

#[test]
fn after_a_syntax_error_nothing_is_guessed() {
    let problems = parse("[load\nkind = 5\n[nonsense]\n").unwrap_err();
    assert!(problems.starts_with("s.toml:1: syntax: "), "{problems}");
    assert!(!problems.contains("unknown key"), "{problems}");
}

#[test]
fn a_recorded_load_is_played_at_its_times() {
    let folder = tempfile::tempdir().unwrap();
    let trace = "{\"timestamp\": 1000, \"input_length\": 600, \"output_length\": 5, \"hash_ids\": [1, 2]}\n\
        {\"timestamp\": 3000, \"input_length\": 512, \"output_length\": 6, \"hash_ids\": [1]}\n";
    std::fs::write(folder.path().join("t.jsonl"), trace).unwrap();
    let file = folder.path().join("s.toml");
    let text = "[load]\nkind = \"trace\"\n[trace]\nfile = \"t.jsonl\"\nformat = \"mooncake\"\ntime_scale = 0.5\n[[model]]\nname = \"m\"\n";
    let scenario = Scenario::parse(&file, text, &|_| None).unwrap();
    let Load::Open(schedule) = &scenario.load else {
        panic!("{:?}", scenario.load)
    };
    assert_eq!(schedule.due(), [0, 1_000_000_000]);
    let item = |index| {
        scenario
            .workload
            .item(scenario.workload.place(index), Vec::new())
    };
    assert_eq!(item(1).ask.output_tokens, 6);
    let (long, short) = (item(0).ask.messages, item(1).ask.messages);
    assert!(
        long[0].content.starts_with(&*short[0].content),
        "the first block is shared"
    );
    let doubled = format!("{text}[prompt]\ntokens = 5\n");
    let refused = Scenario::parse(&file, &doubled, &|_| None).unwrap_err();
    assert!(
        refused
            .to_string()
            .contains(":9: prompt: a recorded load brings its own"),
        "{refused}"
    );
}

#[test]
fn the_scenarios_that_come_along_are_good() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    for name in ["mixed", "chats", "recorded"] {
        let read = Scenario::load(&folder.join(name).with_extension("toml"), &|_| None);
        assert!(read.is_ok(), "{}", read.unwrap_err());
    }
}

#[test]
fn users_may_come_and_go_by_stages() {
    let text = "[run]\nrequests = 50\n[load]\nkind = \"closed\"\n[[stage]]\nname = \"ramp\"\nduration = \"10s\"\nusers = 0\nusers_end = 8\n\
         [[stage]]\nduration = \"20s\"\nusers = 8\n[[model]]\nname = \"m\"\n";
    let scenario = parse(text).unwrap();
    assert_eq!(
        scenario.load_words,
        "closed loop, 2 stages of up to 8 users"
    );
    let Load::Staged { crowd, until, .. } = &scenario.load else {
        panic!("{:?}", scenario.load)
    };
    assert_eq!(until.duration, Some(Duration::from_secs(30)));
    assert_eq!(
        (
            crowd.users_at(5_000_000_000),
            crowd.users_at(25_000_000_000)
        ),
        (4, 8)
    );
    let wrong = text
        .replace("kind = \"closed\"", "kind = \"closed\"\nusers = 3")
        .replace("users = 8\n", "rate = 8\n");
    let problems = parse(&wrong).unwrap_err();
    for expected in [
        "users: needs no [[stage]]",
        "needs a duration and users",
        "rate: unknown key",
    ] {
        assert!(
            problems.contains(expected),
            "{expected:?} is missing in\n{problems}"
        );
    }
}

#[test]
fn forms_vectors_metrics_and_probes_are_read() {
    let text = "[run]\nduration = \"1m\"\n[load]\nkind = \"closed\"\nusers = 1\n[[model]]\nname = \"m\"\n\
         [[form]]\nkind = \"text\"\nweight = 2\n[[form]]\nkind = \"schema\"\n[[form]]\nkind = \"tools\"\nname = \"calls\"\nchoice = \"required\"\n\
         [metrics]\nurl = \"http://h:9900\"\nevery = \"2s\"\n[probe_requests]\nrate = 0.5\n";
    let scenario = parse(text).unwrap();
    let names: Vec<&str> = scenario
        .workload
        .forms
        .items()
        .iter()
        .map(|form| &*form.name)
        .collect();
    assert_eq!(names, ["text", "schema", "calls"]);
    assert_eq!(scenario.workload.forms.shares(), [0.5, 0.25, 0.25]);
    assert_eq!(
        scenario.metrics.unwrap().target.url(),
        "http://h:9900/metrics"
    );
    assert_eq!(scenario.probe_rate, Some(0.5));
    let vectors = text.replace(
        "[run]",
        "[target]\nendpoint = \"embeddings\"\n[prompt]\ntexts = 4\n[run]",
    );
    let problems = parse(&vectors).unwrap_err();
    for expected in [
        "form: needs endpoint = \"chat\"",
        "probe_requests: needs an endpoint that streams",
    ] {
        assert!(
            problems.contains(expected),
            "{expected:?} is missing in\n{problems}"
        );
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("s.json");
    fs::write(&file, r#"{"type": "wrong"}"#).unwrap();
    let named = format!("kind = \"schema\"\nfile = {file:?}");
    let problems = parse(&text.replace("kind = \"schema\"", &named)).unwrap_err();
    assert!(problems.contains("file: is no JSON schema"), "{problems}");
    let wrong = text
        .replace(
            "kind = \"schema\"",
            "kind = \"json\"\nfile = \"x.json\"\nchoice = \"auto\"",
        )
        .replace("rate = 0.5", "rate = 1000");
    let problems = parse(&wrong).unwrap_err();
    for expected in [
        "choice: needs kind = \"tools\"",
        "file: needs kind",
        "probe_requests.rate: expected a number",
    ] {
        assert!(
            problems.contains(expected),
            "{expected:?} is missing in\n{problems}"
        );
    }
}

#[test]
fn the_examples_are_scenarios() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let files = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let scenarios: Vec<PathBuf> = files
        .filter(|path| path.extension().is_some_and(|end| end == "toml"))
        .collect();
    assert!(scenarios.len() >= 4);
    for path in scenarios {
        let read = Scenario::load(&path, &|_| Some("key".to_owned()));
        assert!(read.is_ok(), "{}", read.unwrap_err());
    }
}
