//! Recorded loads of every format, and lines that are none.

use super::*;

fn load_as(format: Format, text: &str, cut: Cut) -> Result<Trace, String> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let name = file.path().display().to_string();
    Trace::load(file.path(), format, cut)
        .map_err(|problems| problems.to_string().replace(&name, "F"))
}

const WHOLE: Cut = Cut {
    time_scale: 1.0,
    limit: usize::MAX,
};

fn load(format: Format, text: &str) -> Result<Trace, String> {
    load_as(format, text, WHOLE)
}

fn due_ms(trace: &Trace) -> Vec<u64> {
    trace
        .entries()
        .iter()
        .map(|entry| entry.at / 1_000_000)
        .collect()
}

fn content(entry: &Entry) -> Arc<str> {
    let messages = entry.prompt.messages(
        SplitMix64::new(entry.prompt.stream().unwrap_or(99)),
        SplitMix64::new,
    );
    messages.last().unwrap().content.clone()
}

#[test]
fn azure_traces_of_both_years_are_read() {
    let text = "TIMESTAMP,ContextTokens,GeneratedTokens\n\
        2023-11-16 18:17:03.9799600,4808,10\n2023-11-16 18:17:04.0319600,3180,8\r\n\
        2024-05-10 00:00:00.009930+00:00,110,27\n";
    let cut = Cut { limit: 2, ..WHOLE };
    let trace = load_as(Format::Azure, text, cut).unwrap();
    assert_eq!(due_ms(&trace), [0, 52]);
    assert_eq!(trace.entries()[0].output_tokens, 10);
    assert_eq!(content(&trace.entries()[0]).split(' ').count(), 4_808);
    let slow = load_as(
        Format::Azure,
        text,
        Cut {
            time_scale: 2.0,
            limit: 2,
        },
    )
    .unwrap();
    assert_eq!(due_ms(&slow), [0, 104]);
    let whole = load(Format::Azure, text).unwrap_err();
    assert_eq!(
        whole,
        "F: lasts more than 24h; set a limit or a smaller time_scale"
    );
}

#[test]
fn burstgpt_is_read_by_its_header_and_sessions_share_their_beginning() {
    let old = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n\
        5,ChatGPT,472,18,490,Conversation log\n45.5,ChatGPT,1087,0,1087,API log\n";
    let trace = load(Format::Burstgpt, old).unwrap();
    assert_eq!(due_ms(&trace), [0, 40_500]);
    assert_eq!(
        trace.entries()[1].output_tokens,
        1,
        "a failure was load all the same"
    );
    let new = "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens\n\
        0,7,1.5,GPT-4,40,9\n1,8,1.5,GPT-4,40,9\n2,7,1.5,GPT-4,90,9\n";
    let trace = load(Format::Burstgpt, new).unwrap();
    let start = |at: usize| {
        content(&trace.entries()[at])
            .split(' ')
            .take(30)
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(start(0), start(2));
    assert_ne!(start(0), start(1));
}

#[test]
fn mooncake_blocks_of_one_name_have_one_text() {
    let text = r#"{"timestamp": 0, "input_length": 1100, "output_length": 52, "hash_ids": [46, 47, 48]}
{"timestamp": 3000, "input_length": 1500, "output_length": 26, "hash_ids": [46, 47, 60]}
"#;
    let trace = load(Format::Mooncake, text).unwrap();
    assert_eq!(due_ms(&trace), [0, 3_000]);
    let (one, two) = (content(&trace.entries()[0]), content(&trace.entries()[1]));
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let (one, two) = (words(&one), words(&two));
    assert_eq!((one.len(), two.len()), (1_100, 1_500));
    assert_eq!(one[..1_024], two[..1_024]);
    assert_ne!(one[1_024..1_090], two[1_024..1_090]);
}

#[test]
fn sharegpt_turns_bring_the_recorded_chat() {
    let text = r#"[
 {"id": "x", "conversations": [
   {"from": "human", "value": "hello"}, {"from": "gpt", "value": "one two three four five six"},
   {"from": "human", "value": "and then"}, {"from": "gpt", "value": "nothing"}]},
 {"conversations": [{"role": "user", "content": "bye"}]}
]"#;
    let trace = load(Format::Sharegpt, text).unwrap();
    assert!(!trace.is_timed());
    assert_eq!(
        (
            trace.sessions(),
            trace.turns(0),
            trace.turns(1),
            trace.turns(2)
        ),
        (2, 2, 1, 0)
    );
    assert_eq!(
        trace.place(1),
        Place {
            session: 0,
            turn: 1
        }
    );
    assert_eq!(
        trace.place(2),
        Place {
            session: 1,
            turn: 0
        }
    );
    assert_eq!(trace.entries()[0].output_tokens, 8);
    assert_eq!(&*content(&trace.entries()[1]), "and then");
}

