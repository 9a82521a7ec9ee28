//! What is written is read again, in either format; what is not ours, or not whole, is refused.

use std::io::Write as _;
use std::path::PathBuf;

use super::file::Reservoir;
use super::*;
use crate::drive::record::View;
use crate::drive::record::tests::record;
use crate::drive::verdict::{Class, Verdict};

const NAMES: [&str; 2] = ["run.jsonl", "run.parquet"];

fn written(folder: &Path, name: &str, records: &[Record], sample: Option<Reservoir>) -> PathBuf {
    let path = folder.join(name);
    let mut file = RawFile::begin(File::create(&path).unwrap(), &path, sample);
    records.iter().for_each(|record| file.take(record, 0));
    file.end(true, false).unwrap();
    path
}

/// Everything that a line can say.
fn full() -> Record {
    let mut full = record();
    full.labels.index = 7;
    full.labels.model = "m".into();
    full.labels.tenant = Some("acme".into());
    full.labels.stage = Some("peak".into());
    full.labels.site = Some("lumi".into());
    full.labels.form = Some("json".into());
    full.verdict = Verdict::Failed(Class::Timeout.because("mid-stream"));
    full.stamps.intended += 1_000_000;
    full.extras.cached_tokens = Some(3);
    full.extras.joules = Some(1.5);
    full.extras.grams = Some(0.25);
    full.extras.retried = true;
    full
}

#[test]
fn what_is_written_is_read_again_in_either_format() {
    let folder = tempfile::tempdir().unwrap();
    let mut aborted = record();
    aborted.verdict = Verdict::Aborted;
    let records = [full(), record(), aborted];
    for name in NAMES {
        let run = Run::load(&written(folder.path(), name, &records, None)).unwrap();
        assert_eq!(
            (run.requests.len(), run.aborted, run.client_bound),
            (2, 1, true),
            "{name}"
        );
        let (first, second) = (&run.requests[0], &run.requests[1]);
        assert!(first.good && !second.good);
        for of in [
            Record::ttfb_us,
            Record::ttft_us,
            Record::e2e_us,
            Record::ntpot_us,
        ] {
            assert_eq!(
                of(&first.record, View::Response),
                of(&record(), View::Response)
            );
        }
        assert_eq!(first.record.tpot_us(), record().tpot_us());
        assert_eq!(first.record.gaps_us, record().gaps_us);
        assert_eq!(second.record.extras, full().extras);
        assert_eq!(second.record.labels.index, 7);
    }
}

#[test]
fn every_key_of_a_line_is_a_column_of_its_value() {
    use ::parquet::file::reader::{FileReader as _, SerializedFileReader};
    let folder = tempfile::tempdir().unwrap();
    let path = written(folder.path(), NAMES[1], &[full()], None);
    let file = SerializedFileReader::new(File::open(path).unwrap()).unwrap();
    let row = file.get_row_iter(None).unwrap().next().unwrap().unwrap();
    let line = serde_json::to_value(Line::of(&full(), 0)).unwrap();
    let line = line.as_object().unwrap();
    let names: Vec<&String> = row.get_column_iter().map(|(name, _)| name).collect();
    assert_eq!(names, line.keys().collect::<Vec<_>>());
    assert_eq!(super::parquet::json(&row), serde_json::json!(line));
}

#[test]
fn many_rows_lists_of_every_length_and_none_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let rows = crate::limits::PARQUET_ROWS as u64 * 2 + 3;
    let records: Vec<Record> = (0..rows)
        .map(|at| {
            let mut record = record();
            record.stamps.intended = at;
            record.gaps_us = (0..(at % 4) as u32).map(|gap| u32::MAX - gap).collect();
            record
        })
        .collect();
    let run = Run::load(&written(folder.path(), NAMES[1], &records, None)).unwrap();
    assert_eq!(run.requests.len() as u64, rows);
    for (request, record) in run.requests.iter().zip(&records) {
        assert_eq!(request.record.gaps_us, record.gaps_us);
    }
    let none = Run::load(&written(folder.path(), NAMES[1], &[], None)).unwrap();
    assert_eq!((none.requests.len(), none.weight), (0, 1.0));
}

#[test]
fn a_sample_is_even_and_says_what_it_is_of() {
    let folder = tempfile::tempdir().unwrap();
    let records: Vec<Record> = (0..10_000u64)
        .map(|at| {
            let mut record = record();
            record.stamps.intended = at * 1_000;
            record
        })
        .collect();
    for name in NAMES {
        let sample = Reservoir::new(200, 7);
        let run = Run::load(&written(folder.path(), name, &records, Some(sample))).unwrap();
        assert_eq!((run.requests.len(), run.weight), (200, 50.0), "{name}");
        let early = run
            .requests
            .iter()
            .filter(|request| request.record.stamps.intended < 5_000_000);
        assert!((70..130).contains(&early.count()));
    }
}

#[test]
fn other_files_and_torn_ones_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let said = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        Run::load(&path).unwrap_err().to_string()
    };
    let whole = NAMES.map(|name| {
        let path = written(folder.path(), name, &[record()], None);
        std::fs::read(path).unwrap()
    });
    let last = whole[0].trim_ascii_end().iter().rposition(|&b| b == b'\n');
    assert!(said("a", &whole[0][..=last.unwrap()]).contains("has no last line"));
    assert!(said("b", b"{\"schema\": \"x\"}\n").contains("is no raw file of this program"));
    let mut more = whole[0].clone();
    more.write_all(b"nonsense\n").unwrap();
    assert!(said("c", &more).contains(":4: is no request"));
    for cut in [4, 12, whole[1].len() / 2, whole[1].len() - 1] {
        let what = said("d", &whole[1][..cut]);
        assert!(what.contains("is no whole Parquet file"), "{cut}: {what}");
    }
}

#[test]
fn a_parquet_file_with_wrong_bytes_is_named_and_nothing_breaks() {
    let folder = tempfile::tempdir().unwrap();
    let path = written(folder.path(), "whole.parquet", &[record()], None);
    let whole = std::fs::read(path).unwrap();
    let damaged = folder.path().join("damaged.parquet");
    let mut refused = 0;
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 0xff;
        std::fs::write(&damaged, bytes).unwrap();
        if let Err(problems) = Run::load(&damaged) {
            assert!(
                problems.to_string().contains("damaged.parquet"),
                "{at}: {problems}"
            );
            refused += 1;
        }
    }
    // What is left is a text or a number that reads as another one.
    assert!(refused > whole.len() / 2, "{refused} of {}", whole.len());
}
