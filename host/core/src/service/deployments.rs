//! A service's deployments: every one that it ever had, which one is current, and what a deploy, a
//! rollback or a removal makes of them.

use super::canary::Canary;
use crate::{
    error::{Code, Error},
    level::Unknown,
    limits,
    log::record::DeploymentId,
    names::ServiceName,
    plugin::Digest,
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// One deployment: a plugin under a version. It never changes, and is deleted only with its
/// service, because sessions and log records refer to it by its number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployment {
    /// From 1 up, within the service.
    pub id: DeploymentId,
    pub version: String,
    pub digest: Digest,
    /// `<version>+<short digest>`.
    pub label: Arc<str>,
    pub deployed_ms: u64,
    /// Its operator declared that it reads the state of every other version unchanged. Absent in
    /// deployments from before that existed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub same_state: bool,
    /// Who deployed it, as the request said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<Arc<str>>,
    /// Who that was shown to be: the text of an identity. Absent where nothing was shown, and in deployments from before
    /// it was kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Arc<str>>,
    /// The key that had signed it, if one had to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signer: Option<Signer>,
    /// Fields of later versions.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// A key that has signed a component.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signer {
    /// Its name in the policy at that time.
    pub key: Arc<str>,
    /// Of the public key: names may be given to other keys later.
    pub fingerprint: Digest,
}

/// What caused the current generation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Switched {
    /// The previous deployment; `None`: there was none.
    pub from: Option<DeploymentId>,
    pub at_ms: u64,
    /// Who requested it, as the request said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<Arc<str>>,
    /// Who that was shown to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Arc<str>>,
}

/// Who asks for a change of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Author {
    /// As the request says: anybody may say anything.
    pub said: Option<Arc<str>>,
    /// As it was shown to the node.
    pub identity: Option<Arc<str>>,
}

/// An operator's statements about a change of a service.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// The version reads the state of every other one unchanged.
    pub same_state: bool,
    pub by: Author,
    pub now_ms: u64,
    /// The key that has signed the component.
    pub signer: Option<Signer>,
}

/// The current deployment of a removed service; no deployment has this number.
pub const REMOVED: DeploymentId = 0;
/// Hex digits that identify a digest: more than any deployment number has.
const DIGEST_DIGITS_MIN: usize = 6;
/// Its label; those of deployments have a `+`.
pub const REMOVED_LABEL: &str = "removed";

/// A service's catalogue record. A removed one stays, without a deployment, so that a later service
/// of its name continues its numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    pub name: ServiceName,
    /// Rises with each deploy and rollback: what slots switch to.
    pub generation: u64,
    /// Asked for by [`Service::target`].
    pub(super) current: DeploymentId,
    /// What rollback goes back to, the latest last.
    pub previous: Vec<DeploymentId>,
    /// `deployments[id - first]`.
    pub deployments: Vec<Deployment>,
    /// The number of the first deployment: earlier numbers belonged to a removed service of this
    /// name.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub first: DeploymentId,
    /// The generation in which a service of this name was last removed; 0: never. Sessions of an
    /// earlier generation belong to that service.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub since: u64,
    /// That generation again, once its sessions were deleted in every slot of a standalone node:
    /// later starts need not look for them. Not stored in a cluster, whose slots move.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub purged: u64,
    /// Absent for a generation from before it was stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub switched: Option<Switched>,
    /// A version that is tried in some of the slots, or what became of the last one that was since `switched`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<Canary>,
    /// Fields of later versions.
    #[serde(flatten)]
    pub unknown: Unknown,
}

fn one() -> DeploymentId {
    1
}
fn is_one(n: &DeploymentId) -> bool {
    *n == 1
}
fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl Deployment {
    /// Whether it has a signature by this key already, or none is to be kept.
    fn is_signed_by(&self, signer: Option<&Signer>) -> bool {
        let own = self.signer.as_ref().map(|signer| signer.fingerprint);
        signer.is_none_or(|signer| own == Some(signer.fingerprint))
    }
}

