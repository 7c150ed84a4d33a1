//! Calls and answers over links that work.

use super::{proxy::*, *};
use std::collections::VecDeque;

/// A kind of request that is lost on the way would leave its callers waiting.
#[tokio::test]
async fn every_kind_of_answer_comes_back() {
    let (a, b) = (node("a").await, node("b").await);
    linked(&a, [&b]).await;
    a.echo("b").await;
    match a.query("b", "echo", "what".into()).await {
        Ok(Response::Answer(answer)) => assert_eq!(answer.body, "what"),
        _ => panic!("no answer"),
    }
    match a.links.call("b", Request::Control("x".into())).unwrap().await {
        Err(PeerError::Refused(error)) => assert_eq!(error.code, Code::MailboxFull),
        _ => panic!("not refused"),
    }
    match a.query("b", "panic", String::new()).await {
        Err(PeerError::Refused(error)) => assert_eq!(error.code, Code::Internal),
        _ => panic!("not refused"),
    }
    // The other direction is another link.
    linked(&b, [&a]).await;
    b.echo("a").await;
    assert_eq!((a.in_flight(), b.in_flight()), (0, 0));
}

/// Messages of a session that overtake each other break its order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_calls_keep_their_order() {
    const CALLS: u64 = 10_000;
    let (a, b) = (node("a").await, node("b").await);
    linked(&a, [&b]).await;
    let mut answers = VecDeque::new();
    let check = async |(lane, answer): (u64, BoxFuture<'static, _>)| match within(answer).await {
        Ok(Response::Sent(sent)) => assert_eq!(sent.seq, lane + 1),
        _ => panic!("no answer to {lane}"),
    };
    for lane in 0..CALLS {
        // Some that are longer than a frame are no exception.
        let size = if lane % 1_000 == 17 { 200_000 } else { 32 };
        loop {
            match a.message("b", lane, "echo", vec![0; size]) {
                Ok(answer) => break answers.push_back((lane, answer)),
                Err(PeerError::Unreachable { why, .. }) if why.contains("queue") => {
                    check(answers.pop_front().unwrap()).await;
                }
                Err(e) => panic!("{e}"),
            }
        }
    }
    for answer in answers {
        check(answer).await;
    }
    assert_eq!(*b.script.order.lock(), (0..CALLS).collect::<Vec<_>>());
    let status = a.status("b");
    assert_eq!((status.in_flight, status.queued), (0, 0));
}

/// A frame for each message would cost a system call for each when there are most of them.
#[tokio::test]
async fn what_waits_goes_in_one_frame() {
    let (a, b) = (node("a").await, node("b").await);
    linked(&a, [&b]).await;
    let before = a.status("b");
    // This thread is the link's too, so that nothing is written meanwhile.
    let answers: Vec<_> = (0..1_000).map(|n| a.message("b", n, "echo", "x").unwrap()).collect();
    for answer in answers {
        assert!(matches!(within(answer).await, Ok(Response::Sent(_))));
    }
    let after = a.status("b");
    let (items, frames) = (after.items - before.items, after.frames - before.frames);
    // Pings go in frames of their own.
    assert!(items >= 1_000 && frames < 50, "{items} items in {frames} frames");
}

/// A slot or peer that is slow must not hold up others behind it.
#[tokio::test]
async fn slow_answers_hold_up_nobody() {
    let (a, b, c) = (node("a").await, node("b").await, node("c").await);
    linked(&a, [&b, &c]).await;
    let slow: Vec<_> = (0..500).map(|n| a.message("b", n, "wait", "x").unwrap()).collect();
    let stuck = a.query("b", "hang", String::new());
    within(a.echo("b")).await;
    within(a.echo("c")).await;
    assert_eq!(a.status("b").in_flight, 501);
    b.script.gate.send_replace(true);
    for answer in slow {
        assert!(matches!(within(answer).await, Ok(Response::Sent(_))));
    }
    drop(stuck);
    assert_eq!(a.in_flight(), 0);
}

