//! The header of a GGUF file: a bounded walk over its metadata and its directory of tensors.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io::{ErrorKind, Read};

use super::{GgufError, TensorType, Value};
use crate::fingerprint::Fingerprint;
use crate::limits::{
    GGUF_ALIGNMENT_BYTES_MAX, GGUF_ARRAY_LEN_MAX, GGUF_DIMS_MAX, GGUF_HEADER_BYTES_MAX,
    GGUF_KEYS_MAX, GGUF_STRING_BYTES_MAX, GGUF_TENSORS_MAX,
};
use crate::weights::overlap::first_overlap;

/// Metadata and tensor directory.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) metadata: BTreeMap<String, Value>,
    pub(super) tensors: BTreeMap<String, TensorInfo>,
    /// Of all its bytes.
    pub(super) fingerprint: u128,
}

/// Where a tensor lies in its file and what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Sizes, the slowest-varying first: a weight matrix is `[out, in]` (GGUF stores them the other way round).
    pub shape: Vec<usize>,
    /// Type of its numbers.
    pub tensor_type: TensorType,
    /// First byte, counted from the start of the file.
    pub offset: u64,
    /// Length in bytes.
    pub bytes: u64,
}

impl Header {
    /// Walks over a header. `file_bytes` is the size of the whole file, which every range must fit into.
    pub(super) fn parse(reader: impl Read, file_bytes: u64) -> Result<Self, GgufError> {
        let mut cursor = Cursor {
            reader,
            position: 0,
            end: file_bytes.min(GGUF_HEADER_BYTES_MAX),
            file_bytes,
            read: Fingerprint::default(),
        };
        if cursor.array::<4>("the magic number")? != *b"GGUF" {
            return Err(GgufError::NotGguf);
        }
        let version = cursor.u32("the version")?;
        if !(2..=3).contains(&version) {
            return Err(GgufError::Version(version));
        }
        let tensor_count = cursor.count("the number of tensors", GGUF_TENSORS_MAX)?;
        let key_count = cursor.count("the number of metadata keys", GGUF_KEYS_MAX)?;
        let metadata = cursor.metadata(key_count)?;
        let mut tensors = cursor.directory(tensor_count)?;
        place_tensors(
            &mut tensors,
            cursor.position,
            alignment(&metadata)?,
            file_bytes,
        )?;
        Ok(Self {
            metadata,
            tensors,
            fingerprint: cursor.read.finish(),
        })
    }
}

/// Tensor data starts at the first aligned byte behind the header; offsets in the directory count from there.
fn place_tensors(
    tensors: &mut BTreeMap<String, TensorInfo>,
    header_end: u64,
    alignment: u64,
    file_bytes: u64,
) -> Result<(), GgufError> {
    let data_start = header_end.next_multiple_of(alignment);
    for (name, info) in tensors.iter_mut() {
        let end = info
            .offset
            .checked_add(data_start)
            .and_then(|start| start.checked_add(info.bytes));
        if info.offset % alignment != 0 {
            return Err(malformed(
                format!("the offset of tensor `{name}`"),
                "it is not aligned",
            ));
        }
        if end.is_none_or(|end| end > file_bytes) {
            return Err(GgufError::TensorRange {
                tensor: name.clone(),
            });
        }
        info.offset += data_start;
    }
    let ranges = tensors
        .iter()
        .map(|(name, info)| (info.offset, info.bytes, name.as_str()));
    match first_overlap(ranges.collect()) {
        Some(name) => Err(malformed(
            format!("tensor `{name}`"),
            "its data overlap with another one's",
        )),
        None => Ok(()),
    }
}

fn alignment(metadata: &BTreeMap<String, Value>) -> Result<u64, GgufError> {
    const KEY: &str = "general.alignment";
    const DEFAULT: u64 = 32; // the format's own
    let Some(value) = metadata.get(KEY) else {
        return Ok(DEFAULT);
    };
    match value.as_u32().map(u64::from) {
        Some(n) if n.is_power_of_two() && n <= GGUF_ALIGNMENT_BYTES_MAX => Ok(n),
        _ => Err(malformed(
            format!("metadata key `{KEY}`"),
            "it is not a small power of two",
        )),
    }
}

fn malformed(what: impl Into<String>, why: &'static str) -> GgufError {
    GgufError::Malformed {
        what: what.into(),
        why,
    }
}

/// Reads forward and knows how far it may.
struct Cursor<R> {
    reader: R,
    position: u64,
    /// The header may not go beyond this byte.
    end: u64,
    file_bytes: u64,
    /// Of the bytes read so far.
    read: Fingerprint,
}

