//! What stops a version: decided here, of what was found on all nodes.

use super::{
    report::{Example, Group, Kind, Reason, Stage, StageResult, Standing, add_reason},
    spec::{GateSpec, Mode, Want},
};
use crate::limits;

/// Says which of what was found stops the version, and whether the stage has passed.
pub fn decide(result: &mut StageResult, spec: &GateSpec) {
    if result.stage == Stage::Cost {
        // It may have been decided before, of what was known then.
        result.groups.retain(|group| group.kind != Kind::Cost);
        costs(result, spec).into_iter().for_each(|group| result.add(group));
    }
    result.why.clear();
    let mut why = Vec::new();
    for group in &mut result.groups {
        let is_accepted = || group.path.parse::<Want>().is_ok_and(|want| spec.accepts(&want));
        group.stops = match group.kind {
            Kind::Want => group.kind.stops(spec.mode) && !is_accepted(),
            kind => kind.stops(spec.mode),
        };
        if group.stops {
            why.push(Reason {
                why: sentence(group),
                sessions: group.count,
                example: group.example.session.clone(),
            });
        }
    }
    if result.stage == Stage::Migrate && spec.mode == Mode::Strict && result.unseen() > 0 {
        let sessions = result.unseen();
        let text = format!("{sessions} sessions, or slots, were not migrated: there is more below");
        why.push(Reason { why: text, sessions, example: String::new() });
    }
    why.into_iter().for_each(|reason| add_reason(&mut result.why, reason));
    result.standing = match result.why.is_empty() {
        true => Standing::Passed,
        false => Standing::Stopped,
    };
}

/// The kinds of messages that cost too much, and the memory of an instance if it does.
#[allow(clippy::cast_precision_loss)]
fn costs(result: &StageResult, spec: &GateSpec) -> Vec<Group> {
    let most = spec.cost_ratio();
    let mut groups = Vec::new();
    for cost in &result.costs {
        let rise = cost.after.total.saturating_sub(cost.before.total);
        let is_seen = rise >= cost.messages.saturating_mul(limits::GATE_COST_RISE_MIN);
        if cost.ratio() > most && is_seen && cost.messages > 0 {
            let shown = |spread: &super::Spread| {
                let each = spread.total / cost.messages.max(1);
                format!("{each} each; p50 {}, p99 {}", spread.p50(), spread.p99())
            };
            groups.push(Group {
                kind: Kind::Cost,
                path: cost.of.clone(),
                count: cost.messages,
                stops: true,
                example: Example {
                    stored: shown(&cost.before),
                    came: format!("{} ({:.1} times as much)", shown(&cost.after), cost.ratio()),
                    ..Example::default()
                },
            });
        }
    }
    let (before, after) = (result.memory_before, result.memory_after);
    let is_seen = after.saturating_sub(before) >= limits::GATE_MEMORY_RISE_MIN;
    if is_seen && after as f64 > before as f64 * most {
        groups.push(Group {
            kind: Kind::Cost,
            path: MEMORY.into(),
            count: result.messages,
            stops: true,
            example: Example {
                stored: format!("{before} bytes"),
                came: format!("{after} bytes, after the same messages"),
                ..Example::default()
            },
        });
    }
    groups
}

/// The group of an instance's memory.
pub const MEMORY: &str = "memory";

fn sentence(group: &Group) -> String {
    let Group { path, count, example, .. } = group;
    let times = if *count == 1 { "once".to_owned() } else { format!("{count} times") };
    match group.kind {
        Kind::Want => match path.parse::<Want>() {
            Ok(want) => {
                format!("it {}, which nobody has accepted (--accept {want})", want.sentence())
            }
            Err(_) => format!("it wants {path}, which nobody has accepted"),
        },
        Kind::Migrate => format!("migrate fails on {count} sessions: {path}"),
        Kind::Trap => format!("it traps where the version before answers, {times}: {path}"),
        Kind::Late => format!("it takes longer than a call may, {times}"),
        Kind::Limit => format!("it passes a limit, {times}: {path}"),
        Kind::Failed => format!("it fails where the version before answers, {times}: {path}"),
        Kind::Rejection => {
            format!("it rejects what the version before answers, {times}: {path}")
        }
        Kind::Cost if path == MEMORY => {
            format!("an instance takes {}, and took {} before", example.came, example.stored)
        }
        Kind::Cost => {
            format!("messages of kind {path} cost {}, and {} before", example.came, example.stored)
        }
        Kind::KeepsMemory => {
            format!("it keeps something in memory between calls, as {times} of what was run shows")
        }
        kind @ (Kind::Reply | Kind::ContentType | Kind::Event | Kind::Effect | Kind::State) => {
            format!("it differs in {kind}.{path}, {times}")
        }
    }
}
