//! `validate --webhook`: the checks of `validate` as a validating admission webhook of a Kubernetes API server.
//!
//! - `options`: the arguments, and the start;
//! - `server`: connections, their limits, and the shutdown;
//! - `certificate`: the server's certificate, read again when its files change;
//! - `route`: one HTTP request;
//! - `review`: the messages of the API server (`admission.k8s.io/v1`);
//! - `validator`: checks one object.
//!
//! The server uses HTTP/1.1: a connection carries one request at a time, so that the number of connections limits the work.

mod certificate;
mod options;
mod review;
mod route;
mod server;
mod validator;

pub(super) use options::{Validate, validate};
