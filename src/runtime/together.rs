//! Runs several pieces of work at once, and delivers their results in order.

use std::num::NonZero;
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

/// For how long something that has begun counts as one that keeps a processor busy. What takes longer waits for something. A
/// reference plugin that waits for nothing takes 5 to 20 ms.
const BUSY: Duration = Duration::from_millis(50);

/// How many processors this process may use.
pub(super) fn processors() -> usize {
    static PROCESSORS: OnceLock<usize> = OnceLock::new();
    *PROCESSORS.get_or_init(|| available_parallelism().map_or(1, NonZero::get))
}

/// Which pieces of work may run at once.
#[derive(Debug, Clone)]
pub struct Schedule {
    at_once: usize,
    /// How many at the most may be busy at once, and how long each counts as busy.
    busy: (usize, Duration),
    /// For each, those before it that have to end before it begins.
    after: Vec<Vec<usize>>,
}

impl Schedule {
    /// Up to `at_once` of `count`, in any combination.
    pub fn at_most(at_once: usize, count: usize) -> Self {
        let at_once = at_once.clamp(1, count.max(1));
        Self { at_once, busy: (at_once, Duration::ZERO), after: vec![Vec::new(); count] }
    }

    /// Up to `at_once` of `count`. Each begins after the earlier ones for which `must_not_meet` is true have ended.
    pub fn new(count: usize, at_once: usize, must_not_meet: impl Fn(usize, usize) -> bool) -> Self {
        let of = |later: usize| (0..later).filter(|earlier| must_not_meet(*earlier, later)).collect();
        let after: Vec<Vec<usize>> = (0..count).map(of).collect();
        let one_after_another = after.iter().enumerate().all(|(index, before)| before.len() == index);
        Self { after, ..Self::at_most(if one_after_another { 1 } else { at_once }, count) }
    }

    /// The same for what keeps a processor busy: no more begin at once than there are processors, and two on a machine with one.
    /// Another begins when one ends, or takes so long that it must be waiting for something.
    #[must_use]
    pub fn busy(self) -> Self {
        Self { busy: (processors().max(2), BUSY), ..self }
    }

    /// How many are done at once at the most.
    pub fn at_once(&self) -> usize {
        self.at_once
    }

    /// The number of all pieces.
    fn count(&self) -> usize {
        self.after.len()
    }
}

/// Calls `work` with the index of each piece, on as many threads as pieces may run at once. Each begins as early as the schedule
/// allows, and in order of the indexes otherwise. `deliver` gets the results in order, each as soon as all earlier ones are
/// delivered. If only one runs at once, everything happens on the calling thread.
///
/// The kernel kills a plugin when the thread that started it ends. So no thread ends before the last `work` does, because one
/// thread may run a plugin that another has started ahead.
///
/// # Panics
/// If `work` or `deliver` panics.
pub fn together<T: Send>(schedule: &Schedule, work: impl Fn(usize) -> T + Sync, deliver: impl FnMut(usize, T) + Send) {
    let mut deliver = deliver;
    let count = schedule.count();
    if schedule.at_once <= 1 {
        (0..count).for_each(|index| deliver(index, work(index)));
        return;
    }
    let outbox = Mutex::new(Outbox { ready: (0..count).map(|_| None).collect(), delivered: 0, deliver });
    let turns = Turns { schedule, state: Mutex::new(vec![State::ToBegin; count]), changed: Condvar::new() };
    std::thread::scope(|scope| {
        for _ in 0..schedule.at_once {
            scope.spawn(|| {
                let _wait_for_others = WaitForOthers(&turns);
                while let Some(turn) = turns.next() {
                    let done = work(turn.index);
                    outbox.lock().expect("no holder panics").put(turn.index, done);
                }
            });
        }
    });
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    ToBegin,
    Begun(Instant),
    Ended,
}

impl State {
    fn has_begun(self) -> bool {
        matches!(self, Self::Begun(_))
    }
}

/// What has begun and what has finished.
struct Turns<'a> {
    schedule: &'a Schedule,
    state: Mutex<Vec<State>>,
    changed: Condvar,
}

/// The turn of one piece. It ends when this is dropped, also by a panic.
struct Turn<'a> {
    turns: &'a Turns<'a>,
    index: usize,
}

