//! A proxy before a real server that loses, holds and answers what it is told to.

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use std::{collections::HashSet, net::SocketAddr, sync::Arc};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, watch},
    task::JoinSet,
};

/// A frame of NATS' protocol.
#[derive(Clone, Debug)]
pub struct Frame {
    /// `HPUB`, `PUB`, `MSG`, `HMSG`, `PING`, ...
    pub verb: String,
    pub subject: String,
    /// A publication's, if it has one.
    pub reply: String,
    raw: Bytes,
}

/// What becomes of a frame.
#[derive(Clone, Debug)]
pub enum Verdict {
    Pass,
    Lose,
    /// It comes later, see [`Proxy::release`], or never.
    Hold,
    /// Lost, and this answered in the server's name.
    Answer(String),
    /// Passed on, and its own answer lost; this answered in the server's name.
    PassAndAnswer(String),
    /// Passed on, and then the connection breaks.
    PassAndCut,
}

type Rule = Box<dyn FnMut(&Frame) -> Verdict + Send>;

#[derive(Clone)]
pub struct Proxy {
    shared: Arc<Shared>,
    address: SocketAddr,
    _tasks: Arc<JoinSet<()>>,
}

struct Shared {
    server: String,
    to_server: Mutex<Rule>,
    to_client: Mutex<Rule>,
    held: watch::Sender<Vec<Frame>>,
    /// Replies to these are lost.
    unanswered: Mutex<HashSet<String>>,
}

impl Proxy {
    pub async fn start(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            server: server.to_owned(),
            to_server: Mutex::new(Box::new(|_| Verdict::Pass)),
            to_client: Mutex::new(Box::new(|_| Verdict::Pass)),
            held: watch::Sender::default(),
            unanswered: Mutex::default(),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn({
            let shared = shared.clone();
            async move {
                let mut connections = JoinSet::new();
                while let Ok((client, _)) = listener.accept().await {
                    connections.spawn(serve(shared.clone(), client));
                }
            }
        });
        Self { shared, address, _tasks: Arc::new(tasks) }
    }

    pub fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    /// What happens to frames from clients, from now on.
    pub fn to_server(&self, rule: impl FnMut(&Frame) -> Verdict + Send + 'static) {
        *self.shared.to_server.lock() = Box::new(rule);
    }

    /// What happens to frames from the server, from now on.
    pub fn to_client(&self, rule: impl FnMut(&Frame) -> Verdict + Send + 'static) {
        *self.shared.to_client.lock() = Box::new(rule);
    }

    pub fn pass_all(&self) {
        self.to_server(|_| Verdict::Pass);
        self.to_client(|_| Verdict::Pass);
    }

    /// Does this to the next `count` appends, and passes the rest.
    pub fn to_appends(&self, count: usize, verdict: Verdict) {
        let mut left = count;
        self.to_server(move |frame| {
            if left > 0 && frame.is_append() {
                left -= 1;
                return verdict.clone();
            }
            Verdict::Pass
        });
    }

    /// The next `count` appends reach the server, and their answers no one.
    pub fn lose_answers_to_appends(&self, count: usize) {
        let shared = self.shared.clone();
        let mut left = count;
        self.to_server(move |frame| {
            if left > 0 && frame.is_append() {
                left -= 1;
                shared.unanswered.lock().insert(frame.reply.clone());
            } else if frame.is_append() {
                shared.unanswered.lock().remove(&frame.reply);
            }
            Verdict::Pass
        });
    }

    /// Waits until as many frames are held.
    pub async fn held(&self, count: usize) {
        self.shared.held.subscribe().wait_for(|held| held.len() >= count).await.unwrap();
    }

    /// Sends the held frames to the server, as a slow network would, whatever has become of the
    /// client; gives the server's answers.
    pub async fn release(&self) -> Vec<String> {
        let frames = self.shared.held.send_replace(Vec::new());
        let stream = TcpStream::connect(&self.shared.server).await.unwrap();
        let (mut from, mut to) = stream.into_split();
        to.write_all(b"CONNECT {\"verbose\":false,\"headers\":true,\"no_responders\":true}\r\n")
            .await
            .unwrap();
        let mut buffer = BytesMut::new();
        let mut answers = Vec::new();
        for frame in frames {
            to.write_all(format!("SUB {} 1\r\n", frame.reply).as_bytes()).await.unwrap();
            to.write_all(&frame.raw).await.unwrap();
            loop {
                let answer = read_frame(&mut from, &mut buffer).await.unwrap();
                if answer.verb == "MSG" && answer.subject == frame.reply {
                    answers.push(answer.body());
                    break;
                }
            }
            to.write_all(b"UNSUB 1\r\n").await.unwrap();
        }
        answers
    }
}

impl Frame {
    /// A batch or a claim on its way to the log.
    pub fn is_append(&self) -> bool {
        self.verb == "HPUB" && self.subject.starts_with("slotd.")
    }

