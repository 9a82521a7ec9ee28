//! Rows in, tokens out: the definitions, golden draws, and everything against a slow reference.

use proptest::prelude::*;

use super::line::{Candidate, best_first, mass_of};
use super::*;
use crate::api::{SamplingParams, StopParams};
use crate::history::History;

fn row<'a>(sampling: &'a SamplingParams, stop: &'a StopParams, index: u32) -> SampleRow<'a> {
    SampleRow {
        sampling,
        stop,
        history: None,
        guide: None,
        seed: 42,
        choice: 0,
        index,
        drafted: &[],
        given: None,
    }
}

fn sample(logits: &[f32], sampling: &SamplingParams, index: u32) -> RowOutcome {
    let stop = StopParams::after(1);
    Sampler::default().sample(&mut logits.to_vec(), &row(sampling, &stop, index))
}

/// Shares of each token over many draws.
fn shares(logits: &[f32], sampling: &SamplingParams) -> Vec<f64> {
    const DRAWS: u32 = 40_000;
    let mut counts = vec![0_u32; logits.len()];
    let mut sampler = Sampler::default();
    let stop = StopParams::after(1);
    for index in 0..DRAWS {
        let outcome = sampler.sample(&mut logits.to_vec(), &row(sampling, &stop, index));
        counts[outcome.token().expect("the logits are valid") as usize] += 1;
    }
    counts
        .iter()
        .map(|&n| f64::from(n) / f64::from(DRAWS))
        .collect()
}

fn assert_near(actual: &[f64], expected: &[f64]) {
    for (a, e) in actual.iter().zip(expected) {
        assert!((a - e).abs() < 0.01, "{actual:?} is not {expected:?}");
    }
}

/// Logits of given probabilities.
fn logits_of(probabilities: &[f32]) -> Vec<f32> {
    probabilities.iter().map(|p| p.ln()).collect()
}

fn params(temperature: f32, top_k: u32, top_p: f32, min_p: f32) -> SamplingParams {
    SamplingParams {
        temperature,
        top_p,
        top_k,
        min_p,
        ..SamplingParams::default()
    }
}

const PROBABILITIES: [f32; 5] = [0.1, 0.4, 0.05, 0.25, 0.2];

#[test]
fn greedy_takes_the_best_and_of_equals_the_lowest_id() {
    let greedy = params(0.0, 0, 1.0, 0.0);
    assert_eq!(
        sample(&[0.0, 3.0, 3.0, -1.0], &greedy, 0),
        RowOutcome::Token(1)
    );
    assert_eq!(
        sample(&[f32::NEG_INFINITY, -5.0], &greedy, 0),
        RowOutcome::Token(1)
    );
}

#[test]
fn rows_that_are_no_numbers_are_told_apart() {
    for sampling in [params(0.0, 0, 1.0, 0.0), params(1.0, 0, 0.9, 0.0)] {
        for row in [
            [1.0, f32::NAN, 2.0],
            [f32::NEG_INFINITY; 3],
            [0.0, f32::INFINITY, 0.0],
        ] {
            assert_eq!(sample(&row, &sampling, 0), RowOutcome::InvalidLogits);
        }
    }
    assert_eq!(
        sample(&[], &params(0.0, 0, 1.0, 0.0), 0),
        RowOutcome::InvalidLogits
    );
}

#[test]
fn neutral_parameters_draw_the_softmax() {
    let expected = PROBABILITIES.map(f64::from);
    assert_near(
        &shares(&logits_of(&PROBABILITIES), &params(1.0, 0, 1.0, 0.0)),
        &expected,
    );
}

#[test]
fn temperature_comes_before_the_truncations() {
    // At temperature 2 the probabilities are as their square roots: 0.316, 0.632, 0.224, 0.5, 0.447, in sum 2.119.
    // Half of that mass needs the best two, which alone would reach it at temperature 1 with 0.65.
    let shares = shares(&logits_of(&PROBABILITIES), &params(2.0, 0, 0.6, 0.0));
    assert_near(&shares, &[0.0, 0.400, 0.0, 0.317, 0.283]);
}

#[test]
fn top_k_top_p_and_min_p_keep_what_they_say() {
    let logits = logits_of(&PROBABILITIES);
    assert_near(
        &shares(&logits, &params(1.0, 2, 1.0, 0.0)),
        &[0.0, 0.615, 0.0, 0.385, 0.0],
    );
    assert_near(
        &shares(&logits, &params(1.0, 0, 0.65, 0.0)),
        &[0.0, 0.615, 0.0, 0.385, 0.0],
    );
    assert_near(
        &shares(&logits, &params(1.0, 0, 1.0, 0.49)),
        &[0.0, 0.471, 0.0, 0.294, 0.235],
    );
    assert_near(
        &shares(&logits, &params(1.0, 3, 0.5, 0.3)),
        &[0.0, 0.615, 0.0, 0.385, 0.0],
    );
}

