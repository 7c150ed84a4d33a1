//! A name server on loopback, over UDP and TCP, that says what a test wants, lies included.

use hickory_proto::{
    op::{Message, MessageType, Query, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{A, AAAA, TXT},
    },
};
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, UdpSocket},
    sync::watch,
    task::JoinSet,
};

/// How the server answers queries for one name.
#[derive(Clone, Debug)]
pub enum Say {
    Addresses(Vec<IpAddr>),
    NoSuchName,
    NoRecords,
    ServerFailure,
    Refused,
    Nothing,
    Garbage,
    /// Valid except for the message's id.
    WrongId(Vec<IpAddr>),
    /// An answer to another query.
    WrongQuestion(Vec<IpAddr>),
    /// Records of another type.
    OtherRecords,
    /// Addresses, and no answer at all to AAAA.
    OnlyA(Vec<IpAddr>),
}

pub fn addresses(list: &[&str]) -> Vec<IpAddr> {
    list.iter().map(|ip| ip.parse().unwrap()).collect()
}

/// Ends when its owner is dropped.
pub struct Server {
    pub address: SocketAddr,
    says: Arc<Mutex<HashMap<String, Say>>>,
    asked: watch::Receiver<u64>,
    tcp: Arc<Mutex<u64>>,
    _tasks: JoinSet<()>,
}

impl Server {
    pub async fn start() -> Self {
        let (udp, listener) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            if let Ok(listener) = TcpListener::bind(udp.local_addr().unwrap()).await {
                break (udp, listener);
            }
        };
        let says: Arc<Mutex<HashMap<String, Say>>> = Arc::default();
        let (count, asked) = watch::channel(0);
        let (address, tcp) = (udp.local_addr().unwrap(), Arc::new(Mutex::new(0)));
        let mut tasks = JoinSet::new();
        let known = says.clone();
        tasks.spawn(async move {
            let mut buffer = [0; 4096];
            while let Ok((length, from)) = udp.recv_from(&mut buffer).await {
                let answer = answer(&known, &buffer[..length], true);
                if let Some(answer) = answer {
                    let _ = udp.send_to(&answer, from).await;
                }
                count.send_modify(|n| *n += 1);
            }
        });
        let (known, connections) = (says.clone(), tcp.clone());
        tasks.spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                *connections.lock() += 1;
                let known = known.clone();
                tokio::spawn(async move {
                    while let Ok(length) = stream.read_u16().await {
                        let mut question = vec![0; length.into()];
                        if stream.read_exact(&mut question).await.is_err() {
                            return;
                        }
                        let Some(answer) = answer(&known, &question, false) else { return };
                        let mut framed = (answer.len() as u16).to_be_bytes().to_vec();
                        framed.extend(answer);
                        if stream.write_all(&framed).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self { address, says, asked, tcp, _tasks: tasks }
    }

    pub fn say(&self, name: &str, what: Say) {
        self.says.lock().insert(format!("{name}."), what);
    }
    /// Waits until `more` queries arrived over UDP.
    pub async fn asked(&self, more: u64) {
        let mut asked = self.asked.clone();
        let target = *asked.borrow() + more;
        asked.wait_for(|n| *n >= target).await.unwrap();
    }
    pub fn tcp_connections(&self) -> u64 {
        *self.tcp.lock()
    }
}

fn record(name: &Name, ip: IpAddr) -> Record {
    let data = match ip {
        IpAddr::V4(v4) => RData::A(A(v4)),
        IpAddr::V6(v6) => RData::AAAA(AAAA(v6)),
    };
    Record::from_rdata(name.clone(), 3_600, data)
}

fn answer(says: &Mutex<HashMap<String, Say>>, question: &[u8], udp: bool) -> Option<Vec<u8>> {
    let question = Message::from_vec(question).unwrap();
    let query = question.queries[0].clone();
    let (name, kind) = (query.name.clone(), query.query_type);
    let mut reply =
        Message::new(question.metadata.id, MessageType::Response, question.metadata.op_code);
    reply.metadata.recursion_desired = true;
    reply.metadata.recursion_available = true;
    let say = says.lock().get(&name.to_lowercase().to_string()).cloned();
    let give = |reply: &mut Message, list: Vec<IpAddr>| {
        let fits = |ip: &IpAddr| ip.is_ipv4() == (kind == RecordType::A);
        reply.add_answers(list.into_iter().filter(fits).map(|ip| record(&name, ip)));
    };
    match say {
        None | Some(Say::NoSuchName) => reply.metadata.response_code = ResponseCode::NXDomain,
        Some(Say::NoRecords) => {}
        Some(Say::ServerFailure) => reply.metadata.response_code = ResponseCode::ServFail,
        Some(Say::Refused) => reply.metadata.response_code = ResponseCode::Refused,
        Some(Say::Nothing) => return None,
        Some(Say::Garbage) => return Some((0..200u8).collect()),
        Some(Say::OnlyA(_)) if kind != RecordType::A => return None,
        Some(Say::Addresses(list) | Say::OnlyA(list)) => give(&mut reply, list),
        Some(Say::WrongId(list)) => {
            reply.metadata.id = reply.metadata.id.wrapping_add(1);
            give(&mut reply, list);
        }
        Some(Say::WrongQuestion(list)) => {
            let other = Name::from_ascii("other.example.").unwrap();
            reply.add_query(Query::query(other.clone(), kind));
            reply.add_answers(list.into_iter().map(|ip| record(&other, ip)));
            return Some(reply.to_vec().unwrap());
        }
        Some(Say::OtherRecords) => {
            let text = RData::TXT(TXT::new(vec!["10.9.9.9".into()]));
            reply.add_answer(Record::from_rdata(name, 60, text));
        }
    }
    reply.add_query(query);
    let bytes = reply.to_vec().unwrap();
    if udp && bytes.len() > 1_200 {
        reply.answers.clear();
        reply.metadata.truncation = true;
        return Some(reply.to_vec().unwrap());
    }
    Some(bytes)
}