    /// A question for a single message.
    pub fn is_get(&self) -> bool {
        self.subject.starts_with("$JS.API.STREAM.MSG.GET.")
    }

    /// The payload of a frame without headers.
    pub fn body(&self) -> String {
        let text = String::from_utf8_lossy(&self.raw);
        text.split_once("\r\n").map_or("", |(_, body)| body.trim_end()).to_owned()
    }
}

async fn serve(shared: Arc<Shared>, client: TcpStream) {
    let Ok(server) = TcpStream::connect(&shared.server).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let ((from_client, to_client), (from_server, to_server)) =
        (client.into_split(), server.into_split());
    let (answers, made_up) = mpsc::unbounded_channel();
    tokio::select! {
        _ = upstream(shared.clone(), from_client, to_server, answers) => {}
        _ = downstream(shared, from_server, to_client, made_up) => {}
    }
}

async fn upstream(
    shared: Arc<Shared>,
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    answers: mpsc::UnboundedSender<(String, String)>,
) -> Option<()> {
    let mut buffer = BytesMut::new();
    loop {
        let frame = read_frame(&mut from, &mut buffer).await?;
        let verdict = (shared.to_server.lock())(&frame);
        match &verdict {
            Verdict::Lose => continue,
            Verdict::Hold => {
                shared.held.send_modify(|held| held.push(frame));
                continue;
            }
            Verdict::Answer(answer) => {
                answers.send((frame.reply.clone(), answer.clone())).ok()?;
                continue;
            }
            Verdict::PassAndAnswer(answer) => {
                shared.unanswered.lock().insert(frame.reply.clone());
                answers.send((frame.reply.clone(), answer.clone())).ok()?;
            }
            Verdict::Pass | Verdict::PassAndCut => {}
        }
        to.write_all(&frame.raw).await.ok()?;
        if matches!(verdict, Verdict::PassAndCut) {
            // The server has read it by then: it closes after all that came before.
            to.shutdown().await.ok()?;
            std::future::pending().await
        }
    }
}

async fn downstream(
    shared: Arc<Shared>,
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut made_up: mpsc::UnboundedReceiver<(String, String)>,
) -> Option<()> {
    let mut buffer = BytesMut::new();
    // The subscription of the client's inbox, by its subject without the last token.
    let mut sids: Vec<(String, String)> = Vec::new();
    loop {
        tokio::select! {
            biased;
            answer = made_up.recv() => {
                let (reply, body) = answer?;
                let inbox = reply.rsplit_once('.')?.0;
                // Known from an earlier answer to it; the log asks before it appends.
                let sid = sids.iter().find(|(known, _)| known == inbox)?.1.clone();
                let frame = format!("MSG {reply} {sid} {}\r\n{body}\r\n", body.len());
                to.write_all(frame.as_bytes()).await.ok()?;
            }
            frame = read_frame(&mut from, &mut buffer) => {
                let frame = frame?;
                if let (Some((inbox, _)), "MSG" | "HMSG") =
                    (frame.subject.rsplit_once('.'), frame.verb.as_str())
                {
                    let head = frame.raw.split(|&byte| byte == b'\r').next()?;
                    let sid = String::from_utf8_lossy(head).split(' ').nth(2)?.to_owned();
                    if !sids.iter().any(|(known, _)| known == inbox) {
                        sids.push((inbox.to_owned(), sid));
                    }
                    if shared.unanswered.lock().contains(&frame.subject) {
                        continue;
                    }
                }
                match (shared.to_client.lock())(&frame) {
                    Verdict::Pass => {}
                    _ => continue,
                }
                to.write_all(&frame.raw).await.ok()?;
            }
        }
    }
}

/// Cancel-safe: what is read stays in `buffer`.
async fn read_frame(from: &mut OwnedReadHalf, buffer: &mut BytesMut) -> Option<Frame> {
    loop {
        if let Some(frame) = take_frame(buffer) {
            return Some(frame);
        }
        if from.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
}

fn take_frame(buffer: &mut BytesMut) -> Option<Frame> {
    let end = buffer.windows(2).position(|two| two == b"\r\n")?;
    let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
    let words: Vec<&str> = head.split_ascii_whitespace().collect();
    let verb = words.first()?.to_ascii_uppercase();
    let payload = match verb.as_str() {
        "PUB" | "HPUB" | "MSG" | "HMSG" => words.last()?.parse::<usize>().ok()? + 2,
        _ => 0,
    };
    if buffer.len() < end + 2 + payload {
        return None;
    }
    // PUB subject [reply] size; HPUB subject [reply] headers size.
    let reply_at = match (verb.as_str(), words.len()) {
        ("PUB", 4) | ("HPUB", 5) => 2,
        _ => usize::MAX,
    };
    let word = |at: usize| words.get(at).map(|word| (*word).to_owned()).unwrap_or_default();
    let (subject, reply) = (word(1), word(reply_at));
    let raw = buffer.split_to(end + 2 + payload).freeze();
    Some(Frame { verb, subject, reply, raw })
}
