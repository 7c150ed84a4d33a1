//! The answers while there is no node yet.

use super::{App, PlaceLimits, Shutdown, health, problem::Failed, stats::Stats};
use crate::{
    error::{Code, Error},
    limits,
};
use axum::{Router, extract::State, routing::get};
use std::{sync::Arc, time::Duration};
use tokio::sync::watch;

/// What a start is doing, and what delays it. Cheap to clone.
#[derive(Clone)]
pub struct Doing(Arc<watch::Sender<Step>>);

#[derive(Clone, Default)]
struct Step {
    what: String,
    /// Why it has not finished yet; it is retried.
    why: Option<String>,
}

impl Default for Doing {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(Step { what: "the node is starting".into(), why: None })))
    }
}

impl Doing {
    /// The next step begins.
    pub fn step(&self, what: impl Into<String>) {
        self.0.send_replace(Step { what: what.into(), why: None });
    }

    /// An attempt failed; others will follow.
    pub fn failed(&self, why: impl ToString) {
        self.0.send_modify(|step| step.why = Some(why.to_string()));
    }

    /// Resolves once an attempt has failed and the start has not finished `delay` later.
    pub async fn held_up(&self, delay: Duration) {
        // Its sender is `self`.
        let _ = self.0.subscribe().wait_for(|step| step.why.is_some()).await;
        tokio::time::sleep(delay).await;
    }

    fn error(&self) -> Error {
        let Step { what, why } = &*self.0.borrow();
        let detail = match why {
            Some(why) => format!("{what}: {why}"),
            None => what.clone(),
        };
        Error::new(Code::Unavailable, detail)
    }
}

impl App {
    /// For either listener, until there is a node: reports that it is alive, not ready, and why.
    pub fn starting(doing: Doing) -> Self {
        let places = PlaceLimits::new(limits::ADMIN_CONNECTIONS_MAX);
        let refuse = async |State(doing): State<Doing>| Failed::from(doing.error());
        let router = Router::new()
            .route("/healthz", get(health::live))
            .route("/openapi.json", get(health::openapi))
            .fallback(refuse)
            .with_state(doing);
        Self::of(router, None, Stats::new(), places, Shutdown::new())
    }
}
