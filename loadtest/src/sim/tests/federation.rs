//! Many sites: the same seed gives the same bytes, nothing is lost whatever goes away, and the bars of routing.

use super::*;

/// Three sites, with everything that can go wrong.
const TROUBLED: &str = r#"
[run]
seed = 4
duration = "4m"
warmup = "10s"
policies = ["cost", "least_load"]
[load]
kind = "daily"
utilisation = 0.6
[prefix]
tokens = 1024
share = 0.5
count = 20
[output]
max_tokens = 400
[[machine]]
name = "m"
step_us = 10000
prefill_token_us = 60
context_token_us = 0.00006
sequence_us = 80
kv_tokens = 40000
sequences_max = 32
queue_max = 40
joules_per_token = 0.5
[[site]]
name = "north"
country = "FI"
machine = "m"
lat = 64
lon = 27
nodes = 4
grams_per_kwh = 80
[[site]]
name = "west"
country = "ES"
machine = "m"
lat = 41
lon = 2
nodes = 3
walltime = "70s"
walltime_pause = "20s"
grams_per_kwh = 170
grams_swing = 0.4
[[site]]
name = "middle"
country = "DE"
machine = "m"
lat = 51
lon = 6
nodes = 5
pue = 1.2
[[tenant]]
name = "bound"
weight = 1
tokens_per_minute = 200_000
allocations = ["middle = 100_000"]
[[tenant]]
name = "nordic"
weight = 1
countries = ["FI"]
[[tenant]]
name = "other"
weight = 3
[[outage]]
site = "middle"
at = "2m"
lasts = "30s"
"#;

#[test]
fn one_seed_gives_the_same_bytes_and_another_one_others() {
    let bytes = |seed: u64| {
        let plan = Plan {
            seed,
            duration: 60_000_000_000,
            ..plan(TROUBLED)
        };
        serde_json::to_string(&run(&plan)).unwrap()
    };
    assert_eq!(bytes(1), bytes(1));
    assert_ne!(bytes(1), bytes(2));
}

#[test]
fn nothing_is_lost_when_jobs_end_and_a_site_goes_away() {
    // The books are looked at during the run and at its end; here is what they must show.
    for policy in run(&plan(TROUBLED)).policies {
        let failed: u64 = policy.failed.values().sum();
        assert_eq!(policy.arrived, policy.done + failed, "{}", policy.policy);
        assert!(policy.resumed > 0, "{}", policy.policy);
        let (bound, nordic, other) = (policy.tenants[0], policy.tenants[1], policy.tenants[2]);
        assert!(
            policy.failed.contains_key("rate of the tenant"),
            "{:?}",
            policy.failed
        );
        assert!(bound.1 > 0 && nordic.0 > 0);
        // Whoever has no bounds loses nothing by an outage of a site.
        assert!(other.1 * 50 < other.0, "{other:?}");
    }
}

#[test]
fn residency_holds_under_everything() {
    let text = TROUBLED.replace("name = \"other\"", "name = \"other\"\ncountries = [\"FI\"]");
    let text = text.replace("name = \"bound\"", "name = \"bound\"\ncountries = [\"FI\"]");
    for policy in run(&plan(&text)).policies {
        assert_eq!((policy.sites[1].done, policy.sites[2].done), (0, 0));
        assert!(policy.sites[0].done > 0);
    }
}

#[test]
fn carbon_moves_requests_where_it_is_worth_something() {
    let calm = TROUBLED.split("[[tenant]]").next().unwrap();
    let of = |more: &str| {
        let mut plan = plan(&format!("{calm}{more}"));
        plan.policies.truncate(1);
        plan.arriving = crate::sim::load::Arriving::Poisson { rate: 4.0 };
        only(&plan)
    };
    let (blind, green) = (of(""), of("[route]\ncarbon_ms_per_gram = 100000\n"));
    let per_request = |policy: &PolicyReport| policy.grams / policy.done as f64;
    assert!(
        per_request(&green) < 0.9 * per_request(&blind),
        "{} {}",
        green.grams,
        blind.grams
    );
}

#[test]
fn a_report_is_a_page_with_a_map_for_each_policy() {
    let mut plan = plan(TROUBLED);
    plan.duration = 30_000_000_000;
    plan.sites[0].name = "<north>".into();
    let report = run(&plan);
    let page = crate::sim::page::html(&report);
    assert_eq!(page.matches("<figure>").count(), 2);
    assert!(page.contains("&lt;north&gt;") && !page.contains("<north>"));
    assert!(!page.contains("http://") && !page.contains("https://") && !page.contains("<script"));
    assert!(!page.contains("NaN"), "{page}");
    let text = report.text();
    assert!(
        text.contains("least_load") && text.contains("middle"),
        "{text}"
    );
}

/// The example of 19 factories with two engines each, for less than half a minute.
fn europe(more: impl Fn(String) -> String) -> Report {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/scenarios/sim/europe.toml");
    let text = std::fs::read_to_string(file).unwrap();
    let text = text
        .replace("duration = \"2m\"", "duration = \"25s\"\nthinning = 50")
        .replace("warmup = \"30s\"", "warmup = \"10s\"");
    run(&plan(&more(text)))
}

#[test]
fn at_80_percent_routing_by_cost_beats_turns_and_load_by_30_percent() {
    let report = europe(|text| text);
    let p95 = |policy: usize| report.policies[policy].ttft_ms.p95;
    let (cost, others) = (p95(0), p95(1).min(p95(2)));
    assert!(cost < 0.7 * others, "{}", report.text());
}

#[test]
fn status_two_seconds_old_makes_no_herds_and_still_beats_all_others() {
    let fresh = europe(|text| {
        let all = "\"cost\", \"round_robin\", \"least_load\"";
        text.replace(all, "\"cost\"")
    });
    let report = europe(|text| {
        text.replace("status_period = \"100ms\"", "status_period = \"2s\"")
            .replace(
                "\"cost\", \"round_robin\", \"least_load\"",
                "\"cost\", \"round_robin\", \"least_load\", \"weighted\"",
            )
    });
    let [cost, turns, load, chance] = report.policies.as_slice() else {
        panic!("{}", report.text())
    };
    let p95 = |policy: &PolicyReport| policy.ttft_ms.p95;
    let others = p95(turns).min(p95(load)).min(p95(chance));
    assert!(p95(cost) < 0.7 * others, "{}", report.text());
    let by_fresh = p95(&fresh.policies[0]);
    assert!(p95(cost) < 1.5 * by_fresh, "{by_fresh} {}", report.text());
    assert!(cost.herding.peak_over_mean < 2.0, "{}", report.text());
    let uneven = |policy: &PolicyReport| {
        let sites = policy.sites.iter().map(|site| site.herding.dispersion);
        sites.fold(0.0, f64::max)
    };
    assert!(uneven(cost) < 4.0, "{}", report.text());
    // Who draws blindly sends no herds, and that is what the measure says.
    assert!(chance.herding.peak_over_mean < 2.0, "{}", report.text());
    assert!(uneven(chance) < 3.0);
}

#[test]
fn the_day_can_be_simulated() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/scenarios/sim/day.toml");
    let plan = super::scenario::load(Path::new(file)).unwrap_or_else(|p| panic!("{p}"));
    let plan = Plan {
        requests_max: 500,
        ..plan
    };
    assert_eq!(plan.nodes(), 19);
    let report = run(&plan);
    assert!(report.policies.iter().all(|policy| policy.arrived == 500));
}
