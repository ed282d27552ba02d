//! How long the plugins of a call took, for metrics and traces.
//!
//! A call that comes with a sampled [trace context](https://www.w3.org/TR/trace-context/) is a span of that trace. Each plugin that
//! it runs has a span too, named in the plugin's `TRACEPARENT`, so that spans of the plugin become children of it.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use crate::cni::{CniError, Verb};

/// The variable that holds a trace context, both for Braid and for the plugins.
pub(super) const TRACEPARENT: &str = "TRACEPARENT";

/// The runs of plugins of one call, and the trace that they belong to.
#[derive(Debug, Default)]
pub struct Runs {
    is_wanted: bool,
    trace: Option<Trace>,
    list: Mutex<Vec<Run>>,
}

/// One plugin that was run to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Its type.
    pub plugin_type: String,
    /// The operation.
    pub verb: Verb,
    /// Its place in its network's chain, counted from 0.
    pub step: usize,
    /// Its interface. Empty if the operation has none.
    pub ifname: String,
    /// When it got its input.
    pub began: SystemTime,
    /// The time from then to its end.
    pub took: Duration,
    /// Its error, if it failed.
    pub error: Option<CniError>,
    /// Its span, if the call is traced.
    pub span: Option<SpanId>,
}

/// The ID of a span: 16 hexadecimal digits, not all of them zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpanId(u64);

/// A sampled trace that a call is a part of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    /// 32 hexadecimal digits.
    id: String,
    /// The caller's span, 16 hexadecimal digits.
    parent: String,
    /// The flags, 2 hexadecimal digits.
    flags: String,
    /// The call's own span.
    span: SpanId,
}

impl Runs {
    /// Starts empty. `traceparent` is the trace context of the call; it is ignored if it is not valid or not sampled. If the call
    /// is not traced, runs are recorded only if `is_wanted`.
    pub fn new(traceparent: Option<&str>, is_wanted: bool) -> Self {
        let trace = traceparent.and_then(Trace::parse);
        Self { is_wanted: is_wanted || trace.is_some(), trace, list: Mutex::default() }
    }

    /// Whether runs are written down.
    pub fn is_wanted(&self) -> bool {
        self.is_wanted
    }

    /// The trace that the call is a part of.
    pub fn trace(&self) -> Option<&Trace> {
        self.trace.as_ref()
    }

    /// A span for a plugin that is about to be started, if the call is traced.
    pub(super) fn new_span(&self) -> Option<SpanId> {
        self.trace.as_ref().map(|_| SpanId::random())
    }

    /// The `TRACEPARENT` of a plugin with this span.
    pub(super) fn traceparent(&self, span: Option<SpanId>) -> Option<String> {
        Some(self.trace.as_ref()?.traceparent(span?))
    }

    pub(super) fn add(&self, run: Run) {
        self.lock().push(run);
    }

    /// How many runs there are so far.
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    /// The runs after the first `count`, in the order in which they ended.
    pub fn after(&self, count: usize) -> Vec<Run> {
        self.lock().iter().skip(count).cloned().collect()
    }

    /// Removes and returns all runs, in the order in which they ended.
    pub fn take(&self) -> Vec<Run> {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Run>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Trace {
    /// Reads the header of W3C Trace Context §3.2, if the trace is sampled.
    fn parse(traceparent: &str) -> Option<Self> {
        let is_hex = |text: &str, digits: usize| {
            text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        };
        let is_id = |text: &str, digits| is_hex(text, digits) && text.bytes().any(|byte| byte != b'0');
        let mut parts = traceparent.trim().split('-');
        let (version, id, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        // A future version may have more parts.
        let has_more = parts.next().is_some();
        if !is_hex(version, 2) || version == "ff" || version == "00" && has_more {
            return None;
        }
        if !is_id(id, 32) || !is_id(parent, 16) || !is_hex(flags, 2) {
            return None;
        }
        let is_sampled = u8::from_str_radix(flags, 16).ok()? & 1 == 1;
        let (id, parent, flags) = (id.to_owned(), parent.to_owned(), flags.to_owned());
        is_sampled.then(|| Self { id, parent, flags, span: SpanId::random() })
    }

    /// The trace's ID: 32 hexadecimal digits.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The ID of the caller's span: 16 hexadecimal digits.
    pub fn parent(&self) -> &str {
        &self.parent
    }

    /// The call's own span.
    pub fn span(&self) -> SpanId {
        self.span
    }

    fn traceparent(&self, span: SpanId) -> String {
        format!("00-{}-{span}-{}", self.id, self.flags)
    }
}

impl SpanId {
    fn random() -> Self {
        // Each `RandomState` has random keys.
        Self(RandomState::new().build_hasher().finish().max(1))
    }
}

impl std::fmt::Display for SpanId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0af7651916cd43dd8448eb211c80319c";

    #[test]
    fn a_sampled_context_is_taken_up_and_passed_on_with_another_span() {
        let runs = Runs::new(Some(&format!("00-{ID}-b7ad6b7169203331-03")), false);
        let trace = runs.trace().unwrap();
        assert_eq!((trace.id(), trace.parent()), (ID, "b7ad6b7169203331"));
        let span = runs.new_span();
        let passed = runs.traceparent(span).unwrap();
        assert_eq!(passed, format!("00-{ID}-{}-03", span.unwrap()));
        assert_ne!(span.unwrap(), trace.span());
    }

    #[test]
    fn what_is_not_sampled_or_not_valid_is_no_trace() {
        for ignored in [
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319-b7ad6b7169203331-01",
            "00-1",
            "",
            "é-",
        ] {
            assert_eq!(Runs::new(Some(ignored), true).trace(), None, "{ignored:?}");
            assert!(!Runs::new(Some(ignored), false).is_wanted(), "{ignored:?}");
        }
        let future = "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-what-comes";
        assert!(Runs::new(Some(future), false).trace().is_some());
    }
}
