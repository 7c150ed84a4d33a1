//! A listener that has all connections that it may have.

use super::*;
use crate::http::PlaceLimits;

async fn start_with(max: usize) -> Running {
    let connections = PlaceLimits { max, per_address: max, probes: 4, ending: 4 };
    start(HttpOptions { connections, ..options() }).await
}

/// Without it a client that connects and stays silent locks everyone else out for 75 s.
#[tokio::test]
async fn silent_connections_keep_nobody_out() {
    let node = start_with(8).await;
    let mut works = TcpStream::connect(node.address).await.expect("connected");
    let request = format!("GET {ROOM}/messages HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let mut first = [0; 12];
    works.write_all(request.as_bytes()).await.expect("written");
    works.read_exact(&mut first).await.expect("an answer");
    let mut silent = Vec::new();
    for number in 0..40 {
        let mut stream = TcpStream::connect(node.address).await.expect("connected");
        // An unfinished head counts as none.
        stream.write_all(&b"GET / HTTP/1.1\r\nHost"[..number % 19]).await.expect("written");
        silent.push(stream);
        let answer = call(node.address, "GET /healthz", "", "").await;
        assert_eq!(answer.status, 200, "behind {} silent connections", silent.len());
        let post = call(node.address, &format!("POST {ROOM}/messages"), "", "{}").await;
        assert_eq!(post.status, 200, "behind {} silent connections", silent.len());
    }
    // Clients that have sent a request keep their connection.
    works.write_all(request.as_bytes()).await.expect("written");
    works.read_exact(&mut first).await.expect("it was ended for a silent one");
    let mut byte = [0];
    let oldest = tokio::time::timeout(Duration::from_secs(10), silent[0].read(&mut byte));
    assert!(matches!(oldest.await.expect("it is over"), Ok(0) | Err(_)));
}

/// Without it probes would wait when all connections are busy, and everyone else without an
/// explanation.
#[tokio::test]
async fn where_all_are_at_work_probes_are_answered_and_others_told() {
    let node = start_with(2).await;
    let streams = [Events::open(&node, "", "").await, Events::open(&node, "", "").await];
    for _ in 0..10 {
        for probe in ["GET /healthz", "GET /readyz"] {
            assert_eq!(call(node.address, probe, "", "").await.status, 200);
        }
        let refused = call(node.address, &format!("GET {ROOM}"), "", "").await;
        assert_eq!(refused.code(), (503, "limit-reached".into()));
        assert_eq!(
            (refused.header("connection"), refused.header("retry-after")),
            (Some("close"), Some("1"))
        );
    }
    drop(streams);
    let line = format!("POST {ROOM}/messages");
    // Until the server has noticed that the streams are gone.
    while call(node.address, &line, "", "{}").await.status != 200 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Without it a stopping server would wait for connections that are long gone, or not for busy
/// ones.
#[tokio::test]
async fn a_full_server_stops_when_its_work_is_done() {
    let node = start_with(1).await;
    let hanging = {
        let address = node.address;
        let line = format!("POST {ROOM}/messages");
        tokio::spawn(async move { call(address, &line, JSON, "{\"hang\":true}").await })
    };
    while node.fake.hanging() == 0 {
        tokio::task::yield_now().await;
    }
    let silent = TcpStream::connect(node.address).await.expect("connected");
    assert_eq!(call(node.address, "GET /healthz", "", "").await.status, 200);
    node.shutdown.trigger();
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(!node.task.is_finished(), "a message is under way");
    node.fake.decide_hanging();
    assert_eq!(hanging.await.expect("an answer").status, 503);
    drop(silent);
    tokio::time::timeout(Duration::from_secs(9), node.task).await.expect("in time").expect("ended");
}
