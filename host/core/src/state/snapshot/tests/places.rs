//! One suite over every place for objects.

use super::*;
use crate::testing::nats::Server;

/// What `Objects` promises, and a snapshot there and back.
async fn suite(objects: &Objects) {
    let large: Bytes = (0..1_300_000u32).map(|i| (i * 7 / 3) as u8).collect::<Vec<_>>().into();
    assert_eq!(objects.get(0, "b-1").await.unwrap(), None);
    assert_eq!(objects.list(0).await.unwrap(), []);
    objects.delete(0, "b-1").await.unwrap();
    for (name, bytes) in [("b-1", large.clone()), ("b-2", Bytes::new()), ("m-3", "x".into())] {
        objects.put(0, name, bytes.clone()).await.unwrap();
        assert_eq!(objects.get(0, name).await.unwrap(), Some(bytes.clone()));
        // A repeat does nothing.
        objects.put(0, name, bytes.clone()).await.unwrap();
        assert_eq!(objects.get(0, name).await.unwrap(), Some(bytes));
    }
    objects.put(1, "b-9", "of slot 1".into()).await.unwrap();
    objects.put(11, "b-9", "of slot 11".into()).await.unwrap();
    let names = |listed: Vec<super::super::objects::Listed>| -> Vec<String> {
        listed.into_iter().map(|object| object.name).collect()
    };
    assert_eq!(names(objects.list(0).await.unwrap()), ["b-1", "b-2", "m-3"]);
    assert_eq!(names(objects.list(1).await.unwrap()), ["b-9"]);
    objects.delete(0, "b-1").await.unwrap();
    objects.delete(1, "b-9").await.unwrap();
    assert_eq!(objects.get(0, "b-1").await.unwrap(), None);
    assert_eq!(objects.get(11, "b-9").await.unwrap().unwrap(), "of slot 11");
    assert_eq!(names(objects.list(0).await.unwrap()), ["b-2", "m-3"]);
    // A name can be used again.
    objects.put(0, "b-1", large.clone()).await.unwrap();
    assert_eq!(objects.get(0, "b-1").await.unwrap(), Some(large));
    // Listings do not disturb each other.
    let lists = (0..4).map(|_| objects.list(0));
    for listed in futures_util::future::join_all(lists).await {
        assert_eq!(names(listed.unwrap()).len(), 3);
    }

    let home = scratch();
    let log = Arc::new(MemoryLog::default());
    let options = SnapshotOptions { piece_bytes: 1_200_000, ..small() };
    let snapshots = Snapshots::new(objects.clone(), options);
    let mut owner = Owner::start(&log, &open(home.path())).await;
    assert_eq!(snapshots.latest(SLOT).await.unwrap(), None);
    for round in 0..12u32 {
        let body: Vec<u8> = (0..200_000u32).map(|i| (i * round) as u8).collect();
        owner.send(&format!("{}", round % 3), &body, vec![write("k", "v")]).await;
        if round % 4 == 3 {
            let taken = owner.take_and_trim(&snapshots).await;
            check_restore(&snapshots, &owner, taken).await;
            assert_eq!(snapshots.latest(SLOT).await.unwrap(), Some(taken.position));
        }
    }
}

/// A directory is what a cluster on one machine uses.
#[tokio::test]
async fn a_directory_keeps_objects() {
    let home = scratch();
    suite(&directory(home.path()).await).await;
}

/// A key would hide objects from those who have it, or not from the others.
#[tokio::test]
async fn objects_are_sealed() {
    let home = scratch();
    let keys = crate::seal::parse(&crate::seal::generate().unwrap()).unwrap();
    let plain = directory(home.path()).await;
    let objects = plain.clone().sealed(&keys);
    suite(&objects).await;
    objects.put(0, "b-5", "only with the key".into()).await.unwrap();
    let there = plain.get(0, "b-5").await.unwrap().unwrap();
    assert!(!there.windows(4).any(|bytes| bytes == b"only"));
    // What is there from before the key is read; what is put elsewhere is not.
    plain.put(0, "b-6", "before".into()).await.unwrap();
    assert_eq!(objects.get(0, "b-6").await.unwrap().unwrap(), "before");
    plain.put(0, "b-7", there).await.unwrap();
    let told = objects.get(0, "b-7").await.unwrap_err();
    assert!(matches!(told, SnapshotError::Damaged { .. }), "{told}");
}

/// NATS is the default: nothing else to install.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nats_keeps_objects() {
    let server = Server::start().await;
    let nats = server.connect().await;
    let objects = Objects::open(&Target::Nats, "", Some(&nats)).await.unwrap();
    suite(&objects).await;
    // Another process opens the same; one that is set up otherwise is refused.
    Objects::open(&Target::Nats, "", Some(&nats)).await.unwrap();
    let other = server.connect().await;
    let name = format!("slotd-{}-snapshots", other.options.cluster);
    let config = async_nats::jetstream::stream::Config {
        subjects: vec![format!("{name}.>")],
        name,
        ..Default::default()
    };
    other.jetstream.create_stream(config).await.unwrap();
    let refused = Objects::open(&Target::Nats, "", Some(&other)).await.err().unwrap();
    assert!(refused.to_string().contains("other settings than slotd needs"), "{refused}");
}

