//! `migrate` of the new version, on every session's state.

use super::state_of;
use crate::{
    gate_report::{Example, Group, Kind, StageResult, verdict::PINNED},
    limits,
    log::record::DeploymentId,
    plugin::Isolation,
    replay::{check::Left, stored::Stored, versions::Versions},
    replay_engine::{Instances, Replay, Version, compare::grouped},
};

/// Of one thread.
pub struct Migrator<'a> {
    candidate: &'a Version,
    versions: &'a Versions,
    instances: Instances,
    /// The deployment of the session before, mostly that of the next one.
    from: Option<(DeploymentId, String)>,
}

impl<'a> Migrator<'a> {
    pub fn new(candidate: &'a Version, versions: &'a Versions) -> Self {
        Self { candidate, versions, instances: Instances::new(Isolation::Shared), from: None }
    }

    pub async fn session(
        &mut self,
        stored: Stored<'_>,
        result: &mut StageResult,
    ) -> Result<(), Left> {
        let head = stored.head;
        if head.deployment == self.candidate.id {
            return Ok(());
        }
        let bytes = head.state_bytes;
        if bytes > limits::REPLAY_SESSION_BYTES_MAX as u64 {
            let why = format!("its state has {bytes} bytes, more than may be in memory for it");
            return Err(Left::Because(why.into()));
        }
        let from = match &self.from {
            Some((id, version)) if *id == head.deployment => version.clone(),
            _ => {
                let version = self.versions.version_of(head.deployment).ok_or_else(|| {
                    let id = head.deployment;
                    Left::Because(format!("deployment {id} is not in the catalogue").into())
                })?;
                self.from.insert((head.deployment, version)).1.clone()
            }
        };
        let mut replay = Replay::new(stored.key.clone(), state_of(stored)?)?;
        let migrated = replay.migrate(self.candidate, &from, head.updated_ms, &mut self.instances);
        let Err(refused) = migrated.await? else { return Ok(()) };
        if let Some(pin) = &head.pinned {
            // It is no worse off than it was.
            let why = format!("{PINNED} to {from} already, and stays there: {}", pin.reason);
            return Err(Left::Because(why.into()));
        }
        let path = match refused.kind {
            "rejected" => grouped(&refused.why),
            kind => format!("{kind}: {}", grouped(&refused.why)),
        };
        let came = match refused.kind {
            "rejected" => format!("refused: {}", refused.why),
            kind => format!("{kind}: {}", refused.why),
        };
        result.add(Group {
            kind: Kind::Migrate,
            path,
            count: 1,
            stops: false,
            example: Example {
                session: stored.key.session.to_string(),
                seq: head.seq,
                stored: format!("a state of {from}, {} keys, {bytes} bytes", head.state_keys),
                came,
                capture: None,
            },
        });
        Ok(())
    }
}
