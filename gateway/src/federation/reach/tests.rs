//! Servers that tell each other, in any graph: figures settle, nothing counts twice, and what dies is gone everywhere soon.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::federation::status::aged;

/// Sequences that every server with capacity runs: a number that halves and thirds.
const EACH: u32 = 5_040;

/// A server, and what it last heard of those that it asks.
struct Server {
    id: ServerId,
    able: bool,
    asks: Vec<usize>,
    heard: Vec<Vec<Part>>,
}

impl Server {
    /// All that it reaches.
    fn reached(&self) -> Vec<Part> {
        let own = self.able.then(|| Part::here(ready(EACH)));
        own.into_iter()
            .chain(self.heard.iter().flatten().cloned())
            .collect()
    }

    fn told(&self) -> Vec<Part> {
        told(self.reached(), self.asks.is_empty())
    }
}

fn ready(running: u32) -> UpstreamStatus {
    UpstreamStatus {
        readiness: Readiness::Ready,
        running,
        ..UpstreamStatus::default()
    }
}

/// A graph of servers: each has capacity or not, and asks those of its list.
fn servers(graph: &[(bool, Vec<usize>)]) -> Vec<Server> {
    let count = graph.len();
    let server = |(place, (able, asks)): (usize, &(bool, Vec<usize>))| {
        let asks: BTreeSet<usize> = asks.iter().map(|to| to % count).collect();
        let asks: Vec<usize> = asks.into_iter().filter(|to| *to != place).collect();
        Server {
            id: ServerId::draw(),
            able: *able,
            heard: vec![Vec::new(); asks.len()],
            asks,
        }
    };
    graph.iter().enumerate().map(server).collect()
}

/// Everybody hears once of everybody that it asks, in some order; of `dead` nobody hears any more.
fn round(all: &mut [Server], order: &[usize], dead: Option<usize>) {
    for place in order.iter().copied() {
        let me = all[place].id;
        for (way, to) in all[place].asks.clone().into_iter().enumerate() {
            let parts = if Some(to) == dead {
                let lost = |part: Part| Part {
                    status: aged(part.status, limits::STATUS_LOST, true),
                    ..part
                };
                let before = std::mem::take(&mut all[place].heard[way]);
                before.into_iter().map(lost).collect()
            } else {
                let teller = all[to].id;
                let told = all[to].told().into_iter();
                told.filter_map(|part| part.heard(teller, me)).collect()
            };
            all[place].heard[way] = parts;
        }
    }
}

/// The servers with capacity by how many hops a request from `from` is passed on until it is there.
fn distances(all: &[Server], from: usize, dead: Option<usize>) -> Vec<Option<u8>> {
    let mut found = vec![None; all.len()];
    found[from] = Some(0);
    let mut next = vec![from];
    for hops in 1..=limits::HOPS_MAX + 1 {
        let asked = next.iter().flat_map(|place| all[*place].asks.clone());
        let new: BTreeSet<usize> = asked
            .filter(|to| found[*to].is_none() && Some(*to) != dead)
            .collect();
        new.iter().for_each(|to| found[*to] = Some(hops));
        next = new.into_iter().collect();
    }
    found
}

