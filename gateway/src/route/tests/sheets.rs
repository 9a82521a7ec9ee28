//! What decisions read is what candidates are, whatever happens to them.

use proptest::prelude::*;

use super::super::sheet::{Sheet, are_alike};
use super::super::{End, Served, Ticket};
use super::*;

/// One thing that happens to the router.
#[derive(Debug, Clone)]
enum Step {
    Add(usize),
    Remove(usize),
    Observe(usize, u32),
    Place,
    First(usize),
    End(usize, usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (0..24_usize).prop_map(Step::Add),
        1 => (0..12_usize).prop_map(Step::Remove),
        3 => (0..12_usize, 0..40_u32).prop_map(|(who, busy)| Step::Observe(who, busy)),
        4 => Just(Step::Place),
        2 => (0..8_usize).prop_map(Step::First),
        2 => (0..8_usize, 0..4_usize).prop_map(|(which, how)| Step::End(which, how)),
    ]
}

/// Of two models, three sites and four nodes each; the nodes of a site mostly differ in nothing that rules look at.
fn facts(which: usize) -> Facts {
    let site = ["a", "b", "c"][which / 4 % 3];
    Facts {
        country: (site != "b").then(|| "FI".into()),
        experimental: which == 5,
        weight: which as u32,
        ..Facts::new(&format!("u{which}"), site, "", ["m", "n"][which / 12])
    }
}

fn figures(busy: u32, sequence: u64) -> Figures {
    Figures {
        sequence,
        running: busy,
        waiting: busy / 3,
        queued_tokens: u64::from(busy) * 100,
        decode_tokens_per_s: f64::from(busy),
        silent: busy == 7,
        ..idle()
    }
}

fn end(how: usize) -> End {
    match how {
        0 => End::Failed,
        1 => End::Overloaded(None),
        2 => End::Left,
        _ => End::Done(Served {
            output_tokens: 50.0,
            tpot_s: Some(0.02),
            ..Served::default()
        }),
    }
}

/// Whether every model's sheets are those of its candidates, in their order.
fn assert_true(router: &Router) -> Result<(), TestCaseError> {
    for (place, model) in router.models.iter().enumerate() {
        prop_assert_eq!(model.sheets.len(), model.candidates.len());
        let mut before: Option<&Facts> = None;
        for (row, (id, sheet)) in model.candidates.iter().zip(&model.sheets).enumerate() {
            let candidate = &router.candidates[id.index()];
            prop_assert_eq!((candidate.row.model, candidate.row.row), (place, row));
            let alike = before.is_some_and(|before| are_alike(before, &candidate.facts));
            prop_assert_eq!(sheet, &Sheet::of(candidate, alike));
            before = Some(&candidate.facts);
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn sheets_are_those_of_the_candidates(steps in prop::collection::vec(step(), 1..120)) {
        let mut router = Router::new(Options::default(), 3);
        let (mut ids, mut open): (Vec<CandidateId>, Vec<Ticket>) = (Vec::new(), Vec::new());
        let mut now = Duration::ZERO;
        for step in steps {
            now += ms(300);
            match step {
                Step::Add(which) => ids.extend(router.add(facts(which), now)),
                Step::Remove(which) if which < ids.len() => router.remove(ids.swap_remove(which)),
                Step::Observe(who, busy) if who < ids.len() => {
                    router.observe(ids[who], figures(busy, now.as_millis() as u64), now);
                }
                Step::Place => open.extend(
                    place(&mut router, &Extra::default(), now).map(|placed| placed.ticket),
                ),
                Step::First(which) if which < open.len() => {
                    router.first_content(&mut open[which], &[1, 2], now);
                }
                Step::End(which, how) if which < open.len() => {
                    router.ended(open.swap_remove(which), end(how), now);
                }
                _ => {}
            }
            assert_true(&router)?;
        }
    }
}
