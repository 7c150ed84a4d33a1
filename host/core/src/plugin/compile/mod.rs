//! Checking and compiling, in a process of its own.
//!
//! The cost of compiling an upload is unpredictable: a few kilobytes can take all memory, never
//! end, or overflow the stack. So the node only checks a component's size and first bytes. All else
//! ([`work`]) is done by a child, slotd itself under another command, with limits of memory and
//! time and a low priority; the kernel ends it with the node.
//!
//! The child is given the component on its standard input. It writes native code to a file that
//! the node has opened in its private folder, and a [`Report`] as the last line of its standard
//! error, which otherwise has the reason of its crash.

pub mod child;
mod process;
#[cfg(test)]
mod tests;

use super::{
    Digest, Inspection, PluginError, check,
    engine::{self, Metering},
    store,
};
use crate::{limits, memory};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::{fs::File, time::Duration};
use tokio::{
    sync::{Semaphore, SemaphorePermit, watch},
    time::timeout,
};
use wasmtime::Engine;

/// What compiling one component may take; defaults in [`crate::limits`].
#[derive(Clone, Copy, Debug)]
pub struct CompileOptions {
    /// Address space of the process.
    pub memory_bytes: u64,
    /// Time, and as much processor time for each thread.
    pub deadline: Duration,
}

impl Default for CompileOptions {
    fn default() -> Self {
        Self {
            memory_bytes: memory::default_compile_memory(),
            deadline: limits::COMPILE_DEADLINE_DEFAULT,
        }
    }
}

/// What a child is to do with a component.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Task {
    Inspect,
    /// For the engine of this [`engine::compatibility`], which must be the child's too.
    Compile {
        digest: Digest,
        compatibility: u64,
    },
}

/// A child's result.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Report {
    Inspected(Inspection),
    /// The code is in the file.
    Compiled {
        code_bytes: u64,
    },
    Refused(String),
    TooCostly(String),
    /// The code could not be written.
    Unwritten(String),
    Failed(String),
}

/// Who waits for a component.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum For {
    /// An upload: its client can be refused.
    Deploy,
    /// What the node needs to serve.
    Load,
}

impl For {
    fn nice(self) -> i32 {
        match self {
            Self::Deploy => limits::COMPILE_NICE,
            Self::Load => limits::COMPILE_NICE_LOAD,
        }
    }
}

/// Runs children, few at a time.
pub(super) struct Compiler {
    means: Means,
    options: CompileOptions,
    deploys: Semaphore,
    /// So many more may wait for one of `deploys`.
    waiting: Semaphore,
    loads: Semaphore,
    stopping: watch::Sender<bool>,
}

enum Means {
    Child(process::Starter),
    /// Unit tests have no slotd to execute.
    #[cfg(any(test, feature = "testing"))]
    InProcess,
}

/// The right to run one child.
pub(super) struct Place<'a> {
    _permit: Option<SemaphorePermit<'a>>,
    /// How far the child gives way to others.
    nice: i32,
}

impl Compiler {
    pub(super) fn new(options: CompileOptions) -> Result<Self, PluginError> {
        #[cfg(any(test, feature = "testing"))]
        if super::testkit::compiles_in_process() {
            return Ok(Self::with(Means::InProcess, options));
        }
        let means = Means::Child(process::Starter::new(process::Program::own())?);
        Ok(Self::with(means, options))
    }

    fn with(means: Means, options: CompileOptions) -> Self {
        Self {
            means,
            options,
            deploys: Semaphore::new(limits::COMPILES_MAX),
            waiting: Semaphore::new(limits::COMPILES_WAITING_MAX),
            loads: Semaphore::new(1),
            stopping: watch::Sender::new(false),
        }
    }

    /// Ends all children, and refuses further ones.
    pub(super) fn stop(&self) {
        self.stopping.send_replace(true);
    }

