//! Real servers: that they start, stay, come back and go.

#![allow(clippy::unwrap_used)]

use super::*;
use std::{io::BufRead, time::Instant};

async fn stored(servers: &LocalServers, replicas: usize) -> u64 {
    let client = async_nats::connect(servers.urls()).await.unwrap();
    let jetstream = async_nats::jetstream::new(client);
    let config = async_nats::jetstream::stream::Config {
        name: "local-test".into(),
        num_replicas: replicas,
        ..Default::default()
    };
    jetstream.get_or_create_stream(config).await.unwrap();
    let ack = jetstream.publish("local-test", "x".into()).await.unwrap();
    ack.await.unwrap().sequence
}

/// `slotd cluster dev` and every cluster test depend on this: a replicated JetStream that survives
/// the loss of one server, and of all of them at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_servers_replicate_and_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let servers = LocalServers::start(LocalOptions::new(3, dir.path())).await.unwrap();
    assert_eq!(stored(&servers, 3).await, 1);
    for monitor in servers.monitor_urls() {
        let about = monitor::get(monitor.trim_start_matches("http://"), "/varz").await.unwrap();
        assert_eq!(about["jetstream"]["config"]["sync_always"], true);
        assert_eq!(about["max_payload"], limits::NATS_LOCAL_PAYLOAD_BYTES);
    }
    servers.kill(0);
    assert_eq!(servers.pids().len(), 2);
    servers.ready().await.unwrap();
    (0..3).for_each(|index| servers.kill(index));
    assert!(servers.pids().is_empty());
    let urls = servers.urls();
    for index in 0..3 {
        servers.start_server(index).await.unwrap();
    }
    servers.ready().await.unwrap();
    assert_eq!(servers.urls(), urls);
    assert_eq!(stored(&servers, 3).await, 2);
}

/// Threads of a runtime end; a server that ended with one would be lost in the middle of a run.
#[test]
fn servers_outlive_the_thread_that_started_them() {
    let dir = tempfile::tempdir().unwrap();
    let options = LocalOptions::new(1, dir.path());
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let started = std::thread::spawn(move || runtime().block_on(LocalServers::start(options)));
    let servers = started.join().unwrap().unwrap();
    runtime().block_on(async {
        servers.ready().await.unwrap();
        assert_eq!(stored(&servers, 1).await, 1);
    });
    assert_eq!(servers.pids().len(), 1);
}

/// A server that exits at once must be reported with its reason, without waiting.
#[tokio::test]
async fn a_server_that_ends_is_told_with_its_log() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("slotd-1")).unwrap();
    fs::write(dir.path().join("slotd-1/store"), "in the way").unwrap();
    let started = LocalServers::start(LocalOptions::new(1, dir.path())).await;
    let message = started.err().unwrap().to_string();
    assert!(
        message.contains("slotd-1 ended with") && message.contains("storage directory"),
        "{message}"
    );
}

/// A `slotd` that is killed must not leave servers behind.
#[test]
fn servers_die_with_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let mut parent = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", "nats::local::tests::a_process_with_servers"])
        .env("SLOTD_TEST_LOCAL_DIR", dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = std::io::BufReader::new(parent.stdout.take().unwrap()).lines();
    let pid = lines.map_while(Result::ok).find_map(|line| Some(line.strip_prefix("pid ")?.parse()));
    let pid: u32 = pid.unwrap().unwrap();
    assert!(alive(pid));
    parent.kill().unwrap();
    parent.wait().unwrap();
    let started = Instant::now();
    while alive(pid) {
        assert!(started.elapsed() < Duration::from_secs(30), "the server lives on");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Nor a zombie that was not waited for.
fn alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.contains("nats-server") && !stat.contains(") Z ")
}

#[tokio::test]
#[ignore = "the other process of servers_die_with_the_process"]
async fn a_process_with_servers() {
    let Some(dir) = std::env::var_os("SLOTD_TEST_LOCAL_DIR") else { return };
    let servers = LocalServers::start(LocalOptions::new(1, dir)).await.unwrap();
    println!("\npid {}", servers.pids()[0].1);
    std::future::pending::<()>().await;
}