impl Switched {
    fn by(change: &Change, from: Option<DeploymentId>) -> Self {
        let Author { said, identity } = change.by.clone();
        Self { from, at_ms: change.now_ms, by: said, identity }
    }
}

impl Service {
    pub fn deployment(&self, id: DeploymentId) -> Option<&Deployment> {
        let at = id.checked_sub(self.first)?;
        self.deployments.get(usize::try_from(at).ok()?)
    }

    pub fn is_removed(&self) -> bool {
        self.current == REMOVED
    }

    /// The service after its removal.
    pub fn removed(&self, change: &Change) -> Service {
        let from = (self.current != REMOVED).then_some(self.current);
        Service {
            name: self.name.clone(),
            generation: self.generation + 1,
            current: REMOVED,
            previous: Vec::new(),
            deployments: Vec::new(),
            first: self.first + self.deployments.len() as DeploymentId,
            since: self.generation + 1,
            purged: 0,
            switched: Some(Switched::by(change, from)),
            canary: None,
            unknown: self.unknown.clone(),
        }
    }

    /// The service after a deployment of `digest`; `None`: that is what runs already.
    ///
    /// # Errors
    /// `request-invalid` if the service has had too many deployments, `swap-in-progress` if it has a canary.
    pub fn deployed(
        existing: Option<&Service>,
        name: &ServiceName,
        version: Option<&str>,
        digest: Digest,
        change: &Change,
    ) -> Result<Option<Service>, Error> {
        let mut service = existing.cloned().unwrap_or_else(|| Service {
            name: name.clone(),
            generation: 0,
            current: REMOVED,
            previous: Vec::new(),
            deployments: Vec::new(),
            first: 1,
            since: 0,
            purged: 0,
            switched: None,
            canary: None,
            unknown: Unknown::default(),
        });
        service.check_no_canary()?;
        if service.runs_already(digest, change) {
            return Ok(None);
        }
        let id = service.add(version, digest, change)?;
        service.keep_for_rollback();
        service.switch_to(id, change);
        Ok(Some(service))
    }

    /// Whether a deploy of `digest` would change nothing.
    pub(super) fn runs_already(&self, digest: Digest, change: &Change) -> bool {
        let says_no_more = |d: &Deployment| {
            (d.same_state || !change.same_state) && d.is_signed_by(change.signer.as_ref())
        };
        self.deployment(self.current).is_some_and(|d| d.digest == digest && says_no_more(d))
    }

    /// Makes a deployment current that is not new, as a deploy of it would.
    pub(super) fn promote(&mut self, id: DeploymentId, change: &Change) {
        self.keep_for_rollback();
        self.switch_to(id, change);
    }

    /// The number of a deployment: that of an identical one, or a new one.
    pub(super) fn add(
        &mut self,
        version: Option<&str>,
        digest: Digest,
        change: &Change,
    ) -> Result<DeploymentId, Error> {
        let same = |d: &&Deployment| {
            d.digest == digest
                && version.is_none_or(|v| v == d.version)
                && d.same_state == change.same_state
                && d.is_signed_by(change.signer.as_ref())
        };
        if let Some(known) = self.deployments.iter().rfind(same) {
            return Ok(known.id);
        }
        if self.deployments.len() >= limits::DEPLOYMENTS_PER_SERVICE_MAX {
            return Err(Error::new(
                Code::RequestInvalid,
                format!(
                    "{} has had {} different deployments, which is the maximum",
                    self.name,
                    self.deployments.len()
                ),
            ));
        }
        let id = self.first + self.deployments.len() as DeploymentId;
        let version = version.unwrap_or("0.0.0").to_owned();
        let label = format!("{version}+{}", digest.short()).into();
        self.deployments.push(Deployment {
            id,
            version,
            digest,
            label,
            deployed_ms: change.now_ms,
            same_state: change.same_state,
            by: change.by.said.clone(),
            identity: change.by.identity.clone(),
            signer: change.signer.clone(),
            unknown: Unknown::default(),
        });
        Ok(id)
    }

