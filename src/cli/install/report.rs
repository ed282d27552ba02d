//! The messages of `install` and `uninstall`, on standard error.

/// Says what was done.
pub(super) fn say(message: &str) {
    eprint_line!("braid: {message}");
}

/// Says what an operator should look at.
pub(super) fn warn(message: &str) {
    eprint_line!("braid: WARNING: {message}");
}

/// Problems that are checked again and again. Each is reported once, until it changes.
#[derive(Debug, Default)]
pub(super) struct Problem {
    last: String,
}

impl Problem {
    /// Warns about a problem, unless it was reported at the last check.
    pub(super) fn is(&mut self, message: String) {
        if message != self.last {
            warn(&message);
            self.last = message;
        }
    }

    /// There is none any more.
    pub(super) fn is_over(&mut self) {
        self.last.clear();
    }
}
