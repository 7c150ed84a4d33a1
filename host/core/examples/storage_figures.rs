//! Measures the storage of a node: `cargo run -p slotd-core --example storage_figures [DIR]`.
//!
//! Appends a second at 1, 16 and 64 in flight; the cost of applying changes; then a million
//! sessions of one message each: resident memory, size on disk, and the time to open it again.

// Its tasks are its own, not the library's.
#![allow(clippy::disallowed_methods)]

use bytes::Bytes;
use slotd_core::{
    database::StorageOptions,
    log::{
        Append, Claim, SlotLog,
        record::{Batch, Entry, Head, Message, Record, Write},
    },
    names::SessionKey,
    state::{SlotMeta, changes::Changes},
    storage::DataDir,
};
use std::{path::Path, sync::Arc, time::Instant};

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let dir = args.get(1).cloned().unwrap_or_else(|| "storage-figures".into());
    if let [_, home, _, sessions] = &args[..] {
        return reopen(Path::new(home), sessions.parse()?);
    }
    let sessions = args.get(2).map_or(Ok(1_000_000), |n| n.parse())?;
    let dir = Path::new(&dir);
    anyhow::ensure!(!dir.exists(), "{} exists", dir.display());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build()?;
    for in_flight in [1, 16, 64, 256] {
        runtime.block_on(appends(&dir.join(format!("log-{in_flight}")), in_flight))?;
    }
    let home = dir.join("sessions");
    runtime.block_on(fill(&home, sessions))?;
    drop(runtime);
    for how in ["after a crash", "after an orderly stop"] {
        println!("open {how}:");
        // In a process of its own: what memory was used before does not show.
        let mut child = std::process::Command::new(std::env::current_exe()?);
        child.args([home.as_os_str(), "--open".as_ref(), sessions.to_string().as_ref()]);
        anyhow::ensure!(child.status()?.success(), "opening failed");
    }
    std::fs::remove_dir_all(dir)?;
    Ok(())
}

fn reopen(home: &Path, sessions: u64) -> anyhow::Result<()> {
    let started = Instant::now();
    let data = DataDir::open(home, StorageOptions::default())?;
    println!("  {:?}, resident {} MiB", started.elapsed(), resident_mib());
    let started = Instant::now();
    let state = data.state();
    for i in (0..sessions).step_by(10) {
        let key = key(i)?;
        let slot = key.slot(512);
        let head = state.head(slot, &key)?;
        anyhow::ensure!(head.is_some_and(|head| head.seq == 1), "session {i} is missing");
    }
    let each = started.elapsed() / (sessions as u32 / 10).max(1);
    println!("  one head read: {each:?}, resident {} MiB", resident_mib());
    // What was replayed is written to tables meanwhile.
    std::thread::sleep(std::time::Duration::from_secs(5));
    println!("  five seconds later resident {} MiB", resident_mib());
    data.close();
    Ok(())
}

fn key(i: u64) -> anyhow::Result<SessionKey> {
    Ok(SessionKey::parse("counter", &format!("session-{i:08}"))?)
}

fn message(key: SessionKey, session_number: u64, seq: u64) -> Record {
    let body = Bytes::from_static(b"{\"add\":1,\"note\":\"thirty-two b\"}");
    let entry = Entry {
        seq,
        id: None,
        sender: None,
        time_ms: 1_700_000_000_000,
        content_type: "application/json".into(),
        body,
        reply_content_type: "application/json".into(),
        reply: Bytes::from_static(b"{\"count\":1}"),
        deployment: 1,
        events: Vec::new(),
        origin: None,
        caused: Vec::new(),
    };
    let value = Some(Bytes::from_static(b"1"));
    let writes = vec![Write { key: Bytes::from_static(b"count"), value }];
    let head = Head { session_number, seq, deployment: 1, ..Head::default() };
    Record::Message(Box::new(Message {
        key,
        session_number,
        entry: entry.into(),
        fingerprint: 7,
        writes,
        head,
        effects: Vec::new(),
    }))
}

