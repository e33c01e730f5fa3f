//! How much memory this process took at most, as the operating system counts it.

/// The largest resident size so far, in bytes; what the tensors took where the system does not say.
pub fn peak_bytes() -> u64 {
    resident().unwrap_or(scumble_tensor::memory::stats().peak_bytes as u64)
}

#[cfg(unix)]
fn resident() -> Option<u64> {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the pointer is to a `rusage` of our own, which the call fills.
    let result = unsafe { libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()) };
    // SAFETY: zeroed is a valid `rusage`, whether or not the call filled it.
    let usage = unsafe { usage.assume_init() };
    // Linux counts in KiB, macOS in bytes.
    let unit = if cfg!(target_os = "macos") { 1 } else { 1024 };
    (result == 0).then(|| u64::try_from(usage.ru_maxrss).unwrap_or(0) * unit)
}

#[cfg(not(unix))]
fn resident() -> Option<u64> {
    None
}
