//! What an operator sees of a bad file: every problem at once, each with its line, key and way out.
#![expect(clippy::expect_used, reason = "a test fails by panicking")]

mod accounts;

use std::path::Path;

use hansa_config::{Config, Problems, limits};
use proptest::prelude::*;

/// A file that is right but for the lines put before it.
const MODEL: &str = "[[model]]\nid = \"m\"\n";

fn problems(text: &str) -> Problems {
    Config::parse(text, Path::new("hansa.toml")).expect_err(text)
}

/// Parses `text` and compares its problems, each given as (line, column, path, part of the message,
/// part of the help).
#[track_caller]
fn check(text: &str, expected: &[(u32, u32, &str, &str, &str)]) {
    let problems = problems(text);
    let list = problems.list();
    assert_eq!(list.len(), expected.len(), "{text}\n{problems}");
    for (problem, (line, column, path, message, help)) in list.iter().zip(expected) {
        let place = (problem.line, problem.column, problem.path.as_str());
        assert_eq!(place, (*line, *column, *path), "{text}\n{problems}");
        assert!(
            problem.message.contains(message),
            "{message:?} not in:\n{problem}"
        );
        assert!(problem.help.contains(help), "{help:?} not in:\n{problem}");
    }
}

#[test]
fn all_problems_come_at_once_in_the_order_of_the_file() {
    let text = "\
[server]
listen = \"localhost:8080\"
header_timeout = 5
grace_ms = -1

[[model]]
id = \"\"
device = \"gpu\"
sequences_max = \"many\"

[[model]]
runner = \"smi\"
kv_bytes_max = \"1MB\"
";
    check(
        text,
        &[
            (
                2,
                10,
                "server.listen",
                "\"localhost:8080\" is no address",
                "127.0.0.1:8080",
            ),
            (
                3,
                1,
                "server.header_timeout",
                "[server] has no key",
                "did you mean header_timeout_ms?",
            ),
            (
                4,
                12,
                "server.grace_ms",
                "-1 is out of range",
                "0 to 3600000 milliseconds",
            ),
            (7, 6, "model[0].id", "is empty", "smollm2-135m-instruct"),
            (
                8,
                10,
                "model[0].device",
                "\"gpu\" is no device",
                "\"cuda:0\"",
            ),
            (
                9,
                17,
                "model[0].sequences_max",
                "not text",
                "1 to 16384 sequences",
            ),
            (11, 1, "model[1].id", "is missing", "add id ="),
            (
                12,
                10,
                "model[1].runner",
                "none of its values",
                "did you mean \"sim\"?",
            ),
            (
                13,
                16,
                "model[1].kv_bytes_max",
                "\"1MB\" is not a size",
                "MiB",
            ),
        ],
    );
}

#[test]
fn a_problem_reads_like_a_compilers() {
    let text = format!("{MODEL}kv_type = \"f61\"\n");
    let shown = problems(&text).to_string();
    assert_eq!(
        shown,
        "hansa.toml:3:11: model[0].kv_type: \"f61\" is none of its values\n  \
         help: did you mean \"f16\"? It is \"f16\" or \"f32\""
    );
}

#[test]
fn unknown_keys_get_the_nearest_hint() {
    let cases = [
        ("[serevr]\n", "serevr", "did you mean server?"),
        (
            "listen = \"\"\n",
            "listen",
            "it belongs to [server] or [admin]",
        ),
        (
            "[server]\nn_max = 1\n",
            "server.n_max",
            "it belongs to [limits]",
        ),
        ("[admin]\nzzz = 1\n", "admin.zzz", "known here: listen"),
        ("[server]\n\"a b\" = 1\n", "server.\"a b\"", "known here"),
        ("[server.tls]\n", "server.tls", "known here"),
        (
            "[limits]\nbody_bytes = 1\n",
            "limits.body_bytes",
            "body_bytes_max?",
        ),
    ];
    for (text, path, help) in cases {
        let problems = problems(&format!("{text}{MODEL}"));
        let [problem] = problems.list() else {
            panic!("{problems}");
        };
        assert_eq!(problem.path, path);
        assert!(problem.help.contains(help), "{problem}");
    }
}

