//! The thread that tells the controller what was used, and lets out what waits.

use super::{
    Shares,
    meter::{Meter, Reading},
    probe::Probe,
};
use crate::{
    limits,
    loads::{Load, Work},
    names::ServiceName,
    plugin::PluginHost,
    telemetry::metrics,
};
use slotd_quota::{
    limits::SHARES_TICK,
    shares::{State, Tick, Used},
    writes::{Bound, Disk, Writes, Written},
};
use std::{
    collections::HashMap,
    io,
    sync::{Arc, Weak, atomic::Ordering::Relaxed},
    time::Duration,
};
use tokio::runtime::Handle;

/// Starts it; it ends with the node. Call it on the runtime that serves.
///
/// # Errors
/// No thread can be started.
pub fn start(
    shares: &Arc<Shares>,
    plugins: Arc<PluginHost>,
    cores: usize,
    disk: impl Fn() -> Disk + Send + 'static,
) -> io::Result<()> {
    let (of, runtime) = (Arc::downgrade(shares), Handle::current());
    let meter = Meter::new(plugins, &runtime, cores, shares.started.elapsed());
    let thread = crate::thread::start("slotd-shares", move || {
        // A task says now and then how long it has waited for its turn.
        let _runtime = runtime.enter();
        let probe = Probe::default();
        let writes = Writes::new(Duration::ZERO);
        let (seen, next, disk) = (HashMap::new(), Duration::ZERO, Box::new(disk));
        let mut ticker = Ticker { meter, probe, seen, next, disk, writes };
        while let Some(pause) = turn(&of, &mut ticker) {
            std::thread::park_timeout(pause);
        }
    })?;
    let _ = shares.thread.set(thread.thread().clone());
    Ok(())
}

/// Gives how long there is nothing to do; `None`: never again.
fn turn(of: &Weak<Shares>, ticker: &mut Ticker) -> Option<Duration> {
    let shares = of.upgrade()?;
    if shares.is_closed() {
        return None;
    }
    let now = shares.started.elapsed();
    let just_engaged = shares.controller.is_engaged() && !shares.often.load(Relaxed);
    if now >= ticker.next || just_engaged {
        ticker.tick(&shares, now);
    }
    if shares.waiting.load(Relaxed) > 0 {
        shares.release();
        return Some(limits::SHARES_LOOK);
    }
    Some(ticker.next.saturating_sub(shares.started.elapsed()).max(limits::SHARES_LOOK))
}

struct Ticker {
    meter: Meter,
    probe: Probe,
    /// What services had done at the last tick.
    seen: HashMap<ServiceName, Work>,
    /// When it ticks next.
    next: Duration,
    disk: Box<dyn Fn() -> Disk + Send>,
    writes: Writes,
}

impl Ticker {
    fn tick(&mut self, shares: &Shares, now: Duration) {
        let reading = self.meter.read(now);
        let loads = shares.loads.all();
        if self.seen.len() > loads.len() {
            self.seen.retain(|service, _| loads.iter().any(|(known, _)| known == service));
        }
        let (mut used, mut written) = (Vec::new(), Vec::new());
        for (service, load) in &loads {
            let work = load.work();
            let before = self.seen.insert(service.clone(), work).unwrap_or_default();
            if work != before || work.open > 0 {
                used.push(Used {
                    service: service.as_str(),
                    time: work.time.saturating_sub(before.time),
                    aside: work.aside.saturating_sub(before.aside),
                    done: work.done.saturating_sub(before.done),
                    open: work.open,
                });
            }
            if work.bytes > before.bytes {
                written.push(Written {
                    service: service.as_str(),
                    weight: shares.controller.weight(service.as_str()),
                    bytes: work.bytes - before.bytes,
                    messages: work.writes - before.writes,
                });
            }
        }
        let disk = (self.disk)();
        let writes_much = self.write(now, disk, &loads, &written) || disk.behind;
        let Reading { busy, idle } = reading;
        let delay = self.probe.delay(now);
        let tick = Tick { now, busy, idle, delay, services: &used };
        let state = shares.controller.on(&tick);
        let often = state.engaged || state.utilization >= limits::SHARES_TICK_OFTEN || writes_much;
        shares.often.store(often, Relaxed);
        if often {
            self.probe.send(shares.started);
        }
        self.next = now + if often { SHARES_TICK } else { limits::SHARES_TICK_IDLE };
        show(shares, &state);
    }
}

impl Ticker {
    /// Says what services may have under way to the log from now on. Gives whether any has a bound.
    fn write(
        &mut self,
        now: Duration,
        disk: Disk,
        loads: &[(ServiceName, Arc<Load>)],
        written: &[Written<'_>],
    ) -> bool {
        let bounds: HashMap<_, _> = self.writes.on(now, disk, written).collect();
        let mut any = false;
        for (service, load) in loads {
            let bound = bounds.get(service.as_str()).copied().unwrap_or(Bound::NONE);
            any |= bound != Bound::NONE;
            load.bound(bound);
        }
        any
    }
}

fn show(shares: &Shares, state: &State) {
    metrics().shares_engaged.set(f64::from(u8::from(state.engaged)));
    metrics().shares_utilization.set(state.utilization);
    metrics().shares_waiting.set(shares.waiting.load(Relaxed) as f64);
}
