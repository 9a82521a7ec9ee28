//! The raw file of a run while it is written: its format, its sample, and its first error.

use std::fs::File;
use std::io::{self, BufWriter};
use std::path::Path;

use super::line::Line;
use super::parquet::{ParquetFile, is_parquet};
pub use super::reservoir::Reservoir;
use super::{Tail, lines};
use crate::clock::Nanos;
use crate::drive::record::Record;
use crate::limits::RAW_BUFFER_BYTES;

/// A raw file that is being written. A full disk must not end a run: the first error is kept for its end.
#[derive(Debug)]
pub struct RawFile {
    out: io::Result<Out>,
    /// Takes the requests where only a sample of them is asked for.
    sample: Option<Reservoir>,
    /// When the run began.
    began: Nanos,
}

#[derive(Debug)]
enum Out {
    Lines(BufWriter<File>),
    Parquet(Box<ParquetFile<BufWriter<File>>>),
}

impl RawFile {
    /// Begins `file`, which was created at `path`.
    pub fn begin(file: File, path: &Path, sample: Option<Reservoir>) -> Self {
        let file = BufWriter::with_capacity(RAW_BUFFER_BYTES, file);
        Self {
            out: Out::begin(file, path),
            sample,
            began: 0,
        }
    }

    /// Takes a finished request of a run that began at `began`.
    pub fn take(&mut self, record: &Record, began: Nanos) {
        self.began = began;
        match &mut self.sample {
            Some(sample) => sample.take(record),
            None => self.write(record),
        }
    }

    /// Ends it.
    ///
    /// # Errors
    /// The first that there was.
    pub fn end(mut self, client_bound: bool, interrupted: bool) -> io::Result<()> {
        let sample = self.sample.take();
        let tail = Tail {
            client_bound,
            interrupted,
            sampled_from: sample.as_ref().map(Reservoir::seen),
        };
        for record in sample.into_iter().flat_map(Reservoir::into_kept) {
            self.write(&record);
        }
        self.out?.end(&tail)
    }

    fn write(&mut self, record: &Record) {
        if let Ok(out) = &mut self.out
            && let Err(error) = out.write(record, self.began)
        {
            self.out = Err(error);
        }
    }
}

impl Out {
    fn begin(mut file: BufWriter<File>, path: &Path) -> io::Result<Self> {
        if is_parquet(path) {
            return Ok(Self::Parquet(Box::new(ParquetFile::begin(file)?)));
        }
        lines::begin(&mut file)?;
        Ok(Self::Lines(file))
    }

    fn write(&mut self, record: &Record, began: Nanos) -> io::Result<()> {
        match self {
            Self::Lines(file) => lines::write(file, &Line::of(record, began)),
            Self::Parquet(file) => file.take(record, began),
        }
    }

    fn end(self, tail: &Tail) -> io::Result<()> {
        match self {
            Self::Lines(mut file) => lines::end(&mut file, tail),
            Self::Parquet(file) => file.end(tail),
        }
    }
}
