//! The thread that tells the controller what was used, and lets out what waits.

use super::{
    Shares,
    meter::{Meter, Reading},
    probe::Probe,
};
use crate::{
    limits,
    loads::Work,
    names::{ServiceName, SlotId},
    plugin::PluginHost,
    slot::Mail,
    telemetry::metrics,
};
use slotd_quota::{
    limits::SHARES_TICK,
    shares::{State, Tick, Used},
};
use std::{
    collections::HashMap,
    io,
    sync::{Arc, Weak, atomic::Ordering::Relaxed},
    time::Duration,
};
use tokio::runtime::Handle;

/// Starts it; it ends with the node. Mail that may go is given to `place`, in order. Call it on the runtime that serves.
///
/// # Errors
/// No thread can be started.
pub fn start(
    shares: &Arc<Shares>,
    plugins: Arc<PluginHost>,
    cores: usize,
    place: impl Fn(SlotId, Mail) + Send + 'static,
) -> io::Result<()> {
    let (of, runtime) = (Arc::downgrade(shares), Handle::current());
    let meter = Meter::new(plugins, &runtime, cores, shares.started.elapsed());
    let thread = crate::thread::start("slotd-shares", move || {
        // A slot may have to be started for what is let out.
        let _runtime = runtime.enter();
        let probe = Probe::default();
        let mut ticker = Ticker { meter, probe, seen: HashMap::new(), next: Duration::ZERO };
        while let Some(pause) = turn(&of, &mut ticker, &place) {
            std::thread::park_timeout(pause);
        }
    })?;
    let _ = shares.thread.set(thread.thread().clone());
    Ok(())
}

/// Gives how long there is nothing to do; `None`: never again.
fn turn(of: &Weak<Shares>, ticker: &mut Ticker, place: &impl Fn(SlotId, Mail)) -> Option<Duration> {
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
        shares.release(place);
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
}

impl Ticker {
    fn tick(&mut self, shares: &Shares, now: Duration) {
        let reading = self.meter.read(now);
        let loads = shares.loads.all();
        if self.seen.len() > loads.len() {
            self.seen.retain(|service, _| loads.iter().any(|(known, _)| known == service));
        }
        let mut used = Vec::new();
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
        }
        let Reading { busy, idle } = reading;
        let delay = self.probe.delay(now);
        let tick = Tick { now, busy, idle, delay, services: &used };
        let state = shares.controller.on(&tick);
        let often = state.engaged || state.utilization >= limits::SHARES_TICK_OFTEN;
        shares.often.store(often, Relaxed);
        if often {
            self.probe.send(shares.started);
        }
        self.next = now + if often { SHARES_TICK } else { limits::SHARES_TICK_IDLE };
        show(shares, &state);
    }
}

fn show(shares: &Shares, state: &State) {
    metrics().shares_engaged.set(f64::from(u8::from(state.engaged)));
    metrics().shares_utilization.set(state.utilization);
    metrics().shares_waiting.set(shares.waiting.load(Relaxed) as f64);
}
