//! The clients that keep a cluster busy during faults: writers, readers and subscribers.

use super::record::{BROKEN, Caller, ReadKind, Recorder, SERVICES, message, seen, session_name};
use crate::{
    api::{Api, Event, Session, session_path},
    history::{Nanos, Seen, SessionId, Stream},
    http::Client,
    load::Random,
};
use anyhow::{Context, bail, ensure};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, timeout_at},
};

pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// One writer and one reader in four waits for longer than a node ever does: only they receive late
/// acknowledgements, and a node's error when it gives up.
const ANSWER_TIMEOUT_LONG: Duration = Duration::from_secs(20);
/// Attempts under one key before its writer leaves it open.
const ATTEMPTS_MAX: u32 = 8;
/// A subscriber that receives nothing for this long reconnects: a cut link does not close.
const SILENCE_MAX: Duration = Duration::from_secs(3);
/// Time for subscribers to receive the last events.
const CATCH_UP_WITHIN: Duration = Duration::from_secs(30);

/// How many clients there are.
#[derive(Clone, Copy, Debug)]
pub struct LoadShape {
    pub sessions: u32,
    pub writers: u32,
    pub readers: u32,
    /// They create their own sessions, and delete them.
    pub deleters: u32,
    /// A writer waits up to this long before its next message: faults are long, disks are small.
    pub think: Duration,
}

impl Default for LoadShape {
    fn default() -> Self {
        Self {
            sessions: 32,
            writers: 16,
            readers: 6,
            deleters: 3,
            think: Duration::from_millis(20),
        }
    }
}

/// Running clients.
pub struct Load {
    recorder: Arc<Recorder>,
    targets: watch::Receiver<Arc<[SocketAddr]>>,
    stop: watch::Sender<Option<Arc<[u64]>>>,
    tasks: JoinSet<anyhow::Result<()>>,
    subscribers: JoinSet<anyhow::Result<()>>,
}

impl Load {
    /// Starts clients on the targets.
    pub fn start(seed: u64, shape: LoadShape, targets: watch::Receiver<Arc<[SocketAddr]>>) -> Self {
        let recorder = Arc::new(Recorder::new(shape.sessions));
        let stop = watch::channel(None).0;
        let mut random = Random::new(seed);
        let mut one = || One {
            recorder: recorder.clone(),
            random: Random::new(random.bits()),
            targets: targets.clone(),
            stop: stop.subscribe(),
        };
        let mut tasks = JoinSet::new();
        let answer_timeout = |number: u32| {
            if number.is_multiple_of(4) { ANSWER_TIMEOUT_LONG } else { ANSWER_TIMEOUT }
        };
        for number in 0..shape.writers {
            tasks.spawn(one().write(answer_timeout(number), shape.think));
        }
        for number in 0..shape.readers {
            tasks.spawn(one().read_on(answer_timeout(number), shape.think));
        }
        for number in 0..shape.deleters {
            tasks.spawn(one().delete_on(number, shape.think));
        }
        let mut subscribers = JoinSet::new();
        for session in (0..shape.sessions).filter(|&session| session_name(session).0 == "chat") {
            subscribers.spawn(one().subscribe(session));
        }
        Self { recorder, targets, stop, tasks, subscribers }
    }

    pub fn recorder(&self) -> &Arc<Recorder> {
        &self.recorder
    }

    /// Returns an error as soon as a client has one.
    ///
    /// # Errors
    /// If a client observed something invalid: a malformed event, for instance.
    pub async fn failed(&mut self) -> anyhow::Result<()> {
        let ended = match self.subscribers.try_join_next() {
            Some(ended) => Some(ended),
            None => self.tasks.try_join_next(),
        };
        match ended {
            Some(ended) => ended?.and_then(|()| anyhow::bail!("a client ended by itself")),
            None => Ok(()),
        }
    }

