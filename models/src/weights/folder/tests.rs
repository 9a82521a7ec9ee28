//! Folders that would do harm are refused with an error that names the file and what is wrong with it, before memory is
//! taken for what they promise.

use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::limits::SAFETENSORS_HEADER_BYTES_MAX;

const TRAITS: WeightTraits = WeightTraits {
    post_norms: false,
    norms_less_one: false,
    tied: false,
    quantise: None,
};

/// Two tensors of 16 bytes each.
fn good() -> Value {
    json!({
        "__metadata__": {"format": "pt"},
        "model.norm.weight": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]},
        "lm_head.weight": {"dtype": "BF16", "shape": [2, 4], "data_offsets": [16, 32]},
    })
}

/// A file with this header, 32 bytes of data behind it.
fn file_of(header: &str) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.bytes());
    bytes.extend(0..32);
    bytes
}

fn folder(bytes: &[u8]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(SINGLE), bytes).unwrap();
    dir
}

fn open(bytes: &[u8]) -> Result<FolderWeights, FolderError> {
    FolderWeights::open(folder(bytes).path(), TRAITS)
}

fn refusal(bytes: &[u8]) -> String {
    let refused = open(bytes).expect_err("the file is bad").to_string();
    assert!(refused.contains(SINGLE), "{refused} names the file");
    refused
}

/// The good header with one thing changed in its first tensor.
fn with(key: &str, value: Value) -> String {
    let mut header = good();
    header["model.norm.weight"][key] = value;
    refusal(&file_of(&header.to_string()))
}

#[test]
fn a_good_file_reads_as_it_was_written() {
    let weights = open(&file_of(&good().to_string())).unwrap();
    let (tensor_type, shape) = weights.tensor("output_norm.weight").unwrap();
    assert_eq!((tensor_type, shape), (TensorType::F32, vec![4]));
    let expected: Vec<u8> = (0..16).collect();
    assert_eq!(weights.read("output_norm.weight").unwrap(), expected);
    let (tensor_type, shape) = weights.tensor("output.weight").unwrap();
    assert_eq!((tensor_type, shape), (TensorType::BF16, vec![2, 4]));
}

#[test]
fn lengths_are_bounded_before_memory_is_taken() {
    for length in [u64::MAX, u64::MAX - 8, 1 << 62, 100_000_000, 60] {
        let mut bytes = length.to_le_bytes().to_vec();
        bytes.resize(64, b' ');
        assert!(refusal(&bytes).contains("cut short"), "{length}");
    }
    // As long as it says, and too long: a file with a hole, which takes no room on the disk.
    let dir = folder(&(SAFETENSORS_HEADER_BYTES_MAX + 1).to_le_bytes());
    let file = fs::OpenOptions::new()
        .write(true)
        .open(dir.path().join(SINGLE));
    file.unwrap().set_len(1 << 30).unwrap();
    let refused = FolderWeights::open(dir.path(), TRAITS).unwrap_err();
    assert!(refused.to_string().contains("header of more"), "{refused}");
}

#[test]
fn a_file_cut_short_is_refused_wherever_it_ends() {
    let bytes = file_of(&good().to_string());
    for end in 0..bytes.len() {
        refusal(&bytes[..end]);
    }
}

#[test]
fn headers_that_are_none_are_refused() {
    let deep = "[".repeat(100_000);
    let deep_entry = format!("{{\"a\":{}}}", "{\"b\":".repeat(100_000));
    for header in [
        "",
        "null",
        "[]",
        "{",
        "{\"a\":7}",
        "\u{0}\u{1}",
        &deep,
        &deep_entry,
    ] {
        refusal(&file_of(header));
    }
    let mut not_text = file_of("    ");
    not_text[9] = 0xff;
    assert!(refusal(&not_text).contains("bad header"));
}

