//! The scopes that each operation needs, read from the OpenAPI document.

use std::{collections::HashMap, sync::Arc};

use axum::{extract::MatchedPath, http::Method};

use super::scope::{BEARER, Scopes};

/// The scope that each operation needs, as the document has it.
#[derive(Clone, Debug)]
pub struct Operations(Arc<HashMap<(Method, String), Needs>>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Needs {
    /// Nobody asks.
    Nothing,
    /// Any of these.
    AnyOf(Scopes),
}

impl Operations {
    /// Reads them from the document.
    #[must_use]
    pub fn of(document: &utoipa::openapi::OpenApi) -> Self {
        let document = serde_json::to_value(document).unwrap_or_default();
        let mut found = HashMap::new();
        for (path, item) in document["paths"].as_object().into_iter().flatten() {
            for (method, operation) in item.as_object().into_iter().flatten() {
                let Ok(method) = method.to_uppercase().parse() else { continue };
                let schemes = operation["security"].as_array().into_iter().flatten();
                let scopes = schemes.filter_map(|scheme| scheme[BEARER].as_array()).flatten();
                let scopes: Scopes = scopes.filter_map(|word| word.as_str()?.parse().ok()).collect();
                found.insert((method, path.clone()), Needs::AnyOf(scopes));
            }
        }
        Self(Arc::new(found))
    }

    /// What a request needs. Pages and the document are not in the table: they are open. A path in the table with a method
    /// that is not gets 405, so it needs nothing.
    pub(super) fn needs(&self, method: &Method, path: Option<&MatchedPath>) -> Needs {
        let method = if method == Method::HEAD { &Method::GET } else { method };
        path.and_then(|path| self.0.get(&(method.clone(), path.as_str().to_owned())))
            .copied()
            .unwrap_or(Needs::Nothing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_of_the_document_names_its_scope() {
        let operations = Operations::of(&crate::api::document());
        assert!(!operations.0.is_empty());
        for ((method, path), needs) in operations.0.iter() {
            assert!(
                matches!(needs, Needs::AnyOf(scopes) if scopes.iter().next().is_some()),
                "{method} {path}"
            );
        }
    }
}
