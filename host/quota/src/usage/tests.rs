use super::*;
use std::fs;

const DAY_MS: u64 = 24 * 3_600 * 1_000;
/// 2026-11-30, noon.
const NOON: u64 = 1_796_040_000_000;

fn open(folder: &Path, now_ms: u64) -> Usage {
    let opened = Usage::open(folder, limits::USAGE_DAYS_DEFAULT, now_ms).unwrap();
    assert!(opened.faults.is_empty(), "{:?}", opened.faults);
    opened.usage
}

fn all(usage: &Usage) -> Vec<Day> {
    usage.days(jiff::civil::Date::MIN, jiff::civil::Date::MAX)
}

fn messages(days: &[Day], service: &str, who: &Who) -> Vec<u64> {
    let of = |day: &Day| {
        let account = day.accounts.iter().find(|a| *a.service == *service && a.who == *who);
        account.map_or(0, |account| account.amounts.messages)
    };
    days.iter().map(of).collect()
}

fn one(amounts: &mut Amounts) {
    amounts.messages += 1;
}

/// Bills are made of it.
#[test]
fn usage_is_kept_by_day_over_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let ann = Who::Subject("ann".into());
    let usage = open(dir.path(), NOON);
    usage.add("chat", Some("ann"), one);
    usage.add("chat", None, one);
    usage.write(NOON).unwrap();
    usage.add("chat", Some("ann"), one);
    assert_eq!(messages(&all(&usage), "chat", &ann), [2], "what is not written is seen, too");
    drop(usage);
    // As after a crash: what was written is there.
    let usage = open(dir.path(), NOON);
    usage.add("chat", Some("ann"), one);
    usage.write(NOON + DAY_MS).unwrap();
    usage.add("chat", Some("ann"), one);
    usage.write(NOON + DAY_MS).unwrap();
    let days = all(&usage);
    assert_eq!(messages(&days, "chat", &ann), [1, 2]);
    assert_eq!(messages(&days, "chat", &Who::Nobody), [1, 0]);
    assert_eq!(days[0].day.to_string(), "2026-11-30");
    // The clock goes back: the day goes on.
    usage.add("chat", Some("ann"), one);
    usage.write(NOON).unwrap();
    assert_eq!(messages(&all(&usage), "chat", &ann), [2, 2]);
    assert_eq!(usage.days(days[1].day, days[1].day).len(), 1);
}

#[test]
fn what_is_stored_is_a_gauge_and_a_sum_over_time() {
    let dir = tempfile::tempdir().unwrap();
    let usage = open(dir.path(), NOON);
    usage.stored([("chat", None, 100), ("other", None, 1)], Duration::from_secs(30));
    usage.stored([("chat", None, 50)], Duration::from_secs(30));
    let days = all(&usage);
    let stored: Vec<_> = days[0]
        .accounts
        .iter()
        .map(|a| (a.amounts.stored_bytes, a.amounts.stored_byte_seconds))
        .collect();
    assert_eq!(stored, [(50, 4_500), (0, 30)]);
}

/// Who only stores would take the places of those who send: a bill of a tenant would say nothing of what it did.
#[test]
fn what_subjects_store_is_theirs_and_leaves_places_for_those_who_send() {
    let dir = tempfile::tempdir().unwrap();
    let usage = open(dir.path(), NOON);
    let names: Vec<_> = (0..3 * limits::USAGE_SUBJECTS_MAX).map(|n| n.to_string()).collect();
    let stored = || {
        let subjects = names.iter().map(|name| ("chat", Some(&**name), 2));
        [("chat", None, 5)].into_iter().chain(subjects)
    };
    usage.stored(stored(), Duration::from_secs(10));
    usage.stored(stored(), Duration::from_secs(10));
    usage.add("chat", Some("ann"), one);
    let days = all(&usage);
    assert_eq!(messages(&days, "chat", &Who::Subject("ann".into())), [1]);
    let of = |who: &Who| {
        let account = days[0].accounts.iter().find(|account| account.who == *who).unwrap();
        (account.amounts.stored_bytes, account.amounts.stored_byte_seconds)
    };
    assert_eq!(of(&Who::Nobody), (5, 100));
    assert_eq!(of(&Who::Subject("0".into())), (2, 40));
    let own = limits::USAGE_SUBJECTS_MAX / 2;
    let others = 2 * (names.len() - own) as u64;
    assert_eq!(of(&Who::Other), (others, others * 20));
    // They have deleted all.
    usage.stored([], Duration::from_secs(10));
    let left = all(&usage)[0].accounts.iter().map(|it| it.amounts.stored_bytes).sum::<u64>();
    assert_eq!(left, 0);
}

/// Who asks for a quarter would keep the node from saying what is stored, and from writing, as long as the disk takes.
#[test]
fn a_report_that_reads_files_keeps_nobody_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let usage = open(dir.path(), NOON);
    let slow = dir.path().join("2026-11-01.jsonl");
    assert!(std::process::Command::new("mkfifo").arg(&slow).status().unwrap().success());
    std::thread::scope(|scope| {
        let report = scope.spawn(|| all(&usage));
        // Opens when the other end is open, and until it is dropped there is more to read.
        let writer = fs::OpenOptions::new().write(true).open(&slow).unwrap();
        let (done, is_done) = std::sync::mpsc::channel();
        let usage = &usage;
        scope.spawn(move || {
            usage.stored([("chat", None, 1)], Duration::ZERO);
            done.send(()).unwrap();
        });
        let waited = is_done.recv_timeout(Duration::from_secs(10));
        drop(writer);
        waited.unwrap();
        assert_eq!(report.join().unwrap().len(), 1);
    });
}

