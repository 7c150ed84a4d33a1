//! Giving memory back to the system.

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
