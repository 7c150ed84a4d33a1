//! Counting what is used, by service and by the subject of the client. The numbers are `slotd-quota`'s; here is where they
//! come from.

use crate::{client::Client, names::ServiceName};
pub use slotd_quota::usage::Amounts;
use slotd_quota::usage::Usage;
use std::sync::{Arc, OnceLock};

/// Where a node counts what is used. Without [`Meter::start`] nothing is counted.
#[derive(Default)]
pub struct Meter(OnceLock<Arc<Usage>>);

impl Meter {
    /// From now on it is counted there. Once.
    pub fn start(&self, usage: Arc<Usage>) {
        let _ = self.0.set(usage);
    }

    /// Adds to the account of a client. Some 50 ns.
    pub fn add(
        &self,
        service: &ServiceName,
        client: Option<&Client>,
        add: impl FnOnce(&mut Amounts),
    ) {
        let Some(usage) = self.0.get() else { return };
        with_account(client, |subject| usage.add(service.as_str(), subject, add));
    }
}

/// Whose account a client's is: its kind and its subject, as identities are shown elsewhere; `None` for one without a
/// subject. Two issuers may know different people by the same name.
pub fn with_account<T>(client: Option<&Client>, then: impl FnOnce(Option<&str>) -> T) -> T {
    let Some((kind, subject)) =
        client.and_then(|client| Some((&*client.kind, client.subject.as_deref()?)))
    else {
        return then(None);
    };
    // Most are short: no allocation for each message.
    let mut short = [0_u8; 128];
    let bytes = kind.len() + 1 + subject.len();
    match short.get_mut(..bytes) {
        Some(account) => {
            account[..kind.len()].copy_from_slice(kind.as_bytes());
            account[kind.len()] = b':';
            account[kind.len() + 1..].copy_from_slice(subject.as_bytes());
            // It is made of whole texts.
            then(std::str::from_utf8(account).ok())
        }
        None => then(Some(&format!("{kind}:{subject}"))),
    }
}

/// What one slot has to count and has not yet: what one client uses in a row is added once.
#[derive(Default)]
pub struct Tally {
    whose: Option<(ServiceName, Option<Arc<Client>>)>,
    amounts: Amounts,
}

impl Tally {
    pub fn add(
        &mut self,
        meter: &Meter,
        service: &ServiceName,
        client: Option<&Arc<Client>>,
        add: impl FnOnce(&mut Amounts),
    ) {
        let is_same = self.whose.as_ref().is_some_and(|(of, by)| {
            of == service
                && match (by, client) {
                    (Some(by), Some(client)) => Arc::ptr_eq(by, client) || by.is_same(client),
                    (None, None) => true,
                    _ => false,
                }
        });
        if !is_same {
            self.flush(meter);
            self.whose = Some((service.clone(), client.cloned()));
        }
        add(&mut self.amounts);
    }

    pub fn flush(&mut self, meter: &Meter) {
        let amounts = std::mem::take(&mut self.amounts);
        if let Some((service, client)) = &self.whose
            && amounts != Amounts::default()
        {
            meter.add(service, client.as_deref(), |sum| sum.add(&amounts));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use slotd_quota::usage::{Date, Who};

    fn client(kind: &str, subject: Option<&str>) -> Arc<Client> {
        let subject = subject.map(Into::into);
        Arc::new(Client { kind: kind.into(), subject, claims: Vec::new() })
    }

    /// One would pay for what the other uses.
    #[test]
    fn accounts_are_those_of_identities() {
        let account =
            |client: &Client| with_account(Some(client), |account| account.map(str::to_owned));
        assert_eq!(account(&client("token", Some("ann"))).unwrap(), "token:ann");
        assert_eq!(account(&client("issuer", Some("ann"))).unwrap(), "issuer:ann");
        assert_eq!(account(&client("root", None)), None);
        let long = "ü".repeat(200);
        assert_eq!(account(&client("token", Some(&long))).unwrap(), format!("token:{long}"));
        for bytes in 119..125 {
            let name = "x".repeat(bytes);
            assert_eq!(account(&client("token", Some(&name))).unwrap(), format!("token:{name}"));
        }
        assert!(with_account(None, |account| account.is_none()));
    }

    /// What comes in turns, and what comes in a row, is counted for whoever it is of.
    #[test]
    fn a_tally_loses_nothing_and_mixes_nobody_up() {
        let dir = tempfile::tempdir().unwrap();
        let usage = Arc::new(Usage::open(dir.path(), 1, 0).unwrap().usage);
        let meter = Meter::default();
        let mut tally = Tally::default();
        let [chat, board] = ["chat", "board"].map(|name| ServiceName::parse(name).unwrap());
        // Not started: nothing is kept, nor does anything grow.
        tally.add(&meter, &chat, None, |amounts| amounts.messages += 1);
        tally.flush(&meter);
        meter.start(usage.clone());
        let (ann, bob) = (client("token", Some("ann")), client("token", Some("bob")));
        // As it comes with each message of a connection to another node.
        let same = client("token", Some("ann"));
        for (service, client) in [
            (&chat, Some(&ann)),
            (&chat, Some(&same)),
            (&chat, Some(&bob)),
            (&chat, Some(&ann)),
            (&board, Some(&ann)),
            (&board, None),
            (&board, None),
        ] {
            tally.add(&meter, service, client, |amounts| amounts.messages += 1);
        }
        tally.flush(&meter);
        tally.flush(&meter);
        let day = usage.days(Date::MIN, Date::MAX).remove(0);
        let subject = |name: &str| Who::Subject(name.into());
        let counted = day.accounts.iter().map(|a| (&*a.service, &a.who, a.amounts.messages));
        assert_eq!(
            counted.collect::<Vec<_>>(),
            [
                ("board", &Who::Nobody, 2),
                ("board", &subject("token:ann"), 1),
                ("chat", &subject("token:ann"), 3),
                ("chat", &subject("token:bob"), 1),
            ]
        );
    }
}