#[test]
fn tensors_that_lie_elsewhere_are_refused_by_name() {
    let huge = u64::MAX;
    for offsets in [
        json!([16, 0]),
        json!([0, 12]),
        json!([0, 20]),
        json!([24, 40]),
        json!([huge - 16, huge]),
        json!([huge, 15]),
    ] {
        let refused = with("data_offsets", offsets);
        assert!(refused.contains("model.norm.weight"), "{refused}");
        assert!(refused.contains("not in the file"), "{refused}");
    }
    for shape in [
        json!([3]),
        json!([1u64 << 40, 1u64 << 40]),
        json!([huge, huge]),
    ] {
        assert!(with("shape", shape).contains("not in the file"));
    }
    // What neither shape nor place allow does not add up to something that both do.
    let mut header = good();
    header["lm_head.weight"] =
        json!({"dtype": "F32", "shape": [huge, huge], "data_offsets": [16, 0]});
    assert!(refusal(&file_of(&header.to_string())).contains("not in the file"));
    for (key, value) in [
        ("shape", json!([-4])),
        ("shape", json!("four")),
        ("data_offsets", json!([0])),
        ("data_offsets", json!([-16, 0])),
        ("dtype", json!(4)),
    ] {
        assert!(with(key, value).contains("malformed"));
    }
}

#[test]
fn tensors_that_share_bytes_are_refused() {
    let refused = with("data_offsets", json!([8, 24]));
    assert!(refused.contains("overlap"), "{refused}");
}

#[test]
fn types_that_no_weights_have_are_refused_by_name() {
    for dtype in ["I64", "F64", "F8_E4M3", "U8", "f32", ""] {
        let refused = with("dtype", json!(dtype));
        assert!(refused.contains("F32, F16, BF16"), "{refused}");
        assert!(refused.contains(dtype), "{refused}");
    }
}

#[test]
fn shards_must_all_be_there_and_name_a_tensor_once() {
    let dir = tempfile::tempdir().unwrap();
    let index = |map: Value| {
        let text = json!({"weight_map": map}).to_string();
        fs::write(dir.path().join(INDEX), text).unwrap();
    };
    let whole = file_of(&good().to_string());
    fs::write(dir.path().join("a.safetensors"), &whole).unwrap();
    index(json!({"model.norm.weight": "a.safetensors", "lm_head.weight": "b.safetensors"}));
    let missing = FolderWeights::open(dir.path(), TRAITS).unwrap_err();
    assert!(missing.to_string().contains("b.safetensors"), "{missing}");
    fs::write(dir.path().join("b.safetensors"), &whole).unwrap();
    let twice = FolderWeights::open(dir.path(), TRAITS).unwrap_err();
    assert!(twice.to_string().contains("appears twice"), "{twice}");
    for bad in [
        json!(7),
        json!({"a": 7}),
        json!({"a": "/etc/hosts"}),
        json!({"a": ".."}),
    ] {
        index(bad);
        let refused = FolderWeights::open(dir.path(), TRAITS).unwrap_err();
        assert!(refused.to_string().contains(INDEX), "{refused}");
    }
    let many = (0..=FOLDER_FILES_MAX).map(|i| (i.to_string(), json!(format!("{i}.safetensors"))));
    index(Value::Object(many.collect()));
    let refused = FolderWeights::open(dir.path(), TRAITS).unwrap_err();
    assert!(refused.to_string().contains("too many files"), "{refused}");
}

proptest! {
    #[test]
    fn flipped_bytes_never_panic(at: prop::sample::Index, byte: u8) {
        let mut bytes = file_of(&good().to_string());
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let dir = folder(&bytes);
        if let Ok(weights) = FolderWeights::open(dir.path(), TRAITS) {
            for name in weights.names() {
                let (tensor_type, shape) = weights.tensor(&name).unwrap();
                let numbers: usize = shape.iter().product();
                let read = weights.read(&name).unwrap();
                prop_assert_eq!(read.len() as u64, numbers as u64 * tensor_type.block_bytes());
            }
        }
    }
}
