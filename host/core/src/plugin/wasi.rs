//! WASI 0.2 as far as slotd gives it, all virtual: clocks stand at the message's time, random
//! bytes come from the session and its sequence number, what is printed goes to the log, and
//! there are no arguments, no environment, no files and no network.

use super::{
    Failure,
    guest_log::Stdio,
    instance::{Current, HostState},
};
use crate::limits;
use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use std::{sync::Arc, time::Duration};
use wasmtime::component::{HasData, HasSelf, Linker, Resource, ResourceTable};
use wasmtime_wasi::{
    async_trait,
    cli::{WasiCli, WasiCliCtxView},
    filesystem::{WasiFilesystem, WasiFilesystemCtxView},
    p2::{
        DynOutputStream, DynPollable, OutputStream, Pollable, StreamResult,
        bindings::{cli, clocks, filesystem, random, sockets},
        subscribe,
    },
    sockets::{WasiSockets, WasiSocketsCtxView},
};
use wasmtime_wasi_io::bindings::wasi::io;

/// The interfaces that a guest may import, of WASI 0.2.
pub(super) const INTERFACES: &[&str] = &[
    "wasi:cli/environment",
    "wasi:cli/exit",
    "wasi:cli/stderr",
    "wasi:cli/stdin",
    "wasi:cli/stdout",
    "wasi:cli/terminal-input",
    "wasi:cli/terminal-output",
    "wasi:cli/terminal-stderr",
    "wasi:cli/terminal-stdin",
    "wasi:cli/terminal-stdout",
    "wasi:clocks/monotonic-clock",
    "wasi:clocks/wall-clock",
    "wasi:filesystem/preopens",
    "wasi:filesystem/types",
    "wasi:io/error",
    "wasi:io/poll",
    "wasi:io/streams",
    "wasi:random/insecure",
    "wasi:random/insecure-seed",
    "wasi:random/random",
    // Nobody's to use: CPython is linked with them whether its program has a socket or not.
    "wasi:sockets/instance-network",
    "wasi:sockets/ip-name-lookup",
    "wasi:sockets/network",
    "wasi:sockets/tcp",
    "wasi:sockets/tcp-create-socket",
    "wasi:sockets/udp",
    "wasi:sockets/udp-create-socket",
];

struct HasTable;
impl HasData for HasTable {
    type Data<'a> = &'a mut ResourceTable;
}

pub(super) fn add_to_linker(l: &mut Linker<HostState>) -> wasmtime::Result<()> {
    fn table(host: &mut HostState) -> &mut ResourceTable {
        &mut host.table
    }
    fn cli(host: &mut HostState) -> WasiCliCtxView<'_> {
        WasiCliCtxView { ctx: &mut host.cli, table: &mut host.table }
    }
    fn files(host: &mut HostState) -> WasiFilesystemCtxView<'_> {
        WasiFilesystemCtxView { ctx: &mut host.files, table: &mut host.table }
    }
    // Its default allows nothing: no socket is ever made, no name looked up.
    fn network(host: &mut HostState) -> WasiSocketsCtxView<'_> {
        WasiSocketsCtxView { ctx: &mut host.network, table: &mut host.table }
    }
    fn own(host: &mut HostState) -> &mut HostState {
        host
    }
    type Own = HasSelf<HostState>;
    io::error::add_to_linker::<_, HasTable>(l, table)?;
    io::poll::add_to_linker::<_, HasTable>(l, table)?;
    io::streams::add_to_linker::<_, HasTable>(l, table)?;
    cli::environment::add_to_linker::<_, WasiCli>(l, cli)?;
    cli::exit::add_to_linker::<_, WasiCli>(l, cli)?;
    cli::stdin::add_to_linker::<_, WasiCli>(l, cli)?;
    cli::stdout::add_to_linker::<_, Own>(l, own)?;
    cli::stderr::add_to_linker::<_, Own>(l, own)?;
    cli::terminal_input::add_to_linker::<_, WasiCli>(l, cli)?;
    cli::terminal_output::add_to_linker::<_, WasiCli>(l, cli)?;
    cli::terminal_stdin::add_to_linker::<_, WasiCli>(l, cli)?;
    cli::terminal_stdout::add_to_linker::<_, WasiCli>(l, cli)?;
    cli::terminal_stderr::add_to_linker::<_, WasiCli>(l, cli)?;
    clocks::wall_clock::add_to_linker::<_, Own>(l, own)?;
    clocks::monotonic_clock::add_to_linker::<_, Own>(l, own)?;
    filesystem::preopens::add_to_linker::<_, WasiFilesystem>(l, files)?;
    filesystem::types::add_to_linker::<_, WasiFilesystem>(l, files)?;
    random::random::add_to_linker::<_, Own>(l, own)?;
    random::insecure::add_to_linker::<_, Own>(l, own)?;
    random::insecure_seed::add_to_linker::<_, Own>(l, own)?;
    sockets::instance_network::add_to_linker::<_, WasiSockets>(l, network)?;
    sockets::ip_name_lookup::add_to_linker::<_, WasiSockets>(l, network)?;
    let options = sockets::network::LinkOptions::default();
    sockets::network::add_to_linker::<_, WasiSockets>(l, &options, network)?;
    sockets::tcp::add_to_linker::<_, WasiSockets>(l, network)?;
    sockets::tcp_create_socket::add_to_linker::<_, WasiSockets>(l, network)?;
    sockets::udp::add_to_linker::<_, WasiSockets>(l, network)?;
    sockets::udp_create_socket::add_to_linker::<_, WasiSockets>(l, network)?;
    Ok(())
}

