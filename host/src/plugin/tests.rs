//! Guests that behave, and guests that do not.

use super::{testkit::*, *};
use std::{fs, time::Instant};

async fn fresh(dir: &std::path::Path) -> Instance {
    host(dir).add(guest().into()).await.unwrap().instantiate().await.unwrap()
}

#[tokio::test]
async fn smoke() {
    let dir = tempfile::tempdir().unwrap();
    let mut instance = fresh(dir.path()).await;
    assert_eq!(ask(&mut instance, b"ehello").await.unwrap(), b"hello");
}