#[test]
fn draws_are_these_and_stay_these() {
    let logits: Vec<f32> = (0..1000_u16)
        .map(|i| f32::from(i * 37 % 101) / 20.0)
        .collect();
    let drawn = |sampling| -> Vec<RowOutcome> {
        (0..6)
            .map(|index| sample(&logits, &sampling, index))
            .collect()
    };
    let tokens = |ids: [u32; 6]| ids.map(RowOutcome::Token).to_vec();
    assert_eq!(drawn(params(1.0, 0, 1.0, 0.0)), tokens(GOLDEN_NEUTRAL));
    assert_eq!(drawn(params(0.7, 50, 0.9, 0.05)), tokens(GOLDEN_TRUNCATED));
}

const GOLDEN_NEUTRAL: [u32; 6] = [389, 715, 868, 169, 409, 919];
const GOLDEN_TRUNCATED: [u32; 6] = [565, 19, 827, 636, 666, 49];

proptest! {
    /// Against a full sort: the drawn token is in the set that the definition keeps.
    #[test]
    fn the_token_is_always_in_the_kept_set(
        logits in prop::collection::vec(-8.0_f32..8.0, 1..700),
        top_k in 0_u32..400,
        top_p in 0.05_f32..1.0,
        index in 0_u32..1000,
    ) {
        let sampling = params(1.0, top_k, top_p, 0.0);
        let RowOutcome::Token(token) = sample(&logits, &sampling, index) else {
            return Err(TestCaseError::fail("the logits are valid"));
        };
        let mut order: Vec<u32> = (0..logits.len() as u32).collect();
        order.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]));
        order.truncate(if top_k == 0 { order.len() } else { top_k as usize });
        let weight = |t: &u32| f64::from(logits[*t as usize]).exp();
        let total: f64 = order.iter().map(weight).sum();
        let rank = order.iter().position(|&t| t == token);
        prop_assert!(rank.is_some(), "not among the top k");
        let before: f64 = order.iter().take(rank.unwrap_or(0)).map(weight).sum();
        prop_assert!(before < total * f64::from(top_p) * 1.000_01, "not in the nucleus");
    }
}

/// What bends the logits, by definition, one token at a time.
fn bent(logits: &[f32], prompt: &[u32], output: &[u32], sampling: &SamplingParams) -> Vec<f32> {
    let bend = |(token, &logit): (u32, &f32)| {
        let bias = sampling.logit_bias.iter().filter(|(t, _)| *t == token);
        let mut logit = bias.fold(logit, |logit, (_, bias)| logit + bias);
        let produced = output.iter().filter(|&&t| t == token).count() as f32;
        if produced > 0.0 || prompt.contains(&token) {
            logit = if logit > 0.0 {
                logit / sampling.repetition_penalty
            } else {
                logit * sampling.repetition_penalty
            };
        }
        logit
            - sampling.frequency_penalty * produced
            - sampling.presence_penalty * produced.min(1.0)
    };
    (0..).zip(logits).map(bend).collect()
}

proptest! {
    #[test]
    fn penalties_and_bias_are_as_defined(
        logits in prop::collection::vec(-8.0_f32..8.0, 30),
        prompt in prop::collection::vec(0_u32..30, 0..10),
        output in prop::collection::vec(0_u32..30, 0..20),
        penalties in (0.5_f32..2.0, -2.0_f32..2.0, -2.0_f32..2.0),
        bias in prop::collection::vec((0_u32..30, -9.0_f32..9.0), 0..5),
        temperature in prop_oneof![Just(0.0_f32), Just(1.0)],
        index in 0_u32..100,
    ) {
        let sampling = SamplingParams {
            temperature,
            repetition_penalty: penalties.0,
            frequency_penalty: penalties.1,
            presence_penalty: penalties.2,
            logit_bias: bias.into(),
            ..SamplingParams::default()
        };
        let mut history = History::of(&prompt, &sampling);
        if let Some(history) = &mut history {
            output.iter().for_each(|&token| history.push(token));
        }
        let stop = StopParams::after(1);
        let row = SampleRow { history: history.as_ref(), ..row(&sampling, &stop, index) };
        let outcome = Sampler::default().sample(&mut logits.clone(), &row);
        let plain = SamplingParams { temperature, ..SamplingParams::default() };
        prop_assert_eq!(outcome, sample(&bent(&logits, &prompt, &output, &sampling), &plain, index));
    }

    /// The truncations against a full sort of everything: the same token, not only one of the same set.
    #[test]
    fn truncations_draw_what_a_full_sort_draws(
        mut logits in prop_oneof![
            prop::collection::vec(prop_oneof![-20.0_f32..8.0, Just(3.0)], 1..900),
            prop::collection::vec(0.0_f32..0.01, 1..2000),
        ],
        top_k in prop_oneof![Just(0_u32), 1_u32..500],
        top_p in prop_oneof![Just(1.0_f32), 0.01_f32..0.999],
        min_p in prop_oneof![Just(0.0_f32), 0.00001_f32..0.5],
        index in 0_u32..1000,
    ) {
        let sampling = params(1.0, top_k, top_p, min_p);
        let stop = StopParams::after(1);
        let outcome = sample(&logits, &sampling, index);
        if top_k > 0 || top_p < 1.0 || min_p > 0.0 {
            let sorted = drawn_by_sorting(&logits, &sampling, draw_unit(42, 0, index));
            prop_assert_eq!(outcome.token(), sorted);
        }
        let row = row(&sampling, &stop, index);
        // Memory that other rows left behind changes nothing.
        let mut used = Sampler::default();
        used.sample(&mut vec![0.5; 2000], &row);
        prop_assert_eq!(used.sample(&mut logits, &row), outcome);
    }
}

