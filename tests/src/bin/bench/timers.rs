//! Timers: how late they are at a steady rate, and when very many are due within a minute; what the memory
//! of one is that waits.

use crate::{Args, SERVICE, report::row, start_with};
use anyhow::{Context, bail, ensure};
use serde::Serialize;
use serde_json::json;
use slotd_tests::{
    api::{Api, Entry, Message, metric},
    connections::settled_bytes,
    histogram::Histogram,
    load::session,
    node::{Node, cpu_time},
    timers::{Set, check},
};
use std::{
    ops::Range,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant, UNIX_EPOCH},
};
use tokio::{task::JoinSet, time::MissedTickBehavior};

/// Sessions of the steady part, each with one timer of a period of 1 s: as many fire in a second.
const STEADY_SESSIONS: u64 = 1_000;
const PERIOD: Duration = Duration::from_secs(1);
/// Timers of each session of the other part.
const EACH: u64 = 10;
/// Sessions whose whole history is checked.
const CHECKED_SESSIONS: u64 = 1_000;
const CONNECTIONS: u64 = 64;
/// What has not fired so long after the last was due is lost.
const FIRED_WITHIN: Duration = Duration::from_secs(60);

#[derive(Serialize)]
pub struct Timers {
    steady: Firings,
    many: Many,
}

#[derive(Serialize)]
struct Many {
    sessions: u64,
    timers: u64,
    due_over_s: f64,
    set_per_second: f64,
    before_bytes: u64,
    set_bytes: u64,
    bytes_each: f64,
    firings: Firings,
}

/// What became of timers.
#[derive(Serialize)]
struct Firings {
    fired: u64,
    failed: u64,
    dead: u64,
    held: u64,
    /// Of the firings in the histories that were read.
    checked: u64,
    p50_ms: f64,
    p99_ms: f64,
    max_ms: f64,
    /// Of all firings, by the node's histogram: how many were up to 25 ms late, and up to 1 s.
    within_25_ms: f64,
    within_1_s: f64,
    cpu_share_of_a_core: f64,
    cpu_us_each: f64,
}

pub async fn timers(args: &Args, dir: &Path) -> anyhow::Result<Timers> {
    println!("\nTimers: messages to kitchen-sink, each with one event\n");
    let steady = steady(args, dir).await?;
    println!("  {STEADY_SESSIONS} sessions with a timer of a period of 1 s each");
    steady.show("at most 20 ms");
    let many = many(args, dir).await?;
    Ok(Timers { steady, many })
}

/// As many timers a second as there are sessions, evenly spread.
async fn steady(args: &Args, dir: &Path) -> anyhow::Result<Firings> {
    let node = start_with(dir.join("timers-steady"), "kitchen-sink").await?;
    let api = node.api();
    // So that plugin, slots and sessions are there.
    at_once(0..STEADY_SESSIONS, |number| echo(api.clone(), number)).await?;
    let mut ticks = tokio::time::interval(PERIOD / STEADY_SESSIONS as u32);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut setting = JoinSet::new();
    for number in 0..STEADY_SESSIONS {
        ticks.tick().await;
        let timer =
            json!({"op": "timer", "name": "tick", "every": PERIOD.as_millis() as u64, "body": 1});
        let api = api.clone();
        setting.spawn(async move {
            let reply = api.send(SERVICE, &session(number), Message::json(&timer)).await?;
            let due_ms = reply.json()?["due"].as_u64().context("no time")?;
            let period_ms = Some(PERIOD.as_millis() as u64);
            anyhow::Ok((number, vec![Set { name: "tick".into(), due_ms, period_ms }]))
        });
    }
    let mut set = Vec::new();
    while let Some(one) = setting.join_next().await {
        set.push(one??);
    }
    let before = Counts::of(&node).await?;
    tokio::time::sleep(Duration::from_secs_f64(2.0 * args.measure)).await;
    let after = Counts::of(&node).await?;
    let until_ms = now_ms().saturating_sub(FIRED_BY_MS);
    let late = histories(&api, set, until_ms).await?;
    Ok(Firings::of(&before, &after, &late))
}

/// What is due has its message in the history so soon, else it is taken for lost.
const FIRED_BY_MS: u64 = 1_000;

