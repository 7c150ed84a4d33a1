//! Starts that can't succeed, peers that are none, and clocks that are wrong: each is refused or
//! coped with, said in words, and of no matter to the rest.

use anyhow::{Context, ensure};
use serde_json::Value;
use slotd_tests::{
    api::{Admin, Api, Message},
    clock::WrongClock,
    cluster::{Cluster, ClusterOptions, Own, SECRET, engine::Engine, place::ReservedPort},
    http::Client,
    node::{
        Addresses, Finished, NEWEST_LEVEL, Node, NodeOptions, eventually, finish, scenario, slotd,
    },
    notice::not_tested,
    plugins,
};
use std::{
    collections::BTreeMap,
    io::Write,
    net::{SocketAddr, TcpStream, UdpSocket},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

const SETTLED_WITHIN: Duration = Duration::from_secs(60);
const HOUR: i64 = 3_600;

/// Names and values of an environment.
type Env<'a> = &'a [(&'a str, &'a str)];

/// A small cluster: what is tested does not depend on its size.
async fn small(own: BTreeMap<u32, Own>, nodes: u32) -> anyhow::Result<Cluster> {
    let env = vec![("SLOTD_NATS_REPLICAS".into(), "1".into())];
    let options =
        ClusterOptions { nodes, servers: 1, slots: 16, env, own, ..ClusterOptions::default() };
    let cluster = Cluster::start(options, None).await?;
    let admin = cluster.member(1)?.admin();
    admin.deploy("counter", plugins::load("counter")?).await?;
    Ok(cluster)
}

/// The cluster serves, by every node.
async fn serves(cluster: &Cluster) -> anyhow::Result<()> {
    for member in cluster.members() {
        for number in 0..32 {
            let name = format!("s{number}");
            member.api().send("counter", &name, Message::bytes("1")).await?;
        }
    }
    Ok(())
}

/// It serves, and nothing has moved or is to move.
async fn unharmed(cluster: &Cluster) -> anyhow::Result<()> {
    serves(cluster).await?;
    cluster.settled(&cluster.members(), SETTLED_WITHIN).await.map(drop)
}

/// Runs another node against a cluster, which must not start.
async fn intruder(cluster: &Cluster, data_dir: &Path, env: Env<'_>) -> anyhow::Result<Finished> {
    let mut command = slotd()?;
    command.arg("serve").arg("--data-dir").arg(data_dir);
    command.args(["--api-listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
    command.envs(cluster.env(&[])).env("SLOTD_NODE", "intruder");
    command.env("SLOTD_CLUSTER_LISTEN", "127.0.0.1:0");
    for (name, value) in env {
        command.env(name, value);
    }
    finish(command).await
}

fn expect(finished: &Finished, exit: i32, says: &[&str]) -> anyhow::Result<()> {
    let Finished { status, stderr, .. } = finished;
    ensure!(status.code() == Some(exit), "{status}, not {exit}:\n{stderr}");
    for words in says {
        ensure!(stderr.contains(words), "nothing of {words:?} in:\n{stderr}");
    }
    Ok(())
}

/// What the first node has logged.
async fn log(cluster: &Cluster) -> anyhow::Result<String> {
    Ok(cluster.member(1)?.node.lock().await.log())
}

async fn logs(cluster: &Cluster, words: &str) -> anyhow::Result<()> {
    eventually(&format!("{words:?} in the first node's log"), async || {
        Ok(log(cluster).await?.contains(words).then_some(()))
    })
    .await
}

/// Without it, a node that waits for the engine would look like one that hangs: its probes and its
/// clients would wait with it.
#[test]
fn a_start_waits_for_the_engine_and_says_so() {
    scenario(async {
        let engine = Engine::start(1, None).await?;
        engine.kill(0)?;
        let ports = [ReservedPort::new()?, ReservedPort::new()?, ReservedPort::new()?];
        let [api, admin, peer] = ports.each_ref().map(|port| port.address);
        let peer = peer.to_string();
        let servers = engine.urls().join(",").replace("nats://", "nats://slotd:hunter2@");
        let env = [
            ("SLOTD_NODE", "a"),
            ("SLOTD_SLOT_COUNT", "16"),
            ("SLOTD_INSECURE", "true"),
            ("SLOTD_NATS_SERVERS", servers.as_str()),
            ("SLOTD_NATS_REPLICAS", "1"),
            ("SLOTD_CLUSTER_SECRET", SECRET),
            ("SLOTD_CLUSTER_LISTEN", peer.as_str()),
            // The most that anybody could ask for.
            ("SLOTD_LOG_FILTER", "trace"),
        ];
        let env: Vec<_> = env.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let listen = Some(Addresses { api, admin });
        let mut node = Node::prepare(NodeOptions { env, listen, ..NodeOptions::default() })?;
        node.launch()?;
        let (api, admin) = (Client::new(api), Client::new(admin));
        eventually("it lives", async || {
            Ok(admin.get("/healthz").await.ok().filter(|answer| answer.status == 200))
        })
        .await?;
        let problem = eventually("why it is not ready", async || {
            let problem = admin.get("/readyz").await?.problem()?;
            Ok(problem.detail.contains("waiting for NATS: nats://127.0.0.1").then_some(problem))
        })
        .await?;
        ensure!((problem.status, problem.code.as_str()) == (503, "unavailable"), "{problem:?}");
        let refused = api.get("/v1/services/counter/sessions").await?.problem()?;
        ensure!((refused.status, refused.code.as_str()) == (503, "unavailable"), "{refused:?}");
        let mut ready = slotd()?;
        ready.arg("ready").env("SLOTD_ADMIN_URL", format!("http://{}", admin.address()));
        let ready = finish(ready).await?;
        ensure!(!ready.status.success() && ready.stderr.contains("waiting for NATS"), "{ready:?}");
        engine.restart(0).await?;
        eventually("it is ready", async || {
            Ok(admin.get("/readyz").await.ok().filter(|answer| answer.status == 200))
        })
        .await?;
        // It is ready a moment before it has written where it listens.
        eventually("it says where it listens", async || Ok(node.attach().ok())).await?;
        Admin::new(admin).deploy("counter", plugins::load("counter")?).await?;
        Api::new(api).send("counter", "x", Message::bytes("1")).await?;
        let status = node.terminate().await?;
        ensure!(status.success(), "{status}");
        let log = node.log();
        ensure!(log.contains("TRACE") && log.contains("waiting for NATS"), "{log}");
        for secret in ["hunter2", SECRET] {
            ensure!(!log.contains(secret), "a secret is logged:\n{}", line_with(&log, secret));
        }
        Ok(())
    });
}

fn line_with<'a>(log: &'a str, word: &str) -> &'a str {
    log.lines().find(|line| line.contains(word)).unwrap_or_default()
}

/// Without it, a node with a typing error in its addresses would wait for ever, as nobody looks.
#[test]
fn a_start_without_the_engine_ends_when_its_time_is_over() {
    scenario(async {
        let port = ReservedPort::new()?;
        let scratch = tempfile::tempdir()?;
        let mut command = slotd()?;
        command.arg("serve").arg("--data-dir").arg(scratch.path().join("data"));
        command.args(["--api-listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
        command.args(["--cluster-listen", "127.0.0.1:0", "--nats-boot-wait", "1s"]);
        command.env("SLOTD_NATS_SERVERS", format!("nats://slotd:hunter2@{}", port.address));
        command.env("SLOTD_CLUSTER_SECRET", SECRET);
        let finished = finish(command).await?;
        expect(&finished, 6, &["can't use NATS at", &port.address.to_string()])?;
        ensure!(!finished.stderr.contains("hunter2"), "{}", finished.stderr);
        Ok(())
    });
}

/// Without it, two processes could write one directory, or bear one name and take each other's
/// slots in turns.
#[test]
fn the_same_directory_and_the_same_name_are_refused() {
    scenario(async {
        let cluster = small(BTreeMap::new(), 2).await?;
        let scratch = tempfile::tempdir()?;
        let own = cluster.member(2)?.node.lock().await.data_dir().to_owned();
        let finished = intruder(&cluster, &own, &[]).await?;
        expect(&finished, 6, &[&own.display().to_string(), "in use by another slotd"])?;
        let data = scratch.path().join("data");
        let finished = intruder(&cluster, &data, &[("SLOTD_NODE", "node-2")]).await?;
        expect(&finished, 7, &["node-2"])?;
        // The second process has said what it reads under the first one's name. Left so, the first
        // would be taken for a version from before there were levels, and told to end.
        let admin = cluster.member(1)?.admin().client;
        eventually("node-2 is vouched for", async || {
            let info: Value = admin.get("/admin/v1/level").await?.success()?.json()?;
            let nodes = info["nodes"].as_array().context("no nodes")?;
            let all = nodes.len() == 2 && nodes.iter().all(|node| node["reads"] == NEWEST_LEVEL);
            Ok(all.then_some(()))
        })
        .await?;
        unharmed(&cluster).await
    });
}

/// Without it, a node could take slots from a cluster that it has no business with.
#[test]
fn unknown_nodes_are_refused_and_told_why() {
    scenario(async {
        let cluster = small(BTreeMap::new(), 2).await?;
        let scratch = tempfile::tempdir()?;
        let cases: [(Env, &[&str]); 2] = [
            (&[("SLOTD_SLOT_COUNT", "32")], &["slot_count", "16", "32"]),
            (&[("SLOTD_NATS_STREAMS", "5")], &["streams is 3 in the cluster and 5"]),
        ];
        for (number, (env, says)) in cases.into_iter().enumerate() {
            let data = scratch.path().join(number.to_string());
            let finished = intruder(&cluster, &data, env).await?;
            expect(&finished, 7, says).with_context(|| format!("{env:?}"))?;
        }
        unharmed(&cluster).await
    });
}

/// Without it, a node with a typing error in its secret would go on alone, and take the slots of a
/// cluster whose log it reaches. It does not end either: anybody could tell it that its secret is
/// wrong.
#[test]
fn a_wrong_secret_leaves_a_node_outside() {
    scenario(async {
        let cluster = small(BTreeMap::new(), 2).await?;
        let ports = [ReservedPort::new()?, ReservedPort::new()?];
        let [api, admin] = ports.each_ref().map(|port| port.address);
        let mut env = cluster.env(&[]);
        env.retain(|(name, _)| name != "SLOTD_CLUSTER_SECRET");
        let own = [
            ("SLOTD_NODE", "intruder"),
            ("SLOTD_CLUSTER_LISTEN", "127.0.0.1:0"),
            ("SLOTD_CLUSTER_SECRET", "slotd-another1Qx2Wc9Rk4Zt8Yd1Lf6"),
            ("SLOTD_CLUSTER_JOIN_WAIT", "1s"),
        ];
        env.extend(own.map(|(name, value)| (name.to_owned(), value.to_owned())));
        let listen = Some(Addresses { api, admin });
        let mut node = Node::prepare(NodeOptions { env, listen, ..NodeOptions::default() })?;
        node.launch()?;
        eventually("both sides say why", async || {
            let says = |log: String| log.contains("secret");
            Ok((says(node.log()) && says(log(&cluster).await?)).then_some(()))
        })
        .await?;
        // Longer than it looks for peers before it would go on alone.
        let refusals = async || {
            let refused = "reason=\"secret\"";
            cluster.member(1)?.admin().metric("slotd_membership_refusals_total", refused).await
        };
        eventually("it is refused again and again", async || {
            Ok((refusals().await? >= 8.0).then_some(()))
        })
        .await?;
        let ready = Client::new(admin).get("/readyz").await?;
        ensure!(ready.status == 503, "it is ready: {}", ready.status);
        unharmed(&cluster).await?;
        let status = node.terminate().await?;
        ensure!(status.success(), "{status}");
        Ok(())
    });
}

/// Without it, whoever knows the secret could be any node of a cluster that has its own authority.
#[test]
fn a_cluster_with_its_own_authority_lets_in_who_has_a_certificate() {
    scenario(async {
        let scratch = tempfile::tempdir()?;
        let dir = scratch.path().join("tls");
        let mut init = slotd()?;
        init.args(["tls", "init"]).arg(&dir).args(["--node", "node-1", "--node", "node-2"]);
        expect(&finish(init).await?, 0, &[])?;
        let of = |node: &str| {
            let files = [
                ("AUTHORITY", "authority.pem".to_owned()),
                ("CERTIFICATE", format!("{node}.pem")),
                ("KEY", format!("{node}.key")),
            ];
            let variable = |(name, file): (&str, String)| {
                (format!("SLOTD_CLUSTER_TLS_{name}"), dir.join(file).display().to_string())
            };
            files.map(variable).to_vec()
        };
        let own = |number| (number, Own { env: of(&format!("node-{number}")), ..Own::default() });
        let cluster = small((1..=2).map(own).collect(), 2).await?;
        unharmed(&cluster).await?;
        // Files that are not there, and one without the others.
        let data = scratch.path().join("data");
        let none = of("nobody");
        let none: Vec<_> = none.iter().map(|(name, file)| (&**name, &**file)).collect();
        expect(&intruder(&cluster, &data, &none).await?, 7, &["nobody.key"])?;
        expect(
            &intruder(&cluster, &data, &none[..1]).await?,
            2,
            &["cluster.tls_key", "all three"],
        )?;
        // Another node's certificate: it would join, and take slots that nobody could reach.
        let other = of("node-1");
        let other: Vec<_> = other.iter().map(|(name, file)| (&**name, &**file)).collect();
        let why = "the certificate is of node node-1, and this is";
        expect(&intruder(&cluster, &data, &other).await?, 7, &["node-1.pem", why])?;
        cluster.settled(&cluster.members(), SETTLED_WITHIN).await.map(drop)
    });
}

/// A greeting as membership's wire format has it, but of an older format; its tag is of no use.
fn old_hello() -> Vec<u8> {
    let mut hello = b"slotd".to_vec();
    // Format, kind (a hello), sender, number.
    hello.extend([0, 1]);
    hello.extend(7_u64.to_be_bytes());
    hello.extend(1_u64.to_be_bytes());
    hello.resize(400, 0);
    hello
}

/// The start of HTTP/2, and a frame that says it is as large as one can be.
fn oversized() -> Vec<u8> {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend([0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1]);
    bytes.resize(256 * 1024, 0xa5);
    bytes
}

fn throw_tcp(at: SocketAddr, bytes: &[u8]) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(at)?;
    stream.set_write_timeout(Some(Duration::from_secs(5)))?;
    // It may be closed under the writer's hands, which is as it should be.
    let _ = stream.write_all(bytes);
    Ok(())
}

/// Without it, anybody who reaches the peer port could stop a cluster, or fill its logs.
#[test]
fn garbage_on_the_peer_port_is_of_no_matter() {
    scenario(async {
        let cluster = small(BTreeMap::new(), 2).await?;
        let member = cluster.member(1)?;
        let (at, admin) = (member.peer(), member.admin());
        let dropped =
            async |reason: &str| admin.metric("slotd_membership_dropped_total", reason).await;
        let before = dropped("").await?;
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        let noise: Vec<u8> =
            (0..1_200_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        for length in [0, 1, 22, 55, 400, 1_200] {
            for _ in 0..50 {
                socket.send_to(&noise[..length], at)?;
                throw_tcp(at, &noise[..length])?;
            }
        }
        throw_tcp(at, &oversized())?;
        throw_tcp(at, b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")?;
        // A connection that says nothing.
        let silent: Vec<_> = (0..80).map(|_| TcpStream::connect(at)).collect::<Result<_, _>>()?;
        socket.send_to(&old_hello(), at)?;
        socket.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut answer = [0; 2_000];
        let length = socket.recv(&mut answer).context("the old greeting is not answered")?;
        ensure!(answer.starts_with(b"slotd") && length <= 400, "an answer of {length} bytes");
        eventually("what was dropped is counted", async || {
            Ok((dropped("").await? > before).then_some(()))
        })
        .await?;
        logs(&cluster, "format 0").await?;
        serves(&cluster).await?;
        drop(silent);
        serves(&cluster).await?;
        cluster.settled(&cluster.members(), SETTLED_WITHIN).await?;
        let lines = log(&cluster).await?.lines().count();
        ensure!(lines < 2_000, "{lines} lines were logged");
        // And a node that comes now is let in.
        cluster.join(3).await?;
        cluster.settled(&cluster.members(), SETTLED_WITHIN).await.map(drop)
    });
}

/// Connections to a port that say nothing, made anew as they are closed, until this is dropped.
struct Silent {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Silent {
    fn at(address: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut open: Vec<TcpStream> = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                while open.len() < 100 {
                    let Ok(stream) = TcpStream::connect(address) else { break };
                    open.extend(stream.set_nonblocking(true).map(|()| stream));
                }
                let silent = |e: &std::io::Error| e.kind() == std::io::ErrorKind::WouldBlock;
                open.retain(|stream| stream.peek(&mut [0]).as_ref().is_err_and(silent));
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Without it, whoever reaches a peer port could keep a cluster's own nodes from each other with 64
/// connections that say nothing, while all call themselves ready.
#[test]
fn silent_unauthenticated_connections_do_not_keep_a_restarted_node_out() {
    scenario(async {
        let cluster = small(BTreeMap::new(), 2).await?;
        let crowded = cluster.member(1)?;
        let _silent = Silent::at(crowded.peer());
        let given_way = async || {
            let reason = "reason=\"crowded\"";
            crowded.admin().metric("slotd_peer_refused_total", reason).await
        };
        eventually("some to give way", async || Ok((given_way().await? > 0.0).then_some(())))
            .await?;
        let member = cluster.member(2)?;
        member.node.lock().await.kill()?;
        cluster.restart(&member).await?;
        cluster.settled(&cluster.members(), SETTLED_WITHIN).await?;
        serves(&cluster).await?;
        cluster.join(3).await?;
        cluster.settled(&cluster.members(), SETTLED_WITHIN).await?;
        serves(&cluster).await?;
        for member in cluster.members() {
            let missing = member.admin().metric("slotd_peer_links_missing", "").await?;
            ensure!(missing == 0.0, "{} misses {missing} links", member.name);
        }
        Ok(())
    });
}

/// Without it, a secret that a person thought of would go for one: whoever hears one datagram of the
/// nodes finds it by trying.
#[test]
fn a_secret_that_can_be_guessed_is_refused_and_one_that_is_made_is_taken() {
    scenario(async {
        let check = async |secret: &str| {
            let mut check = slotd()?;
            check.args(["config", "check", "--nats-servers", "nats://127.0.0.1:1"]);
            check.env("SLOTD_CLUSTER_SECRET", secret);
            finish(check).await
        };
        let refused = check("correct-horse-battery-staple").await?;
        expect(&refused, 2, &["too weak", "`slotd cluster secret`", "accept_weak_secret"])?;
        ensure!(!refused.stderr.contains("horse"), "{}", refused.stderr);
        let mut made = Vec::new();
        for _ in 0..2 {
            let mut secret = slotd()?;
            secret.args(["cluster", "secret"]);
            let output = finish(secret).await?;
            ensure!(output.status.success() && output.stderr.is_empty(), "{output:?}");
            let secret = output.stdout.trim().to_owned();
            expect(&check(&secret).await?, 0, &[])?;
            made.push(secret);
        }
        ensure!(made[0] != made[1] && made[0].len() > 40, "{made:?}");
        Ok(())
    });
}

/// Without it, something in the protocol might depend on what time a node thinks it is: an owner
/// would be taken for dead, or not be found out, and history would go back.
#[test]
fn clocks_that_are_an_hour_off_are_of_no_matter() {
    scenario(async {
        let clock = match WrongClock::build() {
            Ok(clock) => clock,
            Err(e) => {
                not_tested(&format!("clocks_that_are_an_hour_off_are_of_no_matter: {e:#}"));
                return Ok(());
            }
        };
        let off = |seconds| Own { env: clock.env(seconds).into(), ..Own::default() };
        let own = BTreeMap::from([(2, off(HOUR)), (3, off(-HOUR))]);
        let cluster = small(own, 3).await?;
        cluster.settled(&cluster.members(), SETTLED_WITHIN).await?;
        serves(&cluster).await?;
        // Every slot goes from a node to others whose clocks are another hour, and back.
        let member = cluster.member(2)?;
        member.node.lock().await.terminate().await?;
        serves_by(&cluster, &[1, 3]).await?;
        cluster.restart(&member).await?;
        cluster.settled(&cluster.members(), SETTLED_WITHIN).await?;
        serves(&cluster).await?;
        // And without a word.
        member.node.lock().await.kill()?;
        serves_by(&cluster, &[1, 3]).await?;
        cluster.restart(&member).await?;
        cluster.settled(&cluster.members(), SETTLED_WITHIN).await?;
        serves(&cluster).await?;
        let (mut least, mut most) = (u64::MAX, 0);
        let api = cluster.member(1)?.api();
        for number in 0..32 {
            let history = api.whole_history("counter", &format!("s{number}")).await?;
            let times: Vec<u64> = history.iter().map(|entry| entry.time_ms).collect();
            ensure!(times.is_sorted(), "s{number} goes back in time: {times:?}");
            ensure!(times.len() == 13, "s{number} has {} messages", times.len());
            least = least.min(times[0]);
            most = most.max(times[times.len() - 1]);
        }
        // The clocks were wrong indeed.
        ensure!(most - least > HOUR.unsigned_abs() * 1_000, "{} ms apart", most - least);
        Ok(())
    });
}

async fn serves_by(cluster: &Cluster, numbers: &[u32]) -> anyhow::Result<()> {
    for &number in numbers {
        let api = cluster.member(number)?.api();
        for number in 0..32 {
            api.send("counter", &format!("s{number}"), Message::bytes("1")).await?;
        }
    }
    Ok(())
}
