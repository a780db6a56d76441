//! Resources: a path, what it takes, what it answers, and who answers. One table makes both the routes
//! and `/openapi.json`, so neither knows a parameter that the other does not.

use std::collections::BTreeMap;
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
use super::answer::{Answer, Form, Format};
use super::cache::Key;
use super::openapi::Description;
use super::problem::Problem;
use super::query::{self, Mark, More, Wrong};
use super::walk::Way;
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

/// What is asked of a history: a page of it, or all.
pub(super) trait Ranged {
    /// Whether a page is asked for.
    fn has_limit(&self) -> bool;

    /// Whether it is in the database as it is asked for; what is made comes page by page.
    ///
    /// # Errors
    ///
    /// The database does not say.
    fn is_kept<S: TickStore>(
        &self,
        _api: &Api<S>,
    ) -> impl Future<Output = Result<bool, Problem>> + Send {
        async { Ok(true) }
    }

    /// All that is asked for of `stream`, and where the page before ended.
    ///
    /// # Errors
    ///
    /// A parameter that is wrong.
    fn whole(self, stream: &str) -> Result<(Way, Option<Mark>), Problem>;
}

/// A request as it came.
struct Asked {
    path: Arc<str>,
    uri: Uri,
    headers: HeaderMap,
}

impl Asked {
    /// The form that is wanted, and the parameters. Everything that a client may see passes here and is
    /// named by its query, whether it is kept, made or streamed: this is where a key's right to a venue
    /// or a topic would be asked for, before anything is answered from what others were told.
    fn read<Q: DeserializeOwned>(&self, about: &About) -> Result<(Form, Q), Problem> {
        let form = Format::negotiated(&self.headers, about.formats)?;
        Ok((form, query::read(&self.uri)?))
    }

    /// Answers with what is kept, or is made now.
    async fn answer<S>(
        &self,
        api: &Api<S>,
        form: Form,
        made: impl Future<Output = Result<Answer, Problem>>,
    ) -> Result<Response, Problem> {
        let key = Key {
            path: Arc::clone(&self.path),
            query: query::canonical(&self.uri),
            format: form.format,
        };
        let written = async { made.await?.write(form.format) };
        let written = api.answers.get(key, written).await?;
        Ok(written.respond(form, &self.uri, &self.headers))
    }
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

    /// Adds a resource that answers with an `A`, in the form that is asked for. Answers are kept for a
    /// moment: the handler may depend on nothing but the query.
    pub(super) fn get<Q, A, H, F>(mut self, path: &'static str, about: About, handler: H) -> Self
    where
        Q: DeserializeOwned + JsonSchema + Send + 'static,
        A: JsonSchema,
        H: Fn(Arc<Api<S>>, Call<Q>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Result<Answer, Problem>> + Send + 'static,
    {
        self.description.add::<Q, A>(path, &about);
        let kept: Arc<str> = path.into();
        let route = async move |State(api): State<Arc<Api<S>>>, uri: Uri, headers: HeaderMap| {
            let path = Arc::clone(&kept);
            let asked = Asked { path, uri, headers };
            let answered = async {
                let (form, query) = asked.read(&about)?;
                let cx = Arc::clone(&api);
                asked.answer(&api, form, handler(cx, Call { query })).await
            };
            answered.await.unwrap_or_else(Problem::into_response)
        };
        self.router = self.router.route(path, get(route));
        self
    }

    /// Adds a history: like [`Resources::get`], but it comes whole where lines are asked for without a
    /// limit.
    pub(super) fn history<Q, A, H, F>(mut self, path: &'static str, about: About, page: H) -> Self
    where
        Q: Ranged + DeserializeOwned + JsonSchema + Send + Sync + 'static,
        A: JsonSchema,
        H: Fn(Arc<Api<S>>, Call<Q>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Result<Answer, Problem>> + Send + 'static,
    {
        self.description.add::<Q, A>(path, &about);
        let kept: Arc<str> = path.into();
        let route = async move |State(api): State<Arc<Api<S>>>, uri: Uri, headers: HeaderMap| {
            let path = Arc::clone(&kept);
            let asked = Asked { path, uri, headers };
            let answered = async {
                let (form, query) = asked.read::<Q>(&about)?;
                if form.format.has_frame() || query.has_limit() || !query.is_kept(&api).await? {
                    let cx = Arc::clone(&api);
                    return asked.answer(&api, form, page(cx, Call { query })).await;
                }
                let way = query.whole(&api.config.stream)?;
                let (store, stream) = (api.config.store.clone(), &api.config.stream);
                let walk = api.walks.begin(store, stream, way, &api.metrics).await?;
                Ok(walk.respond(form, &asked.uri))
            };
            answered.await.unwrap_or_else(Problem::into_response)
        };
        self.router = self.router.route(path, get(route));
        self
    }

    /// Adds a resource that takes `more` parameters than its type says.
    pub(super) fn open<Q, A, H, F>(
        mut self,
        (path, about): (&str, About),
        more: Vec<More>,
        handler: H,
    ) -> Self
    where
        Q: DeserializeOwned + JsonSchema + Send + 'static,
        A: JsonSchema,
        H: Fn(Arc<Api<S>>, Call<Q>, BTreeMap<String, String>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Result<Answer, Problem>> + Send + 'static,
    {
        self.description.add_with::<Q, A>(path, &about, &more);
        let kept: Arc<str> = path.into();
        let route = async move |State(api): State<Arc<Api<S>>>, uri: Uri, headers: HeaderMap| {
            let path = Arc::clone(&kept);
            let asked = Asked { path, uri, headers };
            let answered = async {
                let form = Format::negotiated(&asked.headers, about.formats)?;
                let (query, given) = query::read_with(&asked.uri, &more)?;
                let made = handler(Arc::clone(&api), Call { query }, given);
                asked.answer(&api, form, made).await
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
