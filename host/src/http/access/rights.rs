//! Which right each route needs. A route is registered together with it ([`Routes::on`]), so none is without.

use super::super::params;
use crate::error::Error;
use axum::Router;
use http::{Method, Uri};
use slotd_access::{On, Verb};
use std::{borrow::Cow, collections::HashMap, sync::Arc};
use utoipa::openapi::{OpenApi, path::PathItem};
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouter};

/// What a route's right is on: a part of its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Part {
    Session,
    /// All sessions of a service whose ids begin with the parameter `prefix`.
    Prefix,
    Service,
    /// Nothing of a service.
    Nothing,
}

/// What a route needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Need {
    /// Nothing: probes, and the description of the API.
    Public,
    /// A method that was registered without a row: nobody has the right to it, and a test finds it.
    Unknown,
    Right(Verb, Part),
}

/// A route's method, with what it needs.
pub(in super::super) type Row = (Method, Need);

pub(in super::super) fn public(method: Method) -> Row {
    (method, Need::Public)
}
pub(in super::super) fn needs(method: Method, verb: Verb, part: Part) -> Row {
    (method, Need::Right(verb, part))
}

/// The needs of a listener's routes. Cheap to clone.
#[derive(Clone, Default)]
pub(in super::super) struct Rights(Arc<HashMap<String, Vec<Row>>>);

impl Rights {
    /// What a request to the route `path` needs; `None`: the route does not take that method.
    pub(in super::super) fn of(&self, path: &str, method: &Method) -> Option<Need> {
        // axum answers HEAD where there is a GET.
        let method = if *method == Method::HEAD { &Method::GET } else { method };
        let rows = self.0.get(path)?;
        rows.iter().find(|(of, _)| of == method).map(|(_, need)| *need)
    }
    #[cfg(test)]
    pub(in super::super) fn all(&self) -> Vec<(Method, String, Need)> {
        let rows = self.0.iter().flat_map(|(path, rows)| {
            rows.iter().map(move |(method, need)| (method.clone(), path.clone(), *need))
        });
        let mut all: Vec<_> = rows.collect();
        all.sort_by_key(|(method, path, _)| (path.clone(), method.to_string()));
        all
    }
}

/// The routes of a listener, each registered with what it needs.
pub(in super::super) struct Routes<S> {
    router: OpenApiRouter<S>,
    rights: HashMap<String, Vec<Row>>,
}

impl<S: Clone + Send + Sync + 'static> Routes<S> {
    pub(in super::super) fn new() -> Self {
        Self { router: OpenApiRouter::new(), rights: HashMap::new() }
    }
    /// Registers the handlers of one path, with a row for each method.
    pub(in super::super) fn on<const N: usize>(
        mut self,
        rows: [Row; N],
        routes: UtoipaMethodRouter<S>,
    ) -> Self {
        for (path, item) in &routes.1.paths {
            let known = |method: &Method| rows.iter().any(|(of, _)| of == method);
            let unknown = described(item).into_iter().filter(|method| !known(method));
            let unknown = unknown.map(|method| (method, Need::Unknown));
            self.rights
                .entry(path.clone())
                .or_default()
                .extend(rows.iter().cloned().chain(unknown));
        }
        self.router = self.router.routes(routes);
        self
    }
    /// The router, its description and the needs of its routes.
    pub(in super::super) fn split(self) -> (Router<S>, OpenApi, Rights) {
        let (router, document) = self.router.split_for_parts();
        (router, document, Rights(Arc::new(self.rights)))
    }
}

/// What the right to a request is on.
pub(in super::super) enum Target<'a> {
    Session(Cow<'a, str>, Cow<'a, str>),
    Prefix(Cow<'a, str>, String),
    Service(Cow<'a, str>),
    Nothing,
}

impl<'a> Target<'a> {
    /// Of a route of the API (`/v1/services/...`) or the admin API (`/admin/v1/services/...`), names as they stand in
    /// the path.
    ///
    /// # Errors
    /// `request-invalid` for a name that does not decode.
    pub(in super::super) fn of(part: Part, uri: &'a Uri) -> Result<Self, Error> {
        let first = if uri.path().starts_with("/admin/") { 4 } else { 3 };
        let service = || params::decode(params::segment(uri, first), "service name");
        let session = || params::decode(params::segment(uri, first + 2), "session id");
        Ok(match part {
            Part::Session => Self::Session(service()?, session()?),
            Part::Prefix => {
                Self::Prefix(service()?, params::first(uri, "prefix").unwrap_or_default())
            }
            Part::Service => Self::Service(service()?),
            Part::Nothing => Self::Nothing,
        })
    }
    pub(in super::super) fn on(&self) -> On<'_> {
        match self {
            Self::Session(service, session) => On::Session(service, session),
            Self::Prefix(service, prefix) => On::Prefix(service, prefix),
            Self::Service(service) => On::Service(service),
            Self::Nothing => On::Nothing,
        }
    }
}

/// The methods that a path's description has.
fn described(item: &PathItem) -> Vec<Method> {
    let all = [
        (Method::GET, &item.get),
        (Method::PUT, &item.put),
        (Method::POST, &item.post),
        (Method::DELETE, &item.delete),
        (Method::OPTIONS, &item.options),
        (Method::HEAD, &item.head),
        (Method::PATCH, &item.patch),
        (Method::TRACE, &item.trace),
    ];
    all.into_iter().filter(|(_, operation)| operation.is_some()).map(|(method, _)| method).collect()
}
