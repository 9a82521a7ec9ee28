//! Good files are read as they were written; bad ones are refused with an error that names the place.

use std::io::Read;

use proptest::prelude::*;

use super::*;
use crate::testing::GgufWriter;

const F32: u32 = 0;

fn good() -> GgufWriter {
    GgufWriter::default()
        .str("general.architecture", "llama")
        .u32("llama.block_count", 2)
        .f32("llama.rope.freq_base", 10_000.0)
        .bool("tokenizer.ggml.add_bos_token", true)
        .strings("tokenizer.ggml.tokens", &["a", "b"])
        .i32s("tokenizer.ggml.token_type", &[1, -3])
        .f32s("tokenizer.ggml.scores", &[0.5])
        .tensor("w", &[2, 3], F32, &[7; 24])
        .tensor("v", &[1], F32, &[9; 4])
}

fn refusal(writer: GgufWriter) -> String {
    GgufFile::from_bytes(writer.into_bytes())
        .expect_err("the file is bad")
        .to_string()
}

#[test]
fn reads_what_was_written() {
    let file = GgufFile::from_bytes(good().into_bytes()).unwrap();
    assert_eq!(file.str("general.architecture").unwrap(), "llama");
    assert_eq!(file.u32("llama.block_count").unwrap(), 2);
    assert_eq!(file.f32("llama.rope.freq_base").unwrap(), 10_000.0);
    assert!(file.bool("tokenizer.ggml.add_bos_token").unwrap());
    assert_eq!(file.strings("tokenizer.ggml.tokens").unwrap(), ["a", "b"]);
    assert_eq!(file.i32s("tokenizer.ggml.token_type").unwrap(), [1, -3]);
    assert_eq!(file.f32s("tokenizer.ggml.scores").unwrap(), [0.5]);
    assert_eq!(file.opt_u32s("nothing").unwrap(), None);
    assert_eq!(file.tensor("w").unwrap().shape, [2, 3]);
    assert_eq!(file.read_tensor("w").unwrap(), [7; 24]);
    assert_eq!(file.read_tensor("v").unwrap(), [9; 4]);
}

#[test]
fn a_file_on_disk_reads_like_one_in_memory() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    good().write_to(&path).unwrap();
    let file = GgufFile::open(&path).unwrap();
    assert_eq!(file.tensor_names().collect::<Vec<_>>(), ["v", "w"]);
    assert_eq!(file.read_tensor("w").unwrap(), [7; 24]);
}

#[test]
fn a_missing_or_wrong_key_is_named() {
    let file = GgufFile::from_bytes(good().into_bytes()).unwrap();
    let missing = file.u32("llama.embedding_length").unwrap_err().to_string();
    assert!(missing.contains("llama.embedding_length"), "{missing}");
    let wrong = file.u32("general.architecture").unwrap_err().to_string();
    assert!(
        wrong.contains("general.architecture") && wrong.contains("a string"),
        "{wrong}"
    );
}

#[test]
fn a_file_cut_short_is_refused_wherever_it_ends() {
    let bytes = good().into_bytes();
    for end in 0..bytes.len() - 28 {
        assert!(
            GgufFile::from_bytes(bytes[..end].to_vec()).is_err(),
            "cut at {end}"
        );
    }
}

#[test]
fn names_may_appear_once() {
    assert!(refusal(good().u32("llama.block_count", 3)).contains("llama.block_count"));
    assert!(refusal(good().tensor("w", &[1], F32, &[0; 4])).contains('w'));
}

#[test]
fn lengths_are_bounded_before_memory_is_taken() {
    let string = refusal(good().raw_key("k", 8, &u64::MAX.to_le_bytes()));
    assert!(string.contains("more than the"), "{string}");
    let mut array = 8u32.to_le_bytes().to_vec();
    array.extend((1u64 << 21).to_le_bytes());
    assert!(refusal(good().raw_key("k", 9, &array)).contains("cut short"));
}