// --- clocks -----------------------------------------------------------------------------------

impl HostState {
    /// The message's time; while an instance is made, the epoch.
    fn now(&self) -> Duration {
        Duration::from_millis(self.current.as_ref().map_or(0, |current| current.time_ms))
    }

    /// A timer is over at once. The clock stands still during a call, so that no time seems
    /// to pass; to wait in earnest would hold the slot's other sessions for nothing, and
    /// which of two timers came first would depend on the machine.
    fn timer(&mut self) -> wasmtime::Result<Resource<DynPollable>> {
        let over = self.table.push(Over)?;
        subscribe(&mut self.table, over)
    }
}

struct Over;
#[async_trait]
impl Pollable for Over {
    async fn ready(&mut self) {}
}

impl clocks::wall_clock::Host for HostState {
    fn now(&mut self) -> wasmtime::Result<clocks::wall_clock::Datetime> {
        let now = HostState::now(self);
        let (seconds, nanoseconds) = (now.as_secs(), now.subsec_nanos());
        Ok(clocks::wall_clock::Datetime { seconds, nanoseconds })
    }
    fn resolution(&mut self) -> wasmtime::Result<clocks::wall_clock::Datetime> {
        Ok(clocks::wall_clock::Datetime { seconds: 0, nanoseconds: 1_000_000 })
    }
}

impl clocks::monotonic_clock::Host for HostState {
    fn now(&mut self) -> wasmtime::Result<u64> {
        Ok(u64::try_from(HostState::now(self).as_nanos()).unwrap_or(u64::MAX))
    }
    fn resolution(&mut self) -> wasmtime::Result<u64> {
        Ok(1_000_000)
    }
    fn subscribe_instant(&mut self, _when: u64) -> wasmtime::Result<Resource<DynPollable>> {
        self.timer()
    }
    fn subscribe_duration(&mut self, _duration: u64) -> wasmtime::Result<Resource<DynPollable>> {
        self.timer()
    }
}

// --- random -----------------------------------------------------------------------------------

/// SHA-256 of a seed and a counter: the same bytes on every machine and in every version.
pub(super) struct Random {
    seed: [u8; 32],
    counter: u64,
    block: [u8; 32],
    used: usize,
}

impl Random {
    fn of(current: &Current) -> Self {
        let mut hash = Sha256::new();
        // Names can't contain a zero byte, so that no two calls have one seed.
        hash.update(current.session.service.as_str());
        hash.update([0]);
        let session = current.state.seed().unwrap_or(&current.session.session);
        hash.update(session.as_str());
        hash.update([0, current.mode as u8]);
        hash.update(current.seq.to_le_bytes());
        Self { seed: hash.finalize().into(), counter: 0, block: [0; 32], used: 32 }
    }