    /// Makes the current deployment the one that `rollback` returns to.
    fn keep_for_rollback(&mut self) {
        if self.current != REMOVED {
            self.previous.push(self.current);
            let extra = self.previous.len().saturating_sub(limits::ROLLBACK_STEPS_MAX);
            self.previous.drain(..extra);
        }
    }

    /// Whether two deployments have the same component and version, whatever was declared about
    /// their state.
    fn is_same(&self, one: DeploymentId, other: DeploymentId) -> bool {
        let (one, other) = (self.deployment(one), self.deployment(other));
        one.zip(other).is_some_and(|(a, b)| a.digest == b.digest && a.version == b.version)
    }

    fn switch_to(&mut self, id: DeploymentId, change: &Change) {
        let from = (self.current != REMOVED).then_some(self.current);
        self.switched = Some(Switched::by(change, from));
        self.canary = None;
        self.current = id;
        self.generation += 1;
        // Returning to the current deployment would change nothing.
        while self.previous.last().is_some_and(|before| self.is_same(*before, id)) {
            self.previous.pop();
        }
    }

    /// The service after a rollback: to the previous deployment, or to the one that `to` names by
    /// its version, label, number or digest prefix. Unchanged if that is current. Where a canary runs, the way back is to
    /// the version beside it, and any other ends it, too.
    ///
    /// # Errors
    /// `nothing-to-roll-back`; `deployment-not-found`; `request-invalid` if the declaration in
    /// `change` would need one deployment too many.
    pub fn rolled_back(&self, to: Option<&str>, change: &Change) -> Result<Service, Error> {
        let mut service = self.clone();
        let target = match to {
            Some(to) => self.find(to)?,
            None if self.live_canary().is_some() => {
                return self.with_canary_aborted("rolled back by hand".into(), None);
            }
            None => self.previous.last().and_then(|id| self.deployment(*id)).ok_or_else(|| {
                Error::new(
                    Code::NothingToRollBack,
                    match self.deployments.len() {
                        0 | 1 => {
                            format!("{} has no earlier version than the one that runs", self.name)
                        }
                        _ => format!(
                            "{0} has no earlier version than the one that runs; use --to with one \
                             of those that `slotd deployments {0}` lists",
                            self.name
                        ),
                    },
                )
            })?,
        };
        let runs = self.deployment(self.current).filter(|runs| self.is_same(runs.id, target.id));
        if runs.is_some_and(|runs| runs.same_state || !change.same_state) {
            return match self.live_canary() {
                Some(_) => self.with_canary_aborted("rolled back by hand".into(), None),
                None => Ok(service),
            };
        }
        // A declaration about a version makes another deployment of it: sessions that stayed behind
        // are retried, and a deployment never changes. It holds only for the change that it was
        // made with; a later change without it uses the deployment without it.
        let id = match change.same_state == target.same_state {
            true => target.id,
            // It is the same component, with the signature that it has.
            false => {
                let signer = target.signer.clone();
                let change = Change { signer, ..change.clone() };
                service.add(Some(&target.version), target.digest, &change)?
            }
        };
        match service.previous.iter().rposition(|id| *id == target.id) {
            // Deployments after it are the ones rolled back.
            Some(at) => service.previous.truncate(at),
            None => service.keep_for_rollback(),
        }
        service.switch_to(id, change);
        Ok(service)
    }

