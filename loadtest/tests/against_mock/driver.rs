//! The driver in process: whatever the server does, the verdict names it, and no time is lost.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hansa_loadtest::clock::Clock;
use hansa_loadtest::drive::Load;
use hansa_loadtest::drive::arrival::Until;
use hansa_loadtest::drive::record::View;

use crate::harness::{Ran, Setup};
use crate::mock::Step::{Close, Pause, Write};
use crate::mock::{self, Mock, Step};

/// Three requests of one user, all answered by the same steps.
fn answered_by(steps: &[Step]) -> Ran {
    let steps = steps.to_vec();
    let mock = Mock::start(move |_, _| steps.clone());
    let ran = Setup::closed(&mock.url, 1, 3).run();
    assert_eq!(ran.records.len(), 3, "every request has a record");
    ran
}

/// What all three were judged, none of them good.
fn failure_of(steps: &[Step]) -> String {
    let ran = answered_by(steps);
    assert_eq!(ran.good(), 0);
    ran.failures().join(" | ")
}

fn events(change: impl FnOnce(&mut Vec<String>)) -> Vec<Step> {
    let mut events = mock::good_events(&["a", "b", "c"]);
    change(&mut events);
    vec![Write(mock::stream(&events))]
}

#[test]
fn a_good_answer_is_good_and_its_times_are_those_of_the_server() {
    let mut steps = vec![Pause(Duration::from_millis(20)), Write(mock::stream_head())];
    for data in mock::good_events(&["a", "b", "c"]) {
        steps.extend([Write(mock::event(&data)), Pause(Duration::from_millis(10))]);
    }
    steps.push(Write(mock::stream_end()));
    let ran = answered_by(&steps);
    assert_eq!((ran.good(), ran.failures()), (3, vec![]));
    for record in &ran.records {
        assert!(record.ttft_us(View::Service) >= Some(20_000), "{record:?}");
        assert!(record.e2e_us(View::Service) >= Some(60_000), "{record:?}");
        assert_eq!(record.gaps_us.len(), 2);
        let spread = u64::from(record.gaps_us.iter().sum::<u32>());
        assert!(record.tpot_us().unwrap().abs_diff(spread / 2) <= 1);
        let stamps = record.stamps;
        let order = [
            Some(stamps.intended),
            stamps.sent,
            stamps.connected,
            stamps.headers,
            stamps.first_byte,
            stamps.first_content,
            stamps.last_content,
            stamps.terminal,
            Some(stamps.end),
        ];
        assert!(order.is_sorted() && !order.contains(&None), "{order:?}");
    }
}

#[test]
fn streams_that_do_not_end_properly_are_truncated() {
    let cut = |keep: usize| {
        let events = mock::good_events(&["a", "b", "c"]);
        let mut bytes = mock::stream_head();
        events[..keep]
            .iter()
            .for_each(|data| bytes.extend(mock::event(data)));
        bytes
    };
    let lost = failure_of(&[Write(cut(2)), Close]);
    assert_eq!(lost, "truncated: connection lost mid-stream");
    let no_done = events(|events| drop(events.pop()));
    assert_eq!(failure_of(&no_done), "truncated: no [DONE]");
    let no_finish = events(|events| drop(events.remove(3)));
    assert_eq!(failure_of(&no_finish), "truncated: no finish_reason");
    let after_done = failure_of(&[Write(cut(6)), Close]);
    assert_eq!(
        after_done, "truncated: connection lost mid-stream",
        "the body has no end"
    );
}

#[test]
fn no_cut_of_a_good_answer_is_good() {
    let whole = mock::good();
    let cuts: Vec<usize> = (0..whole.len()).step_by(5).collect();
    let requests = cuts.len() as u64;
    let mock = Mock::start(move |n, _| vec![Write(whole[..cuts[n]].to_vec()), Close]);
    let ran = Setup::closed(&mock.url, 1, requests).run();
    assert_eq!((ran.records.len() as u64, ran.good()), (requests, 0));
}

#[test]
fn an_answer_in_any_pieces_is_good() {
    let whole = mock::good();
    let mock = Mock::start(move |n, _| {
        whole
            .chunks(n + 1)
            .map(|piece| Write(piece.to_vec()))
            .collect()
    });
    let ran = Setup::closed(&mock.url, 1, 9).run();
    assert_eq!((ran.good(), ran.failures()), (9, vec![]));
    assert!(ran.records.iter().all(|record| record.gaps_us.len() == 2));
}

#[test]
fn errors_inside_a_stream_are_failures_with_the_servers_code() {
    let error = r#"{"error":{"message":"x","type":"server_error","code":"overloaded"}}"#;
    let with_error = events(|events| events[1] = error.to_owned());
    assert_eq!(failure_of(&with_error), "stream_error: overloaded");
    let mut bytes = mock::stream_head();
    bytes.extend(mock::event(error));
    assert_eq!(
        failure_of(&[Write(bytes), Close]),
        "stream_error: overloaded"
    );
}

