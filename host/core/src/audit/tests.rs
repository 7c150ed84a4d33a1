//! The log as its users see it, in files and in a stream.
#![allow(clippy::unwrap_used)]

use super::{verify::Verifier, *};
use crate::testing::nats::Server;

fn change(action: &str) -> Change {
    Change {
        who: "root".into(),
        verb: "operate".into(),
        action: action.into(),
        ..Change::default()
    }
}

async fn made(audit: &Audit, action: &str, status: u16) {
    let begun = audit.begin(change(action)).await.unwrap();
    audit.end(begun, |change| change.status = Some(status)).await.unwrap();
}

async fn listed(audit: &Audit) -> Vec<(String, Outcome)> {
    let page = audit.page(None, None, 100).await.unwrap();
    page.changes.into_iter().map(|listed| (listed.change.action, listed.outcome)).collect()
}

async fn verified(audit: &Audit) -> Result<u64, String> {
    let (mut verifier, mut after) = (Verifier::default(), 0);
    loop {
        let page = audit.raw(after, 3).await.unwrap();
        for RawLine { number, line } in &page.lines {
            verifier.line(*number, line.as_bytes())?;
            after = *number;
        }
        if !page.more {
            return Ok(verifier.lines());
        }
    }
}

/// What both kinds of log promise; `again` opens it as another process does.
async fn keeps_its_promises(audit: Audit, again: impl AsyncFn() -> Audit) {
    assert!(listed(&audit).await.is_empty() && verified(&audit).await == Ok(0));
    made(&audit, "a", 200).await;
    made(&audit, "b", 503).await;
    audit.refused(Change { status: Some(403), ..change("c") }, true).await;
    audit.event(Change::event("d")).await.unwrap();
    let begun = audit.begin(change("e")).await.unwrap();
    let name = |name: &str, outcome| (name.to_owned(), outcome);
    let mut expected = vec![
        name("a", Outcome::Done),
        name("b", Outcome::Failed),
        name("c", Outcome::Refused),
        name("d", Outcome::Done),
        name("e", Outcome::UnderWay),
    ];
    assert_eq!(listed(&audit).await, expected);
    // The node ends before the outcome is written.
    drop(begun);
    drop(audit);
    let audit = again().await;
    expected[4].1 = Outcome::Unknown;
    assert_eq!(listed(&audit).await, expected);
    made(&audit, "f", 200).await;
    expected.push(name("f", Outcome::Done));
    // Whatever the size of the pages, each change is on one of them.
    for limit in 1..5 {
        let (mut all, mut after) = (Vec::new(), 0);
        loop {
            let page = audit.page(Some(after), None, limit).await.unwrap();
            assert!(page.changes.len() <= limit && (page.next_after > after || !page.more));
            all.extend(page.changes.into_iter().map(|l| (l.change.action, l.outcome)));
            after = page.next_after;
            if !page.more {
                break;
            }
        }
        assert_eq!(all, expected, "pages of {limit}");
    }
    let latest = audit.page(None, None, 2).await.unwrap().changes;
    assert_eq!(latest.iter().map(|l| &*l.change.action).collect::<Vec<_>>(), ["e", "f"]);
    let since = latest[0].at_ms;
    let later = audit.page(None, Some(since), 100).await.unwrap().changes;
    assert!(later.len() >= 2 && later.iter().all(|listed| listed.at_ms >= since));
    assert!(audit.page(None, Some(u64::MAX), 100).await.unwrap().changes.is_empty());
    assert_eq!(verified(&audit).await, Ok(9));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_are_listed_with_their_outcomes_from_files() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Audit::in_folder(dir.path(), "n1");
    keeps_its_promises(open(), async || open()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_are_listed_with_their_outcomes_from_a_stream() {
    let server = Server::start().await;
    let open = async || {
        let nats = server.connect_as("audited").await;
        Audit::in_stream(AuditStream::open(&nats).await.unwrap(), "n1")
    };
    keeps_its_promises(open().await, open).await;
}

/// Each node's lines follow each other, whatever others write in between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_of_a_cluster_share_one_log() {
    let server = Server::start().await;
    let nats = server.connect_as("shared").await;
    let stream = async || AuditStream::open(&nats).await.unwrap();
    let one = Audit::in_stream(stream().await, "n1");
    let two = Audit::in_stream(stream().await, "n2");
    for _ in 0..5 {
        tokio::join!(made(&one, "a", 200), made(&two, "b", 200));
    }
    assert_eq!(listed(&one).await.len(), 10);
    assert_eq!(listed(&one).await, listed(&two).await);
    assert_eq!(verified(&two).await, Ok(20));
    // Nobody takes lines out, an operator with the engine's tools included.
    let found = nats.jetstream.get_stream("slotd-shared-audit").await.unwrap();
    assert!(found.purge().await.is_err() && found.delete_message(1).await.is_err());
}

/// Without it whoever reaches the listener could push everything else out of the log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_the_unidentified_few_are_written_and_the_others_counted() {
    let dir = tempfile::tempdir().unwrap();
    let audit = Audit::in_folder(dir.path(), "n1");
    let tries = u64::from(limits::AUDIT_UNIDENTIFIED_PER_MINUTE) * 5;
    for _ in 0..tries {
        audit.refused(Change { status: Some(401), ..change("x") }, false).await;
    }
    let known = u64::from(limits::AUDIT_REFUSED_PER_MINUTE) * 3;
    for _ in 0..known {
        audit.refused(Change { status: Some(403), ..change("y") }, true).await;
    }
    let page = audit.page(None, None, 1_000).await.unwrap();
    let written = page.changes.len() as u64;
    let most = limits::AUDIT_UNIDENTIFIED_PER_MINUTE + limits::AUDIT_REFUSED_PER_MINUTE;
    // A minute may have begun meanwhile.
    assert!(written <= 2 * u64::from(most), "{written}");
    let missed: u64 = page.changes.iter().map(|listed| listed.change.missed).sum();
    assert!(written + missed > tries, "those of nobody are counted where the others are written");
}

/// What was not written must not be done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_line_there_is_no_change() {
    let dir = tempfile::tempdir().unwrap();
    let in_the_way = dir.path().join(FOLDER);
    std::fs::write(&in_the_way, "a file").unwrap();
    let audit = Audit::in_folder(dir.path(), "n1");
    let refused = audit.begin(change("a")).await.err().unwrap();
    assert_eq!(refused.code, Code::StorageUnavailable);
    assert!(refused.detail.contains("nothing was changed"), "{refused}");
    // It goes on when that is mended, without a restart.
    std::fs::remove_file(&in_the_way).unwrap();
    made(&audit, "a", 200).await;
    assert_eq!(listed(&audit).await, [("a".to_owned(), Outcome::Done)]);
}
