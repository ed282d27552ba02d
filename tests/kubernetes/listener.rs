//! A TCP port on the host of a case.

use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::support::Case;

/// A listening port. It is closed when this is dropped.
pub(super) struct Listener {
    stop: Arc<AtomicBool>,
    address: String,
    thread: Option<thread::JoinHandle<()>>,
}

impl Listener {
    /// Handles each connection in a thread of its own.
    pub(super) fn start(case: &Case, serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        let listener = case.host().inside(|| TcpListener::bind("127.0.0.1:0").expect("listen"));
        listener.set_nonblocking(true).expect("do not block");
        let address = listener.local_addr().expect("an address").to_string();
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, serve) = (Arc::clone(&stop), Arc::new(serve));
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => {
                        let serve = Arc::clone(&serve);
                        thread::spawn(move || {
                            stream.set_nonblocking(false).expect("block");
                            serve(stream);
                        });
                    }
                    Err(_) => thread::sleep(Duration::from_millis(2)),
                }
            }
        });
        Self { stop, address, thread: Some(thread) }
    }

    /// Its address and port.
    pub(super) fn address(&self) -> String {
        self.address.clone()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().map(thread::JoinHandle::join);
    }
}