    /// Stops writers and readers, lets subscribers catch up, reads everything back through the
    /// first target, and returns everything recorded.
    ///
    /// # Errors
    /// If a client failed, or a session can't be read.
    pub async fn finish(mut self) -> anyhow::Result<crate::history::History> {
        let at = *self.targets.borrow().first().context("no target is left")?;
        let api = Api::new(Client::new(at));
        self.stop.send_replace(Some(Arc::from([])));
        while let Some(ended) = self.tasks.join_next().await {
            ended??;
        }
        let mut ends = Vec::new();
        for session in 0..self.recorder.sessions() {
            let (service, name) = session_name(session);
            let kept = super::record::kept(&api, service, &name).await?;
            ends.push(kept.iter().rev().find(|kept| kept.events > 0).map_or(0, |kept| kept.seq));
        }
        self.stop.send_replace(Some(ends.into()));
        while let Some(ended) = self.subscribers.join_next().await {
            ended??;
        }
        Arc::into_inner(self.recorder).context("a client is left")?.finish(&api).await
    }
}

/// One client.
struct One {
    recorder: Arc<Recorder>,
    random: Random,
    targets: watch::Receiver<Arc<[SocketAddr]>>,
    /// `None`: continue. Empty: stop. Else the last number of each session that has an event.
    stop: watch::Receiver<Option<Arc<[u64]>>>,
}

impl One {
    fn stopped(&self) -> bool {
        self.stop.borrow().is_some()
    }

    fn target(&mut self) -> Option<SocketAddr> {
        let targets = self.targets.borrow();
        let count = targets.len() as u64;
        (count > 0).then(|| targets[self.random.below(count) as usize])
    }

    fn session(&mut self) -> SessionId {
        self.random.below(u64::from(self.recorder.sessions())) as SessionId
    }

    async fn think(&mut self, at_most: Duration) {
        let micros = self.random.below(at_most.as_micros() as u64 + 1);
        tokio::time::sleep(Duration::from_micros(micros)).await;
    }

    async fn write(mut self, answer_timeout: Duration, think: Duration) -> anyhow::Result<()> {
        let recorder = self.recorder.clone();
        let mut caller = Caller::new(&recorder, answer_timeout);
        while !self.stopped() {
            let session = self.session();
            // One in four is sent once, and an unknown outcome stays open.
            let keyed = self.random.below(4) > 0;
            caller.say(|| self.target(), session, keyed, ATTEMPTS_MAX).await;
            self.think(think).await;
        }
        Ok(())
    }

    async fn read_on(mut self, answer_timeout: Duration, think: Duration) -> anyhow::Result<()> {
        let recorder = self.recorder.clone();
        let mut caller = Caller::new(&recorder, answer_timeout);
        while !self.stopped() {
            let kinds = [ReadKind::Tail, ReadKind::Describe, ReadKind::Query];
            let kind = kinds[self.random.below(3) as usize];
            let session = self.session();
            if let Some(at) = self.target() {
                caller.read(at, session, kind, false).await;
            }
            self.think(think).await;
        }
        Ok(())
    }

