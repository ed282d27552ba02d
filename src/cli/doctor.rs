//! `doctor`: finds what is wrong with this node, and mends it.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::builder::PossibleValuesParser;
use clap::builder::TypedValueParser as _;
use serde::Serialize;

use super::paths::{conf_dir, finder};
use super::table::{cell, table};
use super::{CliError, Format, Outcome, StateDir, print};
use crate::config::DEFAULT_MULTUS_DIR;
use crate::doctor::{self, Examined, Finding, Kind, Mended, Mending, Places};
use crate::request::variable;
use crate::runtime::cache;
use crate::transaction::DebtId;

/// How many times `--fix` looks again: what it mends first can reveal more.
const ROUNDS: usize = 4;

/// The arguments of `doctor`.
#[derive(Debug, clap::Args)]
pub(super) struct Doctor {
    /// Mend what is safe to mend, and print what was done
    #[arg(long)]
    fix: bool,
    /// Forget a debt: Braid will never undo what is owed
    #[arg(long, value_name = "ID")]
    forget: Vec<DebtId>,
    /// Leave out findings of this kind, such as address-leaked
    #[arg(long, value_name = "KIND", value_parser = kinds(), hide_possible_values = true)]
    ignore: Vec<Kind>,
    /// Only findings about this container or debt, by its ID
    #[arg(long, value_name = "ID")]
    only: Vec<String>,
    /// How old a leaked address must be, in seconds, before --fix releases it
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    min_age: u32,
    #[command(flatten)]
    state: StateDir,
    /// How to print the findings
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

fn kinds() -> impl clap::builder::TypedValueParser<Value = Kind> {
    PossibleValuesParser::new(Kind::ALL.map(Kind::name))
        .map(|name| Kind::ALL.into_iter().find(|kind| kind.name() == name).expect("it is one of these"))
}

pub(super) fn doctor(args: &Doctor) -> Outcome {
    let places = places(args)?;
    let min_age = Duration::from_secs(args.min_age.into());
    let mut examined = doctor::examine_twice(&places, min_age)?;
    if !args.forget.is_empty() {
        for id in &args.forget {
            doctor::forget(&examined.node.state_dirs, id)?;
            eprint_line!("braid: forgot debt {id}");
        }
        examined = doctor::examine_twice(&places, min_age)?;
    }
    leave_out(&mut examined, args);
    let mut mended = Vec::new();
    if args.fix {
        for _ in 0..ROUNDS {
            let done = doctor::mend(&places, min_age, &examined, &mended);
            if done.is_empty() {
                break;
            }
            mended.extend(done);
            examined = doctor::examine_twice(&places, min_age)?;
            leave_out(&mut examined, args);
        }
    }
    if !examined.node.running.sees_all {
        eprint_line!(
            "braid: not all processes of this machine are visible here, so some faults are not found; run it in the host's PID namespace, as root"
        );
    }
    let without_process = doctor::without_process(&examined.node);
    if !without_process.is_empty() {
        eprint_line!(
            "braid: no process is in the namespace of {}; if their runtime does not know them any more, remove the namespaces and run this again",
            cell(&without_process.join(", "))
        );
    }
    report(args, &examined.findings, &mended)
}

fn places(args: &Doctor) -> Result<Places, CliError> {
    let default = PathBuf::from(cache::DEFAULT_DIR);
    let own =
        variable("CNI_CACHE_DIR")?.filter(|directory| !directory.is_empty()).map(std::path::absolute).transpose()?;
    let mut cache_dirs: Vec<PathBuf> = own.into_iter().chain([default]).collect();
    cache_dirs.dedup();
    Ok(Places {
        state_dir: std::path::absolute(&args.state.state_dir)?,
        cache_dirs,
        conf_dir: conf_dir()?,
        finder: finder()?,
        multus_dir: Path::new(DEFAULT_MULTUS_DIR).to_owned(),
    })
}

fn leave_out(examined: &mut Examined, args: &Doctor) {
    let is_about = |finding: &Finding, id: &str| {
        finding.subject.strip_prefix(id).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    examined.findings.retain(|finding| {
        let is_wanted = args.only.is_empty() || args.only.iter().any(|id| is_about(finding, id));
        is_wanted && !args.ignore.contains(&finding.kind)
    });
}

/// A finding as it is printed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    kind: Kind,
    subject: &'a str,
    /// `found`; after `--fix`, `mended` or `left`.
    state: &'static str,
    meaning: &'a str,
    remedy: &'a str,
    /// Whether `--fix` mends it.
    fix: bool,
    /// Why it is not mended, or what was done.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
}

impl<'a> Line<'a> {
    fn of_finding(finding: &'a Finding, state: &'static str, detail: Option<&'a str>) -> Self {
        let why_not = match &finding.mending {
            Mending::Not(why) => Some(why.as_str()),
            Mending::Safe | Mending::ByHand => None,
        };
        Self {
            kind: finding.kind,
            subject: &finding.subject,
            state,
            meaning: &finding.meaning,
            remedy: &finding.remedy,
            fix: finding.mending == Mending::Safe,
            detail: detail.or(why_not),
        }
    }

