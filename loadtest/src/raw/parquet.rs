//! A raw file as Parquet: the columns are the keys of the lines of JSON, typed, so that analysis tools read them without
//! guessing; what the first and the last line say is in the file's key-value metadata.

use std::fs::File;
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use parquet::basic::{LogicalType, Repetition, Type as Physical};
use parquet::column::writer::ColumnWriter;
use parquet::data_type::ByteArray;
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::reader::{FileReader as _, SerializedFileReader};
use parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter};
use parquet::record::{Field, Row};
use parquet::schema::types::{Type, TypePtr};
use serde_json::Value as Json;

use super::line::Line;
use super::{Run, SCHEMA, Tail};
use crate::clock::Nanos;
use crate::drive::record::Record;
use crate::limits::PARQUET_ROWS;
use crate::problems::Problems;

/// How every file of the format begins.
pub(super) const MAGIC: &[u8] = b"PAR1";

/// Key of the metadata that says how the run ended.
const TAIL: &str = "hansa-loadtest/end";

/// Whether a name asks for the format.
pub(super) fn is_parquet(path: &Path) -> bool {
    path.extension().is_some_and(|end| end == "parquet")
}

/// A column: its name, which is the key in lines of JSON, and where its values come from.
struct Column {
    name: &'static str,
    value: Value,
}

