//! What of services is left out of captures.

use crate::{capture::Redaction, names::ServiceName};
use parking_lot::RwLock;
use std::{collections::BTreeMap, sync::Arc};

/// By service; `*` for those that do not say it themselves. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Redactions(Arc<RwLock<BTreeMap<String, Vec<Redaction>>>>);

/// What is wrong with places to redact.
pub fn check<'a>(texts: impl IntoIterator<Item = &'a String>) -> Vec<String> {
    texts.into_iter().filter_map(|text| text.parse::<Redaction>().err()).collect()
}

impl Redactions {
    /// Those that are wrong were refused before.
    pub fn set<'a>(&self, all: impl IntoIterator<Item = (&'a str, &'a [String])>) {
        let parsed = all.into_iter().map(|(service, texts)| {
            let texts = texts.iter().filter_map(|text| text.parse().ok());
            (service.to_owned(), texts.collect())
        });
        *self.0.write() = parsed.collect();
    }

    pub fn of(&self, service: &ServiceName) -> Vec<Redaction> {
        let all = self.0.read();
        all.get(service.as_str()).or_else(|| all.get("*")).cloned().unwrap_or_default()
    }
}
