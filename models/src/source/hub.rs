//! Files of Hugging Face repositories, through `hf-hub`.
//!
//! The hub's answers name files in that crate's own cache layout, so names are checked before it may use them and it
//! works inside of our partial folder; the file then moves to `hf/OWNER/REPO/FILE` of our cache.

use std::fs;
use std::path::{Path, PathBuf};

use hf_hub::api::Progress;
use hf_hub::api::sync::{ApiBuilder, ApiRepo, Metadata};
use hf_hub::{Cache, Repo, RepoType};
use indicatif::ProgressBar;

use super::cache::{self, Claim, is_safe_name};
use super::error::{SourceError, one_line};
use super::{ModelFile, SourceOptions, progress, verify};
use crate::limits;

/// The file that `owner/repo/file.gguf` names, from the cache or from the hub.
///
/// A file of the hub is pinned by nobody, so a cached one is taken as it is; when it is fetched, its size and (for large
/// files, where the hub tells it) its SHA-256 are checked.
pub(super) fn resolve(reference: &str, options: &SourceOptions) -> Result<ModelFile, SourceError> {
    let name = HubName::parse(reference)?;
    let path = options
        .cache_dir()?
        .join("hf")
        .join(&name.repository)
        .join(&name.file);
    let id = path
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    if !path.exists()
        && let Claim::Ours(place) = cache::claim(&path)?
    {
        let finished = download(&name, place.partial(), options)?;
        place.fill(&finished)?;
    }
    Ok(ModelFile { path, id })
}

/// A file of a repository; every component is safe in a path and in an address.
#[derive(Debug)]
struct HubName {
    reference: String,
    repository: String,
    file: String,
}

impl HubName {
    fn parse(reference: &str) -> Result<Self, SourceError> {
        let components: Vec<&str> = reference.split('/').collect();
        match components.as_slice() {
            [owner, repository, file @ ..]
                if (1..=limits::HUB_PATH_COMPONENTS_MAX).contains(&file.len())
                    && components.iter().all(|component| is_safe_name(component))
                    && reference.ends_with(".gguf") =>
            {
                Ok(Self {
                    reference: reference.to_owned(),
                    repository: format!("{owner}/{repository}"),
                    file: file.join("/"),
                })
            }
            _ => Err(SourceError::BadHubReference {
                reference: one_line(reference),
            }),
        }
    }

    fn failed(&self, options: &SourceOptions, reason: &str) -> SourceError {
        SourceError::Hub {
            endpoint: options.hub_endpoint.clone(),
            reference: self.reference.clone(),
            reason: one_line(reason),
        }
    }
}

/// Fetches into `partial` and checks what came.
fn download(
    name: &HubName,
    partial: &Path,
    options: &SourceOptions,
) -> Result<PathBuf, SourceError> {
    tracing::info!(
        file = name.reference,
        endpoint = options.hub_endpoint,
        "downloading from the hub"
    );
    let failed = |reason: &str| name.failed(options, reason);
    let api = ApiBuilder::from_cache(Cache::new(partial.to_owned()))
        .with_endpoint(options.hub_endpoint.trim_end_matches('/').to_owned())
        .with_token(
            options
                .hub_token
                .clone()
                .or_else(|| Cache::from_env().token()),
        )
        .with_retries(limits::HUB_RETRIES)
        .build()
        .map_err(|error| failed(&error.to_string()))?;
    let repository: ApiRepo = api.repo(Repo::new(name.repository.clone(), RepoType::Model));
    let metadata = api
        .metadata(&repository.url(&name.file))
        .map_err(|error| failed(&error.to_string()))?;
    if !is_safe_name(metadata.etag()) || !is_safe_name(metadata.commit_hash()) {
        return Err(failed("it names the file in a way that is not safe"));
    }
    let bar = progress::bar(
        &format!("downloading {}", name.reference),
        metadata.size() as u64,
        options.progress,
    );
    let pointer = repository.download_with_progress(&name.file, BarOfHub(bar.clone()));
    bar.finish_and_clear();
    let pointer = pointer.map_err(|error| match error {
        hf_hub::api::sync::ApiError::IoError(error) => SourceError::io(partial, error),
        error => failed(&error.to_string()),
    })?;
    let file = fs::canonicalize(&pointer).map_err(|error| SourceError::io(&pointer, error))?;
    check(name, &file, &metadata, options)?;
    Ok(file)
}

/// Large files have their SHA-256 as their entity tag; small ones have something else of another length.
fn check(
    name: &HubName,
    file: &Path,
    metadata: &Metadata,
    options: &SourceOptions,
) -> Result<(), SourceError> {
    let bytes = file
        .metadata()
        .map_err(|error| SourceError::io(file, error))?
        .len();
    if bytes != metadata.size() as u64 {
        let reason = format!("{bytes} bytes came of {}", metadata.size());
        return Err(name.failed(options, &reason));
    }
    let etag = metadata.etag();
    if etag.len() != 64 {
        return Ok(());
    }
    let found = verify::sha256_of(&[file.to_owned()])?;
    if found.eq_ignore_ascii_case(etag) {
        return Ok(());
    }
    Err(SourceError::WrongChecksum {
        file: name.file.clone(),
        expected: etag.to_owned(),
        found,
    })
}

/// Our bar in the shape that the crate wants.
struct BarOfHub(ProgressBar);

impl Progress for BarOfHub {
    fn init(&mut self, size: usize, _filename: &str) {
        self.0.set_length(size as u64);
    }

    fn update(&mut self, size: usize) {
        self.0.inc(size as u64);
    }

    fn finish(&mut self) {}
}

#[cfg(test)]
mod tests;