/// The token at `chance` of what the truncations keep by definition, everything in a row.
fn drawn_by_sorting(logits: &[f32], sampling: &SamplingParams, chance: f64) -> Option<u32> {
    let (mut weights, mut sums) = (logits.to_vec(), Weights::default());
    sums.read(&mut weights, arg_max(logits)?.logit, 1.0);
    let all = (0..).zip(weights);
    let mut order: Vec<Candidate> = all
        .map(|(token, weight)| Candidate { weight, token })
        .filter(|c| c.weight > 0.0 && c.weight >= sampling.min_p)
        .collect();
    order.sort_by(best_first);
    if sampling.top_k > 0 {
        order.truncate(sampling.top_k as usize);
    }
    let mass = |order: &[Candidate]| order.iter().map(Candidate::mass).sum::<u64>();
    let top_p = f64::from(sampling.top_p);
    if sampling.top_p >= 1.0 {
        order.sort_by_key(|c| c.token);
    } else {
        let wanted = if sampling.top_k == 0 && sampling.min_p == 0.0 {
            mass_of(sums.total() * top_p)
        } else {
            (mass(&order) as f64 * top_p).ceil() as u64
        };
        let mut end = 0;
        let reaches = |c: &Candidate| {
            end += c.mass();
            end >= wanted
        };
        let kept = order.iter().position(reaches);
        order.truncate(kept.map_or(usize::MAX, |last| last + 1));
    }
    let point = (mass(&order) as f64 * chance) as u64;
    let mut end = 0;
    let covers = |c: &&Candidate| {
        end += c.mass();
        point < end
    };
    order.iter().find(covers).map(|c| c.token)
}

#[test]
fn what_ends_a_choice_is_not_drawn_too_early() {
    let logits = [1.0, 5.0, 4.0, 3.0];
    let stop = StopParams {
        min_tokens: 2,
        token_ids: vec![2, 9_999].into(),
        ..StopParams::after(5)
    };
    let greedy = params(0.0, 0, 1.0, 0.0);
    let mut sampler = Sampler::new(&[1]);
    let drawn = |sampler: &mut Sampler, index| {
        sampler.sample(&mut logits.to_vec(), &row(&greedy, &stop, index))
    };
    assert_eq!(drawn(&mut sampler, 0), RowOutcome::Token(3));
    assert_eq!(drawn(&mut sampler, 1), RowOutcome::Token(3));
    assert_eq!(drawn(&mut sampler, 2), RowOutcome::Token(1));
}

#[test]
fn log_probabilities_are_of_the_row_as_the_model_gave_it() {
    let logits = logits_of(&PROBABILITIES);
    let sampling = SamplingParams {
        temperature: 0.0,
        logit_bias: vec![(2, 100.0), (77, 5.0)].into(),
        logprobs: Some(2),
        ..SamplingParams::default()
    };
    let RowOutcome::Scored(token, scores) = sample(&logits, &sampling, 0) else {
        panic!("scores were wanted");
    };
    assert_eq!(token, 2);
    assert!((scores.logprob - 0.05_f32.ln()).abs() < 1e-6);
    let tokens: Vec<u32> = scores.top.iter().map(|&(token, _)| token).collect();
    assert_eq!(tokens, [1, 3]);
}

#[test]
fn a_row_where_nothing_is_left_is_told_apart() {
    let stop = StopParams {
        min_tokens: 1,
        ..StopParams::after(5)
    };
    let greedy = params(0.0, 0, 1.0, 0.0);
    let outcome = Sampler::new(&[0]).sample(&mut [1.0], &row(&greedy, &stop, 0));
    assert_eq!(outcome, RowOutcome::InvalidLogits);
}
