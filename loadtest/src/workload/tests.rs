//! What is drawn follows its shares, and a seed names it.

use super::*;
use std::collections::BTreeMap;

pub(crate) fn workload() -> Workload {
    Workload {
        seed: 1,
        endpoint: Endpoint::Chat,
        ignore_eos: false,
        send_seed: true,
        source: Source::Synthetic(Synthetic {
            prompt: Spread::Fixed(16.0),
            output: Spread::Fixed(8.0),
            prefix: None,
            turns: Spread::Fixed(1.0),
            texts: 1,
        }),
        models: Mix::one("m".into()),
        tenants: Mix::none(),
        priorities: Mix::none(),
        forms: Mix::none(),
        abort: None,
    }
}

fn place(session: u64) -> Place {
    Place { session, turn: 0 }
}

fn item(workload: &Workload, session: u64) -> Item {
    workload.item(place(session), workload.begin(session))
}

#[test]
fn a_seed_and_a_number_name_a_request() {
    let one = workload();
    assert_eq!(item(&one, 5).ask.body(), item(&one, 5).ask.body());
    assert_ne!(item(&one, 5).ask.body(), item(&one, 6).ask.body());
    let other = Workload {
        seed: 2,
        ..workload()
    };
    assert_ne!(item(&one, 5).ask.body(), item(&other, 5).ask.body());
    assert!(item(&one, 5).ask.seed.unwrap() < 1 << 31);
}

#[test]
fn the_share_of_prefixes_is_exact_and_their_text_is_the_same() {
    let mut workload = workload();
    let Source::Synthetic(synthetic) = &mut workload.source else {
        unreachable!()
    };
    synthetic.prefix = Some(Prefix {
        tokens: 32,
        share: 0.3,
        count: 4,
    });
    let mut seen: BTreeMap<Arc<str>, u32> = BTreeMap::new();
    for session in 0..1_000 {
        let ask = item(&workload, session).ask;
        if ask.messages[0].role == Role::System {
            assert_eq!(ask.messages[0].content.split(' ').count(), 32);
            *seen.entry(ask.messages[0].content.clone()).or_default() += 1;
        }
    }
    assert_eq!(seen.values().sum::<u32>(), 300);
    assert_eq!(seen.len(), 4);
    assert!(
        seen.values().all(|&count| count > 40),
        "{:?}",
        seen.values()
    );
}

#[test]
fn mixes_aborts_and_lengths_follow_their_shares_and_do_not_disturb_the_text() {
    let mut mixed = workload();
    mixed.models = Mix::of([("a".into(), 1.0), ("b".into(), 1.0)]);
    mixed.priorities = Mix::of([(0, 9.0), (5, 1.0)]);
    mixed.abort = Some(Abort {
        share: 0.25,
        after: Spread::Uniform { min: 1.0, max: 3.0 },
    });
    let items: Vec<Item> = (0..4_000).map(|session| item(&mixed, session)).collect();
    let count = |test: fn(&Item) -> bool| items.iter().filter(|item| test(item)).count();
    assert!((1_880..2_120).contains(&count(|item| &*item.ask.model == "a")));
    assert!((330..470).contains(&count(|item| item.ask.priority == Some(5))));
    assert!((890..1_110).contains(&count(|item| item.abort_after.is_some())));
    assert!(
        items
            .iter()
            .flat_map(|item| item.abort_after)
            .all(|after| (1..=3).contains(&after))
    );
    assert_eq!(items[7].ask.messages, item(&workload(), 7).ask.messages);
}

#[test]
fn forms_follow_their_weights_and_vectors_have_as_many_texts_as_asked_for() {
    let mut formed = workload();
    formed.forms = Mix::of([
        (Arc::new(Form::text("text".into())), 3.0),
        (Arc::new(Form::json("json".into())), 1.0),
    ]);
    let json = (0..4_000)
        .filter(|&session| {
            item(&formed, session)
                .ask
                .form
                .is_some_and(|form| &*form.name == "json")
        })
        .count();
    assert!((890..1_110).contains(&json), "{json}");
    let mut vectors = workload();
    vectors.endpoint = Endpoint::Embeddings;
    let Source::Synthetic(synthetic) = &mut vectors.source else {
        unreachable!()
    };
    synthetic.texts = 3;
    let texts = item(&vectors, 0).ask.messages;
    assert!(texts.len() == 3 && texts[0] != texts[1]);
}

#[test]
fn probe_requests_are_short_and_their_own() {
    let probes = workload().for_probes();
    let ask = item(&probes, 0).ask;
    assert_eq!((ask.output_tokens, ask.messages.len()), (1, 1));
    assert_ne!(ask.messages, item(&workload(), 0).ask.messages);
}

#[test]
fn a_turn_goes_on_from_the_chat_before_it() {
    let mut workload = workload();
    let Source::Synthetic(synthetic) = &mut workload.source else {
        unreachable!()
    };
    synthetic.turns = Spread::Fixed(2.0);
    let first = item(&workload, 3);
    assert!(first.goes_on);
    let mut chat = first.ask.messages;
    chat.push(Role::Assistant.says("so it is"));
    let second = workload.item(
        Place {
            session: 3,
            turn: 1,
        },
        chat.clone(),
    );
    assert!(!second.goes_on);
    assert_eq!(&second.ask.messages[..2], &chat[..]);
    assert_ne!(second.ask.messages[2], chat[0], "another thing is said");
}