    /// Waits for a place: a deploy up to the deadline of compiling, a load as long as it takes.
    ///
    /// # Errors
    /// [`PluginError::Busy`].
    pub(super) async fn place(&self, who: For) -> Result<Place<'_>, PluginError> {
        let mut stopping = self.stopping.subscribe();
        let place = async {
            if who == For::Load {
                // Never closed; if it were, compiling without a permit is still right.
                return Ok(self.loads.acquire().await.ok());
            }
            if let Ok(permit) = self.deploys.try_acquire() {
                return Ok(Some(permit));
            }
            let busy = |what: String| PluginError::Busy(format!("{what}; nothing has changed"));
            let _waiting = self.waiting.try_acquire().map_err(|_| {
                let waiting = limits::COMPILES_WAITING_MAX;
                busy(format!(
                    "{waiting} deploys are already waiting to be compiled; try again later"
                ))
            })?;
            match timeout(self.options.deadline, self.deploys.acquire()).await {
                Ok(permit) => Ok(permit.ok()),
                Err(_) => Err(busy(format!(
                    "waited {:?} for other deploys to be compiled; try again",
                    self.options.deadline
                ))),
            }
        };
        tokio::select! {
            biased;
            _ = stopping.wait_for(|stopping| *stopping) => Err(stopped()),
            place = place => Ok(Place { _permit: place?, nice: who.nice() }),
        }
    }

    /// Has one component checked, and compiled into `out`. When the future is dropped the child
    /// ends at once.
    ///
    /// # Errors
    /// [`PluginError::TooCostly`] when it took more than the limits; [`PluginError::Crashed`];
    /// [`PluginError::Busy`] when the node has no process, no time or no memory for it, or stops.
    pub(super) async fn run(
        &self,
        place: &Place<'_>,
        task: Task,
        component: Bytes,
        out: Option<File>,
    ) -> Result<Report, PluginError> {
        let mut stopping = self.stopping.subscribe();
        let work = async {
            match &self.means {
                Means::Child(starter) => {
                    starter.run(task, component, out, place.nice, self.options).await
                }
                #[cfg(any(test, feature = "testing"))]
                Means::InProcess => {
                    let work = crate::task::blocking(move || work(task, &component, out));
                    work.await.map_err(|e| PluginError::Crashed(e.to_string()))
                }
            }
        };
        tokio::select! {
            biased;
            _ = stopping.wait_for(|stopping| *stopping) => Err(stopped()),
            report = work => report,
        }
    }
}

fn stopped() -> PluginError {
    PluginError::Busy("the node is stopping".to_owned())
}

/// Inspects a component as a node would: in a process of its own.
///
/// # Errors
/// As [`Compiler::run`].
pub(super) async fn inspect(component: Bytes) -> Result<Inspection, PluginError> {
    let compiler = Compiler::new(CompileOptions::default())?;
    let place = compiler.place(For::Load).await?;
    match compiler.run(&place, Task::Inspect, component, None).await? {
        Report::Inspected(inspection) => Ok(inspection),
        Report::TooCostly(why) => Err(PluginError::TooCostly(why)),
        other => Err(PluginError::Crashed(format!("it was not inspected: {other:?}"))),
    }
}

/// What the child does. May take any time and memory.
fn work(task: Task, component: &[u8], out: Option<File>) -> Report {
    let inspection = check::inspect(component);
    let Task::Compile { digest, compatibility } = task else {
        return Report::Inspected(inspection);
    };
    if !inspection.problems.is_empty() {
        let problems = inspection.problems.join("; ");
        return match inspection.too_costly {
            true => Report::TooCostly(problems),
            false => Report::Refused(problems),
        };
    }
    if Digest::of(component) != digest {
        return Report::Failed("the component was damaged on its way to the compiler".to_owned());
    }
    let mut engines =
        Metering::ALL.map(|metering| Engine::new(&engine::config(metering))).into_iter();
    let engine = engines.find_map(|engine| match engine {
        Ok(engine) if engine::compatibility(&engine) != compatibility => None,
        Ok(engine) => Some(Ok(engine)),
        Err(e) => Some(Err(Report::Failed(format!("no engine to compile for: {e:#}")))),
    });
    let engine = match engine {
        Some(Ok(engine)) => engine,
        Some(Err(failed)) => return failed,
        None => {
            let why = "the slotd binary was replaced since this node started: restart the node";
            return Report::Failed(why.to_owned());
        }
    };
    let code = match engine.precompile_component(component) {
        Ok(code) => code,
        Err(e) => {
            let why = format!("it does not compile: {e:#}");
            return Report::Refused(check::shortened(why, limits::COMPONENT_PROBLEM_BYTES_MAX));
        }
    };
    let written = out.map(|mut out| store::write_compiled(&mut out, digest, compatibility, &code));
    match written {
        Some(Ok(())) => Report::Compiled { code_bytes: code.len() as u64 },
        Some(Err(e)) => Report::Unwritten(e.to_string()),
        None => Report::Failed("there is no file for the code".to_owned()),
    }
}
