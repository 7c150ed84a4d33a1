//! How the allocator keeps memory, and gives it back to the system.

/// Returns freed memory to the system. glibc keeps what a compilation or a burst of messages has
/// freed, for good where allocations that live lie above it; a node would show its peak for ever.
/// Takes milliseconds, and holds up allocations meanwhile: for idle moments.
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: no memory that is in use is touched; glibc documents it as safe to call at any time.
    #[allow(unsafe_code, reason = "glibc has no safe interface for it")]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Has the allocator keep what is freed under load: without this glibc shrinks its heaps and grows
/// them again many times a second. [`give_back`] returns it in idle moments. Call it first of all.
pub fn keep_under_load() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: sets numbers of the allocator's; documented to be called before threads start.
    #[allow(unsafe_code, reason = "glibc has no safe interface for it")]
    unsafe {
        const MIB: libc::c_int = 1024 * 1024;
        libc::mallopt(libc::M_TRIM_THRESHOLD, 256 * MIB);
        libc::mallopt(libc::M_TOP_PAD, MIB);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 4 * MIB);
    }
}
