//! The parts of a plan, and which of them may be worked on at once.
//!
//! An attachment is one part, but for the primary one with `"auto"`: once its interface is there, with addresses and routes, the
//! others have what they may rely on. What is left of its chain, such as `portmap` and `firewall`, is then a part of its own, which
//! runs beside them if the table allows it.

use std::borrow::Borrow;
use std::ops::Range;

use super::needs::{Needs, adds_to_interface};
use crate::cni::Verb;
use crate::config::Concurrency;
use crate::plan::{Attachment, Plan, Position};
use crate::runtime::Schedule;

/// How many parts are worked on at once with `"auto"`, if their plugins allow it.
const AUTO: usize = 8;

/// Steps of one attachment, which run one after another.
#[derive(Debug, Clone)]
pub struct Part {
    /// The attachment's index in the plan.
    pub attachment: usize,
    /// The steps of its chain.
    pub steps: Range<usize>,
    /// It makes the primary interface. Everything else comes after it, and is undone before it.
    pub(super) makes_primary: bool,
    /// With `"auto"`; otherwise nothing.
    pub(super) needs: Needs,
}

impl Part {
    /// All of an attachment, given by its index in the plan, with nothing known of what it needs.
    pub fn whole(plan: &Plan, attachment: usize) -> Self {
        Self {
            attachment,
            steps: 0..plan.attachments[attachment].network.plugins.len(),
            makes_primary: attachment == 0 && plan.position == Position::Primary,
            needs: Needs::default(),
        }
    }

    /// Whether it makes the primary interface: everything else comes after it, and is undone before it.
    pub fn makes_primary(&self) -> bool {
        self.makes_primary
    }

    /// Whether one has to end before the other begins.
    fn must_not_meet(&self, other: &Self) -> bool {
        self.attachment == other.attachment
            || self.makes_primary
            || other.makes_primary
            || self.needs.conflict(&other.needs).is_some()
    }
}

/// The parts of some attachments of a plan, which are given by their indexes, in their order.
pub fn parts(concurrency: Concurrency, plan: &Plan, attachments: &[usize]) -> Vec<Part> {
    let whole = whole_parts(concurrency, plan, attachments);
    if concurrency != Concurrency::Auto || whole.len() < 2 {
        return whole;
    }
    whole.into_iter().flat_map(|whole| divided(plan, whole)).collect()
}

/// The same without dividing any attachment: each is one part.
pub fn whole_parts(concurrency: Concurrency, plan: &Plan, attachments: &[usize]) -> Vec<Part> {
    let of = |index: &usize| match concurrency {
        Concurrency::Auto if attachments.len() > 1 => {
            Part { needs: Needs::of(&plan.attachments[*index]), ..Part::whole(plan, *index) }
        }
        _ => Part::whole(plan, *index),
    };
    attachments.iter().map(of).collect()
}

/// The parts of an attachment with what they need: two if it makes the primary interface and more comes after that.
fn divided(plan: &Plan, whole: Part) -> Vec<Part> {
    let attachment = &plan.attachments[whole.attachment];
    let (chain, made) = (whole.steps.end, steps_that_make_interface(attachment));
    if !whole.makes_primary || made == chain {
        return vec![whole];
    }
    let needs = Needs::of_steps(&attachment.network, made..chain);
    let rest = Part { attachment: whole.attachment, steps: made..chain, makes_primary: false, needs };
    vec![Part { steps: 0..made, ..whole }, rest]
}

/// How many steps of a chain it takes until the interface is there: all up to the last that does not only add to it.
fn steps_that_make_interface(attachment: &Attachment) -> usize {
    let makes = attachment.network.plugins.iter().rposition(|plugin| !adds_to_interface(plugin.plugin_type()));
    makes.map_or(attachment.network.plugins.len(), |last| last + 1)
}

/// Which of these parts, in this order, may be worked on at once by plugins that are called with `verb`.
pub fn schedule_parts<P: Borrow<Part>>(concurrency: Concurrency, verb: Verb, parts: &[P]) -> Schedule {
    let must_not_meet = |earlier: usize, later: usize| parts[earlier].borrow().must_not_meet(parts[later].borrow());
    match concurrency {
        Concurrency::AtMost(number) => Schedule::new(parts.len(), number, must_not_meet),
        Concurrency::Auto => auto(verb, parts.len(), must_not_meet),
    }
}

/// Which of several that have these needs may be worked on at once by plugins that are called with `verb`. Each waits for those
/// before it that it conflicts with.
pub fn schedule(concurrency: Concurrency, verb: Verb, needs: impl ExactSizeIterator<Item = Needs>) -> Schedule {
    match concurrency {
        Concurrency::AtMost(number) => Schedule::at_most(number, needs.len()),
        Concurrency::Auto => {
            let needs: Vec<_> = needs.collect();
            auto(verb, needs.len(), |earlier, later| needs[earlier].conflict(&needs[later]).is_some())
        }
    }
}

fn auto(verb: Verb, count: usize, must_not_meet: impl Fn(usize, usize) -> bool) -> Schedule {
    let schedule = Schedule::new(count, AUTO, must_not_meet);
    // Most of DEL is waiting for the kernel, which removes interfaces slowly. Other operations compute.
    if verb == Verb::Del { schedule } else { schedule.busy() }
}
