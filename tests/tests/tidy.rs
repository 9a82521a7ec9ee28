//! The house rules that a machine can check: who may depend on whom, sizes, bounds, and no `unwrap` in product code.

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::{Context, Result};
use hansa_tests::repository_root;
use hansa_tests::source_tree::{SourceFile, source_files};
use serde_json::Value;

const PRODUCT: [&str; 5] = [
    "config/src",
    "models/src",
    "engine/src",
    "gateway/src",
    "loadtest/src",
];
const FILE_LINES_MAX: usize = 600;
const FUNCTION_LINES_MAX: usize = 70;

#[test]
fn crates_depend_on_each_other_only_along_the_arrows() -> Result<()> {
    let allowed: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("hansa-config", [].as_slice()),
        ("hansa-models", &[]),
        ("hansa-engine", &["hansa-models"]),
        (
            "hansa-gateway",
            &["hansa-config", "hansa-engine", "hansa-models"],
        ),
        ("hansa-loadtest", &["hansa-gateway"]),
        ("hansa-tests", &["hansa-loadtest"]),
    ]);
    for (package, dependencies) in workspace_dependencies()? {
        let allowed = allowed.get(package.as_str()).copied().unwrap_or_default();
        for dependency in dependencies {
            assert!(
                allowed.contains(&dependency.as_str()),
                "{package} must not depend on {dependency}"
            );
        }
    }
    Ok(())
}

#[test]
fn only_the_local_upstream_knows_the_engine() {
    for file in source_files(&repository_root(), "gateway/src") {
        let local = file.path.ends_with("upstream/local.rs")
            || file.path.starts_with("gateway/src/upstream/local");
        assert!(
            local || !file.text.contains("hansa_engine::"),
            "{} names hansa_engine",
            file.path.display()
        );
    }
}

#[test]
fn only_the_simulator_of_the_load_tester_knows_the_gateway() {
    for file in source_files(&repository_root(), "loadtest/src") {
        let sim = file.path.starts_with("loadtest/src/sim");
        assert!(
            sim || !file.text.contains("hansa_gateway::"),
            "{} names hansa_gateway",
            file.path.display()
        );
    }
}

#[test]
fn files_and_functions_stay_small() {
    let mut lengths = Vec::new();
    for file in product_files() {
        assert!(
            file.lines <= FILE_LINES_MAX,
            "{} has {} lines",
            file.path.display(),
            file.lines
        );
        for function in &file.functions {
            assert!(
                function.lines <= FUNCTION_LINES_MAX,
                "{}:{} {} has {} lines",
                file.path.display(),
                function.line,
                function.name,
                function.lines
            );
            lengths.push(function.lines);
        }
    }
    lengths.sort_unstable();
    let at = |share: usize| {
        lengths
            .get(lengths.len() * share / 100)
            .copied()
            .unwrap_or_default()
    };
    println!(
        "{} functions: median {} lines, p90 {}, p99 {}",
        lengths.len(),
        at(50),
        at(90),
        at(99)
    );
    assert!(
        at(50) <= 12 && at(90) <= 40,
        "functions have grown: median {}, p90 {}",
        at(50),
        at(90)
    );
}

#[test]
fn product_code_has_no_unwrap() {
    for file in product_files() {
        assert!(
            file.unwraps.is_empty(),
            "{} unwraps in lines {:?}",
            file.path.display(),
            file.unwraps
        );
    }
}

#[test]
fn every_file_says_what_it_is() {
    for file in product_files() {
        assert!(
            file.text.starts_with("//!"),
            "{} has no head",
            file.path.display()
        );
    }
}

#[test]
fn every_bound_has_a_unit_and_a_reason() {
    for folder in PRODUCT {
        let (one, parts) = (format!("{folder}/limits.rs"), format!("{folder}/limits/"));
        let files = source_files(&repository_root(), folder);
        let of_bounds = files.iter().filter(|file| {
            let path = file.path.to_string_lossy();
            path.ends_with(&one) || path.contains(&parts)
        });
        let bounds: Vec<String> = of_bounds.flat_map(bounds).collect();
        assert!(!bounds.is_empty(), "{folder} has no limits.rs");
        println!("\n{folder}\n{}", bounds.join("\n"));
    }
}

/// The bounds of a file, each with its reason.
fn bounds(file: &SourceFile) -> Vec<String> {
    let (mut reason, mut bounds) = (Vec::new(), Vec::new());
    for line in file.text.lines() {
        if let Some(comment) = line.trim().strip_prefix("///") {
            reason.push(comment.trim().to_owned());
        } else if let Some(constant) = line.trim().strip_prefix("pub const ") {
            let path = file.path.display();
            assert!(!reason.is_empty(), "{path}: no reason for {constant}");
            bounds.push(format!("  {constant:60} {}", reason.join(" ")));
            reason.clear();
        }
    }
    bounds
}

fn product_files() -> Vec<SourceFile> {
    PRODUCT
        .iter()
        .flat_map(|folder| source_files(&repository_root(), folder))
        .collect()
}

/// Dependencies of each package of the workspace on other packages of it, normal ones only.
fn workspace_dependencies() -> Result<Vec<(String, Vec<String>)>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(repository_root())
        .args([
            "metadata",
            "--no-deps",
            "--format-version",
            "1",
            "--offline",
        ])
        .output()?;
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    let packages = metadata["packages"]
        .as_array()
        .context("packages in the metadata")?;
    Ok(packages
        .iter()
        .map(|package| (name_of(package), dependencies_of(package)))
        .collect())
}

fn name_of(package: &Value) -> String {
    package["name"].as_str().unwrap_or_default().to_owned()
}

fn dependencies_of(package: &Value) -> Vec<String> {
    let dependencies = package["dependencies"].as_array().into_iter().flatten();
    let normal = dependencies.filter(|dependency| dependency["kind"].is_null());
    normal
        .map(name_of)
        .filter(|name| name.starts_with("hansa-"))
        .collect()
}
