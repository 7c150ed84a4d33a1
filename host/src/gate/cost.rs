//! What messages cost: the fuel of both versions, in an engine of the gate's own.

use super::replay::step;
use crate::{
    effects::Origin,
    gate_report::{Cost, StageResult, report::add_cost},
    limits,
    log::record::{DeploymentId, Entry},
    plugin::{Isolation, Needed, PluginHost},
    replay::{
        check::{Cast, Left, Progress, Reading, check_entered, is_handled},
        stored::Stored,
        versions::Versions,
    },
    replay_engine::{Base, Handled, Instances, Outcome, Replay, Step, Version, compare::grouped},
    text,
};
use std::{collections::BTreeMap, sync::Arc};

/// Both versions, compiled so that they count. For as long as it is there.
pub struct Metered {
    before: Version,
    after: Version,
    host: PluginHost,
}

impl Metered {
    /// # Errors
    /// Why there are none.
    pub async fn new(
        plugins: &Arc<PluginHost>,
        versions: &Versions,
        current: DeploymentId,
        candidate: &Version,
    ) -> Result<Self, String> {
        let before = versions.get(current).await.map_err(|why| why.to_string())?;
        let plugins = plugins.clone();
        let host = crate::task::blocking(move || plugins.metered().map(|host| (host, plugins)));
        let (host, plugins) =
            host.await.map_err(|e| e.to_string())?.map_err(|why| why.to_string())?;
        let mut both = Vec::new();
        for version in [&*before, candidate] {
            let digest = version.plugin.digest();
            let component = plugins.component(digest).await.map_err(|why| why.to_string())?;
            let plugin = host.add(component).await.map_err(|why| why.to_string())?;
            both.push(Version { plugin, ..version.clone() });
        }
        match <[Version; 2]>::try_from(both) {
            Ok([before, after]) => Ok(Self { before, after, host }),
            Err(_) => Err("a bug: there are two versions".into()),
        }
    }

    /// Gives back what it had on the disk.
    pub async fn end(self) {
        let Self { before, after, host } = self;
        drop((before, after));
        // What another gate uses stays; what can't be removed now is removed after the next one.
        let _ = host.remove_unneeded(Needed::default()).await;
    }
}

/// Of one thread.
pub struct Coster<'a> {
    metered: &'a Metered,
    versions: &'a Versions,
    progress: &'a Progress,
    /// The last messages that are counted.
    messages: u64,
    instances: Instances,
    before: Instances,
    after: Instances,
    /// Of one session.
    costs: BTreeMap<String, Cost>,
}

impl<'a> Coster<'a> {
    pub fn new(
        metered: &'a Metered,
        versions: &'a Versions,
        progress: &'a Progress,
        messages: u64,
    ) -> Self {
        let shared = || Instances::new(Isolation::Shared);
        let (instances, before, after) = (shared(), shared(), shared());
        let costs = BTreeMap::new();
        Self { metered, versions, progress, messages, instances, before, after, costs }
    }

    pub async fn session(
        &mut self,
        stored: Stored<'_>,
        result: &mut StageResult,
    ) -> Result<(), Left> {
        let run = self.run(stored, result).await;
        for cost in std::mem::take(&mut self.costs).into_values() {
            add_cost(&mut result.costs, cost);
        }
        let memory = |of: &Instances, version: &Version| of.memory_bytes(version) as u64;
        let (before, after) =
            (memory(&self.before, &self.metered.before), memory(&self.after, &self.metered.after));
        result.memory_before = result.memory_before.max(before);
        result.memory_after = result.memory_after.max(after);
        run
    }

    async fn run(&mut self, stored: Stored<'_>, result: &mut StageResult) -> Result<(), Left> {
        let place = stored.head.seq.saturating_sub(self.messages);
        let mut replay = Replay::new(stored.key.clone(), Base::default())?;
        let mut reading = Reading::new(stored, self.progress, 1);
        let mut cast = Cast::new(self.versions);
        // Both from the same state, so that what they compute can be compared.
        let mut lanes = None::<(Replay, Replay)>;
        while let Some(entry) = reading.next()? {
            let fork = |replay: &Replay| {
                let one = || Replay::new(stored.key.clone(), replay.base());
                Ok::<_, Left>((one()?, one()?))
            };
            if entry.seq > place && is_handled(&entry) {
                let (one, other) = match &mut lanes {
                    Some(lanes) => lanes,
                    None => lanes.insert(fork(&replay)?),
                };
                self.message(one, other, &entry, result).await?;
                continue;
            }
            if lanes.is_some() && !entry.is_operators() {
                // Of parts of an answer handlers know nothing.
                continue;
            }
            if let Some((one, _)) = lanes.take() {
                // What was entered is of the version before, and so is what goes on behind it.
                replay = one;
            }
            let step = cast.step(&mut replay, &entry, &mut self.instances).await?;
            if let Step::Entered { import, is_known } = step {
                check_entered(entry.seq, import, is_known)?;
            }
        }
        Ok(())
    }

    async fn message(
        &mut self,
        one: &mut Replay,
        other: &mut Replay,
        entry: &Entry,
        result: &mut StageResult,
    ) -> Result<(), Left> {
        let Metered { before, after, .. } = self.metered;
        let before = step(one, before, self.versions, entry, &mut self.before).await?;
        let after = step(other, after, self.versions, entry, &mut self.after).await?;
        let counts = |of: &Handled| !of.migrated && matches!(of.outcome, Outcome::Replied(_));
        if counts(&before) && counts(&after) {
            result.messages += 1;
            let of = kind_of(entry);
            let cost = self
                .costs
                .entry(of)
                .or_insert_with_key(|of| Cost { of: of.clone(), ..Cost::default() });
            cost.messages += 1;
            cost.before.add(before.fuel);
            cost.after.add(after.fuel);
        }
        Ok(())
    }
}

/// What kind of message it is: `type` or `kind` of its JSON, else its content type; or what it comes from.
fn kind_of(entry: &Entry) -> String {
    let name = match entry.origin.as_deref() {
        Some(Origin::Timer(firing)) => format!("timer {}", grouped(&firing.name)),
        Some(Origin::Http(_)) => "answer to a request".to_owned(),
        Some(Origin::Answer(_)) => "answer of a session".to_owned(),
        Some(Origin::Presence(_)) => "subscribers".to_owned(),
        None
        | Some(
            Origin::Session(_)
            | Origin::Part(_)
            | Origin::Client(_)
            | Origin::Operator(_)
            | Origin::Inherited(_),
        ) => of_body(&entry.body).unwrap_or_else(|| match &*entry.content_type {
            "" => "no content type".to_owned(),
            content_type => content_type.to_owned(),
        }),
    };
    text::cut(&name, limits::GATE_KIND_BYTES_MAX).to_owned()
}

fn of_body(body: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Body {
        r#type: Option<serde_json::Value>,
        kind: Option<serde_json::Value>,
    }
    if body.first() != Some(&b'{') {
        return None;
    }
    let Body { r#type, kind } = serde_json::from_slice(body).ok()?;
    [r#type, kind].into_iter().flatten().find_map(|name| match name {
        serde_json::Value::String(name) if !name.is_empty() => Some(name),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_says_its_kind() {
        let of = |body: &str| of_body(body.as_bytes());
        assert_eq!(of(r#"{"type": "say", "kind": "x"}"#), Some("say".into()));
        assert_eq!(of(r#"{"kind": "join"}"#), Some("join".into()));
        for other in ["", "[1]", "{", r#"{"type": 3}"#, r#"{"type": ""}"#, "say"] {
            assert_eq!(of(other), None, "{other}");
        }
    }
}
