//! The engine: the one place where its configuration is made, and the thread that moves its epoch.

use super::{PluginError, imports, instance::HostState, wasi};
use crate::limits;
use std::{hash::Hasher, sync::LazyLock, thread};
use wasmtime::{Config, Engine, Strategy, WasmFeatures, component::Linker};

/// Whether an engine counts what its guests compute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Metering {
    #[default]
    None,
    /// In fuel, about one for each instruction: the same on every machine. It costs time, so no message is handled with it.
    Fuel,
}

impl Metering {
    pub(super) const ALL: [Self; 2] = [Self::None, Self::Fuel];
}

/// Every engine of slotd, and the checks that need no engine, are configured by this.
pub(super) fn config(metering: Metering) -> Config {
    let mut config = Config::new();
    config.strategy(Strategy::Cranelift);
    // Calls are plain calls: the concurrency of the component model costs 2-4x per call.
    config.concurrency_support(false);
    // The same bits on every machine: what a handler computes is replayed elsewhere.
    config.cranelift_nan_canonicalization(true);
    config.relaxed_simd_deterministic(true);
    // A running guest is interrupted each epoch: it yields, or passed its deadline.
    config.epoch_interruption(true);
    config.consume_fuel(metering == Metering::Fuel);
    config.max_wasm_stack(limits::GUEST_STACK_BYTES);
    config.async_stack_size(limits::GUEST_STACK_BYTES + limits::GUEST_HOST_STACK_BYTES);
    // Instances are allocated on demand: slots times services has no bound worth a fixed pool,
    // and an instance is kept across messages, so that its allocation is off the message path.
    // Copy-on-write images (wasmtime's default) keep idle instances small.
    config
}

/// A new engine with its ticker, which ends when the last handle of the engine is dropped.
pub(super) fn new(metering: Metering) -> Result<Engine, PluginError> {
    // Each trap of a guest would otherwise walk the host's stack when RUST_BACKTRACE is set, and name
    // its frames for seconds. The guest's own frames come another way.
    wasmtime::error::disable_backtrace();
    let failed = |e: &dyn std::fmt::Display| PluginError::Failed(format!("the engine: {e}"));
    let engine = Engine::new(&config(metering)).map_err(|e| failed(&format_args!("{e:#}")))?;
    let weak = engine.weak();
    let ticks = move || {
        while let Some(engine) = weak.upgrade() {
            engine.increment_epoch();
            drop(engine);
            // A thread of its own, and nobody unparks it: an epoch's sleep.
            thread::park_timeout(limits::GUEST_EPOCH);
        }
    };
    crate::thread::start("slotd-epoch", ticks)
        .map_err(|e| failed(&format_args!("its ticker does not start: {e}")))?;
    Ok(engine)
}

/// The parts of WebAssembly that the engine runs, for checks that need no engine of their own.
pub(super) fn features() -> WasmFeatures {
    static FEATURES: LazyLock<WasmFeatures> = LazyLock::new(|| {
        // Only a machine that can't run guests at all has no engine.
        Engine::new(&config(Metering::None))
            .map_or_else(|_| WasmFeatures::default(), |e| e.get_wasm_features())
    });
    *FEATURES
}

/// Everything that a guest may import: the interface of `wit/`, and virtual WASI.
pub(super) fn linker(engine: &Engine) -> wasmtime::Result<Linker<HostState>> {
    let mut linker = Linker::new(engine);
    imports::add_to_linker(&mut linker)?;
    wasi::add_to_linker(&mut linker)?;
    Ok(linker)
}

/// Changes with everything that decides whether compiled code runs on this engine: its version,
/// settings, and the machine's features.
pub(super) fn compatibility(engine: &Engine) -> u64 {
    /// Feeds a stable hash: `DefaultHasher` may differ between builds.
    struct Stable(xxhash_rust::xxh3::Xxh3Default);
    impl Hasher for Stable {
        fn write(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }
        fn finish(&self) -> u64 {
            self.0.digest()
        }
    }
    let mut hasher = Stable(xxhash_rust::xxh3::Xxh3Default::new());
    std::hash::Hash::hash(&engine.precompile_compatibility_hash(), &mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without it the ticker threads of dropped hosts would pile up and keep their engines.
    #[test]
    fn the_ticker_does_not_keep_its_engine() {
        let engine = new(Metering::None).unwrap();
        let weak = engine.weak();
        drop(engine);
        // The ticker holds a handle for an instant each epoch.
        while weak.upgrade().is_some() {
            thread::yield_now();
        }
    }

    /// Were the key of the compiled cache unstable, every start would compile every plugin.
    #[test]
    fn equal_engines_have_equal_keys() {
        let of = |metering| compatibility(&new(metering).unwrap());
        assert_eq!(of(Metering::None), of(Metering::None));
        assert_ne!(of(Metering::None), of(Metering::Fuel), "code that counts is other code");
        let other = Engine::new(Config::new().strategy(Strategy::Cranelift)).unwrap();
        assert_ne!(of(Metering::None), compatibility(&other));
    }
}
