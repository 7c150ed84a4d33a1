//! From the text of a policy to what decisions read, or to all that is wrong with it.

use super::{
    Fault, Gate, Origins, Policy, Rule, Sender, ServicePolicy, SigningKey,
    rule::Who,
    table::{Faults, Table, Text},
};
use crate::{
    identity::{NAME_RULE, is_name, is_service},
    limits,
    pattern::Pattern,
    signing::PublicKey,
    verb::{Listener, Verb, Verbs},
};
use reqwest::Url;
use serde::{Deserialize as _, de::IntoDeserializer as _};
use slotd_quota::policy::Limits;
use std::{
    collections::{BTreeMap, BTreeSet},
    io::Read as _,
    ops::Range,
    path::{Path, PathBuf},
};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

mod issuer;
mod when;

pub(super) fn build(text: &str, base_dir: &Path) -> Result<Policy, Vec<Fault>> {
    let mut faults = Faults::new(text);
    if text.len() > limits::POLICY_BYTES_MAX {
        faults.add(None, format_args!("longer than {} bytes", limits::POLICY_BYTES_MAX));
        return Err(faults.done());
    }
    let (root, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        faults.add(error.span(), error.message());
    }
    // What was recovered of a table may lack what is there.
    if !errors.is_empty() {
        return Err(faults.done());
    }
    let mut builder = Builder { base_dir, faults, policy: Policy::default() };
    builder.root(root.get_ref());
    match builder.faults.is_empty() {
        true => Ok(builder.policy),
        false => Err(builder.faults.done()),
    }
}

struct Builder<'t> {
    base_dir: &'t Path,
    faults: Faults<'t>,
    policy: Policy,
}

type Value<'a> = Spanned<DeValue<'a>>;