    fn fill(&mut self, out: &mut [u8]) {
        for byte in out {
            if self.used == self.block.len() {
                let hash = Sha256::new_with_prefix(self.seed);
                self.block = hash.chain_update(self.counter.to_le_bytes()).finalize().into();
                self.counter += 1;
                self.used = 0;
            }
            *byte = self.block[self.used];
            self.used += 1;
        }
    }
}

impl HostState {
    fn random(&mut self, bytes: u64) -> wasmtime::Result<Vec<u8>> {
        let bytes_max = limits::GUEST_RANDOM_BYTES_MAX;
        let asked = usize::try_from(bytes).ok().filter(|&bytes| bytes <= bytes_max);
        let Some(current) = self.current.as_deref_mut() else {
            // Nothing may depend on when an instance was made.
            return asked.map(|bytes| vec![0; bytes]).ok_or_else(|| {
                wasmtime::format_err!(
                    "asked for {bytes} random bytes; one call gives at most {bytes_max}"
                )
            });
        };
        let Some(asked) = asked else {
            return Err(current.fail(Failure::Limit(format!(
                "random: asked for {bytes} bytes; one call gives at most {bytes_max}"
            ))));
        };
        if current.random.is_none() {
            current.random = Some(Box::new(Random::of(current)));
        }
        let mut out = vec![0; asked];
        if let Some(random) = &mut current.random {
            random.fill(&mut out);
        }
        Ok(out)
    }

    fn random_u64(&mut self) -> wasmtime::Result<u64> {
        let mut out = [0; 8];
        out.copy_from_slice(&self.random(8)?);
        Ok(u64::from_le_bytes(out))
    }
}

impl random::random::Host for HostState {
    fn get_random_bytes(&mut self, len: u64) -> wasmtime::Result<Vec<u8>> {
        self.random(len)
    }
    fn get_random_u64(&mut self) -> wasmtime::Result<u64> {
        self.random_u64()
    }
}

impl random::insecure::Host for HostState {
    fn get_insecure_random_bytes(&mut self, len: u64) -> wasmtime::Result<Vec<u8>> {
        self.random(len)
    }
    fn get_insecure_random_u64(&mut self) -> wasmtime::Result<u64> {
        self.random_u64()
    }
}

impl random::insecure_seed::Host for HostState {
    /// The same for all: a guest's standard library asks once an instance, keeps the answer, and
    /// orders its hash maps by it. Taken from the message, that order would depend on which
    /// message an instance happened to see first.
    fn insecure_seed(&mut self) -> wasmtime::Result<(u64, u64)> {
        Ok((0x736c_6f74_6421_0001, 0x9e37_79b9_7f4a_7c15))
    }
}

// --- stdout and stderr ------------------------------------------------------------------------

struct Printed {
    stdio: Arc<Stdio>,
    stream: usize,
}

#[async_trait]
impl Pollable for Printed {
    async fn ready(&mut self) {}
}

#[async_trait]
impl OutputStream for Printed {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.stdio.write(self.stream, &bytes);
        Ok(())
    }
    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }
    fn write_zeroes(&mut self, _bytes: usize) -> StreamResult<()> {
        // Zeros are nothing to read in a log, and the guest may ask for any number of them.
        Ok(())
    }
    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(limits::LOG_LINE_BYTES_MAX * limits::LOG_LINES_MAX as usize)
    }
}

impl HostState {
    fn print_to(&mut self, stream: usize) -> wasmtime::Result<Resource<DynOutputStream>> {
        let stdio = Arc::clone(self.stdio.get_or_insert_default());
        let stream: DynOutputStream = Box::new(Printed { stdio, stream });
        Ok(self.table.push(stream)?)
    }
}

impl cli::stdout::Host for HostState {
    fn get_stdout(&mut self) -> wasmtime::Result<Resource<DynOutputStream>> {
        self.print_to(0)
    }
}

impl cli::stderr::Host for HostState {
    fn get_stderr(&mut self) -> wasmtime::Result<Resource<DynOutputStream>> {
        self.print_to(1)
    }
}
