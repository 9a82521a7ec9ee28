//! `/v1/models`: what can be asked for.

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{OriginalUri, Path, State};
use axum::response::Response;
use serde::Serialize;

use super::Api;
use super::answer::json;
use super::error::ApiError;
use crate::tenant::principal::Principal;
use crate::upstream::registry::{ModelInfo, Models};

/// Whoever showed a key; nobody on a server without.
type Caller = Option<axum::Extension<Arc<Principal>>>;

/// `GET /v1/models`: those that the caller may use.
pub(super) async fn list(State(api): State<Api>, caller: Caller) -> Response {
    let models = allowed(&api, caller.as_ref());
    json(&List {
        object: "list",
        data: models
            .iter()
            .map(|info| Model::of(info, api.models()))
            .collect(),
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
    Ok(json(&Model::of(model, api.models())))
}

fn allowed(api: &Api, caller: Option<&axum::Extension<Arc<Principal>>>) -> Vec<ModelInfo> {
    let mut models = api.models().list();
    if let Some(axum::Extension(principal)) = caller {
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
    #[serde(skip_serializing_if = "Option::is_none")]
    hansa: Option<Extension>,
}

/// What OpenAI's clients do not know.
#[derive(Serialize)]
struct Extension {
    /// Servers that say the same here continue each other's streams exactly.
    numerics: Arc<str>,
}

impl<'a> Model<'a> {
    fn of(model: &'a ModelInfo, models: &Models) -> Self {
        Self {
            id: &model.id,
            object: "model",
            created: model.created_s,
            owned_by: model.owned_by,
            hansa: models
                .numerics(&model.id)
                .map(|numerics| Extension { numerics }),
        }
    }
}