impl<R: Read> Cursor<R> {
    /// Claims the next `len` bytes, before memory is taken for them.
    fn claim(&mut self, len: u64, what: &str) -> Result<(), GgufError> {
        let next = self.position.saturating_add(len);
        if next > self.file_bytes {
            return Err(GgufError::Truncated {
                what: what.to_owned(),
            });
        }
        if next > self.end {
            return Err(GgufError::TooLarge {
                what: "the size of the GGUF header".to_owned(),
                value: next,
                max: GGUF_HEADER_BYTES_MAX,
            });
        }
        self.position = next;
        Ok(())
    }

    fn fill(&mut self, buffer: &mut [u8], what: &str) -> Result<(), GgufError> {
        self.reader
            .read_exact(buffer)
            .map_err(|error| match error.kind() {
                ErrorKind::UnexpectedEof => GgufError::Truncated {
                    what: what.to_owned(),
                },
                _ => GgufError::Read(error),
            })?;
        self.read.add(buffer);
        Ok(())
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], GgufError> {
        self.claim(N as u64, what)?;
        let mut bytes = [0; N];
        self.fill(&mut bytes, what)?;
        Ok(bytes)
    }

    fn u32(&mut self, what: &str) -> Result<u32, GgufError> {
        self.array(what).map(u32::from_le_bytes)
    }

    fn u64(&mut self, what: &str) -> Result<u64, GgufError> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// A length that stays within `max`.
    fn count(&mut self, what: &str, max: u64) -> Result<u64, GgufError> {
        let value = self.u64(what)?;
        if value > max {
            return Err(GgufError::TooLarge {
                what: what.to_owned(),
                value,
                max,
            });
        }
        Ok(value)
    }

    fn string(&mut self, what: &str) -> Result<String, GgufError> {
        let len = self.count(what, GGUF_STRING_BYTES_MAX)?;
        self.claim(len, what)?;
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
        self.fill(&mut bytes, what)?;
        String::from_utf8(bytes).map_err(|_| malformed(what, "it is not UTF-8"))
    }

    fn metadata(&mut self, count: u64) -> Result<BTreeMap<String, Value>, GgufError> {
        let mut metadata = BTreeMap::new();
        for _ in 0..count {
            let key = self.string("a metadata key")?;
            let what = format!("metadata key `{key}`");
            let type_id = self.u32(&what)?;
            let value = self.value(type_id, &what)?;
            insert_new(&mut metadata, key, value, what)?;
        }
        Ok(metadata)
    }

    #[rustfmt::skip] // a table
    fn value(&mut self, type_id: u32, what: &str) -> Result<Value, GgufError> {
        Ok(match type_id {
            0 => Value::Unsigned(self.array(what).map(u8::from_le_bytes)?.into()),
            1 => Value::Signed(self.array(what).map(i8::from_le_bytes)?.into()),
            2 => Value::Unsigned(self.array(what).map(u16::from_le_bytes)?.into()),
            3 => Value::Signed(self.array(what).map(i16::from_le_bytes)?.into()),
            4 => Value::Unsigned(self.u32(what)?.into()),
            5 => Value::Signed(self.array(what).map(i32::from_le_bytes)?.into()),
            6 => Value::Float(self.array(what).map(f32::from_le_bytes)?.into()),
            7 => Value::Bool(self.boolean(what)?),
            8 => Value::String(self.string(what)?),
            9 => self.list(what)?,
            10 => Value::Unsigned(self.u64(what)?),
            11 => Value::Signed(self.array(what).map(i64::from_le_bytes)?),
            12 => Value::Float(self.array(what).map(f64::from_le_bytes)?),
            _ => return Err(malformed(what, "its type is none of GGUF's")),
        })
    }

    #[rustfmt::skip] // a table
    fn list(&mut self, what: &str) -> Result<Value, GgufError> {
        let type_id = self.u32(what)?;
        let len = self.count(what, GGUF_ARRAY_LEN_MAX)?;
        Ok(match type_id {
            0 => Value::U32s(self.elements(len, what, |b: [u8; 1]| u8::from_le_bytes(b).into())?),
            1 => Value::I32s(self.elements(len, what, |b: [u8; 1]| i8::from_le_bytes(b).into())?),
            2 => Value::U32s(self.elements(len, what, |b: [u8; 2]| u16::from_le_bytes(b).into())?),
            3 => Value::I32s(self.elements(len, what, |b: [u8; 2]| i16::from_le_bytes(b).into())?),
            4 => Value::U32s(self.elements(len, what, u32::from_le_bytes)?),
            5 => Value::I32s(self.elements(len, what, i32::from_le_bytes)?),
            6 => Value::F32s(self.elements(len, what, f32::from_le_bytes)?),
            7 => Value::Bools(self.elements(len, what, |b: [u8; 1]| b != [0])?),
            8 => Value::Strings(self.strings(len, what)?),
            10 => Value::U64s(self.elements(len, what, u64::from_le_bytes)?),
            11 => Value::I64s(self.elements(len, what, i64::from_le_bytes)?),
            12 => Value::F64s(self.elements(len, what, f64::from_le_bytes)?),
            9 => return Err(malformed(what, "it is an array of arrays")),
            _ => return Err(malformed(what, "its element type is none of GGUF's")),
        })
    }