/// Very many timers that are due within a minute.
async fn many(args: &Args, dir: &Path) -> anyhow::Result<Many> {
    let sessions = (args.timers / EACH).max(1);
    let timers = sessions * EACH;
    // Eight looks at the memory must fit into the spare time.
    let [over, spare, settle_every] =
        if args.quick { [5, 15, 1] } else { [60, 60, 5] }.map(Duration::from_secs);
    let node = start_with(dir.join("timers-many"), "kitchen-sink").await?;
    let api = node.api();
    // The caches get what they take of as many messages, so that what grows later are the timers.
    let started = Instant::now();
    at_once(0..timers, |number| echo(api.clone(), number % sessions)).await?;
    let filling = started.elapsed();
    let before_bytes = settled_bytes(&node, settle_every).await?;
    let counts = Counts::of(&node).await?;

    let first_ms = now_ms() + (filling * 2 + spare).as_millis() as u64;
    // Neighbours in time are of different sessions.
    let due_ms = move |number: u64| first_ms + over.as_millis() as u64 * number / timers;
    let name = move |number: u64| format!("t{}", number / sessions);
    let started = Instant::now();
    at_once(0..timers, |number| {
        let api = api.clone();
        let timer = json!({"op": "timer", "name": name(number), "at": due_ms(number), "body": 1});
        async move {
            api.send(SERVICE, &session(number % sessions), Message::json(&timer)).await?;
            Ok(())
        }
    })
    .await?;
    let set_per_second = timers as f64 / started.elapsed().as_secs_f64();
    let set_bytes = settled_bytes(&node, settle_every).await?;
    ensure!(now_ms() < first_ms, "setting the timers took until the first was due");
    let bytes_each = (set_bytes as f64 - before_bytes as f64) / timers as f64;
    println!("\n  {timers} timers over {sessions} sessions, due within {} s", over.as_secs());
    row("  set at", format!("{set_per_second:.0}/s"), "");
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let text =
        format!("{bytes_each:.0} bytes ({:.1} -> {:.1} MiB)", mib(before_bytes), mib(set_bytes));
    row("  memory of one that waits", text, "at most 100 bytes");

    tokio::time::sleep(Duration::from_millis(first_ms.saturating_sub(now_ms()))).await;
    let begun = Counts::of(&node).await?;
    let begun = Counts { text: counts.text, ..begun };
    tokio::time::sleep(Duration::from_millis(due_ms(timers).saturating_sub(now_ms()))).await;
    let lost_at = Instant::now() + FIRED_WITHIN;
    let after = loop {
        let now = Counts::of(&node).await?;
        let fired = now.since(&begun, "slotd_timers_total", "fired");
        if fired >= timers {
            break now;
        }
        if Instant::now() > lost_at {
            bail!("{fired} of {timers} timers have fired {FIRED_WITHIN:?} after the last was due");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let step = (sessions / CHECKED_SESSIONS).max(1);
    let set = (0..sessions).step_by(step as usize).map(|at| {
        let set = (0..EACH).map(|nth| {
            let number = nth * sessions + at;
            Set { name: name(number), due_ms: due_ms(number), period_ms: None }
        });
        (at, set.collect())
    });
    let late = histories(&api, set.collect(), u64::MAX - 1).await?;
    let firings = Firings::of(&begun, &after, &late);
    firings.show("at most 1000 ms");
    ensure!(firings.fired == timers, "{} of {timers} timers have fired", firings.fired);
    let due_over_s = over.as_secs_f64();
    Ok(Many {
        sessions,
        timers,
        due_over_s,
        set_per_second,
        before_bytes,
        set_bytes,
        bytes_each,
        firings,
    })
}

impl Firings {
    fn of(before: &Counts, after: &Counts, late: &Histogram) -> Self {
        let outcome = |name| after.since(before, "slotd_timers_total", name);
        let fired = outcome("fired");
        let late_by = |le: &str| {
            let name = "slotd_timer_late_seconds_bucket";
            let all = after.since(before, name, "le=\"+Inf\"") as f64;
            after.since(before, name, &format!("le=\"{le}\"")) as f64 / all
        };
        let cpu = after.cpu.saturating_sub(before.cpu).as_secs_f64();
        let ms = |d: Duration| d.as_secs_f64() * 1e3;
        Self {
            fired,
            failed: outcome("failed"),
            dead: outcome("dead"),
            held: outcome("held"),
            checked: late.count(),
            p50_ms: ms(late.quantile(0.5)),
            p99_ms: ms(late.quantile(0.99)),
            max_ms: ms(late.max()),
            within_25_ms: late_by("0.025"),
            within_1_s: late_by("1"),
            cpu_share_of_a_core: cpu / (after.at - before.at).as_secs_f64(),
            cpu_us_each: cpu * 1e6 / fired as f64,
        }
    }

    fn show(&self, reach: &str) {
        let Self { p50_ms, p99_ms, max_ms, checked, .. } = self;
        row("  late, p50", format!("{p50_ms:.0} ms"), "");
        row("    p99", format!("{p99_ms:.0} ms"), reach);
        row("    longest", format!("{max_ms:.0} ms, of {checked} in histories"), "");
        let share = |share: f64| share * 100.0;
        let (soon, second) = (share(self.within_25_ms), share(self.within_1_s));
        row("    all: within 25 ms, 1 s", format!("{soon:.2} %, {second:.2} %"), "");
        let Self { fired, failed, dead, held, .. } = self;
        row("  fired", fired.to_string(), "");
        row("    failed, dead, held", format!("{failed}, {dead}, {held}"), "0");
        let (share, each) = (share(self.cpu_share_of_a_core), self.cpu_us_each);
        row("  node's processor time", format!("{share:.0} % of a core, {each:.0} µs each"), "");
    }
}

/// What the node counts, at some time.
struct Counts {
    text: String,
    cpu: Duration,
    at: Instant,
}

impl Counts {
    async fn of(node: &Node) -> anyhow::Result<Self> {
        let text = node.admin().client.get("/metrics").await?.success()?.text();
        let cpu = cpu_time(node.pid().context("the node does not run")?, false)?;
        Ok(Self { text, cpu, at: Instant::now() })
    }

    fn since(&self, before: &Self, name: &str, label: &str) -> u64 {
        (metric(&self.text, name, label) - metric(&before.text, name, label)) as u64
    }
}

fn now_ms() -> u64 {
    UNIX_EPOCH.elapsed().map_or(0, |since| since.as_millis() as u64)
}

async fn echo(api: Api, number: u64) -> anyhow::Result<()> {
    let echo = json!({"op": "echo", "value": number});
    api.send(SERVICE, &session(number), Message::json(&echo)).await?;
    Ok(())
}

/// Calls it for each number, as many at once as there are connections.
async fn at_once<F>(numbers: Range<u64>, call: impl Fn(u64) -> F) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>>,
{
    let next = AtomicU64::new(numbers.start);
    let worker = async || {
        loop {
            let number = next.fetch_add(1, Relaxed);
            if number >= numbers.end {
                return anyhow::Ok(());
            }
            call(number).await?;
        }
    };
    futures_util::future::try_join_all((0..CONNECTIONS).map(|_| worker())).await?;
    Ok(())
}

/// How late the messages of these sessions' timers were. What is wrong with a history is an error.
async fn histories(
    api: &Api,
    sessions: Vec<(u64, Vec<Set>)>,
    until_ms: u64,
) -> anyhow::Result<Histogram> {
    let late = std::sync::Mutex::new(Histogram::default());
    let sessions = Arc::new(sessions);
    at_once(0..sessions.len() as u64, |at| {
        let (late, sessions) = (&late, &sessions);
        async move {
            let (number, set) = &sessions[at as usize];
            let history = api.whole_history(SERVICE, &session(*number)).await?;
            let wrong = check(&history, set, until_ms);
            ensure!(wrong.is_empty(), "session {number}: {wrong:?}");
            let mut late = late.lock().map_err(|_| anyhow::anyhow!("a reader has panicked"))?;
            for Entry { timer, time_ms, .. } in &history {
                let due_ms = timer.as_ref().map(|timer| timer.due_ms);
                let by = due_ms.map(|due_ms| time_ms.saturating_sub(due_ms));
                by.into_iter().for_each(|by| late.record(Duration::from_millis(by)));
            }
            Ok(())
        }
    })
    .await?;
    late.into_inner().map_err(|_| anyhow::anyhow!("a reader has panicked"))
}
