//! The command line: `slotd serve`, and a client for everything else.

mod admin;
mod args;
mod assemble;
mod audit;
mod boot;
mod canary;
mod captures;
mod client;
mod cluster;
mod descriptors;
mod dev;
#[cfg(test)]
mod docs;
mod exit;
mod gate;
mod https;
mod join;
mod json;
mod local;
mod nodes;
mod operate;
mod output;
mod plugin;
mod quota;
mod reload;
mod replay;
mod seal;
mod serve;
mod service;
mod serving;
mod sessions;
mod signals;
mod signing;
mod sse;
mod started;
mod tail;
#[cfg(test)]
mod tests;
mod timers;
mod tls;
mod tokens;
mod usage;

pub use args::Cli;
pub use exit::{CliError, Exit};
pub use reload::AccessParts;
pub use serve::{Running, StartError};

use crate::{
    limits,
    plugin::compile_child,
    telemetry::{panics, sink},
};
use args::{Cmd, DeadCmd, NodeCmd, RequestCmd, ServiceCmd, SessionCmd, SlotCmd, TimerCmd};
use clap::Parser as _;
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    time::Duration,
};
use tokio::runtime::Builder;

/// How long the end of the process waits for other threads.
const RUNTIME_END: Duration = Duration::from_millis(500);

/// The whole program.
pub fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1);
    // Before any parsing of the command line: a compiling child process has nothing to do with it.
    if words.next().is_some_and(|command| command == compile_child::COMMAND) {
        return compile_child::main(words);
    }
    panics::install_hook();
    let cli = Cli::parse();
    let json = cli.json;
    // The panic hook has reported it by then.
    #[expect(clippy::disallowed_methods, reason = "nothing is left that it could end")]
    let code = match catch_unwind(AssertUnwindSafe(|| run(cli))) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        // The reader of our output is gone; there is nothing to print and nobody to read it.
        Ok(Err(error)) if error.message.is_empty() => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            error.report(json);
            ExitCode::from(error.exit as u8)
        }
        Err(_) => ExitCode::from(panics::EXIT_CODE),
    };
    sink::flush(limits::LOG_FLUSH_WAIT);
    code
}

fn run(cli: Cli) -> Result<(), CliError> {
    let json = cli.json;
    match cli.command {
        Cmd::Serve(args) => serving::run(|serving| serve::serve(args, json, serving)),
        Cmd::Dev(args) => serving::run(|serving| dev::dev(args, json, serving)),
        other => {
            let runtime = Builder::new_current_thread().enable_all().build();
            let runtime =
                runtime.map_err(|error| CliError::failure(format!("can't start: {error}")))?;
            let result = runtime.block_on(command(other, json));
            runtime.shutdown_timeout(RUNTIME_END);
            result
        }
    }
}

async fn command(command: Cmd, json: bool) -> Result<(), CliError> {
    match command {
        // They have runtimes of their own.
        Cmd::Serve(_) | Cmd::Dev(_) => Ok(()),
        Cmd::Deploy(args) => admin::deploy(args, json).await,
        Cmd::Gate(args) => gate::gate(args, json).await,
        Cmd::Rollback(args) => admin::rollback(args, json).await,
        Cmd::Services(args) => admin::services(args, json).await,
        Cmd::Deployments(args) => admin::deployments(args, json).await,
        Cmd::Limits(args) => quota::show(args, json).await,
        Cmd::Swap(args) => admin::swap(args, json).await,
        Cmd::Service(ServiceCmd::Rm(args)) => service::remove(args, json).await,
        Cmd::Send(args) => sessions::send(args, json).await,
        Cmd::Query(args) => sessions::ask(args, json).await,
        Cmd::Tail(args) => tail::tail(args, json).await,
        Cmd::History(args) => sessions::history(args, json).await,
        Cmd::Sessions(args) => sessions::sessions(args, json).await,
        Cmd::Session(SessionCmd::Show(args)) => sessions::show(args, json).await,
        Cmd::Session(SessionCmd::Fork(args)) => sessions::fork(args, json).await,
        Cmd::Session(SessionCmd::Delete(args)) => operate::delete(args, json).await,
        Cmd::Session(SessionCmd::State(args)) => operate::state(args, json).await,
        Cmd::Session(SessionCmd::Set(args)) => operate::set(args, json).await,
        Cmd::Session(SessionCmd::Export(args)) => operate::export(args, json).await,
        Cmd::Session(SessionCmd::Import(args)) => operate::import(args, json).await,
        Cmd::Timers(args) => timers::timers(args, json).await,
        Cmd::Timer(TimerCmd::Cancel(args)) => timers::cancel(args, json).await,
        Cmd::Outbox(args) => timers::outbox(args, json).await,
        Cmd::Request(RequestCmd::Cancel(args)) => timers::cancel_request(args, json).await,
        Cmd::Dead(DeadCmd::List(args)) => timers::dead(args, json).await,
        Cmd::Dead(DeadCmd::Retry(args)) => {
            timers::change_dead(args, timers::Doing::Retry, json).await
        }
        Cmd::Dead(DeadCmd::Drop(args)) => {
            timers::change_dead(args, timers::Doing::Drop, json).await
        }
        Cmd::Slots(args) => admin::slots(args, json).await,
        Cmd::Slot(SlotCmd::Show(args)) => admin::slot(args, json).await,
        Cmd::Slot(SlotCmd::Drain(args)) => admin::drain(args, json).await,
        Cmd::Rebalance(args) => admin::rebalance(args, json).await,
        Cmd::Ring(args) => admin::ring(args, json).await,
        Cmd::Nodes(args) => nodes::nodes(args, json).await,
        Cmd::Level(args) => nodes::level(args, json).await,
        Cmd::Ready(args) => nodes::ready(args, json).await,
        Cmd::Node(NodeCmd::Drain(args)) => nodes::drain(args, json).await,
        Cmd::Node(NodeCmd::Forget(args)) => nodes::forget(args, json).await,
        Cmd::Moves(args) => nodes::moves(args, json).await,
        Cmd::Audit(args) => replay::audit(args, json).await,
        Cmd::Capture(args) => captures::capture(args, json).await,
        Cmd::Captures(args) => captures::captures(args, json).await,
        Cmd::AuditLog(args) => audit::audit_log(args, json).await,
        Cmd::Usage(args) => usage::usage(args, json).await,
        Cmd::Cluster(command) => cluster::run(command, json).await,
        Cmd::Tls(command) => tls::run(&command, json),
        Cmd::Token(command) => tokens::token(command, json).await,
        Cmd::Auth(command) => tokens::auth(command, json).await,
        Cmd::Seal(command) => seal::run(command, json).await,
        Cmd::Plugin(command) => local::plugin(command, json).await,
        Cmd::Config(command) => local::config(command, json),
        Cmd::Openapi => local::openapi(),
    }
}
