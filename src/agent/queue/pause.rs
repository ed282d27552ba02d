//! The pauses after failures.

use std::time::Duration;

/// The pause after the first failure. It doubles with each further failure.
pub(super) const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// The shortest pause between the end of a failed run and a run that an event has moved forward.
pub(super) const MIN_PAUSE: Duration = Duration::from_secs(1);

/// The pause after this many failures in a row. `random` is between 0 and 1. It lengthens the pause by up to a quarter, and shortens
/// the longest pause by up to a fifth, so that the pods of a node are not all tried at the same time.
pub(super) fn pause_after(failures: u32, random: f64) -> Duration {
    let full = FIRST_PAUSE.saturating_mul(2u32.saturating_pow(failures.saturating_sub(1)));
    full.mul_f64(1.0 + random / 4.0).min(LONGEST_PAUSE.mul_f64(1.0 - random / 5.0))
}
