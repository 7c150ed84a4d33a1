//! Event streams and sockets that stay with their session while its slot goes from node to node.

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};
use slotd_tests::{
    api::{Api, Ephemeral, Event, Message, session_path},
    cluster::{Cluster, ClusterOptions, Member},
    node::{eventually, scenario},
    plugins,
    socket::Socket,
    sse::Sse,
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

const SERVICE: &str = "chat";
const ROOM: &str = "room";
const SENDER: &str = "zoe";
const MOVES: usize = 10;
/// Messages that the socket, and the others together, have acknowledged between two moves.
const BETWEEN: u64 = 12;
/// The socket's messages that are under way at a time.
const WINDOW: usize = 8;
/// Ends what is read.
const LAST: &str = "the last line";
/// For the next thing to come: more than a request's deadline.
const SOON: Duration = Duration::from_secs(30);
const SETTLED_WITHIN: Duration = Duration::from_secs(60);

/// How far the writers are.
#[derive(Default)]
struct Progress {
    /// Acknowledged to the socket.
    sent: AtomicU64,
    /// Acknowledged to all others.
    posted: AtomicU64,
    over: AtomicBool,
    /// Writers that have nothing under way any more.
    silent: AtomicUsize,
}

/// What came over the socket.
#[derive(Default)]
struct Heard {
    /// Each acknowledgement's id and number.
    acks: Vec<(String, u64)>,
    /// Of the events, as `seq.index`.
    events: Vec<String>,
}

fn line(text: &str) -> Value {
    json!({"kind": "say", "from": "ann", "text": text})
}

fn is_last(body: &Value) -> bool {
    body["text"] == LAST
}

/// Writes and reads over the socket, until the last line has come.
async fn talk(mut socket: Socket, slot: u16, progress: &Progress) -> anyhow::Result<Heard> {
    let mut heard = Heard::default();
    let (mut sent, mut silent) = (0, false);
    loop {
        while !progress.over.load(SeqCst) && sent - heard.acks.len() < WINDOW {
            let body = line(&format!("over the socket, {sent}"));
            socket.send(&json!({"type": "send", "id": format!("m-{sent}"), "body": body})).await?;
            sent += 1;
        }
        if progress.over.load(SeqCst) && !silent && heard.acks.len() == sent {
            silent = true;
            progress.silent.fetch_add(1, SeqCst);
        }
        let frame = tokio::time::timeout(SOON, socket.frame()).await.context("no frame in time")?;
        let frame = frame?;
        match frame["type"].as_str() {
            Some("event") => {
                heard.events.push(format!("{}.{}", frame["seq"], frame["index"]));
                if is_last(&frame["body"]) {
                    return Ok(heard);
                }
            }
            Some("ack") => {
                let id = frame["id"].as_str().context("an acknowledgement without an id")?;
                let seq = frame["seq"].as_u64().context("an acknowledgement without a number")?;
                ensure!(frame["replayed"] == false && frame["slot"] == slot, "{frame}");
                heard.acks.push((id.to_owned(), seq));
                progress.sent.fetch_add(1, SeqCst);
            }
            _ => bail!("over the socket came {frame}"),
        }
    }
}

/// Reads the event stream until the last line has come; gives the events' ids.
async fn read(mut stream: Sse) -> anyhow::Result<Vec<String>> {
    let mut ids = Vec::new();
    loop {
        let next = tokio::time::timeout(SOON, stream.next()).await.context("no event in time")?;
        let event = next?.context("the stream ended")?;
        ensure!(event.event.as_deref() == Some("line"), "the stream says {event:?}");
        let body: Event = event.json()?;
        let place = event.place().context("an event without an id")?;
        ensure!(place == format!("{}.{}", body.seq, body.index), "{event:?}");
        ids.push(place.to_owned());
        if body.body.as_ref().is_some_and(is_last) {
            return Ok(ids);
        }
    }
}

/// Writes through a node, by plain requests.
async fn post(through: &Member, progress: &Progress) -> anyhow::Result<()> {
    let (api, name) = (through.api(), &through.name);
    for number in 0.. {
        if progress.over.load(SeqCst) {
            break;
        }
        let message = Message::json(&line(&format!("through {name}, {number}")));
        api.send(SERVICE, ROOM, message.key(format!("{name}-{number}"))).await?;
        progress.posted.fetch_add(1, SeqCst);
    }
    progress.silent.fetch_add(1, SeqCst);
    Ok(())
}

/// Drains a slot; gives the new owner's name and the slot's term.
async fn drain(owner: &Member, slot: u16) -> anyhow::Result<(String, u64)> {
    let path = format!("/admin/v1/slots/{slot}/drain");
    let drained: Value = owner.admin().client.post(&path, "").await?.success()?.json()?;
    let to = drained["to"].as_str().context("nobody has it")?.to_owned();
    Ok((to, drained["term"].as_u64().context("no term")?))
}

/// A room whose slot goes to and fro between two nodes, and never to the third.
struct Room {
    slot: u16,
    /// Where it is to begin with, and the one that it then goes to.
    between: [Arc<Member>; 2],
    /// Where the subscribers are.
    elsewhere: Arc<Member>,
    term: u64,
}

impl Room {
    async fn prepare(cluster: &Cluster) -> anyhow::Result<Self> {
        let first = cluster.member(1)?;
        first.admin().deploy(SERVICE, plugins::load("chat-v1")?).await?;
        cluster.settled(&cluster.members(), SETTLED_WITHIN).await?;
        let slot = first.api().send(SERVICE, ROOM, Message::json(&line("first"))).await?.slot;
        let slots = first.admin().slots().await?;
        let owner = slots.into_iter().find(|one| one.slot == slot).context("no such slot")?.owner;
        let by_name = |name: &str| {
            let mut members = cluster.members().into_iter();
            members.find(|member| member.name == name).with_context(|| format!("no {name}"))
        };
        let from = by_name(&owner)?;
        let (to, term) = drain(&from, slot).await?;
        let mut others = cluster.members().into_iter();
        let elsewhere = others.find(|member| ![&owner, &to].contains(&&member.name));
        let elsewhere = elsewhere.context("no third node")?;
        Ok(Self { slot, between: [by_name(&to)?, from], elsewhere, term })
    }

    /// Moves it, again and again, while there are writes; then has the last line written.
    async fn keep_moving(&self, writers: usize, progress: &Progress) -> anyhow::Result<()> {
        let mut term = self.term;
        for number in 0..MOVES {
            written(progress).await?;
            let [from, to] = [number % 2, 1 - number % 2].map(|at| &self.between[at]);
            let (now, claimed) = drain(from, self.slot).await?;
            ensure!(now == to.name, "move {number} went from {} to {now}", from.name);
            ensure!(claimed > term, "term {claimed} after {term}");
            term = claimed;
        }
        written(progress).await?;
        progress.over.store(true, SeqCst);
        eventually("the writers' end", async || {
            Ok((progress.silent.load(SeqCst) == writers).then_some(()))
        })
        .await?;
        self.elsewhere.api().send(SERVICE, ROOM, Message::json(&line(LAST))).await.map(drop)
    }
}

/// Waits for some more messages to be acknowledged.
async fn written(progress: &Progress) -> anyhow::Result<()> {
    let now = || [&progress.sent, &progress.posted].map(|count| count.load(SeqCst));
    let before = now();
    eventually("further messages", async || {
        let enough = now().iter().zip(before).all(|(now, before)| *now >= before + BETWEEN);
        Ok(enough.then_some(()))
    })
    .await
}

/// Without it, a reader that is connected to another node than its session's would lose its
/// connection, events or acknowledgements each time that the slot moves, as it does whenever a node
/// comes or goes.
#[test]
fn subscriptions_follow_their_session_when_its_slot_moves() {
    scenario(async {
        let cluster = Cluster::start(ClusterOptions::default(), None).await?;
        let room = Room::prepare(&cluster).await?;
        let api: Api = room.elsewhere.api();
        let stream = api.events(SERVICE, ROOM, Some(0), None).await?;
        let path = format!("{}/socket?after=0&sender={SENDER}", session_path(SERVICE, ROOM));
        let socket = Socket::open(&api.client, &path).await?;
        let progress = Progress::default();
        let members = cluster.members();
        let posts = members.iter().map(|member| post(member, &progress));
        let (heard, ids, _, ()) = tokio::try_join!(
            talk(socket, room.slot, &progress),
            read(stream),
            futures_util::future::try_join_all(posts),
            room.keep_moving(members.len() + 1, &progress),
        )?;
        let history = api.whole_history(SERVICE, ROOM).await?;
        // And the first and the last line.
        let written = progress.sent.load(SeqCst) + progress.posted.load(SeqCst) + 2;
        ensure!(history.len() as u64 == written, "{} of {written} messages", history.len());
        let expected: Vec<String> = (1..=history.len()).map(|seq| format!("{seq}.0")).collect();
        ensure!(ids == expected, "the stream's events: {ids:?}");
        ensure!(heard.events == expected, "the socket's events: {:?}", heard.events);
        check_acks(heard.acks, &history)
    });
}

/// Each of the socket's messages is acknowledged once, by its id, under which history has it.
fn check_acks(acks: Vec<(String, u64)>, history: &[slotd_tests::api::Entry]) -> anyhow::Result<()> {
    let number = |id: &str| id.strip_prefix("m-").and_then(|number| number.parse::<usize>().ok());
    let acks = acks.iter().map(|(id, seq)| Ok((number(id).context("a foreign id")?, *seq)));
    let mut acks = acks.collect::<anyhow::Result<Vec<_>>>()?;
    acks.sort_unstable();
    ensure!(acks.iter().map(|(number, _)| *number).eq(0..acks.len()), "not each once: {acks:?}");
    ensure!(acks.is_sorted_by_key(|(_, seq)| *seq), "not in the order of frames: {acks:?}");
    for (number, seq) in acks {
        let entry = &history[seq as usize - 1];
        let (id, sender) = (entry.id.as_deref(), entry.sender.as_deref());
        let right = id == Some(&*format!("m-{number}")) && sender == Some(SENDER);
        ensure!(entry.seq == seq && right, "m-{number} is acknowledged as {seq}: {entry:?}");
    }
    Ok(())
}

/// Without it, who types would be seen by those alone who are connected to the same node by chance.
#[test]
fn ephemeral_events_reach_the_subscribers_of_all_nodes() {
    const SERVICE: &str = "hostile";
    scenario(async {
        let env = vec![("SLOTD_API_NOTIFY".to_owned(), SERVICE.to_owned())];
        let cluster = Cluster::start(ClusterOptions { env, ..Default::default() }, None).await?;
        let members = cluster.members();
        members[0].admin().deploy(SERVICE, plugins::load("hostile-v1")?).await?;
        cluster.settled(&members, SETTLED_WITHIN).await?;
        let mut streams = Vec::new();
        for member in &members {
            streams.push(member.api().events(SERVICE, "a", Some(0), None).await?);
        }
        // Whoever has the slot, two of them send from elsewhere, and two of the streams are elsewhere.
        for (number, member) in members.iter().enumerate() {
            let told = json!({"do": "emit-and-notify", "kind": "tick", "times": 2});
            let sent = member.api().send(SERVICE, "a", Message::json(&told)).await?;
            let event = Message::json(&json!(number)).from(&*member.name);
            let typing = member.api().notify(SERVICE, "a", "typing", event).await?;
            ensure!(typing.status == 202, "{typing:?}");
            for stream in &mut streams {
                let mut next = async || {
                    let next = tokio::time::timeout(SOON, stream.next()).await;
                    next.context("no event in time")??.context("the stream ended")
                };
                let event = next().await?;
                ensure!(event.place() == Some(&*format!("{}.0", sent.seq)), "{event:?}");
                let expected = [("tick", None), ("tick", None), ("typing", Some(&*member.name))];
                for (kind, sender) in expected {
                    let event = next().await?;
                    ensure!(event.id.is_none(), "{event:?} instead of {kind}");
                    let told: Ephemeral = event.json()?;
                    ensure!((&*told.kind, told.sender.as_deref()) == (kind, sender), "{told:?}");
                }
            }
        }
        Ok(())
    });
}