impl Turns<'_> {
    /// Waits for the next piece that may begin, and returns its turn. Nothing when all have begun.
    fn next(&self) -> Option<Turn<'_>> {
        let mut state = self.lock();
        loop {
            let to_begin = |index: &usize| state[*index] == State::ToBegin;
            let may_begin =
                |index: &usize| self.schedule.after[*index].iter().all(|before| state[*before] == State::Ended);
            (0..state.len()).find(to_begin)?;
            let next = (0..state.len()).find(|index| to_begin(index) && may_begin(index));
            match (next, self.until_fewer_are_busy(&state)) {
                (Some(index), None) => {
                    state[index] = State::Begun(Instant::now());
                    return Some(Turn { turns: self, index });
                }
                (Some(_), Some(left)) => {
                    let waited = self.changed.wait_timeout(state, left);
                    state = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
                (None, _) => state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// How long it takes until one of those that are busy does not count as busy any more; nothing where another may begin now.
    fn until_fewer_are_busy(&self, state: &[State]) -> Option<Duration> {
        let (most, time) = self.schedule.busy;
        let left = state.iter().filter_map(|state| match state {
            State::Begun(at) => time.checked_sub(at.elapsed()).filter(|left| !left.is_zero()),
            _ => None,
        });
        let left: Vec<Duration> = left.collect();
        if left.len() < most { None } else { left.into_iter().min() }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<State>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.turns.lock()[self.index] = State::Ended;
        self.turns.changed.notify_all();
    }
}

/// A worker thread. When it has no more work, or panics, it waits for the others.
struct WaitForOthers<'a>(&'a Turns<'a>);

impl Drop for WaitForOthers<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        while state.iter().any(|one| one.has_begun()) {
            state = self.0.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Results that wait until all earlier ones are delivered.
struct Outbox<T, D> {
    ready: Vec<Option<T>>,
    delivered: usize,
    deliver: D,
}

impl<T, D: FnMut(usize, T)> Outbox<T, D> {
    fn put(&mut self, index: usize, done: T) {
        self.ready[index] = Some(done);
        while let Some(done) = self.ready.get_mut(self.delivered).and_then(Option::take) {
            (self.deliver)(self.delivered, done);
            self.delivered += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    #[test]
    fn what_is_done_last_first_is_delivered_in_order() {
        let (mut delivered, turn) = (Vec::new(), Mutex::new(3));
        together(
            &Schedule::at_most(4, 4),
            |index| {
                // Each waits until the later ones are done.
                while *turn.lock().unwrap() != index {
                    std::thread::yield_now();
                }
                *turn.lock().unwrap() = index.wrapping_sub(1);
                index * 10
            },
            |index, done| delivered.push((index, done)),
        );
        assert_eq!(delivered, [(0, 0), (1, 10), (2, 20), (3, 30)]);
    }

    #[test]
    fn so_many_run_at_once() {
        let both = Barrier::new(2);
        together(&Schedule::at_most(2, 4), |_| both.wait().is_leader(), |_, _| ());
    }

    #[test]
    fn each_waits_for_those_that_it_must_not_meet_and_for_no_others() {
        // 1 must not meet 0, so 2 runs beside 0.
        let schedule = Schedule::new(3, 2, |earlier, later| (earlier, later) == (0, 1));
        let (both, ended) = (Barrier::new(2), Mutex::new(Vec::new()));
        let mut delivered = Vec::new();
        together(
            &schedule,
            |index| {
                if index == 1 {
                    assert!(ended.lock().unwrap().contains(&0));
                } else {
                    both.wait();
                }
                ended.lock().unwrap().push(index);
            },
            |index, ()| delivered.push(index),
        );
        assert_eq!(delivered, [0, 1, 2]);
    }

    #[test]
    fn no_more_are_busy_at_once_than_may_be() {
        let schedule = Schedule { busy: (1, Duration::MAX), ..Schedule::at_most(3, 6) };
        let busy = AtomicBool::new(false);
        together(
            &schedule,
            |_| {
                assert!(!busy.swap(true, Ordering::SeqCst));
                std::thread::yield_now();
                busy.store(false, Ordering::SeqCst);
            },
            |_, ()| (),
        );
    }

    #[test]
    fn another_begins_beside_one_that_waits() {
        let schedule = Schedule { busy: (1, Duration::from_millis(1)), ..Schedule::at_most(2, 2) };
        let both = Barrier::new(2);
        together(&schedule, |_| both.wait().is_leader(), |_, _| ());
    }

    #[test]
    fn where_none_may_meet_there_is_one_thread() {
        let schedule = Schedule::new(3, 8, |_, _| true);
        assert_eq!(schedule.at_once(), 1);
        let own = std::thread::current().id();
        together(&schedule, |_| assert_eq!(std::thread::current().id(), own), |_, ()| ());
    }

    #[test]
    fn no_thread_ends_before_the_last_work_does() {
        struct Ends<'a>(&'a AtomicBool, &'a AtomicBool);
        impl Drop for Ends<'_> {
            fn drop(&mut self) {
                self.1.fetch_or(!self.0.load(Ordering::SeqCst), Ordering::SeqCst);
            }
        }
        thread_local!(static OF_THREAD: std::cell::RefCell<Option<Ends<'static>>> = const { std::cell::RefCell::new(None) });
        static ALL_DONE: AtomicBool = AtomicBool::new(false);
        static ONE_HAS_ENDED_EARLY: AtomicBool = AtomicBool::new(false);
        let each_has_one = Barrier::new(2);
        together(
            &Schedule::at_most(2, 2),
            |index| {
                each_has_one.wait();
                OF_THREAD.set(Some(Ends(&ALL_DONE, &ONE_HAS_ENDED_EARLY)));
                if index == 1 {
                    std::thread::sleep(Duration::from_millis(50));
                    ALL_DONE.store(true, Ordering::SeqCst);
                }
            },
            |_, ()| (),
        );
        assert!(!ONE_HAS_ENDED_EARLY.load(Ordering::SeqCst));
    }

    #[test]
    #[should_panic(expected = "panicked")]
    fn a_panic_is_passed_on() {
        together(&Schedule::at_most(2, 2), |index| assert_eq!(index, 1), |_, ()| ());
    }
}
