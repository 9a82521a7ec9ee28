//! Records as lines of CSV (RFC 4180).

use std::io::{self, Write};

use super::{COLUMNS, Value};
use crate::quota::ledger::Record;

/// Writes the first line, with the names of the columns.
///
/// # Errors
/// What `to` says.
pub fn head(to: &mut impl Write) -> io::Result<()> {
    let names = COLUMNS.each_ref().map(|column| column.name);
    write!(to, "{}\r\n", names.join(","))
}

/// Writes one line a record.
///
/// # Errors
/// What `to` says.
pub fn rows(to: &mut impl Write, records: &[Record]) -> io::Result<()> {
    for record in records {
        for (place, column) in COLUMNS.iter().enumerate() {
            if place > 0 {
                to.write_all(b",")?;
            }
            match column.value {
                Value::Text(of) => to.write_all(quoted(&of(record)).as_bytes())?,
                Value::MaybeText(of) => {
                    to.write_all(quoted(of(record).unwrap_or_default()).as_bytes())?;
                }
                Value::Count(of) => write!(to, "{}", of(record))?,
                Value::Second(of) => write!(to, "{}", of(record))?,
                Value::Flag(of) => write!(to, "{}", of(record))?,
            }
        }
        to.write_all(b"\r\n")?;
    }
    Ok(())
}

/// A cell of text. Names are what clients and operators chose: one that a spreadsheet would take for a formula is kept
/// from being one.
fn quoted(text: &str) -> String {
    let formula = text.starts_with(['=', '+', '-', '@', '\t']);
    let guard = if formula { "'" } else { "" };
    if formula || text.contains([',', '"', '\r', '\n']) {
        return format!("\"{guard}{}\"", text.replace('"', "\"\""));
    }
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::tests::record;
    use super::*;

    #[test]
    fn a_cell_is_one_cell_and_never_a_formula() {
        for (text, cell) in [
            ("plain", "plain"),
            ("a,b", "\"a,b\""),
            ("say \"x\"", "\"say \"\"x\"\"\""),
            ("=1+1", "\"'=1+1\""),
            ("@SUM(A1)", "\"'@SUM(A1)\""),
        ] {
            assert_eq!(quoted(text), cell);
        }
    }

    #[test]
    fn a_line_has_a_cell_for_each_name() {
        let mut text = Vec::new();
        head(&mut text).unwrap();
        rows(&mut text, &[record(3, "acme/x", 17)]).unwrap();
        let text = String::from_utf8(text).unwrap();
        let (names, row) = text.split_once("\r\n").unwrap();
        assert_eq!(names.split(',').count(), row.trim_end().split(',').count());
        let charge = "00000000-0000-0000-0000-000000000003";
        assert_eq!(
            row,
            format!(
                "{charge},request-3,acme,acme/x,key,model,here,,3,1,6,9,12,15,true,finished,17,3,18,,,0,0,0,0123\r\n"
            )
        );
    }
}
