//! What the new version wants, beside the one before.

use crate::{
    gate_report::{
        GateSpec, StageResult,
        interface::{Needs, wanted},
    },
    limits,
    log::record::DeploymentId,
    plugin::Account,
    replay::versions::Versions,
    replay_engine::Version,
};

/// Looks at both.
pub async fn look(
    versions: &Versions,
    current: DeploymentId,
    candidate: &Version,
    spec: &GateSpec,
    result: &mut StageResult,
) {
    let before = match versions.get(current).await {
        Ok(before) => needs(&before).await,
        Err(why) => Err(why.to_string()),
    };
    match (before, needs(candidate).await) {
        (Ok(before), Ok(after)) => {
            wanted(&before, &after, spec).into_iter().for_each(|group| result.add(group));
        }
        (Err(why), _) => result.add_unseen(&format!("the version before can't be run: {why}"), ""),
        (_, Err(why)) => result.add_unseen(&format!("the new version can't be run: {why}"), ""),
    }
}

async fn needs(version: &Version) -> Result<Needs, String> {
    let instance = version.plugin.instantiate(Account::default(), limits::INSTANCE_MEMORY_TIMEOUT);
    let instance = instance.await.map_err(|why| why.to_string())?;
    Ok(Needs::of(&version.plugin, instance.memory_bytes()))
}
