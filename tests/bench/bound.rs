//! The bound: the most that starting plugins ahead, and running attachments at once, can gain.
//!
//! All plugins are started before the time is taken, and wait for their input. So what is measured is only what they do with it:
//! one attachment after another, or several at once, with the plugin that makes the primary interface alone. Nothing is planned,
//! recorded or merged. A program that runs the same plugins in such an order takes longer than that.

use std::collections::VecDeque;
use std::process::Child;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::value::RawValue;

use super::{Launcher, Outcome, Plugin};

/// After this time, every plugin that was started waits for its input.
const UNTIL_ALL_WAIT: Duration = Duration::from_millis(60);

/// Plugins of an attachment that run one after another.
struct Part<'a> {
    attachment: usize,
    plugins: Vec<(&'a RawValue, Plugin<'a>, Child)>,
}

impl<'a> Launcher<'a> {
    /// Prints how many microseconds it took, and in a second line what the floor prints.
    pub(crate) fn bound(&self) -> Outcome<()> {
        let at_once = self.configuration.started.unwrap_or(1);
        let mut parts = self.parts()?;
        let primary = if self.verb == "DEL" { parts.pop_back() } else { parts.pop_front() };
        let primary = VecDeque::from_iter(primary);
        let phases = if self.verb == "DEL" { [parts, primary] } else { [primary, parts] };
        let results: Vec<Mutex<String>> = if self.verb == "ADD" {
            self.configuration.delegates.iter().map(|_| Mutex::default()).collect()
        } else {
            self.results().into_iter().map(Mutex::new).collect()
        };
        thread::sleep(UNTIL_ALL_WAIT);
        let began = Instant::now();
        for parts in phases {
            self.run_parts(parts, at_once, &results);
        }
        let took = began.elapsed().as_micros();
        let results: Vec<String> = results.into_iter().map(|result| result.into_inner().expect("unlocked")).collect();
        super::print(&format!("{took}\n[{}]", results.join(",")))
    }

    /// Everything that runs one after another, with its plugins started: the plugin that makes the primary interface, what is
    /// left of its chain, and each other attachment. For DEL in reverse.
    fn parts(&self) -> Outcome<VecDeque<Part<'_>>> {
        let mut parts = VecDeque::new();
        for (attachment, delegate) in self.configuration.delegates.iter().enumerate() {
            let (first, rest) = delegate.plugins.split_at(usize::from(attachment == 0));
            for plugins in [first, rest].into_iter().filter(|plugins| !plugins.is_empty()) {
                parts.push_back(self.part(attachment, plugins)?);
            }
        }
        if self.verb == "DEL" {
            parts.make_contiguous().reverse();
            for part in &mut parts {
                part.plugins.reverse();
            }
        }
        Ok(parts)
    }

    fn part(&self, attachment: usize, plugins: &[&'a RawValue]) -> Outcome<Part<'a>> {
        let start = |raw: &&'a RawValue| -> Outcome<_> {
            let plugin: Plugin<'a> = serde_json::from_str(raw.get())?;
            let child = self.start(&self.verb, attachment, &plugin)?;
            Ok((*raw, plugin, child))
        };
        Ok(Part { attachment, plugins: plugins.iter().map(start).collect::<Outcome<_>>()? })
    }

    fn run_parts(&self, parts: VecDeque<Part<'_>>, at_once: usize, results: &[Mutex<String>]) {
        let at_once = at_once.min(parts.len());
        let parts = Mutex::new(parts);
        let work = || {
            loop {
                let next = parts.lock().expect("unlocked").pop_front();
                let Some(part) = next else { break };
                self.run_part(part, results).expect("the plugins work");
            }
        };
        if at_once <= 1 {
            return work();
        }
        thread::scope(|scope| (0..at_once).for_each(|_| drop(scope.spawn(work))));
    }

    fn run_part(&self, part: Part<'_>, results: &[Mutex<String>]) -> Outcome<()> {
        for (raw, plugin, child) in part.plugins {
            let mut result = results[part.attachment].lock().expect("unlocked");
            let prev_result = Some(result.as_str()).filter(|result| !result.is_empty());
            let printed = self.finish(child, part.attachment, raw, &plugin, prev_result)?;
            if self.verb == "ADD" {
                *result = String::from_utf8(printed)?;
            }
        }
        Ok(())
    }
}
