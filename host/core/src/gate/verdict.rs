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
        // What can't be read is accepted by nobody.
        let is_accepted = || {
            let may = |want: &Want| {
                spec.accepts(want) || (spec.mode != Mode::Strict && !want.reaches_out())
            };
            group.path.parse::<Want>().is_ok_and(|want| may(&want))
        };
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
    if result.stage == Stage::Interface
        && let Some(unseen) = result.unseen.first()
    {
        let text = format!("what it wants is not known: {}", unseen.why);
        why.push(Reason { why: text, sessions: 0, example: String::new() });
    }
    // Sessions that are pinned already are no worse off than they were.
    let first = result.unseen.iter().map(|it| &*it.why).find(|why| !why.starts_with(PINNED));
    let none = (result.seen == 0 && why.is_empty()).then_some(first).flatten();
    if let Some(first) = none.filter(|_| result.stage == Stage::Migrate) {
        let text = format!("no session at all could be migrated: {first}");
        why.push(Reason { why: text, sessions: result.unseen(), example: String::new() });
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

/// Begins what is said of sessions that an earlier version has refused, as this one does.
pub const PINNED: &str = "it is pinned";

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

#[cfg(test)]
mod tests {
    use super::{
        super::report::{Cost, GateReport, GateShare, Spread},
        *,
    };

    fn group(kind: Kind, path: &str) -> Group {
        let example = Example { session: "x".into(), seq: 3, ..Example::default() };
        Group { kind, path: path.into(), count: 2, stops: false, example }
    }

    fn decided(stage: Stage, mode: Mode, groups: &[Group], accept: &[&str]) -> StageResult {
        let mut result = StageResult::new(stage);
        groups.iter().cloned().for_each(|group| result.add(group));
        let accept = accept.iter().map(|want| want.parse().unwrap()).collect();
        decide(&mut result, &GateSpec { mode, accept, ..GateSpec::default() });
        result
    }

    /// The words of the issue that a gate is for: what fails stops, what differs is shown.
    #[test]
    fn what_fails_stops_and_what_differs_is_shown() {
        for kind in Kind::ALL {
            let groups = [group(kind, "x")];
            let by_default = decided(Stage::Replay, Mode::Report, &groups, &[]);
            let differs = kind.can_be_ignored() && kind != Kind::Rejection;
            let expected = if differs { Standing::Passed } else { Standing::Stopped };
            assert_eq!(by_default.standing, expected, "{kind}");
            assert_eq!(by_default.why.len(), usize::from(!differs));
            let strict = decided(Stage::Replay, Mode::Strict, &groups, &[]);
            assert_eq!(strict.standing, Standing::Stopped, "{kind}");
        }
    }

    #[test]
    fn what_is_accepted_stops_nothing() {
        let wants = |path: &str, mode, accept: &[&str]| {
            decided(Stage::Interface, mode, &[group(Kind::Want, path)], accept).standing
        };
        let report = Mode::Report;
        assert_eq!(wants("http:a.example", report, &["http:b.example"]), Standing::Stopped);
        assert_eq!(wants("http:a.example", report, &["http:a.example"]), Standing::Passed);
        assert_eq!(wants("http:a.example", Mode::Strict, &["http:*"]), Standing::Passed);
        assert_eq!(wants("effect:timers.schedule", report, &["effect:timers"]), Standing::Passed);
        assert_eq!(wants("effect:timers.schedule", report, &["effect:http"]), Standing::Stopped);
        assert_eq!(wants("import:slotd:slot/log", report, &[]), Standing::Passed);
        assert_eq!(wants("effect:effects.emit", report, &[]), Standing::Passed);
        assert_eq!(wants("import:slotd:slot/log", Mode::Strict, &[]), Standing::Stopped);
    }

    fn cost(of: &str, messages: u64, before: u64, after: u64) -> Cost {
        let spread = |each| {
            let mut spread = Spread::default();
            (0..messages).for_each(|_| spread.add(each));
            spread
        };
        Cost { of: of.into(), messages, before: spread(before), after: spread(after) }
    }

    /// One kind that costs three times as much is not hidden by the others, and what is next to nothing does not count.
    #[test]
    fn a_rise_of_one_kind_stops() {
        let mut result = StageResult::new(Stage::Cost);
        result.costs = vec![
            cost("add", 1_000, 100_000, 100_000),
            cost("find", 2, 100_000, 300_000),
            cost("tiny", 50, 100, 900),
        ];
        let spec = GateSpec::default();
        for _ in 0..2 {
            decide(&mut result, &spec);
            assert_eq!(result.standing, Standing::Stopped);
            assert_eq!(result.groups.len(), 1, "{result:?}");
            assert_eq!(result.groups[0].path, "find");
        }
        assert!(result.why[0].why.contains("3.0 times"), "{:?}", result.why);
        decide(&mut result, &GateSpec { cost_ratio_max: Some(3.5), ..spec.clone() });
        assert_eq!(result.standing, Standing::Passed);
        (result.memory_before, result.memory_after) = (1 << 20, 32 << 20);
        decide(&mut result, &GateSpec { cost_ratio_max: Some(3.5), ..spec });
        assert_eq!(result.groups[0].path, MEMORY);
    }

    /// Each node sees a part. A fault that shows on one of them stops all; a cost is that of all messages together.
    #[test]
    fn parts_of_nodes_are_decided_together() {
        let share = |node: &str, standing, groups: &[Group], costs: Vec<Cost>| {
            let mut result = StageResult::new(Stage::Cost);
            (result.standing, result.seen, result.of, result.costs) = (standing, 5, 10, costs);
            groups.iter().cloned().for_each(|group| result.add(group));
            GateShare { node: node.into(), result, done: vec![0], slots_of: 1, under_way: 0 }
        };
        let spec = GateSpec::default();
        let mut report = GateReport::default();
        let one = share("a", Standing::Passed, &[], vec![cost("x", 10, 50_000, 150_000)]);
        let other = share("b", Standing::Running, &[], vec![cost("x", 90, 50_000, 50_000)]);
        let merged = report.merge(Stage::Cost, &spec, &[one.clone(), other]);
        assert_eq!((merged.standing, merged.seen, merged.of), (Standing::Running, 10, 20));
        let other = share("b", Standing::Passed, &[], vec![cost("x", 90, 50_000, 50_000)]);
        assert_eq!(
            report.merge(Stage::Cost, &spec, &[one.clone(), other]).standing,
            Standing::Passed
        );
        let trap = share("b", Standing::Passed, &[group(Kind::Trap, "x")], Vec::new());
        assert_eq!(report.merge(Stage::Cost, &spec, &[one, trap]).standing, Standing::Stopped);
        report.merge(Stage::Migrate, &spec, &[]);
        let stages: Vec<_> = report.stages.iter().map(|stage| stage.stage).collect();
        assert_eq!(stages, [Stage::Migrate, Stage::Cost]);
        assert!(report.stopped().is_some_and(|stage| stage.stage == Stage::Cost));
    }
}