/// Megabytes of history in one go would delay every small answer behind them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_answers_overtake_large_ones() {
    const SIZE: usize = 8 * 1024 * 1024;
    let (a, b) = (node("a").await, node("b").await);
    let proxy = Proxy::to(b.member().peer).await;
    let slow_back = Duration::from_millis(10);
    proxy.way.send_replace(Way { slow_back, ..Way::default() });
    a.see(&[&Member { peer: proxy.address, ..b.member().clone() }]);
    a.linked("b").await;
    let large: Vec<_> =
        (0..3).map(|_| tokio::spawn(a.query("b", "size", SIZE.to_string()))).collect();
    eventually("a part of them", || proxy.back.load(Ordering::SeqCst) > 1024 * 1024).await;
    within(a.echo("b")).await;
    assert!(large.iter().all(|answer| !answer.is_finished()));
    assert!(proxy.back.load(Ordering::SeqCst) < SIZE as u64);
    proxy.way.send_replace(Way::default());
    for answer in large {
        match within(answer).await.unwrap() {
            Ok(Response::Answer(answer)) => assert_eq!(answer.body, vec![7; SIZE]),
            _ => panic!("no answer"),
        }
    }
}

/// Bodies over the limit must fail alone, and not take the link with them.
#[tokio::test]
async fn too_large_is_refused_alone() {
    let (a, b) = (node("a").await, node("b").await);
    linked(&a, [&b]).await;
    let most = crate::limits::PEER_ITEM_BYTES_MAX;
    match a.message("b", 0, "echo", vec![0; most + 1]) {
        Err(PeerError::Refused(error)) => assert_eq!(error.code, Code::BodyTooLarge),
        _ => panic!("it was taken"),
    }
    match within(a.query("b", "size", (most + 1).to_string())).await {
        Err(PeerError::Refused(error)) => assert_eq!(error.code, Code::Internal),
        _ => panic!("it was answered"),
    }
    match within(a.query("b", "size", most.to_string())).await {
        Ok(Response::Answer(answer)) => assert_eq!(answer.body.len(), most),
        _ => panic!("no answer"),
    }
    a.echo("b").await;
}

/// A caller that gave up must not leave anything behind, here or at the peer.
#[tokio::test]
async fn abandoned_calls_leave_nothing() {
    let (a, b) = (node("a").await, node("b").await);
    linked(&a, [&b]).await;
    let reads: Vec<_> = (0..100).map(|_| a.query("b", "hang", String::new())).collect();
    let messages: Vec<_> = (0..100).map(|n| a.message("b", n, "wait", "x").unwrap()).collect();
    eventually("work", || b.script.hanging.load(Ordering::SeqCst) == 100).await;
    eventually("messages", || b.script.order.lock().len() == 100).await;
    assert_eq!(a.in_flight(), 200);
    drop((reads, messages));
    assert_eq!(a.in_flight(), 0);
    eventually("no work", || b.script.hanging.load(Ordering::SeqCst) == 0).await;
    // Their late answers find nobody, and nothing else comes of it.
    b.script.gate.send_replace(true);
    within(a.echo("b")).await;
    assert_eq!(a.in_flight(), 0);
}

/// A call that can't be made has to say so at once, or its caller loses the time to try another.
#[tokio::test]
async fn unknown_peers_are_unreachable_at_once() {
    let a = node("a").await;
    assert!(matches!(a.message("b", 0, "echo", "x"), Err(PeerError::Unreachable { .. })));
    assert!(matches!(a.message("a", 0, "echo", "x"), Err(PeerError::Unreachable { .. })));
}

/// A node that stops has to answer what it took, and to leave nothing running.
#[tokio::test]
async fn stop_answers_what_was_taken() {
    let (a, b) = (node("a").await, node("b").await);
    linked(&a, [&b]).await;
    let answer = a.message("b", 0, "wait", "x").unwrap();
    eventually("the message", || b.script.order.lock().len() == 1).await;
    let stop = b.links.stop();
    let open = async {
        // The listener goes first.
        let peer = b.member().peer;
        while tokio::net::TcpStream::connect(peer).await.is_ok() {
            sleep(Duration::from_millis(1)).await;
        }
        b.script.gate.send_replace(true);
        answer.await
    };
    let (answer, ()) = within(async { tokio::join!(open, stop) }).await;
    assert!(matches!(answer, Ok(Response::Sent(_))));
    a.refused("b", "").await;
    let waiting = a.message("b", 0, "wait", "x");
    assert!(matches!(waiting, Err(PeerError::Unreachable { .. })));
    within(a.links.stop()).await;
    // The script is held by nobody but this test: no task is left.
    assert_eq!((Arc::strong_count(&a.script), Arc::strong_count(&b.script)), (1, 1));
}