/// What a broken put leaves must neither be read as an object nor stay for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_an_object_in_nats_is_none() {
    let server = Server::start().await;
    let nats = server.connect().await;
    let objects = Objects::open(&Target::Nats, "", Some(&nats)).await.unwrap();
    let subject = format!("slotd-{}-snapshots.0.b-7.1", nats.options.cluster);
    let publish = nats.jetstream.publish(subject, "half".into()).await.unwrap();
    publish.await.unwrap();
    assert_eq!(objects.get(0, "b-7").await.unwrap(), None);
    let listed = objects.list(0).await.unwrap();
    assert_eq!((listed[0].name.as_str(), listed[0].bytes), ("b-7", Some(0)));
    objects.delete(0, "b-7").await.unwrap();
    assert_eq!(objects.list(0).await.unwrap(), []);
    // A part that is gone is told from an object that is gone.
    objects.put(0, "b-8", vec![7; 1_200_000].into()).await.unwrap();
    let stream = format!("slotd-{}-snapshots", nats.options.cluster);
    let stream = nats.jetstream.get_stream(&stream).await.unwrap();
    let part = format!("slotd-{}-snapshots.0.b-8.2", nats.options.cluster);
    stream.purge().filter(part).await.unwrap();
    let error = objects.get(0, "b-8").await.unwrap_err();
    assert!(error.to_string().contains("part 2 of 3 is missing"), "{error}");
}

/// A server that goes away and comes back must cost time, not the snapshot.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_outlast_a_restart_of_nats() {
    let mut server = Server::start().await;
    let nats = server.connect().await;
    let objects = Objects::open(&Target::Nats, "", Some(&nats)).await.unwrap();
    objects.put(0, "b-1", "before".into()).await.unwrap();
    server.kill();
    let (put, get) = (objects.clone(), objects.clone());
    let put = tokio::spawn(async move { put.put(0, "b-2", vec![1; 900_000].into()).await });
    let get = tokio::spawn(async move { get.get(0, "b-1").await });
    server.start_again();
    put.await.unwrap().unwrap();
    assert_eq!(get.await.unwrap().unwrap().unwrap(), "before");
    assert_eq!(objects.get(0, "b-2").await.unwrap().unwrap().len(), 900_000);
}

/// As much of S3 as snapshots need: put, get, delete, and listings in pages of two.
async fn fake_s3() -> String {
    use axum::{
        body::Body,
        extract::{Path, Query, State},
        http::{Method, Response, StatusCode},
        routing::{any, get},
    };
    type Stored = Arc<Mutex<BTreeMap<String, Bytes>>>;
    const MODIFIED: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    let answer = |status: StatusCode, body: Bytes| {
        let answer = Response::builder().status(status).header("ETag", "\"x\"");
        answer.header("Last-Modified", MODIFIED).body(Body::from(body)).unwrap()
    };
    let object = move |State(stored): State<Stored>,
                       Path((bucket, key)): Path<(String, String)>,
                       method: Method,
                       body: Bytes| async move {
        assert_eq!(bucket, "bucket");
        let mut stored = stored.lock();
        match method {
            Method::PUT => {
                stored.insert(key, body);
                answer(StatusCode::OK, Bytes::new())
            }
            Method::DELETE => {
                stored.remove(&key);
                answer(StatusCode::NO_CONTENT, Bytes::new())
            }
            _ => match stored.get(&key) {
                Some(bytes) => answer(StatusCode::OK, bytes.clone()),
                None => {
                    answer(StatusCode::NOT_FOUND, "<Error><Code>NoSuchKey</Code></Error>".into())
                }
            },
        }
    };
    let list = move |State(stored): State<Stored>,
                     Query(query): Query<BTreeMap<String, String>>| async move {
        let stored = stored.lock();
        let after = query.get("continuation-token").cloned().unwrap_or_default();
        let mut keys = stored
            .iter()
            .filter(|(key, _)| key.starts_with(&query["prefix"]) && **key > after)
            .take(3);
        let page: Vec<_> = keys.by_ref().take(2).collect();
        let mut out = "<ListBucketResult>".to_owned();
        for (key, bytes) in &page {
            out += &format!(
                "<Contents><Key>{key}</Key><Size>{}</Size><ETag>\"x\"</ETag>\
                 <LastModified>1994-11-06T08:49:37.000Z</LastModified></Contents>",
                bytes.len()
            );
        }
        if keys.next().is_some() {
            out += &format!("<NextContinuationToken>{}</NextContinuationToken>", page[1].0);
        }
        out += "</ListBucketResult>";
        answer(StatusCode::OK, out.into())
    };
    let app = axum::Router::new()
        .route("/{bucket}", get(list))
        .route("/{bucket}/{*key}", any(object))
        .layer(axum::extract::DefaultBodyLimit::disable())
        .with_state(Stored::default());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    format!("http://{address}")
}

/// What speaks S3 is where most will keep snapshots.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_keeps_objects() {
    let builder = object_store::aws::AmazonS3Builder::new()
        .with_endpoint(fake_s3().await)
        .with_allow_http(true)
        .with_region("nowhere")
        .with_access_key_id("key")
        .with_secret_access_key("secret");
    let objects = Objects::s3(builder, "bucket", "some/prefix", "test").unwrap();
    assert_eq!(objects.describe(7, "b-1"), "s3://bucket/some/prefix/test/00007/b-1");
    suite(&objects).await;
}