#[test]
fn values_of_the_wrong_kind_are_refused_with_what_is_allowed() {
    let cases = [
        (
            "[server]\nlisten = 8080\n",
            "an address in quotes, not a whole number",
        ),
        ("[server]\nlisten = \"none\"\n", "\"none\" is no address"),
        (
            "[server]\ngrace_ms = \"10s\"\n",
            "a whole number of milliseconds, not text",
        ),
        ("[server]\ngrace_ms = 1.5\n", "not a fraction"),
        (
            "[server]\ngrace_ms = 99999999999999999999999\n",
            "out of range",
        ),
        ("[server]\nconnections_max = 0\n", "0 is out of range"),
        (
            "[limits]\nbody_bytes_max = \"2GiB\"\n",
            "\"2GiB\" is out of range",
        ),
        (
            "[limits]\nbody_bytes_max = true\n",
            "a whole number of bytes, not true or false",
        ),
        ("server = 5\n", "needs a table, not a whole number"),
        ("[[server]]\n", "needs a table, not an array"),
    ];
    for (text, message) in cases {
        let problems = problems(&format!("{text}{MODEL}"));
        assert_eq!(problems.list().len(), 1, "{problems}");
        assert!(
            problems.list()[0].message.contains(message),
            "{message:?} not in\n{problems}"
        );
    }
}

#[test]
fn a_models_values_are_refused_with_what_is_allowed() {
    let cases = [
        ("device = \"cuda\"", "is no device"),
        ("device = \"cuda:64\"", "is no device"),
        ("device = \"cuda:+1\"", "is no device"),
        (
            "source = \"hf:owner/file.gguf\"",
            "names no file of the hub",
        ),
        ("source = \" \"", "is empty"),
        ("threads = 0", "0 is out of range"),
        ("kv_bytes_max = 5", "5 is out of range"),
        ("sim = 5", "needs a table"),
    ];
    for (line, message) in cases {
        let problems = problems(&format!("{MODEL}{line}\n"));
        let found = problems
            .list()
            .iter()
            .any(|problem| problem.message.contains(message));
        assert!(found, "{message:?} not in\n{problems}");
    }
    let long = "x".repeat(limits::ID_BYTES_MAX + 1);
    for id in ["two words", "tab\\t", "münchen", &long] {
        check(
            &format!("[[model]]\nid = \"{id}\"\n"),
            &[(2, 6, "model[0].id", "will not do", "letters")],
        );
    }
}

#[test]
fn rules_across_keys_name_the_key_that_the_file_has() {
    check(
        &format!("[server]\nlisten = \"0.0.0.0:9900\"\n{MODEL}"),
        &[(
            2,
            10,
            "server.listen",
            "cannot share a port",
            "different ports",
        )],
    );
    check(
        &format!("[server]\nlisten = \"[::]:80\"\n[admin]\nlisten = \"127.0.0.1:80\"\n{MODEL}"),
        &[(4, 10, "admin.listen", "cannot share a port", "\"none\"")],
    );
    check(
        &format!("{MODEL}step_tokens_max = 32\n"),
        &[(
            3,
            19,
            "model[0].step_tokens_max",
            "32 tokens cannot decode 64",
            "at least 64",
        )],
    );
    check(
        &format!("{MODEL}context_max = 100\ndefault_max_tokens = 100\n"),
        &[(
            4,
            22,
            "model[0].default_max_tokens",
            "do not fit",
            "at most 99",
        )],
    );
    check(
        &format!("{MODEL}runner = \"sim\"\ncontext_max = 9000\n"),
        &[(
            4,
            15,
            "model[0].context_max",
            "more than the simulated model's 8192",
            "raise",
        )],
    );
    check(
        "[[model]]\nid = \"m\"\n[[model]]\nid = \"m\"\n",
        &[(
            4,
            6,
            "model[1].id",
            "is the id of model[0] already",
            "of its own",
        )],
    );
}

#[test]
fn keys_of_the_other_runner_are_refused() {
    check(
        &format!("{MODEL}runner = \"sim\"\nsource = \"a\"\nthreads = 2\n"),
        &[
            (
                4,
                10,
                "model[0].source",
                "means nothing with runner = \"sim\"",
                "runner = \"candle\"",
            ),
            (5, 11, "model[0].threads", "means nothing", "remove it"),
        ],
    );
    check(
        &format!("{MODEL}[model.sim]\nstep_base_us = 1\n"),
        &[(
            3,
            8,
            "model[0].sim",
            "means nothing with runner = \"candle\"",
            "runner = \"sim\"",
        )],
    );
}

