//! What runs beside what, in words.

use super::parts::{Part, parts};
use crate::config::Concurrency;
use crate::plan::Plan;

/// Says of each attachment with which others it is made at once, and why. Empty where all are made one after another.
pub fn explain(concurrency: Concurrency, plan: &Plan) -> Vec<String> {
    let all: Vec<usize> = (0..plan.attachments.len()).collect();
    let parts = parts(concurrency, plan, &all);
    let after_primary = parts.iter().filter(|part| !part.makes_primary).count();
    if after_primary < 2 || concurrency == Concurrency::AtMost(1) {
        return Vec::new();
    }
    let line =
        |(index, part): (usize, &Part)| format!("{}: {}", name(plan, part), beside(concurrency, plan, &parts, index));
    parts.iter().enumerate().map(line).collect()
}

/// An attachment's interface, and where in its chain the part begins.
fn name(plan: &Plan, part: &Part) -> String {
    let attachment = &plan.attachments[part.attachment];
    match part.steps.start {
        0 => attachment.ifname.clone(),
        first => format!("{}, from {:?} on", attachment.ifname, attachment.network.plugins[first].plugin_type()),
    }
}

fn beside(concurrency: Concurrency, plan: &Plan, parts: &[Part], index: usize) -> String {
    let own = &parts[index];
    if own.makes_primary {
        return "alone, as it is the primary".into();
    }
    if let Concurrency::AtMost(number) = concurrency {
        return format!("up to {number} at once, as configured");
    }
    let reasons = match own.needs.reasons() {
        Ok(reasons) => reasons,
        Err(why) => return format!("alone, as {why}"),
    };
    let before = parts[..index].iter().filter(|part| !part.makes_primary && part.attachment != own.attachment);
    let mut waits = before.filter_map(|part| Some((part, part.needs.conflict(&own.needs)?)));
    match waits.next_back() {
        Some((part, why)) => format!("after {}, as {why}", name(plan, part)),
        None => format!("beside others: {}", reasons.join("; ")),
    }
}
