//! The scenarios of the benchmark.

use std::fmt::Write as _;

use crate::measure::Contender;

/// A configuration to be measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scenario {
    /// How many delegates.
    pub(crate) delegates: usize,
    /// How many plugins each has.
    pub(crate) chain: usize,
    /// Bytes that no one needs in the configuration of each plugin, and in its answer.
    pub(crate) bytes: usize,
    /// How long each plugin sleeps, in milliseconds.
    pub(crate) sleep: u32,
    /// How many attachments may run at once.
    pub(crate) concurrency: usize,
    /// Whether the pod is asked for at an API server.
    pub(crate) in_cluster: bool,
}

impl Scenario {
    /// A number of delegates of one plugin each that does nothing.
    pub(crate) const fn delegates(delegates: usize) -> Self {
        Self { delegates, chain: 1, bytes: 0, sleep: 0, concurrency: 1, in_cluster: false }
    }

    /// The configuration for a contender. They differ in the name of the plugin and in where it keeps its state.
    pub(crate) fn configuration(&self, contender: &Contender) -> Vec<u8> {
        let mut text = format!(
            r#"{{"cniVersion":"1.0.0","name":"bench","type":"{}","stateDir":"{}","#,
            contender.program.file_name().expect("a file").to_string_lossy(),
            contender.state.display(),
        );
        // Left out for contenders that do not know this key, or give it another meaning.
        if self.concurrency > 1 {
            let _ = write!(text, r#""concurrency":{},"#, self.concurrency);
        }
        if self.in_cluster {
            let _ = write!(text, r#""kubeconfig":"{}/kubeconfig","#, contender.state.display());
        }
        // Multus's name for the state directory.
        let _ = write!(text, r#""cniDir":"{}","delegates":["#, contender.state.display());
        for delegate in 0..self.delegates {
            let comma = if delegate == 0 { "" } else { "," };
            let _ = write!(text, r#"{comma}{{"cniVersion":"1.0.0","name":"net-{delegate}","plugins":["#);
            for plugin in 0..self.chain {
                let comma = if plugin == 0 { "" } else { "," };
                let _ =
                    write!(text, r#"{comma}{{"type":"bench-noop-plugin","bridge":"br{delegate}","isGateway":true,"#);
                let _ =
                    write!(text, r#""ipam":{{"type":"host-local","ranges":[[{{"subnet":"10.1.{delegate}.0/24"}}]]}}"#);
                if self.bytes > 0 {
                    let _ = write!(text, r#","benchAnswer":{},"padding":"{}""#, self.bytes, "x".repeat(self.bytes));
                }
                if self.sleep > 0 {
                    let _ = write!(text, r#","benchSleep":{}"#, self.sleep);
                }
                text.push('}');
            }
            text.push_str("]}");
        }
        text.push_str("]}");
        text.into_bytes()
    }
}
