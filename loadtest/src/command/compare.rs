//! The `compare` command: two raw files, a table of changes, and gates.

use std::io::{Write, stdout};
use std::process::ExitCode;

use super::end;
use crate::cli::CompareArgs;
use crate::compare::{Change, FIGURES, Figure, Passage, change};
use crate::raw::Run;
use crate::report::exit;

/// Runs `compare`.
pub fn compare(args: &CompareArgs) -> ExitCode {
    end(attempt(args))
}

fn attempt(args: &CompareArgs) -> anyhow::Result<u8> {
    let (before, after) = (Run::load(&args.before)?, Run::load(&args.after)?);
    let mut out = stdout().lock();
    for (name, run) in [("A", &before), ("B", &after)] {
        let good = run.requests.iter().filter(|request| request.good).count();
        writeln!(
            out,
            "{name}  {good} good of {}, {} given up by the client",
            run.requests.len(),
            run.aborted
        )?;
        if run.client_bound {
            writeln!(
                out,
                "   CLIENT-BOUND: it measured its client; no gate is judged"
            )?;
        }
        if run.interrupted {
            writeln!(out, "   it was stopped early")?;
        }
    }
    writeln!(
        out,
        "\n{:<12}{:>12}{:>12}{:>10}   95 % interval",
        "", "A", "B", "change"
    )?;
    for figure in FIGURES {
        write_change(&mut out, &change(figure, &before, &after, args.seed))?;
    }
    gates(args, &before, &after, &mut out)
}

/// A line for each gate, and what all of them come to.
fn gates(
    args: &CompareArgs,
    before: &Run,
    after: &Run,
    out: &mut impl Write,
) -> anyhow::Result<u8> {
    let client_bound = before.client_bound || after.client_bound;
    let mut code = exit::GOOD;
    for gate in &args.gate {
        let passage = gate.judge(&change(gate.figure(), before, after, args.seed));
        let (word, gate_code) = match passage {
            _ if client_bound => ("undecided: a run was client-bound", exit::CLIENT_BOUND),
            Passage::Open => ("met", exit::GOOD),
            Passage::Shut => ("MISSED", exit::MISSED),
            Passage::Undecided => ("undecided: more requests are needed", exit::CLIENT_BOUND),
        };
        writeln!(out, "gate  {gate}: {word}")?;
        // One that is missed says more than one that is not known.
        code = if code == exit::MISSED || gate_code == exit::GOOD {
            code
        } else {
            gate_code
        };
    }
    Ok(code)
}

fn write_change(out: &mut impl Write, change: &Change) -> std::io::Result<()> {
    let unit = match change.figure {
        Figure::Latency(..) => "ms",
        Figure::Good => "",
        Figure::Output => "/s",
    };
    let number = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.3}"));
    let (before, after) = (number(change.before), number(change.after));
    write!(
        out,
        "{:<10}{unit:<2}{before:>12}{after:>12}",
        change.figure.to_string()
    )?;
    match change.change {
        None => writeln!(out, "{:>10}   not known from so few requests", "-"),
        Some([point, low, high]) => {
            let clear = if low > 0.0 || high < 0.0 { "  *" } else { "" };
            let [point, low, high] = [point, low, high].map(|part| part * 100.0);
            writeln!(out, "{point:>+9.1}%   {low:+.1}% to {high:+.1}%{clear}")
        }
    }
}
