//! Routes that are listed as they are made, so that the API's document can be held against them.

use axum::Router;
use axum::handler::Handler;
use axum::routing::{MethodRouter, delete, get, post, put};

/// A router, and what it answers.
pub(super) struct Routes<S> {
    router: Router<S>,
    listed: Vec<Listed>,
}

/// A method in lower case and a path.
pub(super) type Listed = (&'static str, &'static str);

impl<S: Clone + Send + Sync + 'static> Routes<S> {
    pub(super) fn new() -> Self {
        Self {
            router: Router::new(),
            listed: Vec::new(),
        }
    }

    pub(super) fn get<T: 'static>(self, path: &'static str, to: impl Handler<T, S>) -> Self {
        self.on("get", path, get(to))
    }

    pub(super) fn post<T: 'static>(self, path: &'static str, to: impl Handler<T, S>) -> Self {
        self.on("post", path, post(to))
    }

    pub(super) fn put<T: 'static>(self, path: &'static str, to: impl Handler<T, S>) -> Self {
        self.on("put", path, put(to))
    }

    pub(super) fn delete<T: 'static>(self, path: &'static str, to: impl Handler<T, S>) -> Self {
        self.on("delete", path, delete(to))
    }

    fn on(mut self, method: &'static str, path: &'static str, how: MethodRouter<S>) -> Self {
        self.listed.push((method, path));
        let router = self.router.route(path, how);
        Self { router, ..self }
    }

    pub(super) fn into_router(self) -> Router<S> {
        self.router
    }

    #[cfg(test)]
    pub(super) fn listed(&self) -> &[Listed] {
        &self.listed
    }
}
