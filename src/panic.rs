//! Panics: a bug becomes an error like any other, with an answer and a rollback.

use std::any::Any;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind, set_hook};

use crate::cni::CniError;
use crate::cni::error::code;
use crate::cni::text::shortened;
use crate::output;

/// How much of a panic's message is kept, in bytes.
const MAX_MESSAGE: usize = 1024;

/// Something panicked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a defect of this plugin, which panicked: {message}")]
pub struct Panicked {
    /// What it panicked with.
    pub message: String,
}

impl From<&Panicked> for CniError {
    fn from(error: &Panicked) -> Self {
        Self::new(code::PANICKED, error.to_string())
    }
}

/// Runs `work`, and returns a panic in it as an error.
///
/// State that `work` has changed may be inconsistent. The caller must undo it, or not use it.
///
/// # Errors
/// When it panics.
pub fn caught<T>(work: impl FnOnce() -> T) -> Result<T, Panicked> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|payload| Panicked { message: message_of(&*payload).to_owned() })
}

/// Makes panics write one line to standard error, without waiting for its reader, and to the log if there is one.
pub(crate) fn log_panics() {
    set_hook(Box::new(|info: &PanicHookInfo<'_>| {
        let message = shortened(message_of(info.payload()).to_owned(), MAX_MESSAGE);
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        if tracing::enabled!(tracing::Level::ERROR) {
            tracing::error!(place, "panicked: {message}");
        } else {
            output::write_stderr(format!("panicked at {place}: {message}\n").as_bytes());
        }
    }));
}

fn message_of(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("it gave no message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_with_a_code() {
        let panicked = caught(|| panic!("number {}", 7)).unwrap_err();
        let error = CniError::from(&panicked);
        assert_eq!((error.code, error.msg.contains("number 7")), (code::PANICKED, true));
        assert_eq!(caught(|| 7), Ok(7));
    }
}
