//! Which steps are redone, and how.

use super::limits::Limits;
use crate::cni::config::PluginConfig;
use crate::plan::Attachment;

/// The plugins whose steps can be redone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `bandwidth`.
    Bandwidth,
    /// `portmap`.
    Portmap,
    /// `firewall`.
    Firewall,
    /// `tuning`.
    Tuning,
}

impl Kind {
    /// The kind of a plugin, if its steps can be redone.
    pub fn of(plugin: &PluginConfig) -> Option<Self> {
        Self::of_type(plugin.plugin_type())
    }

    /// The kind of the plugins of a type.
    pub fn of_type(plugin_type: &str) -> Option<Self> {
        match plugin_type {
            "bandwidth" => Some(Self::Bandwidth),
            "portmap" => Some(Self::Portmap),
            "firewall" => Some(Self::Firewall),
            "tuning" => Some(Self::Tuning),
            _ => None,
        }
    }
}

/// An attachment with its new values, and the steps that must be redone.
#[derive(Debug, Clone)]
pub struct PlannedUpdate {
    /// The attachment as it will be.
    pub attachment: Attachment,
    /// The steps to be redone, in the order of the chain.
    pub steps: Vec<Redo>,
}

/// A step to be redone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Redo {
    /// Its place in the chain.
    pub step: usize,
    /// How.
    pub how: How,
}

/// How a step is redone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// It is not there yet: ADD.
    Add,
    /// DEL with the current values, then ADD with the new ones.
    Again(Kind),
    /// By changing its token buckets.
    InPlace {
        /// The limits that it has.
        from: Limits,
        /// The limits that it is to have.
        to: Limits,
    },
}
