//! What something costs in CPU time, which nobody else on the machine changes. Tests only print it, since builds for tests
//! are slow; `HANSA_SOAK_CPU`, which `scripts/soak` sets in a release build, holds it against the bound.

/// Milliseconds of CPU that one bad request may cost.
const BAD_REQUEST_MS: f64 = 100.0;

/// CPU time of `f` on this thread in milliseconds, 0 where the system does not tell, and what `f` gives.
pub(crate) fn timed<T>(f: impl FnOnce() -> T) -> (f64, T) {
    let begun = thread_cpu_ms();
    let result = f();
    (thread_cpu_ms() - begun, result)
}

/// Whether the machine's time is what is tested.
pub(crate) fn is_soak() -> bool {
    std::env::var_os("HANSA_SOAK_CPU").is_some()
}

/// Fails where `what` cost more than a bad request may, and somebody wants to know.
pub(crate) fn assert_cheap(what: &str, ms: f64) {
    assert!(!is_soak() || ms <= BAD_REQUEST_MS, "{what} took {ms:.0} ms");
}

fn thread_cpu_ms() -> f64 {
    let schedule = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = schedule.split(' ').next();
    let nanos = nanos.and_then(|n| n.parse::<f64>().ok());
    nanos.unwrap_or(0.0) / 1e6
}