impl Builder<'_> {
    fn root<'a>(&mut self, root: &'a DeTable<'a>) {
        let mut table = Table::new("the policy", root, 0..0);
        let issuers = table.value("issuer");
        let rules = table.value("rule");
        let services = table.value("service");
        let keys = table.value("key");
        table.finish(&mut self.faults);
        for table in self.tables("issuer", issuers, limits::ISSUERS_MAX) {
            self.issuer(table);
        }
        for table in self.tables("key", keys, limits::SIGNING_KEYS_MAX) {
            self.key(table);
        }
        for table in self.tables("rule", rules, limits::RULES_MAX) {
            self.rule(table);
        }
        if let Some(services) = services {
            self.services(services);
        }
    }

    /// The tables of `[[name]]`.
    fn tables<'a>(
        &mut self,
        name: &str,
        value: Option<&'a Value<'a>>,
        max: usize,
    ) -> Vec<Table<'a>> {
        let Some(value) = value else { return Vec::new() };
        let DeValue::Array(values) = value.get_ref() else {
            self.faults.add(Some(value.span()), format_args!("`{name}` is written [[{name}]]"));
            return Vec::new();
        };
        if values.len() > max {
            let what = format_args!("more than {max} tables [[{name}]]");
            self.faults.add(Some(value.span()), what);
            return Vec::new();
        }
        let mut tables = Vec::new();
        for value in values.iter() {
            match value.get_ref() {
                DeValue::Table(table) => {
                    tables.push(Table::new(format!("[[{name}]]"), table, value.span()));
                }
                _ => {
                    let what = format_args!("`{name}` is written [[{name}]]");
                    self.faults.add(Some(value.span()), what);
                }
            }
        }
        tables
    }

    /// The name of an issuer or a key, which no other has.
    fn name<'a>(
        &mut self,
        table: &mut Table<'a>,
        is_taken: impl Fn(&str) -> bool,
    ) -> Option<&'a str> {
        let Text { text, at } = table.required(&mut self.faults, "name")?;
        let name = format!("{} {text}", table.name());
        table.rename(name);
        if !is_name(text) {
            self.faults.add(Some(at), format_args!("the name `{text}` has to be {NAME_RULE}"));
            return None;
        }
        if is_taken(text) {
            self.faults.add(Some(at), format_args!("the name `{text}` is taken"));
            return None;
        }
        Some(text)
    }

    /// The bytes of a file that the policy names.
    fn file(&mut self, name: &Text<'_>, max: usize) -> Option<Vec<u8>> {
        let path = self.base_dir.join(name.text);
        match read(&path, max) {
            Ok(bytes) => {
                self.policy.files.push(path);
                Some(bytes)
            }
            Err(error) => {
                let what = format_args!("{}: {error}", path.display());
                self.faults.add(Some(name.at.clone()), what);
                None
            }
        }
    }

    fn public_key(
        &mut self,
        text: &str,
        at: Range<usize>,
        file: Option<&str>,
    ) -> Option<PublicKey> {
        let key = PublicKey::parse(text);
        let file = file.map(|file| format!("{file}: ")).unwrap_or_default();
        key.map_err(|why| self.faults.add(Some(at), format_args!("{file}{why}"))).ok()
    }

    fn key(&mut self, mut table: Table<'_>) {
        let taken: BTreeSet<String> = self.policy.keys.iter().map(|key| key.name.clone()).collect();
        let name = self.name(&mut table, |name| taken.contains(name));
        let public = table.text(&mut self.faults, "public");
        let file = table.text(&mut self.faults, "file");
        let key = match (public, file) {
            (Some(Text { text, at }), None) => self.public_key(text, at, None),
            (None, Some(file)) => self.file(&file, limits::KEYS_BYTES_MAX).and_then(|bytes| {
                let text = String::from_utf8_lossy(&bytes);
                self.public_key(&text, file.at, Some(file.text))
            }),
            _ => {
                let what = format_args!("{} needs `public` or `file`, one of them", table.name());
                self.faults.add(Some(table.at.clone()), what);
                None
            }
        };
        table.finish(&mut self.faults);
        if let (Some(name), Some(public)) = (name, key) {
            self.policy.keys.push(SigningKey { name: name.to_owned(), public });
        }
    }

    fn rule(&mut self, mut table: Table<'_>) {
        for key in ["who", "allow", "on"] {
            if table.value(key).is_none() {
                table.lacks(&mut self.faults, key);
            }
        }
        let who = self.who(&mut table);
        let verbs = self.verbs(&mut table);
        let on = self.patterns(&mut table);
        let when = self.when(&mut table);
        let claims =
            on.iter().flat_map(|(pattern, at)| pattern.claims().map(|it| (it, at.clone())));
        let claims = claims.chain(when.iter().map(|(claim, _, at)| (claim.as_str(), at.clone())));
        for (claim, at) in claims {
            self.check_claim(&who, claim, at);
        }
        if verbs.has_of(Listener::Admin)
            && !on.is_empty()
            && !on.iter().any(|(pattern, _)| pattern.has_all_sessions())
        {
            let what = "admin verbs are on services, and every pattern of `on` names sessions";
            self.faults.add(Some(table.at.clone()), what);
        }
        let line = Some(self.faults.line(table.at.start));
        table.finish(&mut self.faults);
        self.policy.rules.push(Rule {
            who,
            verbs,
            on: on.into_iter().map(|(pattern, _)| pattern).collect(),
            when: when.into_iter().map(|(claim, value, _)| (claim, value)).collect(),
            line,
        });
    }

    fn who(&mut self, table: &mut Table<'_>) -> Vec<Who> {
        let mut all = Vec::new();
        let texts = table.texts(&mut self.faults, "who", 1..=limits::WHO_MAX);
        for Text { text, at } in texts.unwrap_or_default() {
            match Who::parse(text) {
                Ok(who) => {
                    if let Who::Named { kind, .. } = &who
                        && !["token", "certificate"].contains(&&**kind)
                        && !self.policy.issuers.iter().any(|issuer| *issuer.name == **kind)
                    {
                        let what = format_args!("`{text}`: no [[issuer]] is named `{kind}`");
                        self.faults.add(Some(at), what);
                    }
                    all.push(who);
                }
                Err(error) => self.faults.add(Some(at), format_args!("`{text}`: {error}")),
            }
        }
        all
    }

    fn verbs(&mut self, table: &mut Table<'_>) -> Verbs {
        let mut verbs = Verbs::default();
        // Each verb, and the two that stand for several.
        let texts = table.texts(&mut self.faults, "allow", 1..=Verb::ALL.len() + 2);
        for Text { text, at } in texts.unwrap_or_default() {
            match Verbs::named(text) {
                Some(named) => verbs.add(named),
                None => {
                    let what = format_args!(
                        "`{text}` is not a verb; there are: *, admin-*, {}",
                        Verb::listed()
                    );
                    self.faults.add(Some(at), what);
                }
            }
        }
        verbs
    }

    fn patterns(&mut self, table: &mut Table<'_>) -> Vec<(Pattern, Range<usize>)> {
        let mut patterns = Vec::new();
        let texts = table.texts(&mut self.faults, "on", 1..=limits::PATTERNS_MAX);
        for Text { text, at } in texts.unwrap_or_default() {
            match Pattern::parse(text) {
                Ok(pattern) => patterns.push((pattern, at)),
                Err(error) => {
                    self.faults
                        .add(Some(at), format_args!("the pattern `{text}` is wrong: {error}"));
                }
            }
        }
        patterns
    }

    /// A rule that asks for a claim that nobody of `who` can have never matches, which nobody means.
    fn check_claim(&mut self, who: &[Who], claim: &str, at: Range<usize>) {
        let can_have = |who: &Who| match who {
            Who::Anyone if claim == "sub" => false,
            Who::Anyone => {
                self.policy.issuers.iter().any(|issuer| issuer.claims.iter().any(|it| it == claim))
            }
            Who::Named { .. } if claim == "sub" => true,
            Who::Named { kind, .. } => {
                self.policy.issuers.iter().any(|issuer| {
                    *issuer.name == **kind && issuer.claims.iter().any(|it| it == claim)
                })
            }
        };
        if !who.is_empty() && !who.iter().any(can_have) {
            let what = format_args!(
                "nobody in `who` has the claim `{claim}`: an issuer's `claims` has to name it"
            );
            self.faults.add(Some(at), what);
        }
    }

    fn services(&mut self, value: &Value<'_>) {
        let DeValue::Table(services) = value.get_ref() else {
            self.faults.add(Some(value.span()), "`service` is written [service.NAME]");
            return;
        };
        if services.len() > limits::SERVICES_MAX {
            let what = format_args!("more than {} tables of services", limits::SERVICES_MAX);
            self.faults.add(Some(value.span()), what);
            return;
        }
        let mut all = BTreeMap::new();
        let mut silent = Vec::new();
        for (name, value) in services.iter() {
            let name = name.get_ref().to_string();
            let DeValue::Table(table) = value.get_ref() else {
                self.faults.add(Some(value.span()), "`service` is written [service.NAME]");
                continue;
            };
            if name != "*" && !is_service(&name) {
                let what = format_args!(
                    "`{name}` is no service: their names are {NAME_RULE}; they may have dots"
                );
                self.faults.add(Some(value.span()), what);
            }
            if !table.iter().any(|(key, _)| key.get_ref() == "deploy_keys") {
                silent.push(name.clone());
            }
            let table = Table::new(format!("[service.{name}]"), table, value.span());
            all.insert(name, self.service(table));
        }
        self.policy.others = all.remove("*").unwrap_or_default();
        // Whoever adds a table for a page must not thereby let unsigned components in.
        for name in silent {
            if let Some(service) = all.get_mut(&name) {
                service.deploy_keys.clone_from(&self.policy.others.deploy_keys);
            }
        }
        for service in all.values_mut().filter(|service| service.gate.is_none()) {
            service.gate.clone_from(&self.policy.others.gate);
        }
        self.policy.services = all;
    }

    fn service(&mut self, mut table: Table<'_>) -> ServicePolicy {
        let mut service = ServicePolicy::default();
        match table.text(&mut self.faults, "sender") {
            None | Some(Text { text: "client", .. }) => {}
            Some(Text { text: "subject", .. }) => service.sender = Sender::Subject,
            Some(Text { at, .. }) => self.faults.add(Some(at), "`sender` is client or subject"),
        }
        let origins = table.texts(&mut self.faults, "origins", 0..=limits::ORIGINS_MAX);
        service.origins = self.origins(origins.unwrap_or_default());
        service.credentials = table.boolean(&mut self.faults, "credentials").unwrap_or_default();
        if service.credentials && service.origins == Origins::Any {
            let what = "`credentials` with the origin `*` would let every page act as its visitor";
            self.faults.add(Some(table.at.clone()), what);
        }
        let keys = table.texts(&mut self.faults, "deploy_keys", 0..=limits::SIGNING_KEYS_MAX);
        for Text { text, at } in keys.unwrap_or_default() {
            if !self.policy.keys.iter().any(|key| key.name == text) {
                self.faults.add(Some(at), format_args!("no [[key]] is named `{text}`"));
            }
            service.deploy_keys.push(text.to_owned());
        }
        let limits = table.value("limits");
        service.limits = limits.and_then(|limits| self.limits(table.name(), limits)).map(Box::new);
        service.gate = table.value("gate").and_then(|gate| self.gate(table.name(), gate));
        if let Some(value) = table.value("capture") {
            service.redact = self.redact(table.name(), value);
        }
        table.finish(&mut self.faults);
        service
    }

    fn gate(&mut self, service: &str, value: &Value<'_>) -> Option<Gate> {
        let DeValue::Table(_) = value.get_ref() else {
            let is = value.get_ref().type_str();
            let what = format_args!("{service}: `gate` is a table, not a {is}");
            self.faults.add(Some(value.span()), what);
            return None;
        };
        match serde_json::Value::deserialize(value.clone().into_deserializer()) {
            Ok(gate) => Some(Gate { value: gate, line: self.faults.line(value.span().start) }),
            Err(error) => {
                let at = error.span().unwrap_or_else(|| value.span());
                self.faults.add(Some(at), format_args!("{service}: gate: {}", error.message()));
                None
            }
        }
    }

    /// What is left out of captures, as texts: what they mean is for who makes captures.
    fn redact(&mut self, service: &str, value: &Value<'_>) -> Option<Vec<String>> {
        let DeValue::Table(capture) = value.get_ref() else {
            let is = value.get_ref().type_str();
            let what = format_args!("{service}: `capture` is a table, not a {is}");
            self.faults.add(Some(value.span()), what);
            return None;
        };
        let mut table = Table::new(format!("{service} capture"), capture, value.span());
        let texts = table.texts(&mut self.faults, "redact", 0..=limits::REDACTIONS_MAX);
        table.finish(&mut self.faults);
        texts.map(|texts| texts.into_iter().map(|it| it.text.to_owned()).collect())
    }

    fn limits(&mut self, service: &str, value: &Value<'_>) -> Option<Limits> {
        let DeValue::Table(_) = value.get_ref() else {
            let what = format_args!(
                "{service}: `limits` is a table, not a {}",
                value.get_ref().type_str()
            );
            self.faults.add(Some(value.span()), what);
            return None;
        };
        match Limits::deserialize(value.clone().into_deserializer()) {
            Ok(limits) => {
                for fault in limits.faults() {
                    self.faults.add(Some(value.span()), format_args!("{service}: {fault}"));
                }
                Some(limits)
            }
            Err(error) => {
                let at = error.span().unwrap_or_else(|| value.span());
                let what = format_args!("{service}: limits: {}", error.message());
                self.faults.add(Some(at), what);
                None
            }
        }
    }

    fn origins(&mut self, texts: Vec<Text<'_>>) -> Origins {
        let mut origins = Vec::new();
        let mut is_any = false;
        for Text { text, at } in texts {
            let parsed = Url::parse(text).ok().map(|url| url.origin().ascii_serialization());
            match parsed {
                _ if text == "*" => is_any = true,
                // As browsers send it.
                Some(origin) if origin == text => origins.push(origin),
                Some(origin) if origin != "null" => {
                    let what = format_args!("`{text}` is not an origin; {origin} is");
                    self.faults.add(Some(at), what);
                }
                _ => {
                    let what = format_args!(
                        "`{text}` is not an origin, such as https://app.example.com, or *"
                    );
                    self.faults.add(Some(at), what);
                }
            }
        }
        if is_any { Origins::Any } else { Origins::Only(origins) }
    }
}

fn read(path: &PathBuf, max: usize) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path)?;
    file.take(max as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > max {
        return Err(std::io::Error::other(format!("more than {max} bytes")));
    }
    Ok(bytes)
}
