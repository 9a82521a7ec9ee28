//! Names that resolve, names that do not, and what the cache keeps.

use super::*;

fn options(cache_dir: &Path) -> SourceOptions {
    SourceOptions {
        cache_dir: Some(cache_dir.to_owned()),
        python: "python-that-is-not-there".into(),
        hub_endpoint: "http://127.0.0.1:9".to_owned(),
        hub_token: None,
        progress: false,
    }
}

#[test]
fn a_path_is_taken_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("My Model.gguf");
    std::fs::write(&path, "GGUF").unwrap();
    let file = resolve(path.to_str().unwrap(), &options(dir.path())).unwrap();
    assert_eq!(
        file,
        ModelFile {
            path,
            id: "My Model".to_owned()
        }
    );
}

#[test]
fn a_folder_with_a_configuration_is_a_model() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("Qwen3-0.6B");
    std::fs::create_dir(&path).unwrap();
    std::fs::write(path.join("config.json"), "{}").unwrap();
    let file = resolve(path.to_str().unwrap(), &options(dir.path())).unwrap();
    assert_eq!((file.path, &*file.id), (path, "Qwen3-0.6B"));
}

#[test]
fn what_is_not_there_is_named_with_the_way_out() {
    let dir = tempfile::tempdir().unwrap();
    let message = |reference: &str| {
        resolve(reference, &options(dir.path()))
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        message("smollm"),
        "no model is called 'smollm'; known names: smollm2-135m-instruct, gemma-3-270m, all-minilm-l6-v2; or give a path to a .gguf file, or hf:OWNER/REPO/FILE.gguf"
    );
    assert_eq!(
        message("x/none.gguf"),
        "there is no model file at 'x/none.gguf'; check the path"
    );
    assert!(message("../smollm2-135m-instruct").starts_with("there is no model file"));
    assert!(message(dir.path().to_str().unwrap()).contains("is no file"));
    assert!(message("").starts_with("no model is called ''"));
    assert!(!message("a\nb").contains('\n'));
    assert!(message("smollm2-135m-instruct").contains("HANSA_PYTHON"));
    assert_eq!(cached(&catalogue()[0], &options(dir.path())), None);
}

#[test]
fn without_a_home_the_cache_must_be_named() {
    let mut options = options(Path::new("unused"));
    options.cache_dir = None;
    let error = resolve("smollm2-135m-instruct", &options).unwrap_err();
    assert!(error.to_string().contains("HANSA_CACHE"));
}