    /// The last column of the table.
    fn mending(&self) -> String {
        match (self.state, self.fix, self.detail) {
            ("mended", ..) => "mended".into(),
            (_, true, None) => "yes".into(),
            (_, true, Some(_)) => "failed".into(),
            (_, false, None) => "by hand".into(),
            (_, false, Some(_)) => "no".into(),
        }
    }
}

fn report(args: &Doctor, findings: &[Finding], mended: &[Mended]) -> Outcome {
    let state = if args.fix { "left" } else { "found" };
    let mut lines = Vec::new();
    for Mended { finding, outcome } in mended {
        if let doctor::Outcome::Mended(done) = outcome
            && !findings.iter().any(|left| left.is_same(finding))
        {
            lines.push(Line::of_finding(finding, "mended", Some(done)));
        }
    }
    for finding in findings {
        let attempt =
            mended.iter().find(|mended| mended.finding.is_same(finding)).map(|mended| match &mended.outcome {
                doctor::Outcome::Left(why) => why.as_str(),
                doctor::Outcome::Mended(_) => "it is there again",
            });
        lines.push(Line::of_finding(finding, state, attempt));
    }
    if args.output == Format::Json {
        print(&(serde_json::to_string_pretty(&lines)? + "\n"))?;
    } else if lines.is_empty() {
        let whole = if args.only.is_empty() { "this node".to_owned() } else { args.only.join(", ") };
        eprint_line!("braid: nothing is wrong with {}, as far as can be seen", cell(&whole));
    } else {
        print(&screen(&lines))?;
    }
    if findings.is_empty() { Ok(ExitCode::SUCCESS) } else { Err(CliError::Printed) }
}

/// A table in which each row is followed by its explanation and advice.
fn screen(lines: &[Line<'_>]) -> String {
    let rows: Vec<Vec<String>> =
        lines.iter().map(|line| vec![line.kind.name().to_owned(), cell(line.subject), line.mending()]).collect();
    let text = table(&["FINDING", "SUBJECT", "FIX"], &rows);
    let mut rows = text.lines();
    let mut screen = rows.next().unwrap_or_default().to_owned() + "\n";
    for (row, line) in rows.zip(lines) {
        screen += row;
        screen.push('\n');
        let detail = match (line.state, line.fix, line.detail) {
            ("mended", _, Some(done)) => Some(("done", done)),
            (_, _, Some(why)) => Some(("left", why)),
            _ => None,
        };
        let remedy = (line.state != "mended").then_some(("mend", line.remedy));
        for (word, text) in [Some(("why ", line.meaning)), remedy, detail].into_iter().flatten() {
            let _ = writeln!(screen, "    {word}  {}", cell(text));
        }
    }
    screen
}
