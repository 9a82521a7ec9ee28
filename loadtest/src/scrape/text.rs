//! Reads the text form in which servers tell their metrics (Prometheus exposition format 0.0.4; OpenMetrics differs in
//! nothing that is read here). Knows no socket and no time.

use std::collections::BTreeMap;

/// One line with a value, borrowed from the text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample<'a> {
    /// The metric.
    pub name: &'a str,
    /// What stands between its braces, as written; empty without any.
    pub labels: &'a str,
    /// The value; never NaN.
    pub value: f64,
    /// Whether it only ever grows.
    pub is_counter: bool,
}

/// Reads a page and hands out every sample but the buckets of histograms, of which there are too many to draw.
/// Returns the number of lines that make no sense.
pub fn parse<'a>(page: &'a str, on_sample: &mut impl FnMut(Sample<'a>)) -> u64 {
    let mut types: BTreeMap<&str, &str> = BTreeMap::new();
    let mut unreadable = 0;
    for line in page.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if let Some(comment) = line.strip_prefix('#') {
            let mut words = comment.split_whitespace();
            if words.next() == Some("TYPE")
                && let (Some(name), Some(kind)) = (words.next(), words.next())
            {
                types.insert(name, kind);
            }
            continue;
        }
        match sample(line, &types) {
            Some(sample) if sample.name.ends_with("_bucket") || sample.value.is_nan() => {}
            Some(sample) => on_sample(sample),
            None => unreadable += 1,
        }
    }
    unreadable
}

fn sample<'a>(line: &'a str, types: &BTreeMap<&str, &str>) -> Option<Sample<'a>> {
    let name_ends = line.find(|letter: char| letter == '{' || letter.is_whitespace())?;
    let (name, rest) = line.split_at(name_ends);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => {
            let end = end_of_labels(rest)?;
            (&rest[..end], &rest[end + 1..])
        }
        None => ("", rest),
    };
    let value = rest.split_whitespace().next()?.parse().ok()?;
    let grows = ["_total", "_count", "_sum"]
        .iter()
        .any(|ending| name.ends_with(ending));
    let told = types
        .get(name)
        .copied()
        .or_else(|| types.get(name.strip_suffix("_total")?).copied());
    let is_counter = match told {
        Some("counter") => true,
        Some("gauge") => false,
        _ => grows,
    };
    (!name.is_empty()).then_some(Sample {
        name,
        labels,
        value,
        is_counter,
    })
}

/// The brace that closes labels: one outside of quotes.
fn end_of_labels(text: &str) -> Option<usize> {
    let (mut quoted, mut escaped) = (false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'}' if !quoted => return Some(at),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(page: &str) -> (Vec<(&str, &str, f64, bool)>, u64) {
        let mut samples = Vec::new();
        let unreadable = parse(page, &mut |sample| {
            samples.push((sample.name, sample.labels, sample.value, sample.is_counter));
        });
        (samples, unreadable)
    }

    #[test]
    fn counters_gauges_and_sums_are_read_and_buckets_left_out() {
        let page = "# HELP queue Waiting\n# TYPE queue gauge\nqueue 3\n# TYPE done counter\n\
            done_total{model=\"a b\",note=\"x}\\\"y\"} 1.5e3 1700000000\n\
            # TYPE wait histogram\nwait_bucket{le=\"1\"} 4\nwait_sum 2.5\nwait_count 4\nup +Inf\nnone NaN\n";
        let (samples, unreadable) = read(page);
        assert_eq!(unreadable, 0);
        assert_eq!(
            samples,
            [
                ("queue", "", 3.0, false),
                (
                    "done_total",
                    "model=\"a b\",note=\"x}\\\"y\"",
                    1_500.0,
                    true
                ),
                ("wait_sum", "", 2.5, true),
                ("wait_count", "", 4.0, true),
                ("up", "", f64::INFINITY, false),
            ]
        );
    }

    #[test]
    fn lines_that_make_no_sense_are_counted() {
        let (samples, unreadable) = read("a\nb{c=\"d\n e}\n 5 5\n{x=\"y\"} 1\ngood 1\n<html>\n");
        assert_eq!((samples.len(), unreadable), (2, 5), "{samples:?}");
    }

    proptest! {
        /// Whatever a server says cannot crash the reader.
        #[test]
        fn any_text_is_survived(page in "[a-z#{}\"\\\\ \n0-9é]{0,200}") {
            read(&page);
        }
    }
}
