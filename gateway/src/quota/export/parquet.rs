//! Records as a Parquet file: typed columns that analysis tools read without guessing.

use std::io::Write;
use std::sync::Arc;

use parquet::basic::{LogicalType, Repetition, Type as Physical};
use parquet::column::writer::ColumnWriter;
use parquet::data_type::ByteArray;
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter};
use parquet::schema::types::{Type, TypePtr};

use super::{COLUMNS, Column, Value};
use crate::quota::ledger::Record;

/// A file that is being written.
pub struct ParquetFile<W: Write + Send>(SerializedFileWriter<W>);

impl<W: Write + Send> ParquetFile<W> {
    /// Begins a file.
    ///
    /// # Errors
    /// What `to` says.
    pub fn begin(to: W) -> Result<Self, ParquetError> {
        let created_by = format!("hansa {}", env!("CARGO_PKG_VERSION"));
        let properties = WriterProperties::builder().set_created_by(created_by);
        let file = SerializedFileWriter::new(to, schema()?, Arc::new(properties.build()))?;
        Ok(Self(file))
    }

    /// Writes records as one row group.
    ///
    /// # Errors
    /// As [`ParquetFile::begin`].
    pub fn rows(&mut self, records: &[Record]) -> Result<(), ParquetError> {
        let mut group = self.0.next_row_group()?;
        for column in &COLUMNS {
            let Some(mut writer) = group.next_column()? else {
                break;
            };
            write(column, records, &mut writer)?;
            writer.close()?;
        }
        group.close()?;
        Ok(())
    }

    /// Ends the file; without this it is none.
    ///
    /// # Errors
    /// As [`ParquetFile::begin`].
    pub fn end(self) -> Result<W, ParquetError> {
        self.0.into_inner()
    }
}

fn write(
    column: &Column,
    records: &[Record],
    writer: &mut SerializedColumnWriter<'_>,
) -> Result<(), ParquetError> {
    match (writer.untyped(), &column.value) {
        (ColumnWriter::ByteArrayColumnWriter(to), Value::Text(of)) => {
            let texts = records.iter().map(|record| bytes(&of(record)));
            to.write_batch(&texts.collect::<Vec<_>>(), None, None)?;
        }
        (ColumnWriter::ByteArrayColumnWriter(to), Value::MaybeText(of)) => {
            let there = records.iter().map(|record| of(record).is_some().into());
            let texts = records.iter().filter_map(|record| of(record).map(bytes));
            let (texts, there): (Vec<_>, Vec<i16>) = (texts.collect(), there.collect());
            to.write_batch(&texts, Some(&there), None)?;
        }
        (ColumnWriter::Int64ColumnWriter(to), Value::Count(of)) => {
            // The column is declared unsigned: the bits are the number's.
            let counts = records.iter().map(|record| of(record).cast_signed());
            to.write_batch(&counts.collect::<Vec<_>>(), None, None)?;
        }
        (ColumnWriter::Int64ColumnWriter(to), Value::Second(of)) => {
            to.write_batch(&records.iter().map(of).collect::<Vec<_>>(), None, None)?;
        }
        (ColumnWriter::BoolColumnWriter(to), Value::Flag(of)) => {
            to.write_batch(&records.iter().map(of).collect::<Vec<_>>(), None, None)?;
        }
        _ => return Err(ParquetError::General(format!("column {}", column.name))),
    }
    Ok(())
}

fn bytes(text: &str) -> ByteArray {
    text.as_bytes().to_vec().into()
}

fn schema() -> Result<TypePtr, ParquetError> {
    let fields = COLUMNS.iter().map(field).collect::<Result<_, _>>()?;
    let root = Type::group_type_builder("record").with_fields(fields);
    Ok(Arc::new(root.build()?))
}

fn field(column: &Column) -> Result<TypePtr, ParquetError> {
    let (physical, logical, there) = match column.value {
        Value::Text(_) => (Physical::BYTE_ARRAY, Some(LogicalType::String), true),
        Value::MaybeText(_) => (Physical::BYTE_ARRAY, Some(LogicalType::String), false),
        Value::Count(_) => (Physical::INT64, Some(LogicalType::integer(64, false)), true),
        Value::Second(_) => (Physical::INT64, Some(LogicalType::integer(64, true)), true),
        Value::Flag(_) => (Physical::BOOLEAN, None, true),
    };
    let repetition = match there {
        true => Repetition::REQUIRED,
        false => Repetition::OPTIONAL,
    };
    let field = Type::primitive_type_builder(column.name, physical)
        .with_repetition(repetition)
        .with_logical_type(logical);
    Ok(Arc::new(field.build()?))
}

impl<W: Write + Send> std::fmt::Debug for ParquetFile<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ParquetFile").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use ::bytes::Bytes;
    use ::parquet::file::reader::{FileReader as _, SerializedFileReader};
    use ::parquet::record::RowAccessor as _;

    use super::super::tests::record;
    use super::*;

    #[test]
    fn what_is_read_back_is_what_was_written() {
        let records: Vec<Record> = (0..1_000)
            .map(|number| {
                record(
                    number,
                    if number % 3 == 0 { "acme" } else { "acme/x" },
                    number as i64,
                )
            })
            .collect();
        let mut file = ParquetFile::begin(Vec::new()).unwrap();
        for some in records.chunks(300) {
            file.rows(some).unwrap();
        }
        let read = SerializedFileReader::new(Bytes::from(file.end().unwrap())).unwrap();
        assert_eq!(read.metadata().file_metadata().num_rows(), 1_000);
        let (mut prompt, mut money, mut estimated) = (0, 0, 0);
        for (row, record) in read.get_row_iter(None).unwrap().zip(&records) {
            let row = row.unwrap();
            assert_eq!(*row.get_string(0).unwrap(), record.charge.to_string());
            assert_eq!(
                row.get_string(3).ok().map(String::as_str),
                record.project.as_deref()
            );
            assert_eq!(row.get_long(16).unwrap(), record.began_s);
            prompt += row.get_ulong(8).unwrap();
            money += row.get_ulong(12).unwrap();
            estimated += u64::from(row.get_bool(14).unwrap());
        }
        let sum = |of: fn(&Record) -> u64| records.iter().map(of).sum::<u64>();
        assert_eq!(prompt, sum(|record| record.tokens.prompt));
        assert_eq!(money, sum(|record| record.amounts.money_micros));
        assert_eq!(estimated, 500);
    }

    #[test]
    fn an_empty_export_is_a_file_too() {
        let file = ParquetFile::begin(Vec::new()).unwrap().end().unwrap();
        let read = SerializedFileReader::new(Bytes::from(file)).unwrap();
        assert_eq!(read.metadata().file_metadata().num_rows(), 0);
    }
}
