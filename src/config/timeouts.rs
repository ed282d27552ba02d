//! `timeouts` and `debts`: time limits, and how long DEL fails for steps that cannot be undone.

use std::time::Duration;

use super::object::{KeyError, Keys};

/// The keys of `timeouts`.
pub(super) const TIMEOUT_KEYS: [&str; 3] = ["plugin", "total", "rollback"];
/// The keys of `debts`.
pub(super) const DEBT_KEYS: [&str; 1] = ["giveUpAfter"];

/// How long things may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// One plugin.
    pub plugin: Duration,
    /// The whole call, rollback aside.
    pub total: Duration,
    /// The rollback of a failed ADD.
    pub rollback: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { plugin: Duration::from_secs(60), total: Duration::from_secs(110), rollback: Duration::from_secs(30) }
    }
}

impl Timeouts {
    pub(super) fn read(keys: &Keys<'_>) -> Result<Self, KeyError> {
        let mut timeouts = Self::default();
        let Some(object) = keys.object("timeouts")? else { return Ok(timeouts) };
        let keys = Keys::new(&object, "timeouts");
        keys.only(&TIMEOUT_KEYS)?;
        for (key, value) in
            [("plugin", &mut timeouts.plugin), ("total", &mut timeouts.total), ("rollback", &mut timeouts.rollback)]
        {
            *value = seconds(&keys, key, 3600)?.unwrap_or(*value);
        }
        Ok(timeouts)
    }
}

/// A key as a time of more than 0 seconds.
pub(super) fn seconds(keys: &Keys<'_>, key: &str, most: u32) -> Result<Option<Duration>, KeyError> {
    let expected = format!("a number of seconds, more than 0 and at most {most}");
    match keys.get::<f64>(key, &expected)? {
        Some(seconds) if !(seconds > 0.0 && seconds <= f64::from(most)) => Err(keys.wrong(key, expected)),
        seconds => Ok(seconds.map(Duration::from_secs_f64)),
    }
}

/// How long DEL fails for steps that cannot be undone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Debts {
    /// How long after its first failure DEL keeps failing for a step, before the debt is parked. `None` for ever.
    pub give_up_after: Option<Duration>,
}

impl Default for Debts {
    fn default() -> Self {
        Self { give_up_after: Some(Duration::from_secs(600)) }
    }
}

impl Debts {
    pub(super) fn read(keys: &Keys<'_>) -> Result<Self, KeyError> {
        const EXPECTED: &str = "a number of seconds from 0 (for ever) to 31536000";
        let mut debts = Self::default();
        let Some(object) = keys.object("debts")? else { return Ok(debts) };
        let keys = Keys::new(&object, "debts");
        keys.only(&DEBT_KEYS)?;
        match keys.get::<f64>("giveUpAfter", EXPECTED)? {
            Some(0.0) => debts.give_up_after = None,
            Some(seconds) if seconds > 0.0 && seconds <= 31_536_000.0 => {
                debts.give_up_after = Some(Duration::from_secs_f64(seconds));
            }
            Some(_) => return Err(keys.wrong("giveUpAfter", EXPECTED)),
            None => {}
        }
        Ok(debts)
    }
}
