//! What the operating system says about this process: CPU time used and files allowed. The only unsafe code of the
//! crate; knows nothing of requests.

use std::time::Duration;

/// CPU time, user and system, that this process has used so far (`getrusage`); zero if the system will not say.
pub fn cpu_used() -> Duration {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the pointer is to writable memory of the right type, and all zeroes is a valid `rusage`.
    #[expect(
        unsafe_code,
        reason = "getrusage has no safe wrapper in our dependencies"
    )]
    let usage = unsafe {
        if libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()) != 0 {
            return Duration::ZERO;
        }
        usage.assume_init()
    };
    of_timeval(usage.ru_utime) + of_timeval(usage.ru_stime)
}

/// Raises the soft limit of open files to the hard one and returns it; `None` if the system will not say.
pub fn raise_file_limit() -> Option<u64> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: both calls get a pointer to a valid `rlimit`; the second only reads it.
    #[expect(
        unsafe_code,
        reason = "rlimits have no safe wrapper in our dependencies"
    )]
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) != 0 {
            return None;
        }
        let wanted = libc::rlimit {
            rlim_cur: limit.rlim_max,
            ..limit
        };
        if libc::setrlimit(libc::RLIMIT_NOFILE, &raw const wanted) == 0 {
            limit = wanted;
        }
    }
    Some(limit.rlim_cur)
}

fn of_timeval(time: libc::timeval) -> Duration {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let micros = u64::try_from(time.tv_usec).unwrap_or(0);
    Duration::from_secs(seconds) + Duration::from_micros(micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_grows_with_work() {
        let before = cpu_used();
        let mut rng = crate::rng::SplitMix64::new(1);
        while cpu_used() == before {
            std::hint::black_box((0..10_000).map(|_| rng.next_u64()).max());
        }
        assert!(cpu_used() > before);
    }

    #[test]
    fn some_files_may_be_open() {
        assert!(raise_file_limit().is_none_or(|files| files > 16));
    }
}