async fn appends(home: &Path, in_flight: u16) -> anyhow::Result<()> {
    let data = Arc::new(DataDir::open(home, StorageOptions::default())?);
    let log = data.log();
    let started = Instant::now();
    let mut tasks = Vec::new();
    for slot in 0..in_flight {
        let log = log.clone();
        tasks.push(tokio::spawn(async move {
            let Claim { term, position } = log.claim(slot, "figures").await?;
            let (mut after, mut count) = (position, 0u64);
            let records = vec![message(key(1)?, 1, 1)];
            let batch = Batch { slot, term, attempt: 1, records }.encode()?;
            while started.elapsed().as_millis() < 3_000 {
                after = log.commit(Append { slot, term, after, batch: batch.clone() }).await?;
                count += 1;
                if count % 64 == 0 {
                    log.trim(slot, after).await?;
                }
            }
            anyhow::Ok((count, batch.len()))
        }));
    }
    let (mut count, mut bytes) = (0, 0);
    for task in tasks {
        let (appended, len) = task.await??;
        count += appended;
        bytes = len;
    }
    let rate = count as f64 / started.elapsed().as_secs_f64();
    let commits = log.read(0, 0, usize::MAX).await?.last().map_or(0, |last| last.position);
    println!(
        "{in_flight:3} in flight: {rate:.0} appends/s of {bytes} bytes, about {:.1} a commit, {} MiB on disk",
        count as f64 / commits.max(1) as f64,
        data.disk_bytes()? >> 20
    );
    Ok(())
}

/// As slots would: many messages committed, then folded and applied a slot at a time.
async fn fill(home: &Path, sessions: u64) -> anyhow::Result<()> {
    let data = DataDir::open(home, StorageOptions::default())?;
    let (log, state) = (data.log(), data.state());
    let mut slots: Vec<(Claim, SlotMeta, Changes)> = Vec::new();
    for slot in 0..512 {
        let claim = log.claim(slot, "figures").await?;
        slots.push((claim, SlotMeta::default(), Changes::default()));
    }
    let started = Instant::now();
    let (mut applying, mut rows, mut longest) = (std::time::Duration::ZERO, 0, 0.0f64);
    for chunk in 0..sessions.div_ceil(100_000) {
        let mut by_slot = vec![Vec::new(); 512];
        for i in chunk * 100_000..((chunk + 1) * 100_000).min(sessions) {
            let key = key(i)?;
            by_slot[usize::from(key.slot(512))].push(key);
        }
        let mut waiting = Vec::new();
        for (slot, keys) in by_slot.into_iter().enumerate() {
            let (claim, meta, _) = &mut slots[slot];
            let records = keys.into_iter().map(|key| {
                meta.next_session += 1;
                message(key, meta.next_session - 1, 1)
            });
            let (slot, term) = (slot as u16, claim.term);
            let batch = Batch { slot, term, attempt: 1, records: records.collect() };
            let append = Append { slot, term, after: claim.position, batch: batch.encode()? };
            waiting.push((batch, log.commit(append)));
        }
        for (slot, (batch, commit)) in waiting.into_iter().enumerate() {
            let (claim, meta, changes) = &mut slots[slot];
            claim.position = commit.await?;
            rows += batch.records.len() * 3 + 1;
            changes.fold(meta, claim.position, batch);
            let apply = Instant::now();
            state.apply(slot as u16, &std::mem::take(changes), meta)?;
            let took = apply.elapsed();
            applying += took;
            longest = longest.max(took.as_secs_f64() * 1e3);
            log.trim(slot as u16, claim.position).await?;
        }
    }
    println!(
        "{sessions} sessions in {:?}; apply {:.2} us a row, {:.1} ms the longest of about {} rows",
        started.elapsed(),
        applying.as_secs_f64() * 1e6 / rows as f64,
        longest,
        100_000 * 3 / 512
    );
    println!("  resident {} MiB, disk {} MiB", resident_mib(), data.disk_bytes()? >> 20);
    Ok(())
}

fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)).and_then(|kib| kib.parse().ok());
    kib.unwrap_or(0) / 1024
}
