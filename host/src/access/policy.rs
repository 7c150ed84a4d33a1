//! The policy's file: read at the start, and again when it or a file that it names has changed.

use super::Decider;
use crate::{
    audit::{Audit, Change},
    files::{self, Stamp, stamp},
    gate_report::GateSpec,
    limits,
    plugin::Digest,
};
use parking_lot::Mutex;
use slotd_access::{Fault, Gate, Policy, limits as access_limits};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::sync::watch;

/// The policy's file of a running node.
pub struct PolicyFile {
    path: PathBuf,
    decider: Decider,
    /// The files that the policy was made of, and how they were then. Held while they are read.
    seen: Mutex<Vec<(PathBuf, Stamp)>>,
    /// Of the text of the policy in force.
    digest: Mutex<Option<Digest>>,
}

/// Reads a policy. Blocks on the disk.
///
/// # Errors
/// Everything that is wrong with it; never empty.
pub fn read(path: &Path) -> Result<Policy, Vec<Fault>> {
    read_with_digest(path).map(|(policy, _)| policy)
}

fn read_with_digest(path: &Path) -> Result<(Policy, Digest), Vec<Fault>> {
    let one = |what: String| vec![Fault { line: None, what }];
    let bytes = files::read(path, access_limits::POLICY_BYTES_MAX as u64)
        .map_err(|error| one(format!("the file {error}")))?;
    let text = String::from_utf8(bytes).map_err(|_| one("the file is not UTF-8".into()))?;
    let base = path.parent().filter(|base| !base.as_os_str().is_empty());
    let policy = Policy::parse(&text, base.unwrap_or(Path::new(".")))?;
    let mut faults: Vec<Fault> = Vec::new();
    for (service, gate) in policy.gates() {
        let fault = gate_fault(service, gate);
        // A service that has the table of `*` has its line.
        faults.extend(fault.filter(|fault| faults.iter().all(|known| known.line != fault.line)));
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    let wrong = policy.redactions().flat_map(|(service, texts)| {
        let wrong = crate::captures::check(texts).into_iter();
        wrong.map(move |what| format!("[service.{service}.capture]: {what}"))
    });
    let wrong: Vec<_> = wrong.map(|what| Fault { line: None, what }).collect();
    if !wrong.is_empty() {
        return Err(wrong);
    }
    Ok((policy, Digest::of(text.as_bytes())))
}

/// What a service's gate does, as its table says.
///
/// # Errors
/// What is wrong with it.
pub fn gate_spec(gate: &Gate) -> Result<GateSpec, String> {
    let spec: GateSpec = serde_json::from_value(gate.value.clone()).map_err(|e| e.to_string())?;
    spec.check().map_err(|error| error.detail.into_owned())?;
    Ok(spec)
}

fn gate_fault(service: &str, gate: &Gate) -> Option<Fault> {
    let why = gate_spec(gate).err()?;
    Some(Fault { line: Some(gate.line), what: format!("[service.{service}]: gate: {why}") })
}

/// Faults as one text, of a line each.
pub fn listed(path: &Path, faults: &[Fault]) -> String {
    let lines = faults.iter().map(|fault| format!("\n  {}: {fault}", path.display()));
    lines.collect()
}

fn stamps(paths: impl IntoIterator<Item = PathBuf>) -> Vec<(PathBuf, Stamp)> {
    paths.into_iter().map(|path| (path.clone(), stamp(&path))).collect()
}

impl PolicyFile {
    /// Reads it for the first time. Blocks on the disk.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn open(path: PathBuf, decider: Decider) -> Result<Arc<Self>, String> {
        let this = Self { path, decider, seen: Mutex::default(), digest: Mutex::default() };
        match this.read_again() {
            Ok(_) => Ok(Arc::new(this)),
            Err(faults) => Err(format!(
                "the policy (access.file) can't be used:{}",
                listed(&this.path, &faults)
            )),
        }
    }

    /// If it is wrong, the policy from before stays. The digests of the text from before and of this one.
    fn read_again(&self) -> Result<(Option<Digest>, Digest), Vec<Fault>> {
        let mut seen = self.seen.lock();
        // Before it is read: a change meanwhile is one that was not seen.
        let before = stamps([self.path.clone()]);
        let policy = read_with_digest(&self.path);
        let named = policy.as_ref().map_or(&[][..], |(policy, _)| policy.files());
        // Of a policy that is wrong, the files of the one before may be what is wrong.
        *seen = match named {
            [] => {
                let rest = seen.iter().map(|(path, _)| path.clone()).filter(|it| *it != self.path);
                before.into_iter().chain(stamps(rest)).collect()
            }
            named => before.into_iter().chain(stamps(named.iter().cloned())).collect(),
        };
        let (policy, digest) = policy?;
        // A file that is being written is empty for a moment.
        if self.digest.lock().is_some()
            && let Some(listener) = self.decider.access().would_open(&policy)
        {
            let what = format!(
                "it would open the {listener} to everybody, which is closed: restart slotd if that is meant"
            );
            return Err(vec![Fault { line: None, what }]);
        }
        self.decider.set_policy(policy);
        Ok((self.digest.lock().replace(digest), digest))
    }

    /// Of the text of the policy in force.
    pub fn digest(&self) -> Option<Digest> {
        *self.digest.lock()
    }

    fn has_changed(&self) -> bool {
        self.seen.lock().iter().any(|(path, before)| stamp(path) != *before)
    }

    /// Reads it again, and says what came of it. Blocks on the disk. What there is to write to the audit log if it
    /// was changed, or a file that it names.
    pub fn reload(&self) -> Option<Change> {
        let had_changed = self.has_changed();
        match self.read_again() {
            Ok((before, after)) => {
                tracing::info!("the policy (access.file) was read again");
                let mut change = Change::event("policy-reloaded");
                if let Some(before) = before {
                    change.before.insert("digest".into(), before.to_string().into());
                }
                change.after.insert("digest".into(), after.to_string().into());
                (had_changed || before != Some(after)).then_some(change)
            }
            Err(faults) => {
                tracing::error!(
                    "the policy (access.file) is invalid; keeping the old one:{}",
                    listed(&self.path, &faults)
                );
                None
            }
        }
    }

    /// Reads it again whenever it has changed.
    pub async fn follow(self: Arc<Self>, audit: Audit, stopping: watch::Receiver<bool>) {
        let look = move || self.has_changed().then(|| self.reload()).flatten();
        files::follow(limits::POLICY_LOOK, files::stopped(stopping), look, |change| {
            let audit = audit.clone();
            async move {
                if let Some(change) = change {
                    audit.note(change).await;
                }
            }
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use slotd_access::Listener;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    const CHAT: &str = "[[rule]]\nwho = [\"anyone\"]\nallow = [\"send\"]\non = [\"chat\"]\n";

    /// A gate that is written wrong would be none, or another one, and nobody would know before it lets something in.
    #[test]
    fn a_gate_that_can_not_be_is_refused_with_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("policy.toml");
        let chat = format!("{CHAT}[service.chat]\norigins = []\n[service.'*'.gate]\n");
        std::fs::write(&path, format!("{chat}mode = 'strict'\naccept = ['http:a.example']\n"))
            .unwrap();
        let policy = read(&path).unwrap();
        let spec = gate_spec(policy.service("chat").gate.as_ref().unwrap()).unwrap();
        assert_eq!((spec.mode, spec.accept.len()), (crate::gate_report::Mode::Strict, 1));
        for wrong in
            ["mode = 'loose'", "modes = 'strict'", "accept = ['everything']", "threads = 0"]
        {
            std::fs::write(&path, format!("{chat}{wrong}\n")).unwrap();
            let faults = read(&path).unwrap_err();
            assert_eq!((faults.len(), faults[0].line), (1, Some(7)), "{wrong}: {faults:?}");
        }
    }

    /// With a policy that is half written, everybody would be kept out, or let in; and what is open has to hear of a
    /// change.
    #[test]
    fn a_policy_that_is_wrong_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("policy.toml");
        std::fs::write(&path, CHAT).unwrap();
        let told = Arc::new(AtomicUsize::new(0));
        let count = told.clone();
        let access = crate::access::of_test(None, None);
        let decider = Decider::new(access.clone(), move || {
            count.fetch_add(1, Relaxed);
        });
        let file = PolicyFile::open(path.clone(), decider.clone()).unwrap();
        assert!(!access.is_open(Listener::Api) && !file.has_changed());
        let epoch = access.epoch();
        std::fs::write(&path, "[[rule]]\nwho = \"x\"\nwhat").unwrap();
        assert!(file.has_changed());
        assert!(file.reload().is_none(), "nothing was changed");
        assert!(!file.has_changed(), "it would be read again and again");
        assert_eq!((access.epoch(), told.load(Relaxed)), (epoch, 1));
        // As it is for a moment while it is written.
        std::fs::write(&path, "").unwrap();
        assert!(file.reload().is_none() && !access.is_open(Listener::Api));
        let other = format!("{CHAT}# more\n");
        std::fs::write(&path, &other).unwrap();
        let change = file.reload().unwrap();
        assert_eq!(change.after["digest"], Digest::of(other.as_bytes()).to_string());
        assert!(file.reload().is_none(), "it is the same");
        assert!(!access.is_open(Listener::Api) && access.epoch() > epoch);
        assert_eq!(told.load(Relaxed), 3);
        let wrong = dir.path().join("none.toml");
        let error = PolicyFile::open(wrong, decider).err().unwrap();
        assert!(error.contains("does not exist"), "{error}");
    }
}