/// Names come from clients: a million of them would fill memory, disk, and the answer.
#[test]
fn a_flood_of_subjects_is_added_up_and_nothing_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let usage = open(dir.path(), NOON);
    usage.add("chat", Some("first"), one);
    for n in 0..50_000 {
        usage.add("chat", Some(&n.to_string()), one);
        usage.add(&format!("service-{n}"), None, one);
        if n % 1_000 == 0 {
            usage.write(NOON).unwrap();
        }
    }
    usage.add("chat", Some(&"x".repeat(100_000)), one);
    usage.write(NOON).unwrap();
    let day = all(&usage).remove(0);
    assert!(day.accounts.len() <= limits::USAGE_ACCOUNTS_MAX + 2, "{}", day.accounts.len());
    let chat: Vec<_> = day.accounts.iter().filter(|a| &*a.service == "chat").collect();
    assert!(chat.len() <= limits::USAGE_SUBJECTS_MAX + 1);
    let sum = |accounts: &[Account]| accounts.iter().map(|a| a.amounts.messages).sum::<u64>();
    assert_eq!(sum(&day.accounts), 100_002);
    assert_eq!(chat.iter().map(|a| a.amounts.messages).sum::<u64>(), 50_002);
    let file = dir.path().join("2026-11-30.jsonl");
    assert!(fs::metadata(file).unwrap().len() < limits::USAGE_FILE_BYTES_MAX);
}

#[test]
fn threads_add_to_the_same_account_and_nothing_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let usage = open(dir.path(), NOON);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| (0..5_000).for_each(|_| usage.add("chat", Some("ann"), one)));
        }
        scope.spawn(|| (0..20).for_each(|_| drop(usage.write(NOON).unwrap())));
    });
    assert_eq!(messages(&all(&usage), "chat", &Who::Subject("ann".into())), [40_000]);
}

/// A node that could not start for a file of usage would be worse than a day without it.
#[test]
fn a_file_that_cannot_be_read_is_set_aside_and_the_day_begins_anew() {
    let head = r#"{"slotd":"usage","format":1,"day":"2026-11-30","accounts":1}"#;
    let wrong = [
        (String::new(), "line 1"),
        ("{}".into(), "line 1"),
        (head.into(), "0 of 1"),
        (format!("{head}\n{{\"service\":5}}"), "line 2"),
        (head.replace("\"format\":1", "\"format\":2"), "format 2"),
        (head.replace("11-30", "11-29"), "of 2026-11-29"),
    ];
    for (text, why) in &wrong {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("2026-11-30.jsonl");
        fs::write(&file, text).unwrap();
        let opened = Usage::open(dir.path(), 3, NOON).unwrap();
        let [fault] = &opened.faults[..] else { panic!("{text}") };
        assert!(fault.to_string().contains(why), "{fault}");
        assert_eq!(
            fs::read_to_string(dir.path().join("2026-11-30.jsonl.unreadable")).unwrap(),
            *text
        );
        opened.usage.add("chat", None, one);
        opened.usage.write(NOON).unwrap();
        assert_eq!(messages(&all(&opened.usage), "chat", &Who::Nobody), [1]);
    }
}

/// What this version wrote must be read by the next.
#[test]
fn the_first_format_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let text = concat!(
        r#"{"slotd":"usage","format":1,"day":"2026-11-30","accounts":3}"#,
        "\n",
        r#"{"service":"chat","who":"nobody","messages":1,"refused":2,"guest_time_ns":3,"bytes_in":4,"bytes_sent":5,"stored_bytes":6,"stored_byte_seconds":7}"#,
        "\n",
        r#"{"service":"chat","who":{"subject":"ann"},"messages":8,"refused":0,"guest_time_ns":0,"bytes_in":0,"bytes_sent":0,"stored_bytes":0,"stored_byte_seconds":0}"#,
        "\n",
        r#"{"service":"chat","who":"other","messages":9,"refused":0,"guest_time_ns":0,"bytes_in":0,"bytes_sent":0,"stored_bytes":0,"stored_byte_seconds":0}"#,
        "\n",
    );
    let file = dir.path().join("2026-11-30.jsonl");
    fs::write(&file, text).unwrap();
    let usage = open(dir.path(), NOON);
    let first = all(&usage)[0].accounts[0].amounts;
    assert_eq!((first.messages, first.refused, first.stored_byte_seconds), (1, 2, 7));
    usage.add("chat", None, |_| {});
    usage.write(NOON).unwrap();
    assert_eq!(fs::read_to_string(&file).unwrap(), text);
}

#[test]
fn old_days_are_removed() {
    let dir = tempfile::tempdir().unwrap();
    let usage = Usage::open(dir.path(), 3, NOON).unwrap().usage;
    fs::write(dir.path().join("notes.txt"), "mine").unwrap();
    fs::write(dir.path().join("2026-11-01.jsonl.unreadable"), "").unwrap();
    for day in 0..10 {
        usage.add("chat", None, one);
        usage.write(NOON + day * DAY_MS).unwrap();
    }
    let days: Vec<_> = all(&usage).iter().map(|day| day.day.to_string()).collect();
    assert_eq!(days, ["2026-12-07", "2026-12-08", "2026-12-09"]);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 4);
    assert!(dir.path().join("notes.txt").exists());
}
