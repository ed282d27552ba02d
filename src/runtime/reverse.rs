//! Undoing in reverse.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::chain::Limits;

/// The least time that a step gets, even after the deadline: a DEL that is killed as soon as it is started does nothing.
const LEAST: Duration = Duration::from_secs(1);

/// Undoes steps from the last to the first. Continues after a failure, and returns the failures in that order.
///
/// While other steps remain, a step gets at most half of the time that is left. So a step that hangs does not use up all of the
/// time, and every retry gets further. A step gets at least one second, unless `limits.plugin` is shorter.
pub fn undo_in_reverse<S, E>(
    steps: impl IntoIterator<Item = S, IntoIter: DoubleEndedIterator + ExactSizeIterator>,
    limits: Limits,
    mut undo: impl FnMut(S, Limits) -> Result<(), E>,
) -> Vec<E> {
    let steps = steps.into_iter();
    let shares = Shares::new(limits, steps.len());
    steps.rev().filter_map(|step| undo(step, shares.next()).err()).collect()
}

/// The time of steps that are undone, some of them possibly at the same time.
#[derive(Debug)]
pub struct Shares {
    limits: Limits,
    /// How many have not begun.
    left: AtomicUsize,
}

impl Shares {
    /// Shares the time among this many steps.
    pub fn new(limits: Limits, steps: usize) -> Self {
        Self { limits, left: AtomicUsize::new(steps) }
    }

    /// The time of the next step to begin, by the rule of [`undo_in_reverse`].
    pub fn next(&self) -> Limits {
        let left = self.left.fetch_sub(1, Ordering::Relaxed);
        share(self.limits, left.saturating_sub(1))
    }
}

/// The time of one step that has this many `others` after it.
fn share(limits: Limits, others: usize) -> Limits {
    let Some(deadline) = limits.deadline else { return limits };
    let left = deadline.saturating_duration_since(Instant::now());
    let share = if others > 0 { left / 2 } else { left }.max(LEAST);
    Limits { plugin: Some(limits.plugin.map_or(share, |plugin| plugin.min(share))), deadline: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_has_its_turn_and_its_second() {
        let limits = Limits { plugin: Some(Duration::from_secs(60)), deadline: Some(Instant::now()) };
        let failures = undo_in_reverse([1, 2, 3], limits, |step, limits| {
            assert_eq!((limits.plugin, limits.deadline), (Some(LEAST), None));
            if step == 2 { Ok(()) } else { Err(step) }
        });
        assert_eq!(failures, [3, 1]);
    }

    #[test]
    fn the_operators_limit_for_a_plugin_is_kept() {
        let limits = Limits { plugin: Some(Duration::from_millis(1)), deadline: Some(Instant::now()) };
        assert_eq!(share(limits, 0).plugin, Some(Duration::from_millis(1)));
    }
}