/// A file of a terabyte, most of it zeros, that counts what is read of it.
struct Endless<'a> {
    bytes: &'a [u8],
    read: &'a mut usize,
}

impl Read for Endless<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.bytes.read(buffer)?;
        buffer[count..].fill(0);
        *self.read += buffer.len();
        Ok(buffer.len())
    }
}

#[test]
fn absurd_lengths_are_refused_before_more_is_read() {
    let length = |value: u64| value.to_le_bytes().to_vec();
    let array = |type_id: u32, len: u64| [&type_id.to_le_bytes()[..], &length(len)].concat();
    for (type_id, value) in [
        (8, length(u64::MAX)),
        (8, length(1 << 30)),
        (9, array(0, u64::MAX)),
        (9, array(4, 1 << 40)),
        (9, array(8, 1 << 40)),
        (9, array(9, 1)),
        (99, length(0)),
    ] {
        let (mut bytes, mut read) = (good().raw_key("k", type_id, &value).into_bytes(), 0);
        // The number of tensors, then that of keys; some are absurd as well.
        for at in [None, Some(8), Some(16)] {
            if let Some(at) = at {
                bytes[at..at + 8].fill(0xff);
            }
            let file = Endless {
                bytes: &bytes,
                read: &mut read,
            };
            assert!(Header::parse(file, 1 << 40).is_err(), "{type_id} {value:?}");
            assert!(read <= bytes.len(), "{read} bytes were read");
            read = 0;
        }
    }
}

#[test]
fn tensors_that_share_bytes_are_refused() {
    let mut bytes = good().into_bytes();
    // The entry of `v` in the directory: name, one size, type; then its offset.
    let mut entry = 1u64.to_le_bytes().to_vec();
    entry.extend(b"v");
    entry.extend(1u32.to_le_bytes());
    entry.extend(1u64.to_le_bytes());
    entry.extend(F32.to_le_bytes());
    let at = bytes.windows(entry.len()).position(|w| w == entry);
    let offset = at.expect("the tensor is there") + entry.len();
    assert_eq!(bytes[offset..offset + 8], 32u64.to_le_bytes());
    bytes[offset..offset + 8].fill(0);
    let why = GgufFile::from_bytes(bytes).unwrap_err().to_string();
    assert!(why.contains("overlap"), "{why}");
}

#[test]
fn a_size_that_overflows_is_refused() {
    let huge = 1usize << 40;
    let why = refusal(good().tensor("x", &[huge, huge], F32, &[]));
    assert!(why.contains('x') && why.contains("overflows"), "{why}");
}

#[test]
fn rows_are_whole_blocks_and_types_are_known() {
    assert!(refusal(good().tensor("x", &[4, 33], 3, &[0; 100])).contains("whole blocks"));
    assert!(refusal(good().tensor("x", &[4, 32], 23, &[0; 100])).contains("IQ4_XS"));
    assert!(refusal(good().tensor("x", &[4, 32], 999, &[0; 100])).contains("999"));
}

#[test]
fn other_files_and_versions_are_refused() {
    let mut bytes = good().into_bytes();
    bytes[4] = 1;
    assert!(matches!(
        GgufFile::from_bytes(bytes.clone()),
        Err(GgufError::Version(1))
    ));
    bytes[0] = b'g';
    assert!(matches!(
        GgufFile::from_bytes(bytes),
        Err(GgufError::NotGguf)
    ));
}

proptest! {
    #[test]
    fn flipped_bytes_never_panic(at in 0usize..400, byte: u8) {
        let mut bytes = good().into_bytes();
        let at = at % bytes.len();
        bytes[at] = byte;
        if let Ok(file) = GgufFile::from_bytes(bytes) {
            for name in file.tensor_names().collect::<Vec<_>>() {
                let read = file.read_tensor(name).unwrap();
                prop_assert_eq!(read.len() as u64, file.tensor(name).unwrap().bytes);
            }
        }
    }
}
