//! Which services may make which requests over HTTP, and with which secrets: what an operator has written.

use crate::names::ServiceName;
use slotd_outbound::{Grant, Policy, Rule, limits};
use std::{collections::BTreeSet, str::FromStr};

// Who keeps a request may ask for no more than who makes it allows: it would be cut, or fail at each attempt.
// And it keeps the headers of each answer that is taken.
const _: () = {
    use crate::limits as kept;
    assert!(kept::REQUEST_TIMEOUT_MS_MAX as u128 <= limits::TIMEOUT_MAX.as_millis());
    assert!(kept::REQUEST_BODY_BYTES_MAX <= limits::REQUEST_BODY_BYTES_MAX);
    assert!(kept::ANSWER_BYTES_MAX as usize <= limits::ANSWER_BODY_BYTES_MAX);
    assert!(kept::ANSWER_HEADER_BYTES_MAX >= limits::ANSWER_HEADER_BYTES_MAX);
    assert!(kept::REQUEST_REDIRECTS_MAX <= limits::REDIRECTS_MAX);
    assert!(kept::ANSWER_HEADERS_KEPT_MAX <= limits::ANSWER_HEADER_NAMES_MAX);
    assert!(kept::STREAM_PATH_BYTES_MAX <= limits::PATH_BYTES_MAX);
};

/// What each service has of something: a list of `SERVICE>...` with commas in between, `*` for any service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Of<T>(Vec<(Who, T)>);

pub type Rules = Of<Rule>;
pub type Grants = Of<Grant>;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Who {
    Any,
    Service(ServiceName),
}

impl<T> Default for Of<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: FromStr<Err = slotd_outbound::PolicyError>> Of<T> {
    /// From `chat>api.example.com, *>10.0.0.7:8080!private`, or the like.
    ///
    /// # Errors
    /// What is wrong with it. The text itself is not in it: by mistake it may have a secret.
    pub fn parse(text: &str) -> Result<Self, String> {
        let items: Vec<_> = text.split(',').map(str::trim).filter(|it| !it.is_empty()).collect();
        if items.len() > limits::RULES_MAX {
            return Err(format!("there are more than {}", limits::RULES_MAX));
        }
        let one = |(index, item): (usize, &&str)| {
            let wrong = |why: &str| format!("item {}: {why}", index + 1);
            let Some((who, what)) = item.split_once('>') else {
                return Err(wrong("expected SERVICE>... or *>..."));
            };
            let who = match who.trim() {
                "*" => Who::Any,
                name => ServiceName::parse(name)
                    .map(Who::Service)
                    .map_err(|_| wrong("invalid service name before the first >"))?,
            };
            let what = what.trim().parse().map_err(|e: T::Err| wrong(e.reason()))?;
            Ok((who, what))
        };
        items.iter().enumerate().map(one).collect::<Result<_, _>>().map(Self)
    }
}

impl<T> Of<T> {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn all(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|(_, what)| what)
    }

    /// Those that name a service, or are for any. `None`: a service that nothing names.
    fn of<'a>(&'a self, service: Option<&'a ServiceName>) -> impl Iterator<Item = &'a T> + 'a {
        let is_its = move |who: &Who| match who {
            Who::Any => true,
            Who::Service(name) => Some(name) == service,
        };
        self.0.iter().filter(move |(who, _)| is_its(who)).map(|(_, what)| what)
    }

    fn services(&self) -> impl Iterator<Item = &ServiceName> {
        self.0.iter().filter_map(|(who, _)| match who {
            Who::Any => None,
            Who::Service(name) => Some(name),
        })
    }
}

/// The services that something names.
pub fn named(rules: &Rules, grants: &Grants) -> BTreeSet<ServiceName> {
    rules.services().chain(grants.services()).cloned().collect()
}

/// What a service may; `None`: one that nothing names.
pub fn policy(rules: &Rules, grants: &Grants, service: Option<&ServiceName>) -> Policy {
    Policy {
        rules: rules.of(service).cloned().collect(),
        grants: grants.of(service).cloned().collect(),
        limits: slotd_outbound::Limits {
            request_bytes: crate::limits::REQUEST_BODY_BYTES_MAX,
            answer_bytes: crate::limits::ANSWER_BYTES_MAX as usize,
        },
    }
}

/// What an operator may not have meant.
pub fn warnings(rules: &Rules, grants: &Grants) -> Vec<String> {
    let is_open = |rule: &Rule| !rule.is_encrypted() && !rule.is_private();
    let rules = rules
        .all()
        .filter(|rule| is_open(rule))
        .map(|rule| format!("insecure: effects.http has {rule}: traffic to it is not encrypted"));
    let grants = grants.all().filter(|grant| is_open(grant.rule())).map(|grant| {
        format!("insecure: effects.http_secrets has {grant}: the secret is sent unencrypted")
    });
    rules.chain(grants).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str) -> ServiceName {
        ServiceName::parse(name).unwrap()
    }

    /// A service that nobody has allowed it would reach others' hosts with others' secrets.
    #[test]
    fn a_service_has_what_names_it_and_what_is_for_all() {
        let rules = Rules::parse("chat>api.example.com, *>10.0.0.7:8080!private,").unwrap();
        let grants = Grants::parse("chat>API_KEY>api.example.com").unwrap();
        let shown = |service: Option<&ServiceName>| {
            let policy = policy(&rules, &grants, service);
            let rules = policy.rules.iter().map(ToString::to_string);
            rules.chain(policy.grants.iter().map(ToString::to_string)).collect::<Vec<_>>()
        };
        assert_eq!(
            shown(Some(&service("chat"))),
            ["api.example.com", "10.0.0.7:8080!private", "API_KEY>api.example.com"]
        );
        assert_eq!(shown(Some(&service("board"))), ["10.0.0.7:8080!private"]);
        assert_eq!(shown(None), ["10.0.0.7:8080!private"]);
        assert_eq!(named(&rules, &grants), [service("chat")].into());
        assert!(Rules::parse("").unwrap().is_empty());
    }

    /// An operator has to find what is wrong, in a list, without a secret that was pasted into it on the screen.
    #[test]
    fn what_is_wrong_is_said_without_the_text() {
        for (text, why) in [
            ("chat>a.example, api.example.com", "item 2: expected SERVICE>..."),
            ("Chat>a.example", "item 1: invalid service name"),
            ("chat>ftp://a.example", "item 1: the scheme is https or http"),
            ("chat>*.example!private", "item 1: !private needs one named host"),
        ] {
            let error = Rules::parse(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
        let error = Grants::parse("chat>sk-very-secret>a.example").unwrap_err();
        assert!(error.contains("a secret's name") && !error.contains("very"), "{error}");
        let many = "a>b.example,".repeat(limits::RULES_MAX + 1);
        assert!(Rules::parse(&many).is_err());
    }

    /// A key that is sent in clear text is everybody's.
    #[test]
    fn what_is_not_encrypted_is_warned_of_unless_it_is_private() {
        let rules = "a>http://b.example, a>http://10.0.0.7!private, a>c.example";
        let rules = Rules::parse(rules).unwrap();
        let grants = Grants::parse("a>KEY>http://b.example, a>KEY>c.example").unwrap();
        let warnings = warnings(&rules, &grants);
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        assert!(warnings[0].contains("effects.http has http://b.example:"), "{warnings:?}");
        assert!(warnings[1].contains("KEY>http://b.example"), "{warnings:?}");
    }
}
