//! The resident process of a node: pods get what they ask for while they live.
//!
//! It watches the pods of its node, and what it finds to do is done by a short-lived `braid sync`, a child process, in the node's
//! own namespaces and with the node's own executable. So the agent changes nothing on the node itself, stays small, and when it is
//! killed nothing is lost: a change is a transaction, and the next `braid sync` or DEL settles one that was cut short.
//!
//! | module | what it does |
//! |---|---|
//! | `run` | the loop: what happens, and what is done about it |
//! | `queue` | what is to be done for which pod, and when; pure |
//! | `index` | which container belongs to which pod, by the journals |
//! | `unknown` | the same of containers that another plugin has attached, by what libcni keeps |
//! | `definitions` | whether a network-attachment-definition has changed |
//! | `gone` | containers that are gone, debts, and claims that name them; pure |
//! | `tidy` | these undone |
//! | `child` | one run of the node's own Braid, with its limits |
//! | `report` | what it answers |
//! | `enter` | the namespaces of the node, in which it runs |
//! | `serve` | the HTTP server: `/healthz`, `/metrics` |
//! | `calls` | what calls report, counted |
//! | `otlp`, `export` | spans of traced calls, sent to a collector |
//! | `lock` | one agent a node |
//!
//! Nothing else needs the agent: ADD, DEL, CHECK, GC and STATUS do not know whether there is one.

mod calls;
mod child;
mod definitions;
mod enter;
mod error;
mod export;
mod gone;
mod index;
mod lock;
mod otlp;
mod queue;
mod report;
mod run;
mod serve;
mod settings;
mod tidy;
mod unknown;

pub(crate) use enter::enter;
pub(crate) use export::Endpoint;
pub(crate) use run::run;
pub(crate) use settings::{HostProcess, Listen, Settings};
