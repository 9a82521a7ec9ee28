//! `/v1/models`: what can be asked for.

use axum::extract::rejection::PathRejection;
use std::sync::Arc;

use axum::Extension;
use axum::extract::{OriginalUri, Path, State};
use axum::response::Response;
use serde::Serialize;

use super::Api;
use super::answer::json;
use super::error::ApiError;
use crate::tenant::principal::Principal;
use crate::upstream::registry::ModelInfo;

/// Whoever showed a key; nobody on a server without.
type Caller = Option<Extension<Arc<Principal>>>;

/// `GET /v1/models`: those that the caller may use.
pub(super) async fn list(State(api): State<Api>, caller: Caller) -> Response {
    let models = allowed(&api, caller.as_ref());
    json(&List {
        object: "list",
        data: models.iter().map(Model::from).collect(),
    })
}

/// `GET /v1/models/{id}`; an id may hold slashes. What is not text is nobody's id.
pub(super) async fn get(
    State(api): State<Api>,
    caller: Caller,
    OriginalUri(uri): OriginalUri,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    let Ok(Path(id)) = id else {
        let raw = uri.path().strip_prefix("/v1/models/");
        return Err(ApiError::model_not_found(raw.unwrap_or_default()));
    };
    let models = allowed(&api, caller.as_ref());
    let model = models.iter().find(|model| *model.id == *id);
    let model = model.ok_or_else(|| ApiError::model_not_found(&id))?;
    Ok(json(&Model::from(model)))
}

fn allowed(api: &Api, caller: Option<&Extension<Arc<Principal>>>) -> Vec<ModelInfo> {
    let mut models = api.models().list();
    if let Some(Extension(principal)) = caller {
        models.retain(|model| principal.models.allows(&model.id));
    }
    models
}

#[derive(Serialize)]
struct List<'a> {
    object: &'static str,
    data: Vec<Model<'a>>,
}

#[derive(Serialize)]
struct Model<'a> {
    id: &'a str,
    object: &'static str,
    created: i64,
    owned_by: &'static str,
}

impl<'a> From<&'a ModelInfo> for Model<'a> {
    fn from(model: &'a ModelInfo) -> Self {
        Self {
            id: &model.id,
            object: "model",
            created: model.created_s,
            owned_by: model.owned_by,
        }
    }
}
