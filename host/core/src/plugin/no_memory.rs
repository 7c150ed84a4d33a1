//! Why an instance gets no memory.

/// Why an instance gets no memory. It is never the plugin's fault.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub enum NoMemory {
    /// All of the node's memory for instances is in use, and none of it was given up in time.
    #[error(
        "all {bytes_max} bytes for plugin instances on this node (guests.memory_total) are in use"
    )]
    InUse { bytes_max: usize },
    /// As [`NoMemory::InUse`], for the system's memory maps.
    #[error(
        "all {max} memory maps for plugin instances on this node are in use, of the {process} that the system allows a process (sysctl vm.max_map_count)"
    )]
    Maps { max: usize, process: usize },
    /// The system refuses the process a mapping.
    #[error(transparent)]
    System(#[from] NoMapping),
}

/// The system's refusal, with the process's own limit if it has one.
#[derive(Clone, Copy, Debug)]
pub struct NoMapping {
    address_bytes_max: Option<u64>,
}

impl NoMapping {
    /// When that is what is behind an error of the engine's.
    pub(super) fn behind(error: &wasmtime::Error) -> Option<Self> {
        // What it is as a type, the engine has as a detail of its own.
        let refused = error.chain().any(|cause| {
            let io = cause.downcast_ref::<std::io::Error>();
            io.is_some_and(|io| io.kind() == std::io::ErrorKind::OutOfMemory)
                || cause.to_string().contains("(os error 12)")
        });
        let limit = rustix::process::getrlimit(rustix::process::Resource::As).current;
        refused.then_some(Self { address_bytes_max: limit })
    }
}

impl std::error::Error for NoMapping {}

impl std::fmt::Display for NoMapping {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.address_bytes_max {
            Some(bytes) => write!(
                f,
                "the address space limit of the slotd process ({bytes} bytes; ulimit -v, \
                 RLIMIT_AS) is too low: each instance reserves 4 GiB of it. Raise that limit"
            ),
            None => f.write_str(
                "the system refuses the slotd process more memory, or more memory maps (sysctl \
                 vm.max_map_count)",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Under `ulimit -v` the plugin was blamed for what the process may not have.
    #[test]
    fn a_mapping_that_the_system_refuses_is_not_the_plugins_fault() {
        let refused = std::io::Error::from_raw_os_error(libc::ENOMEM);
        let error = wasmtime::Error::from(refused).context("making a memory");
        let why = NoMapping::behind(&error).map(|why| why.to_string()).unwrap_or_default();
        assert!(why.contains("slotd process"), "{why}");
        let limited = NoMapping { address_bytes_max: Some(8 << 30) }.to_string();
        assert!(limited.contains("8589934592") && limited.contains("ulimit -v"), "{limited}");
        assert!(NoMapping::behind(&wasmtime::Error::msg("a trap")).is_none());
    }
}
