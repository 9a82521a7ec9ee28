//! What a reader finds in the table; the report that other tests write too.

use super::*;
use crate::drive::Outcome;
use crate::drive::prompt::Endpoint;
use crate::drive::verdict::Class;
use crate::report::Run;
use crate::self_check::SelfCheck;
use crate::stats::Stats;

pub(crate) fn report() -> Report {
    let mut stats = Stats {
        good: 3,
        sent: 4,
        ..Stats::default()
    };
    stats
        .failures
        .entry(Class::Truncated)
        .or_default()
        .insert("no [DONE]".to_owned(), 1);
    for latencies in [&mut stats.service, &mut stats.response] {
        latencies.ttft.record(12_345);
    }
    let outcome = Outcome {
        began: 0,
        ended: 2_000_000_000,
        interrupted: true,
        cut_off: 2,
        not_reached: 7,
        abandoned: 0,
    };
    let run = Run {
        url: "http://h/v1/chat/completions".to_owned(),
        model: "m".to_owned(),
        endpoint: Endpoint::Chat,
        load: Load::Open {
            rate: 2.0,
            words: "open loop, Poisson, 2/s".to_owned(),
        },
        workload: "prompts of about 128 words".to_owned(),
        duration_s: Some(30.0),
        requests: None,
        seed: 0,
        timeout_s: 60.0,
        check_sim_tokens: false,
        warmup_requests: 2,
        warmup_good: 1,
    };
    let client = SelfCheck {
        client_bound: true,
        warnings: vec!["requests left late".to_owned()],
        lag_ms: Summary::default(),
        stall_ms: Summary::default(),
        cpu_share: 0.5,
        in_flight_sampled: 1.0,
        in_flight_by_law: 1.0,
    };
    let objectives = ["good > 70%", "ttft < 1s"].map(|text| text.parse().unwrap());
    stats.limits = crate::slo::limits(&objectives);
    let mut report = Report::new(run, 0, &outcome, &stats, client);
    report.judge(&objectives[..1], &stats);
    report
}

#[test]
fn what_the_server_tells_and_what_probes_felt_is_said() {
    let mut report = report();
    let mut sums = crate::extras::Sums::default();
    let told = crate::extras::Extras {
        cached_tokens: Some(5),
        joules: Some(20.0),
        grams: Some(0.5),
        retried: true,
    };
    sums.fold(&told, Some((10, 4)));
    report.extras = sums.report();
    let felt = |ms: u64| {
        let mut stats = Stats {
            good: 1,
            ..Stats::default()
        };
        stats.response.ttft.record(ms * 1_000);
        stats
    };
    report.probe_requests = Some(ProbeReport::new(2.0, &felt(10), &felt(25)));
    report.server = Some(crate::scrape::Scraped {
        url: "http://h/metrics".to_owned(),
        scrapes: 3,
        ..crate::scrape::Scraped::default()
    });
    let mut text = Vec::new();
    write(&report, &mut text).unwrap();
    let text = String::from_utf8(text).unwrap();
    for expected in [
        "cached    5 prompt tokens, 50.0 %",
        "energy    20.0 J, 5.000 J an output token",
        "carbon    0.500 g, 125.000 g for 1,000 output tokens",
        "retried   1 requests",
        "ttft p50 25.0 ms (alone 10.0: 2.5 times)",
        "http://h/metrics: read 3 times",
    ] {
        assert!(
            text.contains(expected),
            "{expected:?} is missing in\n{text}"
        );
    }
}

#[test]
fn a_reader_finds_verdict_latencies_failures_and_warnings() {
    let mut text = Vec::new();
    write(&report(), &mut text).unwrap();
    let text = String::from_utf8(text).unwrap();
    for expected in [
        "3 good of 4 (75.00 %), 1.50/s",
        "2 cut off in flight, 7 not yet due",
        "ttft (response)          1     12.345",
        "tpot                     0          -",
        "truncated               1  no [DONE]",
        "CLIENT-BOUND: requests left late",
        "warm-up: 1 good of 2",
        "slo       met     good > 70%: 0.750",
        "goodput   0.00 % of all requests",
    ] {
        assert!(
            text.contains(expected),
            "{expected:?} is missing in\n{text}"
        );
    }
}
