//! The operations of the protocol (SPEC §2, "CNI operations"): one short function for each, which shows its steps in order.

mod add;
mod check;
mod context;
mod del;
mod error;
mod gc;
mod later;
pub mod live;
mod preflight;
mod status;
mod takeover;
mod version;

use context::Context;
pub use error::{Error, Finding, NotReady, What};
pub(crate) use preflight::is_own_executable;

use crate::cni::{CniError, Verb};
use crate::config::{Config, InvalidConfig};
use crate::request::Request;
use crate::runtime::{Run, Runs, Trace};
use crate::{panic, telemetry};

/// Carries out a call.
///
/// # Errors
/// Whatever keeps it from being carried out.
pub fn run(request: &Request) -> Result<(), Error> {
    if request.verb == Verb::Version {
        return version::version(request);
    }
    match request.refuse_recursion() {
        // Such a call cannot attach anything, so there is nothing to delete either. An error would prevent the outer call from
        // being undone.
        Err(error) if request.verb == Verb::Del => {
            tracing::warn!(container = request.container_id, "nothing to delete: {error}");
            return Ok(());
        }
        outcome => outcome?,
    }
    let (config, unusable) = configuration(request)?;
    let context = Context::new(request, &config);
    start_log(&context, request, &config);
    let carry_out = || match request.verb {
        Verb::Add => add::add(&context, request, &config),
        Verb::Del => del::del(&context, request, &config, unusable),
        Verb::Check => check::check(&context, request, &config),
        Verb::Status => status::status(&context, request, &config),
        Verb::Gc => gc::gc(&context, &config, unusable),
        Verb::Version => version::version(request),
    };
    let outcome = panic::caught(carry_out).map_err(Error::from).flatten();
    report(&context, request, &config, outcome.as_ref().err().map(CniError::from));
    outcome
}

/// Braid's configuration. For DEL and GC, an invalid one is accepted: it then has only what they need, and the reason is returned
/// with it.
fn configuration(request: &Request) -> Result<(Config, Option<InvalidConfig>), Error> {
    match (Config::parse(&request.stdin), request.verb) {
        (Ok(config), _) => Ok((config, None)),
        // The journals contain what has to be undone.
        (Err(error), verb @ (Verb::Del | Verb::Gc)) => Ok((Config::essentials(&request.stdin, verb)?, Some(error))),
        (Err(error), _) => Err(error.into()),
    }
}

fn start_log(context: &Context, request: &Request, config: &Config) {
    let span = context.runs().trace().map(|trace| (trace, trace.span().to_string()));
    let span = span.as_ref().map(|(trace, span)| (*trace, span.as_str()));
    crate::log::start(&config.log, &about(request, config, span));
    for warning in &config.call_warnings {
        tracing::warn!("{warning}");
    }
    // The warnings are the same in every call, so `validate` and `plan` show them instead.
    for warning in &config.operator_warnings {
        tracing::debug!("{warning}");
    }
}

/// Logs the outcome of a call, and reports it to the node's agent. If there is no agent, the call's spans go to the log.
fn report(context: &Context, request: &Request, config: &Config, error: Option<CniError>) {
    let took = context.began.elapsed();
    crate::log::call_finished(error.as_ref(), took);
    let is_sent = context.runs().is_wanted()
        && telemetry::send(&config.state_dir, || {
            let subject = telemetry::Subject {
                verb: request.verb.as_str(),
                network: &config.name,
                container: &request.container_id,
                interface: &request.ifname,
                pod_uid: request.arg("K8S_POD_UID").unwrap_or_default(),
            };
            telemetry::Report::of(subject, took, error.map_or(0, |error| error.code), (context.runs(), 0))
        });
    if !is_sent {
        log_spans(context.runs());
    }
}

/// Logs the spans of a traced call's plugins, because no agent exports them.
fn log_spans(runs: &Runs) {
    let Some(trace) = runs.trace() else { return };
    for Run { plugin_type, verb, ifname, took, error, span, .. } in runs.take() {
        let (span, parent) = (span.map(|span| span.to_string()), trace.span().to_string());
        let ms = took.as_secs_f64() * 1e3;
        tracing::info!(
            spanId = span,
            parentSpanId = parent,
            interface = ifname,
            code = error.map_or(0, |error| error.code),
            durationMs = ms,
            "{plugin_type} {verb}"
        );
    }
}

/// What every line of the log is about.
fn about<'a>(
    request: &'a Request,
    config: &'a Config,
    span: Option<(&'a Trace, &'a str)>,
) -> [(&'static str, &'a str); 10] {
    let arg = |key| request.arg(key).unwrap_or_default();
    [
        ("verb", request.verb.as_str()),
        ("podNamespace", arg("K8S_POD_NAMESPACE")),
        ("podName", arg("K8S_POD_NAME")),
        ("podUID", arg("K8S_POD_UID")),
        ("container", &request.container_id),
        ("network", &config.name),
        ("interface", &request.ifname),
        ("traceId", span.map_or("", |(trace, _)| trace.id())),
        ("spanId", span.map_or("", |(_, span)| span)),
        ("parentSpanId", span.map_or("", |(trace, _)| trace.parent())),
    ]
}
