//! Sessions that send to each other, set timers and ask a server while a cluster is under faults. At the end their whole
//! histories are looked at: each message has come once, in order, each outcome, each time of a timer and each answer once.

use super::load::ANSWER_TIMEOUT;
use crate::{
    api::{Api, Message, Reply},
    http::Client,
    load::Random,
    outside::Outside,
    requests::{self, Asked, Request},
    sends::{self, Sent},
    timers::{self, Set},
};
use anyhow::Context;
use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};

pub const SERVICE: &str = "kitchen-sink";
const SESSIONS: u64 = 16;
/// A session sends or sets something, and then waits up to this long: histories are read whole.
const THINK_MS: u64 = 400;
/// When a timer fires first, at the latest: in another turn, where the turns are short.
const TIMER_MS: u64 = 5_000;
const TIMER_MIN_MS: u64 = 500;
/// Of so many messages one asks for a reply, and so many are there to each timer.
const REPLY_EVERY: u64 = 3;
const TIMER_EVERY: u64 = 5;
/// Of so many messages one asks the server, every other time for a stream of so many tokens.
const REQUEST_EVERY: u64 = 4;
const TOKENS: u64 = 20;
/// One timer in so many fires again and again.
const PERIODIC_EVERY: u64 = 8;

/// Running sessions.
pub struct Effects {
    outside: Arc<Outside>,
    targets: watch::Receiver<Arc<[SocketAddr]>>,
    stop: watch::Sender<bool>,
    sessions: JoinSet<anyhow::Result<(String, Done)>>,
}

/// What a session has sent and set, all of it acknowledged.
#[derive(Default)]
struct Done {
    sent: Vec<Sent>,
    timers: Vec<Set>,
    asked: Vec<Asked>,
}

/// What was checked.
#[derive(Clone, Copy, Debug, Default)]
pub struct Checked {
    pub sent: usize,
    pub replies: usize,
    pub timers: usize,
    pub fired: usize,
    pub answers: usize,
}

/// What each node of a cluster has to allow.
pub fn allowed(outside: &Outside) -> Vec<(String, String)> {
    let pair = format!("{SERVICE}>{SERVICE}");
    // In order whatever becomes of one: a new owner may refuse some while it loads the version.
    let env = [
        ("SLOTD_EFFECTS_SEND", pair.clone()),
        ("SLOTD_EFFECTS_IN_ORDER", pair),
        ("SLOTD_EFFECTS_HTTP", outside.rule(SERVICE)),
    ];
    env.map(|(name, value)| (name.to_owned(), value)).into()
}

impl Effects {
    pub fn start(seed: u64, outside: Outside, targets: watch::Receiver<Arc<[SocketAddr]>>) -> Self {
        let outside = Arc::new(outside);
        let stop = watch::channel(false).0;
        let mut random = Random::new(seed);
        let mut sessions = JoinSet::new();
        for number in 0..SESSIONS {
            let one = One {
                name: name(number),
                random: Random::new(random.bits()),
                outside: outside.clone(),
                targets: targets.clone(),
                stop: stop.subscribe(),
            };
            sessions.spawn(one.go_on());
        }
        Self { outside, targets, stop, sessions }
    }

    /// Waits until all has come that was sent and was due, and checks it.
    ///
    /// # Errors
    /// When something is lost, or wrong.
    pub async fn finish(mut self) -> anyhow::Result<Checked> {
        self.stop.send_replace(true);
        let at = *self.targets.borrow().first().context("no target is left")?;
        let api = Api::new(Client::new(at));
        let (mut sent, mut set, mut asked) = (Vec::new(), Vec::new(), Vec::new());
        while let Some(ended) = self.sessions.join_next().await {
            let (session, done) = ended??;
            sent.extend(done.sent);
            asked.extend(done.asked);
            set.push((session, done.timers));
        }
        sends::all_arrived(&api, SERVICE, &sent).await.context("messages between sessions")?;
        timers::all_sent(&api, SERVICE, &set).await.context("timers")?;
        let attempts = || self.outside.attempts();
        let answered = requests::all_answered(&api, SERVICE, &asked, attempts).await;
        answered.context("requests over HTTP")?;
        let mut fired = 0;
        for number in 0..SESSIONS {
            let history = api.whole_history(SERVICE, &name(number)).await?;
            fired += history.iter().filter(|entry| entry.timer.is_some()).count();
        }
        Ok(Checked {
            sent: sent.len(),
            replies: sent.iter().filter(|sent| sent.reply).count(),
            timers: set.iter().map(|(_, set)| set.len()).sum(),
            fired,
            answers: asked.len(),
        })
    }
}

impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sent, replies, timers, fired, answers } = self;
        write!(
            f,
            "{sent} sends, {replies} outcomes, {timers} timers that fired {fired} times, {answers} \
             answers"
        )
    }
}

/// One session, and the client that has it do things.
struct One {
    name: String,
    random: Random,
    outside: Arc<Outside>,
    targets: watch::Receiver<Arc<[SocketAddr]>>,
    stop: watch::Receiver<bool>,
}

impl One {
    async fn go_on(mut self) -> anyhow::Result<(String, Done)> {
        let mut done = Done::default();
        for number in 1.. {
            if *self.stop.borrow() {
                break;
            }
            let to = name(self.random.below(SESSIONS));
            let reply = number % REPLY_EVERY == 0;
            let sent = Sent { from: self.name.clone(), to, number, reply };
            self.acknowledged(&sends::message(SERVICE, &sent)).await?;
            done.sent.push(sent);
            if number % TIMER_EVERY == 0 {
                let (timer, ms) =
                    (format!("timer-{number}"), TIMER_MIN_MS + self.random.below(TIMER_MS));
                let periodic = number % (TIMER_EVERY * PERIODIC_EVERY) == 0;
                let when = (if periodic { "every" } else { "after" }, ms);
                let reply = self.acknowledged(&timers::message(&timer, when)).await?;
                done.timers.push(timers::set_by(&timer, when, &reply.json()?)?);
            }
            if number % REQUEST_EVERY == 0 {
                let id = format!("request-{number}");
                let request = match number % (2 * REQUEST_EVERY) {
                    0 => {
                        let path = format!("/stream?tokens={TOKENS}&every_ms=20");
                        Request::stream(id, self.outside.url(&path), TOKENS)
                    }
                    _ => Request::get(id, self.outside.url("/echo")),
                };
                // The server is always there: whatever goes wrong is the cluster's.
                let request = request.with("attempts", 20);
                let reply = self.acknowledged(&requests::message(&self.name, &request)).await?;
                done.asked.push(requests::asked(&self.name, &request, &reply)?);
            }
            sleep(Duration::from_millis(self.random.below(THINK_MS))).await;
        }
        Ok((self.name, done))
    }

    /// Sends a message that has a key until it is acknowledged, each time to another node. What comes of it is known
    /// in the end: the cluster is healed at the end of each turn.
    async fn acknowledged(&mut self, message: &Message) -> anyhow::Result<Reply> {
        loop {
            let at = {
                let targets = self.targets.borrow();
                targets[self.random.below(targets.len() as u64) as usize]
            };
            let api = Api::new(Client::new(at));
            let answer = timeout(ANSWER_TIMEOUT, api.post(SERVICE, &self.name, message.clone()));
            if let Ok(Ok(answer)) = answer.await
                && answer.status == 200
            {
                return Reply::of(answer);
            }
            sleep(Duration::from_millis(20)).await;
        }
    }
}

fn name(number: u64) -> String {
    format!("sends-{number}")
}
