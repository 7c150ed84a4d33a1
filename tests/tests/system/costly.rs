//! Components that would take all memory, compile for ever, or crash the compiler.

use crate::common::expect_problem;
use anyhow::{Context, ensure};
use bytes::Bytes;
use rustix::process::{Pid, Signal, kill_process};
use slotd_tests::{
    api::Message,
    costly,
    node::{Node, NodeOptions, eventually, scenario},
    plugins,
};
use std::{fs, path::PathBuf};

async fn node(compile_deadline: &str) -> anyhow::Result<Node> {
    let args = ["--guests-compile-deadline", compile_deadline, "--guests-compile-memory", "512MiB"];
    let args = args.map(str::to_owned).to_vec();
    Node::start_with(NodeOptions { args, ..NodeOptions::default() }).await
}

fn slow() -> anyhow::Result<Bytes> {
    Ok(costly::interpreter(&plugins::load("counter")?, SLOW.0, SLOW.1))
}

/// Blocks and local variables that compile for longer than any deadline of these tests, within the
/// limits of structure and memory.
const SLOW: (usize, usize) = (2_000, 2_000);

/// The process that compiles for a node, once there is one.
async fn compiler_of(node: &Node) -> anyhow::Result<Pid> {
    let pid = node.pid().context("the node does not run")?;
    eventually("a process that compiles", async || {
        for task in fs::read_dir(format!("/proc/{pid}/task"))?.flatten() {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            if let Some(child) = children.split_whitespace().next() {
                return Ok(Pid::from_raw(child.parse()?));
            }
        }
        Ok(None)
    })
    .await
}

fn compiled(node: &Node) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for folder in ["components", "compiled"] {
        let folder = node.data_dir().join("plugins").join(folder);
        files.extend(fs::read_dir(folder)?.flatten().map(|entry| entry.path()));
    }
    files.sort();
    Ok(files)
}

/// A file of 64 KB took 838 MB of the node's memory, one of 184 KB a core for minutes; one whose
/// types are nested overflowed the stack of the node itself.
#[test]
fn components_that_cost_too_much_are_refused_and_cost_the_node_nothing() {
    scenario(async {
        let node = node("20s").await?;
        let (admin, api, counter) = (node.admin(), node.api(), plugins::load("counter")?);
        admin.deploy("counter", counter.clone()).await?;
        api.send("counter", "one", Message::bytes("1")).await?;
        let (before, files) = (node.resident_bytes()?, compiled(&node)?);
        for (component, says) in [
            (costly::nested_components(&counter, 5_000), "nesting: 9 by byte"),
            (costly::nested_types(&counter, 200_000), "nested too deep"),
            (costly::branches(&counter, 180_000, 2_000), "targets of br_table in one function"),
            (costly::interpreter(&counter, 16_000, 9_000), "(guests.compile_"),
        ] {
            let answer = admin.upload("bad", component).await?;
            let problem = expect_problem(&answer, 422, "plugin-too-costly").context(says)?;
            ensure!(problem.detail.contains(says), "{says}: {}", problem.detail);
            api.send("counter", "one", Message::bytes("1")).await?;
        }
        let lacking = admin.upload("bad", costly::many_imports(900)).await?;
        expect_problem(&lacking, 422, "plugin-refused")?;
        ensure!(lacking.body.len() < 32 * 1024, "an answer of {} bytes", lacking.body.len());
        let many = admin.upload("bad", costly::many_imports(200_000)).await?;
        expect_problem(&many, 422, "plugin-too-costly")?;
        let after = node.resident_bytes()?;
        ensure!(after < before + (128 << 20), "{before} bytes grew to {after}");
        ensure!(compiled(&node)? == files, "something was left behind: {:?}", compiled(&node)?);
        Ok(())
    });
}

/// Two of them kept every other deploy out, for as long as they compiled.
#[test]
fn slow_components_end_at_their_deadline_and_others_are_deployed() {
    scenario(async {
        let node = node("3s").await?;
        let (admin, counter) = (node.admin(), plugins::load("counter")?);
        admin.deploy("counter", counter.clone()).await?;
        let (slow, other) = (slow()?, plugins::variant(&counter, "other"));
        let (first, second, third) = tokio::join!(
            admin.upload("slow", slow.clone()),
            admin.upload("slower", plugins::variant(&slow, "slower")),
            async {
                compiler_of(&node).await?;
                // Refused at the worst, because it waited for as long as one may compile.
                eventually("a deploy beside slow ones", async || {
                    Ok((admin.upload("other", other.clone()).await?.status == 200).then_some(()))
                })
                .await
            },
        );
        third?;
        for answer in [first?, second?] {
            // On a machine so busy that it was given no time, the node says that instead.
            let code = answer.problem()?.code;
            ensure!(["plugin-too-costly", "unavailable"].contains(&code.as_str()), "{code}");
        }
        Ok(())
    });
}

/// Its kernel, or an operator, may end the compiler: the node goes on, and blames nobody.
#[test]
fn a_compiler_that_is_killed_ends_nothing_else() {
    scenario(async {
        let node = node("120s").await?;
        let (admin, slow) = (node.admin(), slow()?);
        let (answer, killed) = tokio::join!(admin.upload("slow", slow), async {
            kill_process(compiler_of(&node).await?, Signal::KILL)?;
            anyhow::Ok(())
        });
        killed?;
        let problem = expect_problem(&answer?, 503, "unavailable")?;
        ensure!(problem.detail.contains("was killed"), "{}", problem.detail);
        admin.deploy("counter", plugins::load("counter")?).await?;
        Ok(())
    });
}

/// The stop waited for the compiler until its grace was over: the slots "did not finish", and the
/// node ended with 1.
#[test]
fn a_stop_while_something_compiles_is_in_order() {
    scenario(async {
        let mut node = node("120s").await?;
        node.admin().deploy("counter", plugins::load("counter")?).await?;
        node.api().send("counter", "one", Message::bytes("1")).await?;
        let (admin, slow) = (node.admin(), slow()?);
        let deploy = tokio::spawn(async move { admin.upload("slow", slow).await });
        let compiler = compiler_of(&node).await?;
        let status = node.terminate().await?;
        ensure!(status.code() == Some(0), "{status}: {}", node.log());
        let name = format!("/proc/{}/stat", compiler.as_raw_nonzero());
        eventually("the compiler's end", async || {
            let stat = fs::read_to_string(&name).ok();
            Ok(stat.is_none_or(|stat| stat.contains(") Z ")).then_some(()))
        })
        .await?;
        // Answered, unless the connection was over first.
        if let Ok(answer) = deploy.await? {
            expect_problem(&answer, 503, "unavailable")?;
        }
        Ok(())
    });
}

/// What authors check by hand goes the same way.
#[test]
fn plugin_check_survives_what_crashes_a_compiler() {
    scenario(async {
        let dir = tempfile::tempdir()?;
        let counter = plugins::load("counter")?;
        for (component, says) in [
            (costly::nested_types(&counter, 200_000), "nested too deep"),
            (costly::nested_components(&counter, 5_000), "nesting: 9 by byte"),
        ] {
            let file = dir.path().join("bad.wasm");
            fs::write(&file, component)?;
            let file = file.to_str().context("a path that is no text")?;
            let checked = slotd_tests::node::run_slotd(&["plugin", "check", file]).await?;
            ensure!(checked.status.code() == Some(1), "{checked:?}");
            let output = checked.stdout + &checked.stderr;
            ensure!(output.contains(says), "{output}");
        }
        Ok(())
    });
}
