//! The resident process of a node: it changes running pods to match what they ask for.
//!
//! It watches the pods of its node. Every change is made by a short-lived `braid sync`, a child process, in the node's own
//! namespaces and with the node's own executable. So the agent changes nothing on the node itself, stays small, and loses nothing
//! when it is killed: a change is a transaction, and the next `braid sync` or DEL settles one that did not finish.
//!
//! | module | what it does |
//! |---|---|
//! | `run` | the loop: handles events and starts work |
//! | `shared` | the state that the others share |
//! | `queue` | which pod needs work, and when; pure |
//! | `index` | maps pods to their containers, using the journals |
//! | `foreign` | the same for containers that another plugin has attached, using libcni's cache |
//! | `definitions` | whether a NetworkAttachmentDefinition has changed |
//! | `devices` | whether a device has appeared |
//! | `gone` | when to undo the attachments of containers that are gone, debts, and claim statuses; pure |
//! | `cleanup` | does that |
//! | `child` | one run of the node's own Braid, with its limits |
//! | `report` | the output of that run |
//! | `enter` | the namespaces of the node, in which it runs |
//! | `serve` | the HTTP server: `/healthz`, `/metrics` |
//! | `calls` | counts the reports of calls |
//! | `otlp`, `export` | sends spans of traced calls to a collector |
//! | `lock` | ensures that only one agent runs on a node |
//!
//! Nothing else needs the agent: ADD, DEL, CHECK, GC and STATUS do not depend on it.

mod calls;
mod child;
mod cleanup;
mod definitions;
mod devices;
mod enter;
mod error;
mod export;
mod foreign;
mod gone;
mod index;
mod lock;
mod otlp;
mod queue;
mod report;
mod run;
mod serve;
mod settings;
mod shared;

pub(crate) use enter::enter;
pub(crate) use export::Endpoint;
pub(crate) use run::run;
pub(crate) use settings::{HostProcess, Listen, Settings};