    fn boolean(&mut self, what: &str) -> Result<bool, GgufError> {
        match self.array::<1>(what)? {
            [0] => Ok(false),
            [1] => Ok(true),
            _ => Err(malformed(what, "it is neither true nor false")),
        }
    }

    /// Numbers of `N` bytes. Their room in the file is claimed before memory is.
    fn elements<const N: usize, T>(
        &mut self,
        len: u64,
        what: &str,
        decode: impl Fn([u8; N]) -> T,
    ) -> Result<Vec<T>, GgufError> {
        self.claim(len.saturating_mul(N as u64), what)?;
        let mut values = Vec::with_capacity(usize::try_from(len).unwrap_or(0));
        let mut bytes = [0; N];
        for _ in 0..len {
            self.fill(&mut bytes, what)?;
            values.push(decode(bytes));
        }
        Ok(values)
    }

    /// Strings. Each takes at least its length field in the file, which bounds the memory taken ahead.
    fn strings(&mut self, len: u64, what: &str) -> Result<Vec<String>, GgufError> {
        let room = self.file_bytes.saturating_sub(self.position) / 8;
        if len > room {
            return Err(GgufError::Truncated {
                what: what.to_owned(),
            });
        }
        let mut values = Vec::with_capacity(usize::try_from(len).unwrap_or(0));
        for _ in 0..len {
            values.push(self.string(what)?);
        }
        Ok(values)
    }

    /// The directory; offsets are still relative to the start of the data.
    fn directory(&mut self, count: u64) -> Result<BTreeMap<String, TensorInfo>, GgufError> {
        let mut tensors = BTreeMap::new();
        for _ in 0..count {
            let name = self.string("a tensor's name")?;
            let info = self.tensor_info(&name)?;
            let what = format!("tensor `{name}`");
            insert_new(&mut tensors, name, info, what)?;
        }
        Ok(tensors)
    }

    fn tensor_info(&mut self, name: &str) -> Result<TensorInfo, GgufError> {
        let what = format!("tensor `{name}`");
        let dims = self.u32(&what)?;
        if dims == 0 || dims > GGUF_DIMS_MAX {
            return Err(malformed(what, "it has no dimension or too many"));
        }
        let mut sizes = Vec::with_capacity(GGUF_DIMS_MAX as usize);
        for _ in 0..dims {
            sizes.push(self.u64(&what)?);
        }
        let tensor_type = TensorType::from_ggml(self.u32(&what)?).map_err(|type_name| {
            GgufError::UnsupportedType {
                tensor: name.to_owned(),
                type_name,
            }
        })?;
        let offset = self.u64(&what)?;
        let bytes = tensor_bytes(&sizes, tensor_type).map_err(|why| malformed(&what, why))?;
        let shape = sizes
            .iter()
            .rev()
            .map(|&size| usize::try_from(size))
            .collect::<Result<_, _>>()
            .map_err(|_| malformed(&what, "it is too large for this machine"))?;
        Ok(TensorInfo {
            shape,
            tensor_type,
            offset,
            bytes,
        })
    }
}

/// Bytes of a tensor: its rows are whole blocks.
fn tensor_bytes(sizes: &[u64], tensor_type: TensorType) -> Result<u64, &'static str> {
    let (block_len, block_bytes) = (tensor_type.block_len(), tensor_type.block_bytes());
    if sizes.contains(&0) {
        return Err("one of its sizes is zero");
    }
    if sizes.first().is_none_or(|row| row % block_len != 0) {
        return Err("its rows are not whole blocks of its type");
    }
    sizes
        .iter()
        .try_fold(1u64, |all, &size| all.checked_mul(size))
        .and_then(|numbers| (numbers / block_len).checked_mul(block_bytes))
        .ok_or("its size overflows")
}

fn insert_new<V>(
    map: &mut BTreeMap<String, V>,
    key: String,
    value: V,
    what: String,
) -> Result<(), GgufError> {
    match map.entry(key) {
        Entry::Occupied(_) => Err(GgufError::Duplicate { what }),
        Entry::Vacant(entry) => {
            entry.insert(value);
            Ok(())
        }
    }
}