    /// Creates a session, deletes it and creates it again, alone, so that it knows what must be
    /// stored. When an outcome is unknown it continues with another name: the request may be
    /// applied at any time after that.
    async fn delete_on(mut self, number: u32, think: Duration) -> anyhow::Result<()> {
        let service = SERVICES[number as usize % SERVICES.len()];
        for name in 0.. {
            let name = format!("deleted-{number}-{name}");
            let mut seq = 0;
            loop {
                if self.stopped() {
                    return Ok(());
                }
                self.think(4 * think).await;
                let Some(at) = self.target() else { continue };
                let api = Api::new(Client::new(at));
                let begun = self.recorder.now();
                let delete = seq > 0 && self.random.below(3) == 0;
                let answer = match delete {
                    true => tokio::time::timeout(ANSWER_TIMEOUT, api.delete(service, &name)).await,
                    false => {
                        let message = message(service, self.recorder.new_message());
                        tokio::time::timeout(ANSWER_TIMEOUT, api.post(service, &name, message))
                            .await
                    }
                };
                let answer = match answer {
                    Ok(Ok(answer)) => answer,
                    none => {
                        let why = if none.is_err() { "timeout" } else { BROKEN };
                        self.recorder.failed(begun, &format!("deleter: {why}"), "");
                        break;
                    }
                };
                match (answer.status, delete) {
                    (204, true) => seq = 0,
                    (200, false) => {
                        seq += 1;
                        let given = crate::api::Reply::of(answer)?.seq;
                        ensure!(given == seq, "{service}/{name}: number {given} after {}", seq - 1);
                    }
                    (404, true) => bail!("{service}/{name} has {seq} messages and is not there"),
                    // Refused, or unknown: both are rare.
                    _ => {
                        let problem = answer.problem();
                        let (code, detail) = problem
                            .map_or(("malformed".into(), answer.text()), |p| (p.code, p.detail));
                        self.recorder.failed(begun, &format!("deleter: {code}"), &detail);
                        break;
                    }
                }
                let Some(at) = self.target() else { continue };
                let client = Client::new(at);
                let path = session_path(service, &name);
                let Ok(Ok(read)) = tokio::time::timeout(ANSWER_TIMEOUT, client.get(&path)).await
                else {
                    continue;
                };
                match read.status {
                    200 => {
                        let given = read.json::<Session>()?.seq;
                        ensure!(given == seq, "{service}/{name}: {given} messages, not {seq}");
                    }
                    404 => ensure!(seq == 0, "{service}/{name}: none of {seq} messages"),
                    _ => {}
                }
                self.recorder.deleted(delete);
            }
        }
        Ok(())
    }

    /// Follows a session from start to end, over as many connections as needed.
    async fn subscribe(mut self, session: SessionId) -> anyhow::Result<()> {
        let mut events: Vec<Seen> = Vec::new();
        let mut give_up: Option<Instant> = None;
        loop {
            if self.end(session).is_some() {
                let until = *give_up.get_or_insert_with(|| Instant::now() + CATCH_UP_WITHIN);
                if self.saw_all(session, &events) || Instant::now() >= until {
                    break;
                }
            }
            // Errors of a connection do not matter; what it delivered does.
            self.follow(session, &mut events).await?;
            self.think(Duration::from_millis(100)).await;
        }
        self.recorder.stream(Stream { session, after: 0, events, to_the_end: true });
        Ok(())
    }

    /// One connection.
    async fn follow(&mut self, session: SessionId, events: &mut Vec<Seen>) -> anyhow::Result<()> {
        let Some(at) = self.target() else { return Ok(()) };
        let (service, name) = session_name(session);
        let api = Api::new(Client::new(at));
        let last_id = events.last().map(|seen| format!("{}.{}", seen.seq, seen.index));
        let after = if last_id.is_none() { Some(0) } else { None };
        let opening = api.events(service, &name, after, last_id.as_deref());
        let Ok(Ok(mut stream)) = tokio::time::timeout(ANSWER_TIMEOUT, opening).await else {
            return Ok(());
        };
        loop {
            let silence = Instant::now() + SILENCE_MAX;
            let next = tokio::select! {
                next = timeout_at(silence, stream.next()) => next,
                // To check whether this was all.
                _ = self.stop.changed() => return Ok(()),
            };
            let Ok(Ok(Some(event))) = next else { return Ok(()) };
            let now: Nanos = self.recorder.now();
            // The last event of a stream that the node ends is about the stream.
            if event.event.as_deref().is_some_and(|kind| kind.starts_with("slotd.")) {
                return Ok(());
            }
            let event: Event = event.json()?;
            events.push(seen(now, &event)?);
            if self.saw_all(session, events) {
                return Ok(());
            }
        }
    }

    /// The last number of a session that has an event, once it is known.
    fn end(&self, session: SessionId) -> Option<u64> {
        self.stop.borrow().as_ref()?.get(session as usize).copied()
    }

    fn saw_all(&self, session: SessionId, events: &[Seen]) -> bool {
        let last = events.last().map_or(0, |seen| seen.seq);
        self.end(session).is_some_and(|end| last >= end)
    }
}
