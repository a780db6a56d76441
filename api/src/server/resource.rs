//! Resources: a path, what it takes, what it answers, and who answers. One table makes both the routes
//! and `/openapi.json`, so neither knows a parameter that the other does not.

use std::future::Future;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;

use super::Api;
use super::answer::{Answer, Format};
use super::openapi::Description;
use super::problem::Problem;
use super::query::{self, Wrong};
use crate::store::TickStore;

/// What a resource is about, for whoever reads the description.
#[derive(Clone, Copy, Debug)]
pub(super) struct About {
    /// Its name in generated clients.
    pub(super) id: &'static str,
    /// The chapter that it belongs to.
    pub(super) chapter: &'static str,
    /// One sentence.
    pub(super) summary: &'static str,
    /// The forms that it answers in; the first one where nothing is asked.
    pub(super) formats: &'static [Format],
}

/// What is asked of a resource.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call<Q> {
    /// Its parameters.
    pub(super) query: Q,
}

/// The resources of the server.
pub(super) struct Resources<S> {
    router: Router<Arc<Api<S>>>,
    description: Description,
}

impl<S: TickStore + Clone + 'static> Resources<S> {
    /// None yet.
    pub(super) fn new() -> Self {
        Self {
            router: Router::new(),
            description: Description::new(),
        }
    }

    /// Adds a resource that answers with an `A`, in the form that is asked for.
    pub(super) fn get<Q, A, H, F>(mut self, path: &'static str, about: About, handler: H) -> Self
    where
        Q: DeserializeOwned + JsonSchema + Send + 'static,
        A: JsonSchema,
        H: Fn(Arc<Api<S>>, Call<Q>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Result<Answer, Problem>> + Send + 'static,
    {
        self.description.add::<Q, A>(path, &about);
        let route = async move |State(api): State<Arc<Api<S>>>, uri: Uri, headers: HeaderMap| {
            let answered = async {
                let format = Format::negotiated(&headers, about.formats)?;
                let query = query::read(&uri)?;
                let answer = handler(api, Call { query }).await?;
                Ok(answer.into_response(format, &headers))
            };
            answered.await.unwrap_or_else(Problem::into_response)
        };
        self.router = self.router.route(path, get(route));
        self
    }

    /// Adds a resource that makes its own response, and says in its own way what is wrong.
    pub(super) fn plain<Q, A, H, F>(mut self, path: &'static str, about: About, handler: H) -> Self
    where
        Q: DeserializeOwned + JsonSchema + Send + 'static,
        A: JsonSchema,
        H: Fn(Arc<Api<S>>, Result<Q, Wrong>, HeaderMap) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response> + Send + 'static,
    {
        self.description.add::<Q, A>(path, &about);
        let route = async move |State(api): State<Arc<Api<S>>>, uri: Uri, headers: HeaderMap| {
            handler(api, query::read(&uri), headers).await
        };
        self.router = self.router.route(path, get(route));
        self
    }

    /// Adds what belongs together.
    pub(super) fn with(self, add: impl FnOnce(Self) -> Self) -> Self {
        add(self)
    }

    /// The routes, with `/openapi.json` among them.
    pub(super) fn into_router(self) -> Router<Arc<Api<S>>> {
        let description = self.description.finish();
        let describe = async move |headers: HeaderMap| description.answer(&headers);
        self.router.route("/openapi.json", get(describe))
    }
}
