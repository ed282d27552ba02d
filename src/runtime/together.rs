//! Doing several things at once, and reporting them in order.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

/// Calls `work` with 0 to `count` - 1, of which up to `at_once` calls run at the same time, each begun in this order. What they
/// return is handed to `deliver` in this order too, each as soon as all before it is there. With `at_once` of 1 everything
/// happens on this thread, one after another.
///
/// The kernel kills a plugin when the thread that has started it ends. So no thread ends before the last `work` does: a plugin
/// that one has started ahead may be another's to run.
///
/// # Panics
/// If `work` or `deliver` panics.
pub fn together<T: Send>(
    count: usize,
    at_once: usize,
    work: impl Fn(usize) -> T + Sync,
    deliver: impl FnMut(usize, T) + Send,
) {
    let mut deliver = deliver;
    let threads = at_once.min(count);
    if threads <= 1 {
        (0..count).for_each(|index| deliver(index, work(index)));
        return;
    }
    let next = AtomicUsize::new(0);
    let outbox = Mutex::new(Outbox { ready: (0..count).map(|_| None).collect(), delivered: 0, deliver });
    let working = Working { threads: Mutex::new(threads), changed: Condvar::new() };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let _until_all_have_ended = Until(&working);
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= count {
                        break;
                    }
                    let done = work(index);
                    outbox.lock().expect("no holder panics").put(index, done);
                }
            });
        }
    });
}

/// What is done, and is delivered once all before it is.
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

/// How many threads still work.
struct Working {
    threads: Mutex<usize>,
    changed: Condvar,
}

/// A thread that works. When it has no more to do, or panics, it waits for the others.
struct Until<'a>(&'a Working);

impl Drop for Until<'_> {
    fn drop(&mut self) {
        let mut threads = self.0.threads.lock().unwrap_or_else(PoisonError::into_inner);
        *threads -= 1;
        self.0.changed.notify_all();
        while *threads > 0 {
            threads = self.0.changed.wait(threads).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;
    use std::sync::atomic::AtomicBool;
    use std::time::Duration;

    #[test]
    fn what_is_done_last_first_is_delivered_in_order() {
        let (mut delivered, turn) = (Vec::new(), Mutex::new(3));
        together(
            4,
            4,
            |index| {
                // Each waits until those after it are done.
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
        together(4, 2, |_| both.wait().is_leader(), |_, _| ());
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
            2,
            2,
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
        together(2, 2, |index| assert_eq!(index, 1), |_, ()| ());
    }
}