/// Nothing twice, all that requests may reach, and nothing else: what a server behind its own leaves has lies one hop
/// farther than the rest of what it tells.
fn check(all: &[Server], dead: Option<usize>) -> Result<(), TestCaseError> {
    for (place, server) in all.iter().enumerate().filter(|(at, _)| Some(*at) != dead) {
        let distances = distances(all, place, dead);
        let counted: Vec<Part> = disjoint(server.reached())
            .into_iter()
            .filter(Part::is_ready)
            .collect();
        let mut ids: Vec<ServerId> = counted.iter().flat_map(|part| part.of.clone()).collect();
        ids.extend(server.able.then_some(server.id));
        let whole = sum(server.reached());
        prop_assert_eq!(whole.readiness == Readiness::Ready, !ids.is_empty());
        // Where nobody takes requests, those stand for it who may again.
        let running = if ids.is_empty() { 0 } else { whole.running };
        prop_assert_eq!(running, EACH * ids.len() as u32, "the figures of {}", place);
        let set: BTreeSet<ServerId> = ids.iter().copied().collect();
        prop_assert_eq!(set.len(), ids.len(), "counted twice at {}", place);
        for (other, hops) in all.iter().zip(distances) {
            let counts = set.contains(&other.id);
            let near = other.able && hops.is_some_and(|hops| hops <= limits::HOPS_MAX);
            prop_assert!(
                counts || !near,
                "{:?} hops from {} and not counted",
                hops,
                place
            );
            prop_assert!(!counts || hops.is_some(), "{} counts what is gone", place);
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn whoever_asks_whom_figures_settle_and_what_dies_is_gone_soon(
        graph in prop::collection::vec((prop::bool::weighted(0.7), prop::collection::vec(0_usize..9, 0..4)), 2..9),
        orders in prop::collection::vec(Just((0..9).collect::<Vec<usize>>()).prop_shuffle(), 16),
        dies in 0_usize..9,
    ) {
        let mut all = servers(&graph);
        let orders: Vec<Vec<usize>> = orders
            .into_iter()
            .map(|order| order.into_iter().filter(|at| *at < graph.len()).collect())
            .collect();
        // As many rounds as requests have hops, and one in which the last one reads.
        let rounds = usize::from(limits::HOPS_MAX) + 2;
        for order in orders.iter().cycle().take(rounds) {
            round(&mut all, order, None);
        }
        check(&all, None)?;
        let settled: Vec<Vec<Part>> = all.iter().map(Server::told).collect();
        round(&mut all, &orders[7], None);
        prop_assert_eq!(&settled, &all.iter().map(Server::told).collect::<Vec<_>>());
        let dead = Some(dies % graph.len());
        for order in orders.iter().skip(8).take(rounds) {
            round(&mut all, order, dead);
        }
        check(&all, dead)?;
    }
}

/// Each is the others' peer.
fn triangle() -> Vec<Server> {
    let mut all = servers(&[(true, vec![1, 2]), (true, vec![0, 2]), (true, vec![0, 1])]);
    (0..50).for_each(|_| round(&mut all, &[0, 1, 2], None));
    all
}

#[test]
fn in_a_triangle_each_counts_each_once() {
    for server in triangle() {
        assert_eq!(sum(server.reached()).running, 3 * EACH);
    }
}

/// What we sent to one must not look like others' requests at the next.
#[test]
fn a_candidate_stands_by_what_it_alone_reaches() {
    let all = triangle();
    let whole = sum(all[0].heard[0].iter().cloned());
    assert_eq!((whole.running, whole.beyond), (2 * EACH, true));
    for status in ways(all[0].heard.clone()) {
        assert_eq!((status.running, status.detour), (EACH, false));
    }
}

#[test]
fn who_only_passes_on_what_others_reach_is_a_detour_until_they_do_not() {
    // The second gateway has nothing of its own, and asks the third, whom the first asks too.
    let mut all = servers(&[
        (false, vec![1, 2]),
        (false, vec![2, 3]),
        (true, vec![3]),
        (false, vec![]),
    ]);
    (0..5).for_each(|_| round(&mut all, &[3, 2, 1, 0], None));
    let seen = ways(all[0].heard.clone());
    assert_eq!((seen[0].detour, seen[1].detour), (true, false));
    assert_eq!((seen[0].running, seen[1].running), (EACH, EACH));
    // Its own link to the third breaks.
    all[0].heard[1].clear();
    let seen = ways(all[0].heard.clone());
    assert_eq!(
        (seen[0].detour, seen[0].readiness.clone()),
        (false, Readiness::Ready)
    );
}

#[test]
fn two_gateways_of_one_site_count_once_and_both_are_ways() {
    let nodes = [
        (false, vec![1, 2]),
        (false, vec![3, 4]),
        (false, vec![3, 4]),
        (true, vec![]),
        (true, vec![]),
    ];
    let mut all = servers(&nodes);
    (0..5).for_each(|_| round(&mut all, &[3, 4, 1, 2, 0], None));
    assert_eq!(sum(all[0].reached()).running, 2 * EACH);
    let seen = ways(all[0].heard.clone());
    assert!(
        seen.iter()
            .all(|way| way.running == 2 * EACH && !way.detour)
    );
}

#[test]
fn a_model_of_a_peers_peer_is_found() {
    let mut all = servers(&[(false, vec![1]), (false, vec![2, 0]), (true, vec![1])]);
    (0..5).for_each(|_| round(&mut all, &[0, 1, 2], None));
    assert_eq!(ways(all[0].heard.clone())[0].readiness, Readiness::Ready);
    // And is gone when it is: nobody hears of it from those whom he told.
    (0..2).for_each(|_| round(&mut all, &[0, 1, 2], Some(2)));
    let gone = ways(all[0].heard.clone());
    assert_eq!(gone[0].readiness, Readiness::Stalled);
    assert!(gone[0].unheard, "whom one may still try");
}

#[test]
fn a_way_is_no_longer_than_a_request_may_go() {
    let id = ServerId::draw;
    let part = Part {
        hops: limits::HOPS_MAX,
        ..Part::here(ready(1))
    };
    assert_eq!(part.heard(id(), id()), None);
    let long = Part {
        path: (0..limits::HOPS_MAX).map(|_| id()).collect(),
        ..Part::here(ready(1))
    };
    assert_eq!(long.heard(id(), id()), None);
    let me = id();
    let mine = Part {
        path: vec![me, id()],
        ..Part::here(ready(1))
    };
    assert_eq!(mine.heard(id(), me), None);
    let age = Duration::from_secs(1);
    let (fresh, old) = (
        Part::here(ready(1)),
        Part {
            hops: 1,
            ..Part::here(aged(ready(2), age, true))
        },
    );
    assert_eq!(disjoint([old, fresh.clone()])[0], fresh);
}