#[test]
fn a_file_that_serves_nothing_is_refused_with_a_way_out() {
    for text in [
        "",
        "# nothing\n",
        "model = []\n",
        "[server]\ngrace_ms = 1\n",
    ] {
        let problems = problems(text);
        assert_eq!(problems.list().len(), 1, "{problems}");
        assert!(
            problems.list()[0].help.contains("smollm2-135m-instruct"),
            "{problems}"
        );
    }
    check(
        "[model]\nid = \"m\"\n",
        &[(
            1,
            1,
            "model",
            "needs an array of tables, not a table",
            "[[model]]",
        )],
    );
}

#[test]
fn too_many_models_are_refused() {
    let text: String = (0..=limits::MODELS_MAX)
        .map(|i| format!("[[model]]\nid = \"m{i}\"\n"))
        .collect();
    check(&text, &[(1, 1, "model", "too many", "64 models")]);
}

#[test]
fn syntax_errors_come_together_with_the_problems_before_them() {
    let text =
        "[server]\ngrace_ms = \"x\"\nlisten = localhost\n[admin\nlisten = 1\n[[model]]\nfoo =\n";
    let problems = problems(text);
    let lines: Vec<u32> = problems.list().iter().map(|problem| problem.line).collect();
    assert_eq!(lines, [2, 3, 4, 7], "{problems}");
    assert!(
        problems
            .list()
            .iter()
            .all(|problem| !problem.help.is_empty()),
        "{problems}"
    );
    check(
        "a = 1\na = 2\n",
        &[
            (1, 1, "a", "no section or key", ""),
            (2, 1, "", "duplicate key", ""),
        ],
    );
}

#[test]
fn deep_nesting_does_not_exhaust_the_stack() {
    let deep = limits::FILE_BYTES_MAX / 3;
    let dots = "a.".repeat(deep);
    for text in [
        "x = ".to_owned() + &"[".repeat(deep),
        "x = ".to_owned() + &"{a=".repeat(deep),
        format!("{dots}a = 1\n"),
        format!("[{dots}a]\n"),
    ] {
        assert!(!problems(&text).list().is_empty());
    }
}

#[test]
fn a_file_that_cannot_be_read_says_why() {
    let folder = tempfile::tempdir().expect("a folder");
    let missing = Config::load(&folder.path().join("none.toml")).expect_err("missing");
    assert!(
        missing.to_string().contains("none.toml: cannot be read"),
        "{missing}"
    );

    let file = folder.path().join("bad.toml");
    std::fs::write(&file, b"# a\n# \xff\n").expect("written");
    let bad = Config::load(&file).expect_err("not UTF-8");
    assert_eq!((bad.list()[0].line, bad.list()[0].column), (2, 3), "{bad}");

    std::fs::write(&file, vec![b'#'; limits::FILE_BYTES_MAX + 1]).expect("written");
    let large = Config::load(&file).expect_err("too large");
    assert!(large.to_string().contains("is too large"), "{large}");
}

/// Pieces of real files, and what confuses a reader of TOML.
const PIECES: &[&str] = &[
    "[server]\n",
    "[[model]]\n",
    "[model.sim]\n",
    "[model]\n",
    "id = ",
    "listen = ",
    "sim.step_base_us = ",
    "kv_bytes_max = ",
    "model = [1]\n",
    "a.b.c = 1\n",
    "\"m\"\n",
    "\"1GiB\"\n",
    "-1\n",
    "0x10\n",
    "1979-05-27\n",
    "nan\n",
    "[",
    "]",
    "{",
    "}",
    "=",
    ",",
    "\"",
    "'''",
    "\n",
    "\0",
    "é",
];

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes: Vec<u8>) {
        let text = String::from_utf8_lossy(&bytes);
        let _ = Config::parse(&text, Path::new("f"));
    }

    /// Random bytes seldom get past the syntax, so this puts the pieces of real files together at
    /// random.
    #[test]
    fn no_mixture_of_pieces_makes_it_panic(
        pieces in proptest::collection::vec(proptest::sample::select(PIECES), 0..24)
    ) {
        let text = pieces.concat();
        if let Err(problems) = Config::parse(&text, Path::new("f")) {
            prop_assert!(!problems.list().is_empty());
            prop_assert!(problems.list().iter().all(|p| p.line >= 1 && !p.help.is_empty()));
        }
    }
}
