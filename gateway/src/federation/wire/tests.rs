//! What is believed of a report, and what is not.

use super::*;

fn read(json: &str) -> ModelReport {
    serde_json::from_str(json).unwrap()
}

#[test]
fn honest_figures_arrive_as_they_left() {
    let status = UpstreamStatus {
        readiness: Readiness::Ready,
        running: 3,
        kv_tokens_total: 100,
        kv_tokens_free: 40,
        prefill_tokens_per_s: 12.5,
        walltime_left: Some(Duration::from_secs(60)),
        numerics: vec!["d".to_owned()],
        joules_per_token: Some(0.5),
        sequence: 7,
        least_wait: Duration::from_millis(20),
        ..UpstreamStatus::default()
    };
    let own = Part::here(status.clone());
    let far = Part {
        path: vec![ServerId::draw()],
        of: vec![ServerId::draw(), ServerId::draw()],
        hops: 1,
        leaf: false,
        status,
    };
    let parts = vec![own, far];
    let json = serde_json::to_string(&ModelReport::of("m", &parts)).unwrap();
    assert_eq!(read(&json).believed(7), (parts, Vec::new()));
}

#[test]
fn impossible_figures_are_cut_and_named() {
    for (json, name) in [
        (
            r#"{"id":"m","kv_tokens_total":5,"kv_tokens_free":6}"#,
            "kv_tokens_free",
        ),
        (r#"{"id":"m","running":4000000000}"#, "running"),
        (r#"{"id":"m","waiting":-1}"#, "waiting"),
        (r#"{"id":"m","queued_tokens":1e300}"#, "queued_tokens"),
        (r#"{"id":"m","kv_tokens_total":1e15}"#, "kv_tokens_total"),
        (
            r#"{"id":"m","prefill_tokens_per_s":-1}"#,
            "prefill_tokens_per_s",
        ),
        (
            r#"{"id":"m","decode_tokens_per_s":1e300}"#,
            "decode_tokens_per_s",
        ),
        (r#"{"id":"m","age_ms":18446744073709551615}"#, "age_ms"),
        (r#"{"id":"m","joules_per_token":-3.5}"#, "joules_per_token"),
        (r#"{"id":"m","beyond":[{"running":-7}]}"#, "running"),
    ] {
        let (parts, impossible) = read(json).believed(1);
        assert_eq!(impossible, [name], "{json}");
        for Part { status, .. } in parts {
            assert!(status.kv_tokens_free <= status.kv_tokens_total);
            assert!(status.decode_tokens_per_s.is_finite());
        }
    }
}

/// A lie must not make anyone look idle, able or cheap.
#[test]
fn who_claims_what_cannot_be_gains_nothing() {
    let json = r#"{"id":"m","state":"ready","running":-1,"waiting":-1,"waiting_prefill_tokens":-1,
        "queued_tokens":-1,"least_wait_ms":-1,"kv_tokens_total":-1,"kv_tokens_free":9e99,
        "prefill_tokens_per_s":9e99,"decode_tokens_per_s":-0.1,"joules_per_token":-1.0}"#;
    let (parts, impossible) = read(json).believed(1);
    let status = &parts[0].status;
    assert_eq!(impossible.len(), 10, "{impossible:?}");
    assert_eq!(status.waiting, limits::STATUS_COUNT_MAX);
    assert_eq!(status.waiting_prefill_tokens, TOKENS_MAX);
    assert_eq!((status.kv_tokens_total, status.kv_tokens_free), (0, 0));
    assert!(status.prefill_tokens_per_s.abs() < f64::EPSILON);
    assert_eq!(status.joules_per_token, None);
}

#[test]
fn a_report_that_is_none_is_refused_by_the_name_of_its_field() {
    for (json, field) in [
        (
            r#"{"sequence":1,"models":[{"id":"m","prefill_tokens_per_s":NaN}]}"#,
            "'prefill_tokens_per_s'",
        ),
        (
            r#"{"sequence":1,"models":[{"id":"m","running":1e999}]}"#,
            "'running'",
        ),
        (
            r#"{"sequence":1,"models":[{"id":"m","waiting":"many"}]}"#,
            "'waiting'",
        ),
    ] {
        let why = Report::read(json.as_bytes()).unwrap_err();
        assert!(why.starts_with(field), "{why}");
    }
    let hostile = Report::read(b"{\"a\nb\":NaN").unwrap_err();
    assert!(!hostile.contains('\n'), "{hostile}");
}

#[test]
fn a_newer_version_may_say_more_and_an_older_one_less() {
    let json = br#"{"sequence":1,"models":[{"id":"m","state":"ready","new":1}],"x":2}"#;
    let report = Report::read(json).unwrap();
    assert_eq!(report.server, None);
    let (parts, _) = report.models[0].clone().believed(1);
    assert_eq!(parts[0].status.readiness, Readiness::Ready);
    let (teller, me) = (ServerId::draw(), ServerId::draw());
    let heard = parts[0].clone().heard(teller, me).unwrap();
    assert_eq!((heard.of, heard.hops), (vec![teller], 1));
}
