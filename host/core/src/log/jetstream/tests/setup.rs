//! Streams that are made, and those that are refused.

use super::*;
use async_nats::jetstream::stream::{Config, RetentionPolicy};

async fn refused(options: &NatsOptions, slots: u16, size: usize) -> String {
    let nats = Nats::connect(options.clone()).await.unwrap();
    match JetStreamLog::open(nats, slots, size).await {
        Err(NatsError::Refused(message)) => message,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("taken"),
    }
}

/// Three nodes start at the same moment: each must find or make the same streams.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_start_together_make_the_streams_once() {
    let servers = Servers::shared().await;
    let options = servers.options();
    let opened = futures_util::future::join_all((0..3).map(|_| open(&options))).await;
    let name = format!("slotd-{}-log-1", options.cluster);
    let stream = opened[0].shared.nats.jetstream.get_stream(&name).await.unwrap();
    let config = &stream.cached_info().config;
    assert_eq!((config.num_replicas, config.deny_delete, config.deny_purge), (3, true, false));
    assert_eq!(config.subjects, [format!("slotd.{}.log.1.*", options.cluster)]);
    open(&options).await;
}

/// Slots spread otherwise would begin anew beside their own logs; a stream that forgets loses what
/// was acknowledged. Each is refused, and the difference named.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_of_another_setup_are_refused() {
    let servers = Servers::shared().await;
    let options = servers.options();
    let log = open(&options).await;
    let size = batch_bytes_max(limits::BODY_BYTES_DEFAULT);
    let message = refused(&NatsOptions { streams: 4, ..options.clone() }, SLOTS, size).await;
    assert!(message.contains("nats.streams) is 2, expected 4"), "{message}");
    let message = refused(&NatsOptions { replicas: 1, ..options.clone() }, SLOTS, size).await;
    assert!(message.contains("nats.replicas) is 3, expected 1"), "{message}");
    let message = refused(&options, SLOTS * 2, size).await;
    assert!(message.contains("slot_count) is 64, expected 128"), "{message}");
    let message = refused(&options, SLOTS, 20 * 1024 * 1024).await;
    assert!(message.contains("max_payload: 20MB"), "{message}");

    let jetstream = &log.shared.nats.jetstream;
    let name = format!("slotd-{}-log-1", options.cluster);
    let good = jetstream.get_stream(&name).await.unwrap().cached_info().config.clone();
    let day = Duration::from_secs(86_400);
    let changed: [(&str, Config); 3] = [
        ("limit of age in ms is 86400000", Config { max_age: day, ..good.clone() }),
        (
            "limit of messages a subject is 10",
            Config { max_messages_per_subject: 10, ..good.clone() },
        ),
        ("deny_purge is true", Config { deny_purge: true, ..good.clone() }),
    ];
    for (message, config) in changed {
        jetstream.update_stream(&config).await.unwrap();
        let refused = refused(&options, SLOTS, size).await;
        assert!(refused.contains(&name) && refused.contains(message), "{refused}");
        // Whoever may set it may set it back, but for what can't be undone.
        if jetstream.update_stream(&good).await.is_err() {
            jetstream.delete_stream(&name).await.unwrap();
            jetstream.create_stream(good.clone()).await.unwrap();
        }
    }
    // What is the operator's to choose.
    let config = Config { description: Some("mine".into()), max_bytes: 1 << 30, ..good.clone() };
    jetstream.update_stream(&config).await.unwrap();
    open(&options).await;
    // Somebody else's stream on our subjects.
    let foreign = servers.options();
    let config = Config {
        name: format!("{}-theirs", foreign.cluster),
        subjects: vec![format!("slotd.{}.>", foreign.cluster)],
        retention: RetentionPolicy::Limits,
        ..Config::default()
    };
    jetstream.create_stream(config).await.unwrap();
    let message = refused(&foreign, SLOTS, size).await;
    assert!(message.contains("subjects overlap"), "{message}");
}

/// A message that something else wrote to a slot's subject breaks the chain; it is told, not read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_slotd_did_not_write_is_told() {
    let servers = Servers::shared().await;
    let log = open(&servers.options()).await;
    let claim = log.claim(0, "a").await.unwrap();
    let subject = log.shared.slots[0].subject.clone();
    let ack = log.shared.nats.jetstream.publish(subject, "hello".into()).await.unwrap();
    ack.await.unwrap();
    let read = log.read(0, claim.position, 1_000).await;
    assert!(
        matches!(&read, Err(LogError::Corrupt(why)) if why.contains("other than slotd")),
        "{read:?}"
    );
}
