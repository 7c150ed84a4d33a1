//! Other durable message stores next to slotd and the ceiling: Redis.

use crate::{
    Args, CONNECTIONS, SERVICE, SESSIONS,
    ceiling::Ceiling,
    in_turn,
    report::{Spread, row},
    sockets::{self, IN_FLIGHT, SOCKETS},
    start,
};
use anyhow::{bail, ensure};
use serde::Serialize;
use slotd_tests::{
    cluster::place::Place,
    load::{Outcome, Plan, Protocol},
    resp,
};
use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

#[derive(Serialize)]
pub struct Peers {
    redis: String,
    /// One message in flight on each connection.
    alone: Beside,
    pipelined: Beside,
}

/// The rounds of one shape of load.
#[derive(Default, Serialize)]
struct Beside {
    ceiling: Vec<Outcome>,
    slotd: Vec<Outcome>,
    redis: Vec<Outcome>,
    /// Of messages a second.
    slotd_of_redis: Spread,
    slotd_of_ceiling: Spread,
    redis_of_ceiling: Spread,
}

/// `None` if there is no Redis.
pub async fn peers(args: &Args, dir: &Path) -> anyhow::Result<Option<Peers>> {
    let Some(program) = in_path("redis-server") else {
        println!("\nPeers: redis-server is not installed (not in PATH): nothing to measure beside");
        return Ok(None);
    };
    let node = start(dir.join("peers")).await?;
    let ceiling = Ceiling::start(&dir.join("peers-ceiling"))?;
    let redis = Redis::start(&program, &dir.join("redis")).await?;
    println!(
        "\nBeside {} with `appendonly yes`, `appendfsync always`; {CONNECTIONS} connections, 32-byte \
         body; all in turn\n",
        redis.version
    );
    let api = node.api().client.address();
    let post = |address| Plan {
        connections: CONNECTIONS,
        sessions: SESSIONS,
        ..Plan::timed(address, SERVICE, args.measure)
    };
    let xadd = |plan: Plan| Plan { protocol: Protocol::Redis, ..plan };
    let plans = [
        post(ceiling.address),
        post(api),
        xadd(post(redis.address)),
        sockets::plan(args, ceiling.sockets, SOCKETS),
        sockets::plan(args, api, SOCKETS),
        xadd(sockets::plan(args, redis.address, SOCKETS)),
    ];
    let title = format!("{IN_FLIGHT} under way on each: WebSockets and pipelined XADD");
    println!("{:>5} | {:<48} | {title}", "round", "1 under way on each: POST and XADD");
    let columns =
        format!("{:>10} {:>10} {:>10} {:>15}", "ceiling/s", "slotd/s", "redis/s", "slotd/redis");
    println!("{:>5} | {columns} | {columns}", "");
    let (mut alone, mut pipelined) = (Beside::default(), Beside::default());
    for round in 0..args.rounds {
        let [c, s, r, cp, sp, rp] = in_turn(&plans, round).await?;
        let left = alone.add(c, s, r);
        println!("{:>5} | {left} | {}", round + 1, pipelined.add(cp, sp, rp));
    }
    println!();
    alone.show("1 under way");
    pipelined.show(&format!("{IN_FLIGHT} under way"));
    Ok(Some(Peers { redis: redis.version.clone(), alone, pipelined }))
}

impl Beside {
    /// Adds a round, and prints it.
    fn add(&mut self, ceiling: Outcome, slotd: Outcome, redis: Outcome) -> String {
        let line = format!(
            "{:>10.0} {:>10.0} {:>10.0} {:>15.2}",
            ceiling.requests_per_second,
            slotd.requests_per_second,
            redis.requests_per_second,
            slotd.requests_per_second / redis.requests_per_second,
        );
        self.ceiling.push(ceiling);
        self.slotd.push(slotd);
        self.redis.push(redis);
        line
    }

    fn show(&mut self, name: &str) {
        let rate = |o: &Outcome| o.requests_per_second;
        self.slotd_of_redis = Spread::over(&self.slotd, &self.redis, rate);
        self.slotd_of_ceiling = Spread::over(&self.slotd, &self.ceiling, rate);
        self.redis_of_ceiling = Spread::over(&self.redis, &self.ceiling, rate);
        row(&format!("{name}, slotd of Redis's"), self.slotd_of_redis.show(), "");
        row("  slotd of the ceiling's", self.slotd_of_ceiling.show(), "");
        row("  Redis of the ceiling's", self.redis_of_ceiling.show(), "");
        for (who, outcomes) in [("slotd's", &self.slotd), ("Redis's", &self.redis)] {
            let ms =
                |us: fn(&Outcome) -> f64| Spread::each(outcomes, us).scaled(1e-3).show_as("ms");
            row(&format!("  {who} p50"), ms(|o| o.p50_us), "");
            row(&format!("  {who} p99"), ms(|o| o.p99_us), "");
        }
    }
}

/// A private Redis. It dies with its handle, or with this process.
struct Redis {
    child: Child,
    address: SocketAddr,
    version: String,
}

/// Timeout of a start on an empty folder.
const REDIS_WITHIN: Duration = Duration::from_secs(20);

impl Redis {
    async fn start(program: &Path, dir: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let output = Command::new(program).arg("--version").output()?.stdout;
        let output = String::from_utf8_lossy(&output).into_owned();
        let version = output.split_whitespace().find_map(|word| word.strip_prefix("v="));
        let version = format!("Redis {}", version.unwrap_or("of an unknown version"));
        // It can't choose a port itself.
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let mut command = Command::new(program);
        // Snapshots would be an unnecessary second copy.
        command.args(["--appendonly", "yes", "--appendfsync", "always", "--save", ""]);
        command.args(["--bind", "127.0.0.1", "--port", &address.port().to_string()]);
        command.args(["--daemonize", "no", "--logfile", "redis.log", "--dir"]).arg(dir);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = Place::lasting()?.spawn(command)?;
        let mut redis = Self { child, address, version };
        let until = Instant::now() + REDIS_WITHIN;
        while let Err(e) = redis.ping().await {
            let log = || std::fs::read_to_string(dir.join("redis.log")).unwrap_or_default();
            if let Some(status) = redis.child.try_wait()? {
                bail!("redis-server ended with {status}:\n{}", log());
            }
            ensure!(Instant::now() < until, "redis-server is not ready: {e:#}\n{}", log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(redis)
    }

    async fn ping(&self) -> anyhow::Result<()> {
        let mut stream = TcpStream::connect(self.address).await?;
        let (mut write, mut read) = (Vec::new(), Vec::new());
        resp::command(&mut write, &[b"PING"]);
        stream.write_all(&write).await?;
        loop {
            if let Some((reply, _)) = resp::reply(&read)? {
                ensure!(reply == resp::Reply::Text(b"PONG"), "it says {reply:?}");
                return Ok(());
            }
            ensure!(stream.read_buf(&mut read).await? > 0, "it closed the connection");
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // Its folder is removed, so it need not stop gracefully.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn in_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|file| file.is_file())
}