enum Value {
    Text(for<'l> fn(&'l Line<'_>) -> &'l str),
    MaybeText(for<'l> fn(&'l Line<'_>) -> Option<&'l str>),
    Count(fn(&Line<'_>) -> u64),
    MaybeCount(fn(&Line<'_>) -> Option<u64>),
    MaybeNumber(fn(&Line<'_>) -> Option<f64>),
    Flag(fn(&Line<'_>) -> bool),
    Counts(for<'l> fn(&'l Line<'_>) -> &'l [u32]),
}

const COLUMNS: [Column; 26] = {
    use Value::{Count, Counts, Flag, MaybeCount, MaybeNumber, MaybeText, Text};
    const fn column(name: &'static str, value: Value) -> Column {
        Column { name, value }
    }
    [
        column("index", Count(|line| line.index)),
        column("session", Count(|line| line.session)),
        column("turn", Count(|line| line.turn.into())),
        column("model", Text(|line| &line.model)),
        column("tenant", MaybeText(|line| line.tenant.as_deref())),
        column("stage", MaybeText(|line| line.stage.as_deref())),
        column("site", MaybeText(|line| line.site.as_deref())),
        column("form", MaybeText(|line| line.form.as_deref())),
        column("verdict", Text(|line| &line.verdict)),
        column("reason", MaybeText(|line| line.reason.as_deref())),
        column("due_us", Count(|line| line.due_us)),
        column("sent_us", MaybeCount(|line| line.sent_us)),
        column("connected_us", MaybeCount(|line| line.connected_us)),
        column("headers_us", MaybeCount(|line| line.headers_us)),
        column("first_byte_us", MaybeCount(|line| line.first_byte_us)),
        column("first_content_us", MaybeCount(|line| line.first_content_us)),
        column("last_content_us", MaybeCount(|line| line.last_content_us)),
        column("terminal_us", MaybeCount(|line| line.terminal_us)),
        column("end_us", Count(|line| line.end_us)),
        column("prompt_tokens", MaybeCount(|line| line.prompt_tokens)),
        column("output_tokens", MaybeCount(|line| line.output_tokens)),
        column("cached_tokens", MaybeCount(|line| line.cached_tokens)),
        column("joules", MaybeNumber(|line| line.joules)),
        column("grams", MaybeNumber(|line| line.grams)),
        column("retried", Flag(|line| line.retried)),
        column("gaps_us", Counts(|line| &line.gaps_us)),
    ]
};

/// A file that is being written, a group of rows at a time.
#[derive(Debug)]
pub(super) struct ParquetFile<W: Write + Send> {
    file: SerializedFileWriter<W>,
    rows: Vec<Record>,
    began: Nanos,
}

impl<W: Write + Send> ParquetFile<W> {
    /// Begins a file.
    ///
    /// # Errors
    /// Those of the writer, as of everything here.
    pub(super) fn begin(out: W) -> io::Result<Self> {
        let created_by = format!("hansa-loadtest {}", env!("CARGO_PKG_VERSION"));
        let properties = WriterProperties::builder().set_created_by(created_by);
        let schema = schema().map_err(io::Error::other)?;
        let file = SerializedFileWriter::new(out, schema, Arc::new(properties.build()));
        Ok(Self {
            file: file.map_err(io::Error::other)?,
            rows: Vec::with_capacity(PARQUET_ROWS),
            began: 0,
        })
    }

    /// Takes a request of a run that began at `began`.
    pub(super) fn take(&mut self, record: &Record, began: Nanos) -> io::Result<()> {
        self.began = began;
        self.rows.push(record.clone());
        match self.rows.len() {
            PARQUET_ROWS.. => self.write_rows().map_err(io::Error::other),
            _ => Ok(()),
        }
    }

    /// Ends the file; without this it is none.
    pub(super) fn end(mut self, tail: &Tail) -> io::Result<()> {
        if !self.rows.is_empty() {
            self.write_rows().map_err(io::Error::other)?;
        }
        let tail = serde_json::to_string(tail)?;
        for (key, value) in [("schema", SCHEMA.to_owned()), (TAIL, tail)] {
            let entry = KeyValue::new(key.to_owned(), value);
            self.file.append_key_value_metadata(entry);
        }
        self.file.into_inner().map_err(io::Error::other)?.flush()
    }

    /// Writes the rows as one group.
    fn write_rows(&mut self) -> Result<(), ParquetError> {
        let lines = self.rows.iter();
        let lines: Vec<Line<'_>> = lines.map(|row| Line::of(row, self.began)).collect();
        let mut group = self.file.next_row_group()?;
        for column in &COLUMNS {
            let Some(mut writer) = group.next_column()? else {
                break;
            };
            write(column, &lines, &mut writer)?;
            writer.close()?;
        }
        group.close()?;
        self.rows.clear();
        Ok(())
    }
}

fn write(
    column: &Column,
    lines: &[Line<'_>],
    writer: &mut SerializedColumnWriter<'_>,
) -> Result<(), ParquetError> {
    match (writer.untyped(), &column.value) {
        (ColumnWriter::ByteArrayColumnWriter(to), Value::Text(of)) => {
            let texts: Vec<_> = lines.iter().map(|line| bytes(of(line))).collect();
            to.write_batch(&texts, None, None)?;
        }
        (ColumnWriter::ByteArrayColumnWriter(to), Value::MaybeText(of)) => {
            let (texts, there) = present(lines.iter().map(|line| of(line).map(bytes)));
            to.write_batch(&texts, Some(&there), None)?;
        }
        // The columns are declared unsigned: the bits are the number's.
        (ColumnWriter::Int64ColumnWriter(to), Value::Count(of)) => {
            let counts: Vec<_> = lines.iter().map(|line| of(line).cast_signed()).collect();
            to.write_batch(&counts, None, None)?;
        }
        (ColumnWriter::Int64ColumnWriter(to), Value::MaybeCount(of)) => {
            let counts = lines.iter().map(|line| of(line).map(u64::cast_signed));
            let (counts, there) = present(counts);
            to.write_batch(&counts, Some(&there), None)?;
        }
        (ColumnWriter::DoubleColumnWriter(to), Value::MaybeNumber(of)) => {
            let (numbers, there) = present(lines.iter().map(of));
            to.write_batch(&numbers, Some(&there), None)?;
        }
        (ColumnWriter::BoolColumnWriter(to), Value::Flag(of)) => {
            let flags: Vec<_> = lines.iter().map(of).collect();
            to.write_batch(&flags, None, None)?;
        }
        (ColumnWriter::Int32ColumnWriter(to), Value::Counts(of)) => {
            let (counts, there, continued) = flat(lines.iter().map(|line| of(line)));
            to.write_batch(&counts, Some(&there), Some(&continued))?;
        }
        _ => return Err(ParquetError::General(format!("column {}", column.name))),
    }
    Ok(())
}

fn bytes(text: &str) -> ByteArray {
    text.as_bytes().to_vec().into()
}

/// The values that are there, and for each row 1 where it has one.
fn present<T>(values: impl Iterator<Item = Option<T>>) -> (Vec<T>, Vec<i16>) {
    let (mut all, mut there) = (Vec::new(), Vec::new());
    for value in values {
        there.push(value.is_some().into());
        all.extend(value);
    }
    (all, there)
}

/// All elements of all lists; and for each of them, or for an empty list, 1 where there is one, and 1 where it goes on with
/// the list of the one before.
fn flat<'l>(lists: impl Iterator<Item = &'l [u32]>) -> (Vec<i32>, Vec<i16>, Vec<i16>) {
    let (mut all, mut there, mut continued) = (Vec::new(), Vec::new(), Vec::new());
    for list in lists {
        all.extend(list.iter().map(|element| element.cast_signed()));
        there.extend(list.iter().map(|_| 1));
        continued.extend(list.iter().enumerate().map(|(at, _)| i16::from(at > 0)));
        if list.is_empty() {
            there.push(0);
            continued.push(0);
        }
    }
    (all, there, continued)
}

fn schema() -> Result<TypePtr, ParquetError> {
    let fields = COLUMNS.iter().map(field).collect::<Result<_, _>>()?;
    let root = Type::group_type_builder("request").with_fields(fields);
    Ok(Arc::new(root.build()?))
}

fn field(column: &Column) -> Result<TypePtr, ParquetError> {
    let unsigned = |bits| Some(LogicalType::integer(bits, false));
    let (physical, logical, repetition) = match column.value {
        Value::Text(_) => (
            Physical::BYTE_ARRAY,
            Some(LogicalType::String),
            Repetition::REQUIRED,
        ),
        Value::MaybeText(_) => (
            Physical::BYTE_ARRAY,
            Some(LogicalType::String),
            Repetition::OPTIONAL,
        ),
        Value::Count(_) => (Physical::INT64, unsigned(64), Repetition::REQUIRED),
        Value::MaybeCount(_) => (Physical::INT64, unsigned(64), Repetition::OPTIONAL),
        Value::MaybeNumber(_) => (Physical::DOUBLE, None, Repetition::OPTIONAL),
        Value::Flag(_) => (Physical::BOOLEAN, None, Repetition::REQUIRED),
        Value::Counts(_) => {
            let element = primitive("element", Physical::INT32, unsigned(32));
            return list(column.name, element.build()?);
        }
    };
    let field = primitive(column.name, physical, logical).with_repetition(repetition);
    Ok(Arc::new(field.build()?))
}

fn primitive(
    name: &str,
    physical: Physical,
    logical: Option<LogicalType>,
) -> parquet::schema::types::PrimitiveTypeBuilder<'_> {
    Type::primitive_type_builder(name, physical)
        .with_repetition(Repetition::REQUIRED)
        .with_logical_type(logical)
}

/// A list in the three levels that the format prescribes.
fn list(name: &str, element: Type) -> Result<TypePtr, ParquetError> {
    let repeated = Type::group_type_builder("list")
        .with_repetition(Repetition::REPEATED)
        .with_fields(vec![Arc::new(element)])
        .build()?;
    let list = Type::group_type_builder(name)
        .with_repetition(Repetition::REQUIRED)
        .with_logical_type(Some(LogicalType::List))
        .with_fields(vec![Arc::new(repeated)]);
    Ok(Arc::new(list.build()?))
}

/// Reads all requests into `run`, and how it ended.
///
/// # Errors
/// It is not whole, not of this program, or has a row that is no request.
pub(super) fn read(file: File, path: &Path, run: &mut Run) -> Result<Tail, Problems> {
    // The library panics over some damaged files instead of saying so.
    let read = catch_unwind(AssertUnwindSafe(|| read_whole(file, path, run)));
    read.unwrap_or_else(|_| Err(Problems::one(path, "is a damaged Parquet file".to_owned())))
}

fn read_whole(file: File, path: &Path, run: &mut Run) -> Result<Tail, Problems> {
    let one = |what: String| Problems::one(path, what);
    let broken = |error: ParquetError| one(format!("is no whole Parquet file: {error}"));
    let file = SerializedFileReader::new(file).map_err(broken)?;
    let told = |key: &str| {
        let entries = file.metadata().file_metadata().key_value_metadata();
        let entry = entries?.iter().find(|entry| entry.key == key)?;
        entry.value.clone()
    };
    let tail = told(TAIL).and_then(|tail| serde_json::from_str(&tail).ok());
    let Some(tail) = tail.filter(|_| told("schema").as_deref() == Some(SCHEMA)) else {
        return Err(one(super::not_ours()));
    };
    let mut problems = Problems::new(path);
    for (row, number) in file.get_row_iter(None).map_err(broken)?.zip(1..) {
        match serde_json::from_value::<Line<'_>>(json(&row.map_err(broken)?)) {
            Ok(line) => run.take(line).map_err(one)?,
            Err(_) => problems.add(number, "is no request"),
        }
    }
    problems.or(tail)
}

/// A row as the line of JSON that it would be.
pub(super) fn json(row: &Row) -> Json {
    let columns = row.get_column_iter();
    let there = columns.filter(|(_, field)| !matches!(field, Field::Null));
    there
        .map(|(name, field)| (name.clone(), value(field)))
        .collect()
}

fn value(field: &Field) -> Json {
    match field {
        Field::Str(text) => text.as_str().into(),
        Field::ULong(count) => (*count).into(),
        Field::UInt(count) => (*count).into(),
        Field::Double(number) => (*number).into(),
        Field::Bool(flag) => (*flag).into(),
        Field::ListInternal(list) => list.elements().iter().map(value).collect(),
        _ => Json::Null,
    }
}