#[test]
fn what_is_no_stream_of_chunks_is_malformed() {
    let nonsense = events(|events| events[1] = "{\"choices\": [".to_owned());
    assert_eq!(
        failure_of(&nonsense),
        "malformed_sse: an event that is no completion chunk"
    );
    let json = Write(mock::plain("200 OK", "application/json", "{}"));
    assert_eq!(
        failure_of(&[json]),
        "malformed_sse: content-type is not text/event-stream"
    );
    let mut endless = mock::stream_head();
    (0..40).for_each(|_| endless.extend(mock::chunk(&[b'x'; 1 << 15])));
    assert_eq!(
        failure_of(&[Write(endless)]),
        "malformed_sse: a line or event beyond its bound"
    );
}

#[test]
fn statuses_have_classes_and_connections_survive_them() {
    let failure = |status| {
        let body = r#"{"error":{"message":"x","code":"some_code"}}"#;
        failure_of(&[Write(mock::plain(status, "application/json", body))])
    };
    assert_eq!(failure("429 Too Many Requests"), "http_429: 429 some_code");
    assert_eq!(failure("404 Not Found"), "http_4xx: 404 some_code");
    assert_eq!(
        failure("503 Service Unavailable"),
        "http_5xx: 503 some_code"
    );
    assert_eq!(failure("302 Found"), "http_other: 302 some_code");
    let mock = Mock::start(|_, _| vec![Write(mock::plain("500 Oops", "text/plain", "no"))]);
    let ran = Setup::closed(&mock.url, 1, 5).run();
    assert_eq!(
        (ran.failures(), mock.accepted()),
        (vec!["http_5xx: 500".to_owned()], 1)
    );
}

#[test]
fn servers_that_do_not_answer_are_named() {
    assert_eq!(failure_of(&[Close]), "no_answer: closed before an answer");
    let garbage = Write(b"\x16\x03\x01 this is no HTTP\r\n\r\n".to_vec());
    assert_eq!(
        failure_of(&[garbage, Close]),
        "no_answer: not an HTTP answer"
    );
    let address = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let refused = Setup::closed(&format!("http://{address}"), 1, 3).run();
    assert_eq!(refused.failures(), ["connect: connection refused"]);
}

#[test]
fn an_idle_connection_that_the_server_gives_up_is_replaced() {
    let whole = mock::stream(&mock::good_events(&["a", "b", "c"]));
    let mock = Mock::start(move |n, _| match n {
        1 => vec![Close],
        _ => vec![Write(whole.clone())],
    });
    let ran = Setup::closed(&mock.url, 1, 3).run();
    assert_eq!((ran.good(), ran.failures()), (3, vec![]));
    assert_eq!(mock.accepted(), 2);
}

#[test]
fn time_limits_say_what_was_waited_for() {
    let failures = |steps: Vec<Step>| {
        let mock = Mock::start(move |_, _| steps.clone());
        let timeout = Duration::from_millis(60);
        Setup {
            timeout,
            ..Setup::closed(&mock.url, 1, 1)
        }
        .run()
        .failures()
        .join(" | ")
    };
    let hang = || Pause(Duration::from_secs(60));
    assert_eq!(
        failures(vec![hang()]),
        "timeout: before the response headers"
    );
    let head = || Write(mock::stream_head());
    assert_eq!(
        failures(vec![head(), hang()]),
        "timeout: before the first content"
    );
    let word = Write(mock::event(&mock::content("a")));
    assert_eq!(failures(vec![head(), word, hang()]), "timeout: mid-stream");
    let mut open = mock::good();
    open.truncate(open.len() - mock::stream_end().len());
    assert_eq!(
        failures(vec![Write(open), hang()]),
        "timeout: after [DONE], stream left open"
    );
}

#[test]
fn another_model_or_wrong_counts_are_failures() {
    let renamed = events(|events| events[0] = events[0].replace("mock", "other"));
    assert_eq!(failure_of(&renamed), "wrong_model: another model answered");
    let uncounted = events(|events| drop(events.remove(4)));
    assert_eq!(
        failure_of(&uncounted),
        "token_mismatch: no usage, though asked for"
    );
    let too_few = events(|events| events[4] = mock::usage(2));
    assert_eq!(
        failure_of(&too_few),
        "token_mismatch: more content events than tokens"
    );
    let too_many = events(|events| events[4] = mock::usage(17));
    assert_eq!(
        failure_of(&too_many),
        "token_mismatch: more tokens than asked for"
    );
    let silent = events(|events| drop(events.drain(..3)));
    assert_eq!(failure_of(&silent), "empty: no content");
}

#[test]
fn connections_are_kept_and_closed_ones_are_replaced() {
    let mock = Mock::start(|_, _| vec![Write(mock::good())]);
    assert_eq!(Setup::closed(&mock.url, 1, 20).run().good(), 20);
    assert_eq!(mock.accepted(), 1);
    let users = Setup::closed(&mock.url, 4, 40).run();
    assert_eq!(users.good(), 40);
    assert!(mock.accepted() <= 1 + 4);

    // The answer announces the close, as a server does that is about to restart.
    let closing = String::from_utf8(mock::good()).unwrap();
    let closing = closing
        .replacen("\r\n", "\r\nconnection: close\r\n", 1)
        .into_bytes();
    let mock = Mock::start(move |_, _| vec![Write(closing.clone()), Close]);
    assert_eq!(Setup::closed(&mock.url, 1, 5).run().good(), 5);
    assert_eq!(mock.accepted(), 5);
}

