//! Braid with a Kubernetes API server.
//!
//! Scenarios run twice: with a double of the API server, and with a real one if its programs are installed. Scenarios in which the
//! server misbehaves run only with the double.

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
    /// The case with this server, and with calls for pod `web/shop`. `None` if the machine has no such server.
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

/// The case with a double of the API server, and with calls for pod `web/shop`.
fn in_cluster(case: Case) -> (Case, Cluster<Double>) {
    let server = Double::start(&case);
    Cluster::new(case, Box::new(server))
}
