//! More attachments.

use std::time::Instant;

use super::changed::{Begun, ChangeError, Changed, Means, names};
use crate::cni::Verb;
use crate::plan::Attachment;
use crate::transaction::Transaction;
use crate::transaction::forward::attach_in_turn;
use crate::transaction::journal::{Event, Journal};
use crate::transaction::run::Beginning;

/// Makes more attachments.
///
/// # Errors
/// When one of them fails, and then none is made.
pub fn attach_more(
    means: Means<'_>,
    mut journal: Journal,
    attachments: Vec<Attachment>,
) -> Result<Changed, ChangeError> {
    journal.condense(&[]);
    let first = journal.state.header.plan.attachments.len();
    let mut plan = journal.state.header.plan.clone();
    plan.attachments.extend(attachments.iter().cloned());
    let what = format!("attach {}", names(&attachments));
    let events = attachments.into_iter().zip(first..);
    let events = events.map(|(attachment, index)| Event::Attach { index, attachment: Box::new(attachment) });
    let beginning = Beginning { events: events.collect(), verb: Verb::Add };
    let change = Begun { means, began: Instant::now(), what };
    let transaction = Transaction::begin_change(means.container, journal, &plan, means.tools, beginning)?;
    let changed = transaction.run(|tx| {
        attach_in_turn(tx, first..plan.attachments.len())?;
        change.end(tx, Vec::new())
    })?;
    Ok(changed)
}