    /// The deployment that an operator names: by its label, its version (the latest of several),
    /// its number, or a prefix of its digest.
    fn find(&self, named: &str) -> Result<&Deployment, Error> {
        let by_name = |d: &&Deployment| *d.label == *named || d.version == named;
        let by_number = || self.deployment(named.parse().ok()?);
        let hex = named.to_ascii_lowercase();
        let is_digest =
            hex.len() >= DIGEST_DIGITS_MIN && hex.bytes().all(|b| b.is_ascii_hexdigit());
        let by_digest = |d: &&Deployment| is_digest && d.digest.to_string().starts_with(&hex);
        let all = || self.deployments.iter();
        let found = all().rfind(by_name).or_else(by_number).or_else(|| {
            let found = all().rfind(by_digest)?;
            // Two digests have this prefix: it is ambiguous.
            all().filter(by_digest).all(|d| d.digest == found.digest).then_some(found)
        });
        found.ok_or_else(|| {
            Error::new(
                Code::DeploymentNotFound,
                format!(
                    "{} has no deployment {named:?}: `slotd deployments {0}` lists them",
                    self.name
                ),
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(n: u8) -> Digest {
        Digest([n; 32])
    }

    /// Rollback must undo exactly one deploy, and going back and forth must not grow the catalogue.
    #[test]
    fn deploys_and_rollbacks_walk_back_in_order() -> Result<(), Error> {
        let name = ServiceName::parse("chat")?;
        let change = Change::default();
        let deploy =
            |s: Option<&Service>, n| Service::deployed(s, &name, Some("1.0.0"), digest(n), &change);
        let v1 = deploy(None, 1)?.ok_or_else(|| Error::internal("no change"))?;
        assert!(deploy(Some(&v1), 1)?.is_none(), "the same digest again is no change");
        let v2 = deploy(Some(&v1), 2)?.ok_or_else(|| Error::internal("no change"))?;
        let v3 = deploy(Some(&v2), 3)?.ok_or_else(|| Error::internal("no change"))?;
        let back = v3.rolled_back(None, &Change::default())?;
        assert_eq!((back.current, back.generation), (2, 4));
        let back = back.rolled_back(None, &Change::default())?;
        assert_eq!((back.current, back.generation), (1, 5));
        assert_eq!(
            back.rolled_back(None, &Change::default()).map_err(|e| e.code),
            Err(Code::NothingToRollBack)
        );
        let again = deploy(Some(&back), 2)?.ok_or_else(|| Error::internal("no change"))?;
        assert_eq!((again.current, again.deployments.len(), again.generation), (2, 3, 6));
        Ok(())
    }

    /// A component that is signed later, or by another key, must be able to be one whose signature counts, and what
    /// is known of it must survive versions that do not know signatures.
    #[test]
    fn a_signature_belongs_to_its_deployment() -> Result<(), Error> {
        let name = ServiceName::parse("chat")?;
        let none = || Error::internal("no change");
        let by = |key: &str, n| Signer { key: key.into(), fingerprint: digest(n) };
        let signed = |key| Change { signer: key, ..Change::default() };
        let deploy = |s: Option<&Service>, key| {
            Service::deployed(s, &name, Some("1.0.0"), digest(1), &signed(key))
        };
        let plain = deploy(None, None)?.ok_or_else(none)?;
        let first = deploy(Some(&plain), Some(by("ci", 7)))?.ok_or_else(none)?;
        assert_eq!((first.current, first.deployments.len()), (2, 2));
        assert!(deploy(Some(&first), Some(by("renamed", 7)))?.is_none(), "it is the same key");
        assert!(deploy(Some(&first), None)?.is_none(), "nothing is said of a signature");
        let second = deploy(Some(&first), Some(by("ci", 8)))?.ok_or_else(none)?;
        assert_eq!((second.current, second.deployments.len()), (3, 3));
        // One more that is said to have the same state is the same component with its signature.
        let same = Change { same_state: true, ..Change::default() };
        let other = Service::deployed(Some(&second), &name, Some("2.0.0"), digest(2), &same)?;
        let back = other.ok_or_else(none)?.rolled_back(Some("3"), &same)?;
        assert_eq!(back.deployments.last().and_then(|d| d.signer.clone()), Some(by("ci", 8)));
        let stored = serde_json::to_string(&second.deployments[1]).unwrap_or_default();
        assert!(stored.contains(r#""signer":{"key":"ci","fingerprint":"0707"#), "{stored}");
        assert!(!serde_json::to_string(&plain).unwrap_or_default().contains("signer"));
        Ok(())
    }

    /// Whoever deploys could otherwise be said to be anybody; and earlier versions must keep what they do not know.
    #[test]
    fn who_was_shown_stands_beside_who_was_said() -> Result<(), Error> {
        let name = ServiceName::parse("chat")?;
        let by = Author { said: Some("ann".into()), identity: Some("token:ci".into()) };
        let change = Change { by, ..Change::default() };
        let made = Service::deployed(None, &name, None, digest(1), &change)?;
        let made = made.ok_or_else(|| Error::internal("no change"))?;
        let stored = serde_json::to_value(&made).unwrap_or_default();
        for of in [&stored["deployments"][0], &stored["switched"]] {
            assert_eq!((&of["by"], &of["identity"]), (&"ann".into(), &"token:ci".into()));
        }
        // As it was stored before.
        let old = r#"{"from":null,"at_ms":1,"by":"ann"}"#;
        let old: Switched =
            serde_json::from_str(old).map_err(|e| Error::internal(e.to_string()))?;
        assert_eq!((old.by.as_deref(), old.identity), (Some("ann"), None));
        Ok(())
    }

    /// A declaration made once would otherwise hold for every later rollback: sessions would be
    /// taken over in a format that nobody vouched for.
    #[test]
    fn what_is_said_of_the_state_is_not_inherited() -> Result<(), Error> {
        let name = ServiceName::parse("cart")?;
        let plain = Change::default();
        let same = Change { same_state: true, ..Change::default() };
        let none = || Error::internal("no change");
        let deploy = |s: Option<&Service>, version, n| {
            Service::deployed(s, &name, Some(version), digest(n), &plain)?.ok_or_else(none)
        };
        let first = deploy(None, "0.1.0", 1)?;
        let second = deploy(Some(&first), "0.2.0", 2)?;
        let same_state_back = second.rolled_back(Some("0.1.0"), &same)?;
        assert_eq!((same_state_back.current, same_state_back.deployments.len()), (3, 3));
        let again = same_state_back.rolled_back(Some("0.1.0"), &plain)?;
        assert_eq!(
            (again.current, again.generation),
            (3, same_state_back.generation),
            "it runs already"
        );
        let forward = same_state_back.rolled_back(Some("0.2.0"), &plain)?;
        // By its version, and by the number of the deployment with the declaration.
        for to in ["0.1.0", "3", "1"] {
            let back = forward.rolled_back(Some(to), &plain)?;
            assert_eq!((back.current, back.deployments.len()), (1, 3), "--to {to}");
        }
        let back = forward.rolled_back(Some("0.1.0"), &same)?;
        assert_eq!((back.current, back.deployments.len()), (3, 3));
        // Nor a rollback without a name.
        let last = deploy(Some(&same_state_back), "0.3.0", 3)?;
        assert_eq!(last.previous.last(), Some(&3));
        assert_eq!(last.rolled_back(None, &plain)?.current, 1);
        assert_eq!(last.rolled_back(None, &same)?.current, 3);
        // The deployments of one component count as one step.
        assert_eq!((same_state_back.previous.len(), forward.previous.as_slice()), (0, &[3][..]));
        let again = forward.rolled_back(None, &plain)?;
        let on = again.rolled_back(None, &plain).map_err(|e| e.code);
        assert_eq!(on.map(|s| s.current), Err(Code::NothingToRollBack));
        let redeployed = Service::deployed(Some(&second), &name, Some("0.2.0"), digest(2), &same)?;
        let redeployed = redeployed.ok_or_else(none)?;
        assert_eq!((redeployed.current, redeployed.previous.as_slice()), (3, &[1][..]));
        Ok(())
    }

    /// What `slotd deployments` prints must be what `--to` understands.
    #[test]
    fn a_deployment_is_named_by_what_is_printed_of_it() -> Result<(), Error> {
        let name = ServiceName::parse("cart")?;
        let change = Change::default();
        let mut service = None;
        for n in [1, 2] {
            let version = format!("0.{n}.0");
            service =
                Service::deployed(service.as_ref(), &name, Some(&version), digest(n), &change)?
                    .or(service);
        }
        let service = service.ok_or_else(|| Error::internal("no service"))?;
        for to in ["0.1.0", "1", &digest(1).short(), "010101", &service.deployments[0].label] {
            assert_eq!(service.rolled_back(Some(to), &change)?.current, 1, "--to {to}");
        }
        for to in ["01010", "0303030303", "0.1", "3"] {
            let code = service.rolled_back(Some(to), &change).map_err(|e| e.code);
            assert_eq!(code.map(|s| s.current), Err(Code::DeploymentNotFound), "--to {to}");
        }
        // Back at the first, the target of a roll-forward has to be named.
        let back = service.rolled_back(None, &change)?;
        let refused = back.rolled_back(None, &change).map_err(|e| (e.code, e.detail));
        let Err((Code::NothingToRollBack, detail)) = refused else { panic!("{refused:?}") };
        assert!(detail.contains("--to") && detail.contains("slotd deployments cart"), "{detail}");
        Ok(())
    }

    /// Data from before services could be removed must be readable by this version, and this
    /// version's data of such a service by that one: a downgrade finds its services.
    #[test]
    fn what_was_kept_before_removals_is_read() -> Result<(), Error> {
        let digest = "07".repeat(32);
        let kept = format!(
            r#"{{"name": "chat", "generation": 3, "current": 1, "previous": [], "deployments": [
                {{"id": 1, "version": "1.0.0", "digest": "{digest}", "label": "1.0.0+07",
                  "deployed_ms": 7}}]}}"#
        );
        let json = |e: serde_json::Error| Error::internal(e.to_string());
        let service: Service = serde_json::from_str(&kept).map_err(json)?;
        assert!((service.first, service.since, &service.switched) == (1, 0, &None));
        assert!(!service.is_removed() && service.deployment(1).is_some_and(|d| !d.same_state));
        let kept: serde_json::Value = serde_json::from_str(&kept).map_err(json)?;
        assert_eq!(serde_json::to_value(&service).map_err(json)?, kept);
        // Fields of later versions are preserved, whatever this one changes.
        let mut later = kept.clone();
        later["shadow"] = serde_json::json!({"slots": [1]});
        later["deployments"][0]["signed"] = true.into();
        let known: Service = serde_json::from_value(later).map_err(json)?;
        let removed = serde_json::to_value(known.removed(&Change::default())).map_err(json)?;
        assert_eq!(removed["shadow"]["slots"][0], 1);
        let next = Service::deployed(
            Some(&known),
            &service.name,
            None,
            Digest([8; 32]),
            &Change::default(),
        )?;
        let next = serde_json::to_value(next.ok_or_else(|| Error::internal("no change"))?)
            .map_err(json)?;
        assert!(next["deployments"][0]["signed"] == true && next["shadow"]["slots"][0] == 1);
        // Numbers continue after a removal: no record of the old service belongs to the new one.
        let removed = service.removed(&Change::default());
        assert_eq!((removed.generation, removed.since, removed.first), (4, 4, 2));
        let (name, change) = (service.name, Change::default());
        let again = Service::deployed(Some(&removed), &name, None, Digest([7; 32]), &change)?;
        let again = again.ok_or_else(|| Error::internal("no change"))?;
        assert_eq!((again.generation, again.current, again.since), (5, 2, 4));
        assert!(again.deployment(1).is_none() && again.deployment(2).is_some());
        Ok(())
    }
}