/// A server that answers at once, but nothing in a window of 300 ms that begins 200 ms after its first request.
fn stalling(clock: Clock, window_end: Arc<AtomicU64>) -> Mock {
    const MS: u64 = 1_000_000;
    let began = OnceLock::new();
    Mock::start(move |_, _| {
        let now = clock.now();
        let start = began.get_or_init(|| now) + 200 * MS;
        let end = start + 300 * MS;
        window_end.store(end, Ordering::SeqCst);
        // A millisecond more: the timer of the server must not wake early.
        let wait = if (start..end).contains(&now) {
            end - now + MS
        } else {
            0
        };
        vec![Pause(Duration::from_nanos(wait)), Write(mock::good())]
    })
}

#[test]
fn an_open_loop_shows_a_stall_to_every_request_due_in_it() {
    let clock = Clock::start();
    let end = Arc::new(AtomicU64::new(0));
    let mock = stalling(clock, end.clone());
    let ran = Setup {
        clock,
        ..Setup::open(&mock.url, 200.0, 200)
    }
    .run();
    let end = end.load(Ordering::SeqCst);
    let start = end - 300_000_000;
    assert_eq!((ran.good(), ran.failures()), (200, vec![]));
    let due: Vec<_> = ran
        .records
        .iter()
        .filter(|record| (start..end).contains(&record.stamps.intended))
        .collect();
    assert!(
        (59..=61).contains(&due.len()),
        "300 ms at 200/s are 60 requests: {}",
        due.len()
    );
    for record in due {
        let left_us = (end - record.stamps.intended) / 1_000;
        let felt = record.ttft_us(View::Response).unwrap();
        assert!(
            felt >= left_us,
            "felt {felt} us of a stall with {left_us} us left"
        );
    }
}

#[test]
fn a_closed_loop_hides_the_same_stall() {
    let clock = Clock::start();
    let mock = stalling(clock, Arc::default());
    let until = Until {
        duration: Some(Duration::from_millis(800)),
        requests: None,
    };
    let load = Load::Closed {
        users: 1,
        until,
        think: None,
    };
    let ran = Setup {
        clock,
        load,
        ..Setup::closed(&mock.url, 1, 1)
    }
    .run();
    let slow = ran
        .records
        .iter()
        .filter(|record| record.ttft_us(View::Service) > Some(150_000));
    assert!(
        slow.count() <= 2,
        "one user meets a stall once; two leaves room for a busy machine"
    );
}

#[test]
fn what_cannot_be_sent_in_time_is_a_failure_and_never_dropped() {
    // A stopped clock is not at hand, so the time limit is shorter than any client can be.
    let mock = Mock::start(|_, _| vec![Write(mock::good())]);
    let timeout = Duration::from_nanos(1);
    let ran = Setup {
        timeout,
        ..Setup::open(&mock.url, 10_000.0, 50)
    }
    .run();
    assert_eq!((ran.records.len(), ran.outcome.not_reached), (50, 0));
    assert_eq!(
        ran.failures(),
        ["not_sent: its time ran out before it could be sent"]
    );
    assert!(
        ran.records
            .iter()
            .all(|record| record.stamps.sent.is_none())
    );
}

#[test]
fn lost_and_doubled_tokens_of_a_simulated_model_are_found() {
    let answer = |body: &str, pick: fn(&[String]) -> Vec<&str>| {
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        let seed = body["seed"].as_u64().unwrap();
        let tokens: Vec<String> = (0..4).map(|index| sim_token(seed, index)).collect();
        mock::stream(&mock::good_events(&pick(&tokens)))
    };
    let run = |pick: fn(&[String]) -> Vec<&str>| {
        let mock = Mock::start(move |_, body| vec![Write(answer(body, pick))]);
        Setup {
            check_sim_tokens: true,
            ..Setup::closed(&mock.url, 1, 2)
        }
        .run()
    };
    assert_eq!(run(|t| vec![&t[0], &t[1], &t[2]]).good(), 2);
    let found = ["token_mismatch: text is not what its seed leads to"];
    assert_eq!(run(|t| vec![&t[0], &t[2], &t[3]]).failures(), found, "lost");
    assert_eq!(
        run(|t| vec![&t[0], &t[0], &t[1]]).failures(),
        found,
        "doubled"
    );
    assert_eq!(
        run(|t| vec![&t[1], &t[0], &t[2]]).failures(),
        found,
        "reordered"
    );
}

/// The published formula once more, written the plain way.
fn sim_token(seed: u64, index: u64) -> String {
    fn s(x: u64) -> u64 {
        let z = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    format!("{:016x} ", s(s(s(seed)).wrapping_add(index)))
}
