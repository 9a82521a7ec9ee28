//! Requests that ask for more than text: vectors, JSON, tool calls; and users that come and go.

use std::sync::Arc;
use std::time::Duration;

use hansa_loadtest::drive::Load;
use hansa_loadtest::drive::arrival::Until;
use hansa_loadtest::drive::crowd::{Crowd, Part};
use hansa_loadtest::drive::prompt::Endpoint;
use hansa_loadtest::drive::record::View;
use hansa_loadtest::workload::Workload;
use hansa_loadtest::workload::form::Form;
use hansa_loadtest::workload::mix::Mix;

use crate::harness::{Setup, workload};
use crate::mock::Step::{Pause, Write};
use crate::mock::{self, Mock};

fn vectors(body: &str) -> Vec<u8> {
    mock::plain("200 OK", "application/json", body)
}

#[test]
fn vectors_are_judged_as_vectors() {
    let good = r#"{"model":"mock","data":[{"index":0,"embedding":[0.5]}],"usage":{"prompt_tokens":4,"total_tokens":4}}"#;
    let mock = Mock::start(move |n, body| {
        let asked: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(asked["input"].as_array().map(Vec::len), Some(1));
        let answer = if n == 2 {
            vectors(&good.replace("0.5", ""))
        } else {
            vectors(good)
        };
        vec![Pause(Duration::from_millis(5)), Write(answer)]
    });
    let ran = Setup {
        workload: Workload {
            endpoint: Endpoint::Embeddings,
            ..workload()
        },
        ..Setup::closed(&mock.url, 1, 4)
    }
    .run();
    assert_eq!(ran.good(), 3);
    assert_eq!(
        ran.failures(),
        ["empty: vectors that are empty or of different lengths"]
    );
    let record = &ran.records[0];
    assert!(record.e2e_us(View::Service) >= Some(5_000) && record.ttft_us(View::Service).is_none());
    assert_eq!(record.usage.map(|usage| usage.prompt_tokens), Some(4));
    assert_eq!(mock.accepted(), 1);
}

#[test]
fn answers_without_their_form_are_failures() {
    let tool = r#"{"model":"mock","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"c","function":
        {"name":"weather","arguments":"{\"city\":\"Riga\"}"}}]}}]}"#
        .replace('\n', "");
    let stop = mock::finish().replace("length", "stop");
    let mock = Mock::start(move |_, body| {
        let asked: serde_json::Value = serde_json::from_str(body).unwrap();
        let is_tools = asked["tools"].is_array();
        assert_eq!(is_tools, asked["tool_choice"] == "required");
        let content = if is_tools {
            tool.clone()
        } else {
            mock::content("no JSON")
        };
        let events = [content, stop.clone(), mock::usage(1), "[DONE]".to_owned()];
        vec![Write(mock::stream(&events))]
    });
    let tools = serde_json::json!([{"type": "function", "function": {"name": "weather"}}]);
    let of = |form: Form| {
        let workload = Workload {
            forms: Mix::one(Arc::new(form)),
            ..workload()
        };
        Setup {
            workload,
            ..Setup::closed(&mock.url, 1, 3)
        }
        .run()
    };
    let called = of(Form::tools("calls".into(), &tools, "required").unwrap());
    assert_eq!((called.good(), called.failures()), (3, vec![]));
    assert_eq!(called.records[0].labels.form.as_deref(), Some("calls"));
    let json = of(Form::json("json".into()));
    assert_eq!(json.failures(), ["wrong_form: the text is no JSON"]);
}

#[test]
fn json_that_does_not_keep_its_schema_is_a_failure_of_its_own() {
    let stop = mock::finish().replace("length", "stop");
    let mock = Mock::start(move |n, body| {
        let asked: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(asked["response_format"]["type"], "json_schema");
        let key = if n == 1 { "b" } else { "a" };
        let content = mock::content(&format!(r#"{{\"{key}\":1}}"#));
        let events = [content, stop.clone(), mock::usage(1), "[DONE]".to_owned()];
        vec![Write(mock::stream(&events))]
    });
    let schema = serde_json::json!({"type": "object", "required": ["a"]});
    let workload = Workload {
        forms: Mix::one(Arc::new(Form::schema("s".into(), &schema).unwrap())),
        ..workload()
    };
    let ran = Setup {
        workload,
        ..Setup::closed(&mock.url, 1, 3)
    }
    .run();
    assert_eq!(ran.good(), 2);
    assert_eq!(
        ran.failures(),
        ["schema_mismatch: the text does not keep its schema"]
    );
}

#[test]
fn users_come_and_go_with_their_stages() {
    let mock = Mock::start(|_, _| vec![Pause(Duration::from_millis(10)), Write(mock::good())]);
    let part = |name: &str, users, users_end| Part {
        name: name.into(),
        duration: Duration::from_millis(200),
        users,
        users_end,
    };
    let crowd = Crowd::staged(vec![
        part("up", 0, 4),
        part("hold", 4, 4),
        part("none", 0, 0),
        part("one", 1, 1),
    ]);
    let until = Until {
        duration: Some(crowd.duration()),
        requests: None,
    };
    let load = Load::Staged {
        crowd: Arc::new(crowd),
        until,
        think: None,
    };
    let ran = Setup {
        load,
        ..Setup::closed(&mock.url, 1, 1)
    }
    .run();
    assert_eq!((ran.good(), ran.failures()), (ran.records.len(), vec![]));
    for stage in ["up", "hold", "one"] {
        let of = |record: &&hansa_loadtest::drive::record::Record| {
            record.labels.stage.as_deref() == Some(stage)
        };
        assert!(
            ran.records.iter().filter(of).count() > 0,
            "nothing was asked in {stage}"
        );
    }
    // Never are there more users than the crowd's most: requests that had begun and were not over.
    for record in &ran.records {
        let at = record.stamps.intended;
        let busy = ran
            .records
            .iter()
            .filter(|other| other.stamps.intended <= at && at < other.stamps.end);
        assert!(busy.count() <= 4);
    }
    let held = ran
        .records
        .iter()
        .filter(|record| record.labels.stage.as_deref() == Some("none"));
    assert_eq!(held.count(), 0, "nobody is there");
}
