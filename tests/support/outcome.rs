//! The outcome of a call, and assertions about it.

use std::process::{ExitStatus, Output};
use std::time::Duration;

use serde_json::Value;

use super::{Call, Case};

/// The outcome of one call. Every assertion returns it, so that they can be chained.
pub(crate) struct Outcome<'a> {
    case: &'a Case,
    command: String,
    stdin: Vec<u8>,
    status: ExitStatus,
    stdout: Vec<u8>,
    stderr: String,
    answer: Option<Value>,
    first_call: usize,
    took: Duration,
}

impl<'a> Outcome<'a> {
    #[track_caller]
    pub(super) fn new(
        case: &'a Case,
        command: String,
        stdin: Vec<u8>,
        output: Output,
        first_call: usize,
        took: Duration,
    ) -> Self {
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        let (status, stdout) = (output.status, output.stdout);
        let mut outcome = Self { case, command, stdin, status, stdout, stderr, answer: None, first_call, took };
        outcome.answer = outcome.parse();
        outcome.hold();
        outcome
    }

    /// Standard output is empty or one JSON object.
    #[track_caller]
    fn parse(&self) -> Option<Value> {
        if self.stdout.is_empty() {
            return None;
        }
        match serde_json::from_slice(&self.stdout) {
            Ok(answer @ Value::Object(_)) => Some(answer),
            Ok(_) => self.fault("standard output is JSON, but no object"),
            Err(e) => self.fault(&format!("standard output is not one JSON object: {e}")),
        }
    }

    /// The exit status and standard output match, as the specification requires of every plugin.
    #[track_caller]
    fn hold(&self) {
        let Some(status) = self.status.code() else { self.fault("ended by a signal") };
        if status != 0 {
            let Some(error) = &self.answer else { self.fault("failed without an error object") };
            let whole = error["cniVersion"].is_string() && error["code"].is_u64() && error["msg"].is_string();
            self.require(whole && error["code"] != 0, "the error object lacks cniVersion, code or msg");
            return;
        }
        let answer = self.answer.as_ref();
        self.require(answer.is_none_or(|answer| answer.get("code").is_none()), "an error object with exit status 0");
        if self.command == "ADD" {
            let versioned = answer.is_some_and(|answer| answer["cniVersion"].is_string());
            self.require(versioned, "ADD succeeded without a result that has a cniVersion");
        }
    }

    #[track_caller]
    pub(crate) fn succeeds(self) -> Self {
        self.require(self.status.success(), "it was to succeed");
        self
    }

    /// Fails with this error code.
    #[track_caller]
    pub(crate) fn fails(self, code: u64) -> Self {
        self.fails_with_one_of(&[code])
    }

    #[track_caller]
    pub(crate) fn fails_with_one_of(self, codes: &[u64]) -> Self {
        self.require(self.code().is_some_and(|code| codes.contains(&code)), &format!("it was to fail with {codes:?}"));
        self
    }

    #[track_caller]
    pub(crate) fn fails_with_any_code(self) -> Self {
        self.require(!self.status.success(), "it was to fail");
        self
    }

    #[track_caller]
    pub(crate) fn message_contains(self, text: &str) -> Self {
        self.require(self.text("msg").contains(text), &format!("`msg` was to contain {text:?}"));
        self
    }

    #[track_caller]
    pub(crate) fn details_contains(self, text: &str) -> Self {
        self.require(self.text("details").contains(text), &format!("`details` was to contain {text:?}"));
        self
    }

    /// The error contains this text, in its message or its details.
    #[track_caller]
    pub(crate) fn says(self, text: &str) -> Self {
        let said = [self.text("msg"), self.text("details")].iter().any(|part| part.contains(text));
        self.require(said, &format!("the error was to contain {text:?}"));
        self
    }

    #[track_caller]
    pub(crate) fn stderr_contains(self, text: &str) -> Self {
        self.require(self.stderr.contains(text), &format!("standard error was to contain {text:?}"));
        self
    }

    #[track_caller]
    pub(crate) fn stderr_lacks(self, text: &str) -> Self {
        self.require(!self.stderr.contains(text), &format!("standard error was not to contain {text:?}"));
        self
    }

    /// Recording plugins were called in this order, such as `ADD alpha eth0`.
    #[track_caller]
    pub(crate) fn called<S: AsRef<str>>(self, expected: &[S]) -> Self {
        let expected: Vec<_> = expected.iter().map(AsRef::as_ref).collect();
        let order = self.order();
        self.require(order == expected, &format!("the calls were to be {expected:#?}\nand were {order:#?}"));
        self
    }

    #[track_caller]
    pub(crate) fn called_nothing(self) -> Self {
        self.called::<&str>(&[])
    }

    /// The whole host is the same as before the case's first call.
    #[track_caller]
    pub(crate) fn leaves_nothing(self) -> Self {
        let changes = self.case.changes();
        self.require(changes.is_empty(), &format!("it left the host changed:\n{changes}"));
        self
    }

    /// The answer to an ADD that succeeded, or to VERSION.
    #[track_caller]
    pub(crate) fn result(&self) -> &Value {
        self.require(self.status.success(), "it was to succeed");
        self.answer.as_ref().unwrap_or_else(|| self.fault("there is no answer"))
    }

    /// What a call that failed has answered.
    #[track_caller]
    pub(crate) fn error(&self) -> &Value {
        self.require(!self.status.success(), "it was to fail");
        self.answer.as_ref().unwrap_or_else(|| self.fault("there is no answer"))
    }

    /// The calls of recording plugins during this one.
    pub(crate) fn calls(&self) -> Vec<Call> {
        self.case.calls().split_off(self.first_call)
    }

    /// The only call of a plugin with a command during this one.
    #[track_caller]
    pub(crate) fn call_of(&self, command: &str, plugin: &str) -> Call {
        let mut calls = self.calls();
        calls.retain(|call| call.command == command && call.plugin == plugin);
        self.require(calls.len() == 1, &format!("there was to be one {command} of {plugin}"));
        calls.remove(0)
    }

    pub(crate) fn order(&self) -> Vec<String> {
        self.calls().iter().map(ToString::to_string).collect()
    }

    pub(crate) fn took(&self) -> Duration {
        self.took
    }

    /// The whole error as a runtime prints it, to check what must not be in it.
    pub(crate) fn error_text(&self) -> String {
        format!("{}; {}", self.text("msg"), self.text("details"))
    }

    fn code(&self) -> Option<u64> {
        self.answer.as_ref().filter(|_| !self.status.success())?["code"].as_u64()
    }

    fn text(&self, key: &str) -> &str {
        self.answer.as_ref().and_then(|answer| answer[key].as_str()).unwrap_or_default()
    }

    #[track_caller]
    fn require(&self, holds: bool, what: &str) {
        if !holds {
            self.fault(what);
        }
    }

    /// Fails the test, with everything that is known about the call.
    #[track_caller]
    fn fault(&self, what: &str) -> ! {
        let (stdin, stdout) = (String::from_utf8_lossy(&self.stdin), String::from_utf8_lossy(&self.stdout));
        panic!(
            "{}: {what}\n  {}\n  standard input: {stdin}\n  standard output: {stdout}\n  standard error: {}\n  calls: {:#?}",
            self.command,
            self.status,
            self.stderr,
            self.order(),
        );
    }
}
