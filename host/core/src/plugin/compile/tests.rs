//! Children that end in every way they can. Shells stand for the compiler: real processes, whose
//! end the test can choose. The compiler itself runs in `tests/tests/system/costly.rs`.

use super::{child::Arguments, process::Program, *};
use std::time::Instant;

fn with_child(script: &str, deadline: Duration) -> Compiler {
    let arguments = vec!["-c".into(), script.into(), "slotd".into()];
    let program = Program { path: "/bin/sh".into(), arguments };
    let options = CompileOptions { memory_bytes: 512 << 20, deadline };
    Compiler::with(Means::Child(process::Starter::new(program).unwrap()), options)
}

async fn run(compiler: &Compiler) -> Result<Report, PluginError> {
    let place = compiler.place(For::Deploy).await?;
    compiler.run(&place, Task::Inspect, Bytes::from_static(b"component"), None).await
}

const LONG: Duration = Duration::from_secs(120);

/// A child that is given another task than the one that was meant would compile for another engine.
#[test]
fn arguments_arrive_as_they_were_sent() {
    let compile = Task::Compile { digest: Digest([7; 32]), compatibility: u64::MAX };
    for task in [Task::Inspect, compile] {
        let sent = Arguments { task, memory_bytes: 1 << 30, seconds: 60, nice: 19, parent: 4 };
        let mut words = sent.to_words();
        assert_eq!(Arguments::parse(&words), Some(sent));
        words.pop();
        assert_eq!(Arguments::parse(&words), None);
    }
}

/// The component must arrive whole, and the report be found behind whatever else was printed.
#[tokio::test]
async fn a_child_takes_the_component_and_reports() {
    let script =
        r#"read -r got; echo "noise: $1" >&2; echo "slotd-compile-1 {\"Refused\":\"$got\"}" >&2"#;
    let report = run(&with_child(script, LONG)).await.unwrap();
    assert!(matches!(report, Report::Refused(got) if got == "component"));
}

