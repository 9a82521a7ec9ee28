//! What a workload asks for is what reaches the server: chats that go on, keys of tenants, clients that go away.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use hansa_loadtest::drive::Load;
use hansa_loadtest::drive::arrival::{Arrival, Schedule, Stage, Until};
use hansa_loadtest::drive::verdict::Verdict;
use hansa_loadtest::spread::Spread;
use hansa_loadtest::workload::{Abort, Source, Synthetic, Workload};
use serde_json::Value;

use crate::harness::{Ran, Setup, workload};
use crate::mock::Step::{Close, Pause, Write};
use crate::mock::{self, Mock};

/// A server that keeps the bodies it was sent.
fn recording(answer: Vec<u8>) -> (Mock, Arc<Mutex<Vec<Value>>>) {
    let bodies = Arc::new(Mutex::new(Vec::new()));
    let kept = bodies.clone();
    let mock = Mock::start(move |_, body| {
        kept.lock()
            .unwrap()
            .push(serde_json::from_str(body).unwrap());
        vec![Write(answer.clone())]
    });
    (mock, bodies)
}

fn chats_of(turns: f64) -> Workload {
    let Source::Synthetic(synthetic) = workload().source else {
        unreachable!()
    };
    let turns = Spread::Fixed(turns);
    Workload {
        source: Source::Synthetic(Synthetic { turns, ..synthetic }),
        ..workload()
    }
}

#[test]
fn a_chat_goes_on_with_the_answers_that_came() {
    let (mock, bodies) = recording(mock::good());
    let setup = Setup {
        workload: chats_of(3.0),
        ..Setup::closed(&mock.url, 1, 6)
    };
    let ran = setup.run();
    assert_eq!((ran.good(), ran.outcome.abandoned), (6, 0));
    let bodies = bodies.lock().unwrap();
    let said = |request: usize| bodies[request]["messages"].as_array().unwrap().clone();
    assert_eq!(
        [said(0).len(), said(1).len(), said(2).len(), said(3).len()],
        [1, 3, 5, 1]
    );
    assert_eq!(said(1)[..1], said(0)[..]);
    assert_eq!(said(1)[1]["role"], "assistant");
    assert_eq!(said(1)[1]["content"], "abc");
    assert_eq!(said(2)[..3], said(1)[..]);
    let places: Vec<_> = ran
        .records
        .iter()
        .map(|record| record.labels.place)
        .collect();
    assert_eq!(
        places
            .iter()
            .map(|place| (place.session, place.turn))
            .collect::<Vec<_>>(),
        [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    );
}

#[test]
fn turns_after_a_failed_one_are_counted_and_not_asked() {
    let mock = Mock::start(|n, _| match n {
        1 => vec![Write(mock::plain("500 Oops", "text/plain", ""))],
        _ => vec![Write(mock::good())],
    });
    let ran = Setup {
        workload: chats_of(4.0),
        ..Setup::closed(&mock.url, 1, 4)
    }
    .run();
    assert_eq!((ran.good(), ran.outcome.abandoned), (3, 2));
    assert_eq!(ran.records[2].labels.place.session, 1);
}

#[test]
fn users_think_between_their_requests() {
    let mock = Mock::start(|_, _| vec![Write(mock::good())]);
    let until = Until {
        duration: None,
        requests: Some(4),
    };
    let think = Some(Spread::Fixed(0.03));
    let load = Load::Closed {
        users: 2,
        until,
        think,
    };
    let ran = Setup {
        load,
        ..Setup::closed(&mock.url, 1, 1)
    }
    .run();
    assert_eq!(ran.good(), 4);
    let mut due: Vec<u64> = ran
        .records
        .iter()
        .map(|record| record.stamps.intended)
        .collect();
    due.sort_unstable();
    for (later, earlier) in due[2..].iter().zip(&due[..2]) {
        assert!(later - earlier >= 30_000_000, "{due:?}");
    }
    assert!(
        ran.records
            .iter()
            .all(|record| record.stamps.sent >= Some(record.stamps.intended))
    );
}

/// Users who all go away after two content events.
fn impatient(mock: &Mock, users: usize, requests: u64) -> Ran {
    let abort = Some(Abort {
        share: 1.0,
        after: Spread::Fixed(2.0),
    });
    let setup = Setup {
        workload: Workload {
            abort,
            ..workload()
        },
        ..Setup::closed(&mock.url, users, requests)
    };
    setup.run()
}

#[test]
fn clients_that_go_away_are_neither_good_nor_failed() {
    let mut steps = vec![Write(mock::stream_head())];
    steps.extend(["a", "b"].map(|word| Write(mock::event(&mock::content(word)))));
    // Whoever does not go away waits for ever.
    steps.push(Pause(Duration::from_secs(600)));
    let mock = Mock::start(move |_, _| steps.clone());
    let ran = impatient(&mock, 2, 8);
    assert_eq!(
        (ran.records.len(), ran.good(), ran.failures()),
        (8, 0, vec![])
    );
    for record in &ran.records {
        assert_eq!(record.verdict, Verdict::Aborted);
        assert!(record.gaps_us.len() == 1 && record.stamps.terminal.is_none());
    }
    assert_eq!(
        mock.accepted(),
        8,
        "a connection given up is not used again"
    );
}

#[test]
fn a_failure_before_the_client_goes_away_is_a_failure() {
    let mock = Mock::start(|_, _| {
        let word = mock::event(&mock::content("a"));
        vec![Write(mock::stream_head()), Write(word), Close]
    });
    let ran = impatient(&mock, 1, 3);
    assert_eq!(ran.failures(), ["truncated: connection lost mid-stream"]);
}

#[test]
fn stages_and_sites_are_told_apart() {
    let mock = Mock::start(|n, _| {
        let site = format!("\r\nx-hansa-site: {}\r\n", ["lumi", "bsc"][n % 2]);
        let answer = String::from_utf8(mock::good()).unwrap();
        vec![Write(answer.replacen("\r\n", &site, 1).into_bytes())]
    });
    let stage = |name: &str, rate: f64| Stage {
        name: name.into(),
        duration: Some(Duration::from_millis(100)),
        rate,
        rate_end: rate,
    };
    let stages = [stage("low", 20.0), stage("high", 60.0)];
    let schedule = Schedule::staged(Arrival::Constant, &stages, None, 1).unwrap();
    let load = Load::Open(Arc::new(schedule));
    let ran = Setup {
        load,
        ..Setup::open(&mock.url, 1.0, 1)
    }
    .run();
    let count = |name: &str| {
        let of = |record: &&hansa_loadtest::drive::record::Record| {
            record.labels.stage.as_deref() == Some(name)
        };
        ran.records.iter().filter(of).count()
    };
    assert_eq!((ran.good(), count("low"), count("high")), (8, 2, 6));
    let sites: std::collections::BTreeSet<_> = ran
        .records
        .iter()
        .filter_map(|record| record.labels.site.clone())
        .collect();
    assert_eq!(sites.len(), 2);
}
