//! Answers whose clients don't read them.

use super::*;
use crate::buffers::Kind;

/// Without it clients that request pages and don't read them would use up the node's memory, and
/// block messages.
#[tokio::test]
async fn answers_that_nobody_reads_are_bounded_together() {
    const MIB: usize = 1 << 20;
    let buffers = Arc::new(Buffers::new(64 * MIB));
    let options = HttpOptions { buffers: buffers.clone(), body_bytes_max: 4 * MIB, ..options() };
    let node = start(options).await;
    let large = format!("\"{}\"", "x".repeat(4 * MIB - 2));
    for _ in 0..4 {
        post(&node, &large).await;
    }
    // A page of 32 MiB: many times the kernel's buffers.
    let page = format!("GET {ROOM}/messages");
    let mut unread = TcpStream::connect(node.address).await.expect("connected");
    let request = format!("{page} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    unread.write_all(request.as_bytes()).await.expect("written");
    while buffers.held(Kind::Answers) == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let refused = call(node.address, &page, "", "").await;
    assert_eq!(refused.code(), (503, "buffers-full".into()));
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert!(buffers.held(Kind::Answers) < 48 * MIB);
    // Messages still find room; so do reads, once the other client is gone.
    assert_eq!(call(node.address, &format!("POST {ROOM}/messages"), JSON, "{}").await.status, 200);
    drop(unread);
    while buffers.held(Kind::Answers) > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let read = call(node.address, &page, "", "").await;
    assert!(read.status == 200 && read.body.len() > 32 * MIB);
}
