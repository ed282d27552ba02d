//! The asynchronous runtime of one call.

use crate::source::ClusterError;

/// An async runtime on this thread. Dropping it does not wait: the C library may look up a host name for a long time, in another
/// thread.
#[derive(Debug)]
pub(super) struct Executor(Option<tokio::runtime::Runtime>);

impl Executor {
    /// Starts one.
    pub(super) fn start() -> Result<Self, ClusterError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.map(|runtime| Self(Some(runtime))).map_err(ClusterError::Start)
    }

    /// Runs a future to its end.
    pub(super) fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.0.as_ref().expect("the runtime is there until this is dropped").block_on(future)
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