/// Each end has another cause: the component's, the node's, or a bug. Who deploys is told which.
#[tokio::test]
async fn each_end_of_a_child_is_told_as_what_it_is() {
    for (script, kind, says) in [
        ("kill -9 $$", "busy", "was killed"),
        ("kill -15 $$", "busy", "was killed"),
        ("kill -XCPU $$", "costly", "guests.compile_deadline"),
        ("kill -XFSZ $$", "costly", "native code"),
        ("echo 'memory allocation of 12 bytes failed' >&2; kill -ABRT $$", "costly", "512 MiB"),
        ("echo 'thread main has overflowed its stack' >&2; kill -ABRT $$", "costly", "nested"),
        ("kill -SEGV $$", "crashed", "crashed (signal: 11"),
        ("echo 'a panic' >&2; exit 101", "crashed", "101): a panic"),
        ("exit 0", "crashed", "crashed (exit status: 0)"),
        ("echo rubbish >&2", "crashed", "rubbish"),
        ("echo 'slotd-compile-1 {rubbish}' >&2", "crashed", "can't read the compiler"),
        // A report counts only from a child that ended well.
        (r#"echo 'slotd-compile-1 {"Compiled":{"code_bytes":1}}' >&2; exit 1"#, "crashed", "1)"),
        // A flood ends with its listener.
        ("while echo flood >&2; do :; done; kill -SEGV $$", "crashed", "flood"),
    ] {
        let error = run(&with_child(script, LONG)).await.unwrap_err();
        let found = match error {
            PluginError::Busy(_) => "busy",
            PluginError::TooCostly(_) => "costly",
            PluginError::Crashed(_) => "crashed",
            _ => "other",
        };
        assert_eq!(found, kind, "{script}: {error}");
        let text = error.to_string();
        assert!(text.contains(says) && text.len() < 2_048, "{script}: {text}");
    }
    let missing = Program { path: "/no/such/program".into(), arguments: Vec::new() };
    let means = Means::Child(process::Starter::new(missing).unwrap());
    let error = run(&Compiler::with(means, CompileOptions::default())).await.unwrap_err();
    assert!(
        matches!(&error, PluginError::Busy(why) if why.contains("can't start the compiler")),
        "{error}"
    );
}

/// A component that compiles for ever would hold a place for ever; one that the node had no time
/// for is not to blame.
#[tokio::test]
async fn a_child_ends_at_its_deadline() {
    let spins = with_child("while :; do :; done", Duration::from_secs(1));
    let error = run(&spins).await.unwrap_err();
    // On a machine that is busy enough the spinning child had too little time too.
    assert!(matches!(error, PluginError::TooCostly(_) | PluginError::Busy(_)), "{error}");
    let waits = with_child("exec sleep 600", Duration::from_millis(300));
    let error = run(&waits).await.unwrap_err();
    assert!(matches!(&error, PluginError::Busy(why) if why.contains("too busy")), "{error}");
}

async fn is_gone(pid: u32) {
    let until = Instant::now() + LONG;
    let stat = || std::fs::read_to_string(format!("/proc/{pid}/stat")).ok();
    // A process that has ended and was not collected yet is a zombie.
    while stat().is_some_and(|stat| !stat.contains(") Z ")) {
        assert!(Instant::now() < until, "child {pid} lives on");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A node that stops, or a caller that gives up, must not leave a compiler behind that takes a
/// processor for a minute.
#[tokio::test]
async fn a_stop_and_a_lost_caller_end_the_child() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pid");
    let script = format!("echo $$ > {}; exec sleep 600", file.display());
    let pid = || async {
        loop {
            let read = std::fs::read_to_string(&file).unwrap_or_default();
            if let Some(pid) = read.strip_suffix('\n') {
                let pid = pid.parse::<u32>().unwrap();
                std::fs::remove_file(&file).unwrap();
                return pid;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let compiler = with_child(&script, LONG);
    let lost = tokio::select! {
        _ = run(&compiler) => panic!("it ended"),
        pid = pid() => pid,
    };
    is_gone(lost).await;
    // Also one of which the caller that gave up had not heard yet.
    let mut asked = Box::pin(run(&compiler));
    assert!(futures_util::poll!(asked.as_mut()).is_pending());
    let unheard = pid().await;
    drop(asked);
    is_gone(unheard).await;
    let (stopped, ended) = tokio::join!(
        async {
            let pid = pid().await;
            compiler.stop();
            pid
        },
        run(&compiler)
    );
    assert!(matches!(&ended, Err(PluginError::Busy(why)) if why.contains("stopping")), "{ended:?}");
    is_gone(stopped).await;
    assert!(matches!(run(&compiler).await, Err(PluginError::Busy(_))), "and none is started");
}

/// Two slow components must not block every other deploy for longer than the deadline, nor what
/// the node loads to serve, nor make a queue without end.
#[tokio::test]
async fn who_waits_for_others_is_refused_in_time() {
    let deadline = Duration::from_millis(200);
    let options = CompileOptions { deadline, ..CompileOptions::default() };
    let compiler = Compiler::with(Means::InProcess, options);
    let mut held = Vec::new();
    for _ in 0..limits::COMPILES_MAX {
        held.push(compiler.place(For::Deploy).await.unwrap());
    }
    let started = Instant::now();
    let waiting = (0..=limits::COMPILES_WAITING_MAX).map(|_| compiler.place(For::Deploy));
    let waited = futures_util::future::join_all(waiting).await;
    assert!(started.elapsed() >= deadline);
    let refused: Vec<_> =
        waited.into_iter().map(|place| place.err().unwrap().to_string()).collect();
    assert_eq!(
        refused.iter().filter(|why| why.contains("16 deploys are already waiting")).count(),
        1
    );
    assert!(refused.iter().all(|why| why.contains("nothing has changed")), "{refused:?}");
    let load = compiler.place(For::Load).await;
    assert!(load.is_ok());
    drop(held.pop());
    assert!(compiler.place(For::Deploy).await.is_ok());
}
