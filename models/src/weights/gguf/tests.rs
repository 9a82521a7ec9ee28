//! Good files are read as they were written; bad ones are refused with an error that names the place.

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
