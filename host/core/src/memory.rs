//! The memory that this process may have.

use crate::limits;
use std::path::{Path, PathBuf};

/// What compiling may take by default, in whole MiB; no less than it needs to begin with.
pub fn default_compile_memory() -> u64 {
    let share = available_memory() / limits::COMPILE_MEMORY_SHARE;
    let share = if share == 0 { u64::MAX } else { share >> 20 << 20 };
    share.clamp(limits::COMPILE_MEMORY_BYTES_MIN, limits::COMPILE_MEMORY_BYTES_DEFAULT)
}

/// The machine's memory, or what control groups leave of it; 0 where neither is known.
pub fn available_memory() -> u64 {
    let read = |path: PathBuf| std::fs::read_to_string(path).ok();
    let machine = read("/proc/meminfo".into()).and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        Some(line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()? * 1024)
    });
    let group = read("/proc/self/cgroup".into());
    let group = group.as_deref().and_then(|text| text.lines().find_map(|l| l.strip_prefix("0::/")));
    // A container sees its own group as the root; elsewhere the group's parents count too.
    let folder = Path::new("/sys/fs/cgroup").join(group.unwrap_or_default());
    let groups = folder.ancestors().take_while(|folder| folder.starts_with("/sys/fs/cgroup"));
    let limits = groups.filter_map(|g| read(g.join("memory.max"))?.trim().parse::<u64>().ok());
    limits.chain(machine).min().unwrap_or(0)
}
