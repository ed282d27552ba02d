//! The names of interfaces.

use std::collections::BTreeSet;

use crate::config::Selection;
use crate::source::Candidate;

/// Assigns the names of interfaces after the primary.
pub(super) struct Names<'a> {
    /// The names that other networks have given to the container.
    taken: &'a [String],
    /// The names that are requested, or assigned already.
    used: BTreeSet<String>,
}

impl<'a> Names<'a> {
    pub(super) fn new(taken: &'a [String], candidates: &[Option<Candidate>]) -> Self {
        let asked = candidates.iter().flatten().filter_map(|candidate| candidate.selection.interface.clone());
        Self { taken, used: asked.collect() }
    }

    /// The requested name. Without one, the name of its position, or the next free name if another network has that.
    pub(super) fn extra(&mut self, selection: &Selection, index: usize) -> String {
        if let Some(name) = &selection.interface {
            return name.clone();
        }
        let name = |number: usize| format!("net{number}");
        let own = name(index);
        let is_moved = self.taken.contains(&own) || (!self.taken.is_empty() && self.used.contains(&own));
        let is_free = |name: &String| !self.taken.contains(name) && !self.used.contains(name);
        // There are more numbers than names in use, so one is free.
        let last = index + 1 + self.taken.len() + self.used.len();
        let name = if is_moved { (index + 1..=last).map(name).find(is_free).unwrap_or(own) } else { own };
        self.used.insert(name.clone());
        name
    }
}
