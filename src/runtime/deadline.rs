//! Deadlines.

use std::time::{Duration, Instant};

/// A hundred years: the length of a wait without a limit.
const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// The moment that is `duration` from now. A caller or a server may name a duration beyond the range of a clock; the result is then
/// a moment that never comes.
/// moment that never comes.
pub(crate) fn after(duration: Duration) -> Instant {
    from(Instant::now(), duration)
}

/// The moment that is `duration` from `start`, limited as in [`after`].
pub(crate) fn from(start: Instant, duration: Duration) -> Instant {
    start.checked_add(duration.min(FOR_EVER)).unwrap_or(start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_duration_is_too_long() {
        let now = Instant::now();
        assert_eq!(from(now, Duration::from_secs(5)) - now, Duration::from_secs(5));
        assert_eq!(from(now, Duration::MAX) - now, FOR_EVER);
        assert_eq!(from(now, Duration::from_secs(1 << 63)) - now, FOR_EVER);
    }
}
