//! The OpenAPI document of the admin API, for people and for generators of clients.

use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;

/// Where it is.
pub(super) const PATH: &str = "/admin/v1/openapi.json";

const TEXT: &str = include_str!("openapi.json");

/// The document; it holds no secret and needs no key.
pub(super) async fn get() -> Response {
    ([(CONTENT_TYPE, "application/json")], TEXT).into_response()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;
    use crate::admin::{accounts, decision_routes, models};

    fn document() -> Value {
        serde_json::from_str(TEXT).unwrap()
    }

    /// Every method with its path.
    fn documented() -> BTreeSet<(String, String)> {
        let document = document();
        let paths = document["paths"].as_object().unwrap().iter();
        let each = paths.flat_map(|(path, methods)| {
            let methods = methods.as_object().unwrap().keys();
            methods.map(|method| (method.clone(), path.clone()))
        });
        each.collect()
    }

    #[test]
    fn the_document_has_every_route_and_no_other() {
        let (accounts, models, decisions) =
            (accounts::routes(), models::routes(), decision_routes());
        let listed = [
            accounts.listed(),
            models.listed(),
            decisions.listed(),
            &[("get", PATH)],
        ];
        let there: BTreeSet<_> = listed
            .concat()
            .into_iter()
            .map(|(method, path)| (method.to_owned(), path.replace("{*", "{")))
            .collect();
        assert_eq!(documented(), there);
    }

    #[test]
    fn every_reference_leads_somewhere_and_every_path_names_its_parameters() {
        let document = document();
        let mut waiting = vec![&document];
        while let Some(value) = waiting.pop() {
            if let Some(reference) = value.get("$ref").and_then(Value::as_str) {
                let place = reference.strip_prefix('#').unwrap();
                assert!(document.pointer(place).is_some(), "{reference}");
            }
            match value {
                Value::Object(fields) => waiting.extend(fields.values()),
                Value::Array(values) => waiting.extend(values),
                _ => {}
            }
        }
        for (path, methods) in document["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap() {
                assert!(operation["operationId"].is_string(), "{method} {path}");
                let named = operation["parameters"].as_array().into_iter().flatten();
                let named = named.filter(|one| one["in"] == "path").count();
                assert_eq!(named, path.matches('{').count(), "{method} {path}");
            }
        }
    }
}
