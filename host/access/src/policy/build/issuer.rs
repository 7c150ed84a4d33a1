//! `[[issuer]]`: who issues JWTs, what of them is taken, and where the keys are.

use super::{
    super::{
        Issuer, KeySource,
        issuer::{ALGORITHMS, ALGORITHMS_DEFAULT},
        table::{Table, Text},
    },
    Builder,
};
use crate::{
    claim, duration,
    identity::RESERVED,
    keys::{KeySet, Remote, RemoteKeys, is_fetchable},
    limits, minted,
};
use reqwest::Url;
use std::{collections::BTreeSet, sync::Arc};

impl Builder<'_> {
    pub(super) fn issuer(&mut self, mut table: Table<'_>) {
        let taken: BTreeSet<Arc<str>> =
            self.policy.issuers.iter().map(|issuer| Arc::clone(&issuer.name)).collect();
        let name = self.name(&mut table, |name| taken.contains(name));
        if let Some(name) = name.filter(|name| RESERVED.contains(name)) {
            let what =
                format_args!("an issuer can't be named `{name}`: slotd's own identities are");
            self.faults.add(Some(table.at.clone()), what);
        }
        let issuer = table.required(&mut self.faults, "issuer");
        if let Some(Text { text, at }) = &issuer {
            let what = if text.is_empty() {
                Some("an issuer's `issuer` can't be empty".to_owned())
            } else if *text == minted::ISSUER {
                Some(format!("`issuer = \"{text}\"` is what slotd's own tokens have"))
            } else if self.policy.issuers.iter().any(|it| it.issuer == *text) {
                Some(format!("another issuer has `issuer = \"{text}\"`, too"))
            } else {
                None
            };
            if let Some(what) = what {
                self.faults.add(Some(at.clone()), what);
            }
        }
        if table.value("audience").is_none() {
            // Without it, what was issued for any other service would be taken.
            table.lacks(&mut self.faults, "audience");
        }
        let audience = table.texts(&mut self.faults, "audience", 1..=limits::AUDIENCES_MAX);
        let algorithms = self.algorithms(&mut table);
        let skew_ms = self.skew(&mut table);
        let subject = self.subject(&mut table);
        let claims = self.claims(&mut table);
        let keys = self.key_source(&mut table, issuer.as_ref());
        table.finish(&mut self.faults);
        let (Some(name), Some(issuer), Some(audience), Some(keys)) = (name, issuer, audience, keys)
        else {
            return;
        };
        self.policy.issuers.push(Arc::new(Issuer {
            name: name.into(),
            issuer: issuer.text.to_owned(),
            audience: audience.iter().map(|it| it.text.to_owned()).collect(),
            algorithms,
            skew_ms,
            subject,
            claims,
            keys,
        }));
    }

    fn algorithms(&mut self, table: &mut Table<'_>) -> Vec<jsonwebtoken::Algorithm> {
        let named = table.texts(&mut self.faults, "algorithms", 1..=ALGORITHMS.len());
        let Some(named) = named else { return ALGORITHMS_DEFAULT.to_vec() };
        let mut algorithms = Vec::new();
        for Text { text, at } in named {
            match ALGORITHMS.iter().find(|(name, _)| *name == text) {
                Some((_, algorithm)) => algorithms.push(*algorithm),
                None => {
                    let known = ALGORITHMS.map(|(name, _)| name).join(", ");
                    let what = format_args!("`{text}` can't be named; there are: {known}");
                    self.faults.add(Some(at), what);
                }
            }
        }
        algorithms
    }

    fn skew(&mut self, table: &mut Table<'_>) -> u64 {
        let default = duration::ms(limits::SKEW_DEFAULT);
        let Some(Text { text, at }) = table.text(&mut self.faults, "skew") else { return default };
        match duration::parse(text).filter(|skew| *skew <= limits::SKEW_MAX) {
            Some(skew) => duration::ms(skew),
            None => {
                self.faults.add(Some(at), "`skew` is a time up to 5m, such as 30s");
                default
            }
        }
    }

    /// The claim that says who somebody is.
    fn subject(&mut self, table: &mut Table<'_>) -> Box<str> {
        match table.text(&mut self.faults, "subject") {
            None => "sub".into(),
            Some(Text { text, .. }) if text == "sub" || claim::is_name(text) => text.into(),
            Some(Text { text, at }) => {
                self.faults.add(Some(at), format_args!("`{text}` is no claim that can be named"));
                "sub".into()
            }
        }
    }

    fn claims(&mut self, table: &mut Table<'_>) -> Vec<String> {
        let named = table.texts(&mut self.faults, "claims", 0..=limits::CLAIMS_MAX);
        let mut claims = Vec::new();
        for Text { text, at } in named.unwrap_or_default() {
            if claim::is_name(text) {
                claims.push(text.to_owned());
            } else {
                self.faults.add(Some(at), format_args!("`{text}` is no claim that can be named"));
            }
        }
        claims
    }

    fn key_source(
        &mut self,
        table: &mut Table<'_>,
        issuer: Option<&Text<'_>>,
    ) -> Option<KeySource> {
        let url = table.text(&mut self.faults, "jwks");
        let file = table.text(&mut self.faults, "jwks_file");
        let ca = table.text(&mut self.faults, "ca_file");
        if let (Some(_), Some(file)) = (&url, &file) {
            self.faults.add(Some(file.at.clone()), "`jwks` and `jwks_file`: only one of them");
            return None;
        }
        if let Some(file) = file {
            if let Some(ca) = ca {
                self.faults.add(Some(ca.at), "`ca_file` is for keys that are fetched");
            }
            let bytes = self.file(&file, limits::KEYS_BYTES_MAX)?;
            return match KeySet::parse(&bytes) {
                Ok(keys) if keys.is_empty() => {
                    let what = format_args!("{} has no key that checks signatures", file.text);
                    self.faults.add(Some(file.at), what);
                    None
                }
                Ok(keys) => Some(KeySource::File(Arc::new(keys))),
                Err(error) => {
                    self.faults.add(Some(file.at), format_args!("{}: {error}", file.text));
                    None
                }
            };
        }
        let issuer = issuer?;
        let (at, url) = match &url {
            Some(url) => (url.at.clone(), self.url(url, "jwks")?),
            None => {
                let mut text = issuer.clone();
                let discovery = format!(
                    "{}/.well-known/openid-configuration",
                    issuer.text.strip_suffix('/').unwrap_or(issuer.text)
                );
                text.text = &discovery;
                (issuer.at.clone(), self.url(&text, "issuer")?)
            }
        };
        let keys = match table.value("jwks") {
            Some(_) => RemoteKeys::At(url),
            None => RemoteKeys::Discovered { from: url, issuer: issuer.text.to_owned() },
        };
        let roots = match ca {
            Some(ca) => Some(self.file(&ca, limits::KEYS_BYTES_MAX)?),
            None => None,
        };
        match Remote::new(keys, roots) {
            Ok(remote) => Some(KeySource::Url(Arc::new(remote))),
            Err(error) => {
                self.faults.add(Some(at), error);
                None
            }
        }
    }

    fn url(&mut self, text: &Text<'_>, key: &str) -> Option<Url> {
        let url = Url::parse(text.text).ok().filter(is_fetchable);
        if url.is_none() {
            let what = format_args!(
                "`{key}` is fetched, so it has to be a URL of https, or of http on a loopback address"
            );
            self.faults.add(Some(text.at.clone()), what);
        }
        url
    }
}