#[test]
fn our_own_lines_take_lengths_blocks_or_messages() {
    let text = r#"{"at_ms": 20, "prompt_tokens": 20, "output_tokens": 5, "session": "s", "model": "m", "priority": -2}
{"at_ms": 10, "messages": [{"role": "user", "content": "hi"}], "output_tokens": 3}

{"at_ms": 15, "prompt_tokens": 600, "hash_ids": [1, 2], "output_tokens": 3}
"#;
    let trace = load(Format::Jsonl, text).unwrap();
    assert_eq!(due_ms(&trace), [0, 5, 10], "in the order of time");
    assert_eq!(&*content(&trace.entries()[0]), "hi");
    let last = &trace.entries()[2];
    assert_eq!(
        (last.model.as_deref(), last.priority),
        (Some("m"), Some(-2))
    );
}

#[test]
fn every_malformed_line_is_named_with_its_number() {
    let azure = "TIMESTAMP,ContextTokens,GeneratedTokens\nnow,1,1\n2023-11-16 18:17:03,x,1\n\
        2023-11-16 18:17:03,5\n2023-11-16 18:17:03,5,99999999\n2023-11-16 18:17:03,5,5\n";
    let problems = load(Format::Azure, azure).unwrap_err();
    let expected = "F:2: TIMESTAMP \"now\" is no date and time\nF:3: ContextTokens \"x\" is no whole number\n\
        F:4: has no GeneratedTokens\nF:5: GeneratedTokens is 99999999, more than 1000000";
    assert_eq!(problems, expected);
    let empty_lines =
        "TIMESTAMP,ContextTokens,GeneratedTokens\n\n2023-11-16 18:17:03,5,5\r\n\r\n\nnow,1,1\n";
    assert_eq!(
        load(Format::Azure, empty_lines).unwrap_err(),
        "F:6: TIMESTAMP \"now\" is no date and time"
    );
    let headless = load(Format::Burstgpt, "Timestamp,Model\n1,GPT-4\n").unwrap_err();
    assert!(
        headless.contains("F:1: the header has no column \"Request tokens\""),
        "{headless}"
    );
    let mooncake = "{\"timestamp\": 1}\nnonsense\n{\"timestamp\": 1, \"input_length\": 5, \"output_length\": 1, \"hash_ids\": [1, 2]}\n";
    let problems = load(Format::Mooncake, mooncake).unwrap_err();
    assert!(
        problems.contains("F:1: missing field `input_length`"),
        "{problems}"
    );
    assert!(
        problems.contains("F:2: ") && problems.contains("F:3: 2 hash_ids for input_length 5"),
        "{problems}"
    );
    let own =
        "{\"output_tokens\": 1}\n{\"prompt_tokens\": 1, \"output_tokens\": 1, \"sesion\": \"a\"}\n";
    let problems = load(Format::Jsonl, own).unwrap_err();
    assert!(
        problems.contains("F:1: needs either messages"),
        "{problems}"
    );
    assert!(
        problems.contains("F:2: unknown field `sesion`"),
        "{problems}"
    );
    let mixed = "{\"at_ms\": 1, \"prompt_tokens\": 1, \"output_tokens\": 1}\n{\"prompt_tokens\": 1, \"output_tokens\": 1}\n";
    assert_eq!(
        load(Format::Jsonl, mixed).unwrap_err(),
        "F: some requests have a time and some have none"
    );
    let chat = "[{\"conversations\": []},\n\n {\"conversations\": [{\"from\": \"ghost\", \"value\": \"\"}]}]";
    let problems = load(Format::Sharegpt, chat).unwrap_err();
    let expected =
        "F:1: a conversation in which no human speaks\nF:3: \"ghost\" is no speaker that is known";
    assert_eq!(problems, expected);
    assert!(
        load(Format::Sharegpt, "[{]")
            .unwrap_err()
            .starts_with("F:1: no JSON array of conversations")
    );
    assert_eq!(load(Format::Jsonl, "").unwrap_err(), "F: holds no request");
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]
    #[test]
    fn no_file_can_crash_a_reader(text in "[\\[\\]{}\",:a-zT0-9 .\n-]{0,200}") {
        for format in [Format::Azure, Format::Burstgpt, Format::Mooncake, Format::Sharegpt, Format::Jsonl] {
            let _ = load(format, &text);
        }
    }
}

#[test]
fn a_thinned_load_keeps_its_times_and_whole_sessions() {
    let mut text = "Timestamp,Session ID,Request tokens,Response tokens\n".to_owned();
    for second in 0..9_000 {
        text += &format!("{second},{},10,9\n", second % 3_000);
    }
    let whole = load(Format::Burstgpt, &text).unwrap();
    assert_eq!(whole.thinned(1, 7), whole);
    let tenth = whole.thinned(10, 7);
    let kept = tenth.entries().len();
    // Three standard deviations of 3,000 sessions.
    assert!((750..=1_050).contains(&kept), "{kept}");
    let seconds: Vec<u64> = due_ms(&tenth).iter().map(|ms| ms / 1_000).collect();
    let first: Vec<u64> = seconds.iter().copied().filter(|at| *at < 3_000).collect();
    let again = |turn: u64| first.iter().map(move |at| at + turn * 3_000);
    assert_eq!(seconds, (0..3).flat_map(again).collect::<Vec<_>>());
    assert_ne!(whole.thinned(10, 8), tenth, "another seed, others");
}
