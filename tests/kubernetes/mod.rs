//! What Braid does where there is a Kubernetes API server.
//!
//! Scenarios run twice: with a double of the API server, and with a real one where there is one. What an API server does
//! only when something is wrong with it is the double's alone.

mod agent;
mod attach;
mod certificates;
mod cluster;
mod connection;
mod devices;
mod double;
mod dra;
mod isolation;
mod kube_apiserver;
mod kubelet;
mod listener;
mod live;
mod plan;
mod rights;
mod selections;
mod status;
mod sync;
mod watching;
mod webhook;

use cluster::Cluster;
use double::{Double, Fault, TOKEN};
use kube_apiserver::KubeApiserver;
use watching::WatchFault;

use crate::support::Case;

/// An API server to run a scenario with.
#[derive(Debug, Clone, Copy)]
enum Server {
    Double,
    KubeApiserver,
}

impl Server {
    /// The case with this server beside it, and calls for pod `web/shop`. None where the machine has no such server.
    fn with(self, case: Case) -> Option<(Case, Cluster)> {
        match self {
            Self::Double => {
                let server = Double::start(&case);
                Some(Cluster::new(case, Box::new(server)))
            }
            Self::KubeApiserver => {
                let server = KubeApiserver::start(&case)?;
                Some(Cluster::new(case, Box::new(server)))
            }
        }
    }
}

/// The case with a double of an API server beside it, and calls for pod `web/shop`.
fn in_cluster(case: Case) -> (Case, Cluster<Double>) {
    let server = Double::start(&case);
    Cluster::new(case, Box::new(server))
}
