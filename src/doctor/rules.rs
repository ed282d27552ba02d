//! Rules of iptables that CNI plugins mark with a network and a container: those of `bridge` and `ptp` with `ipMasq`, and of
//! `portmap`.
//!
//! `bridge` finds its rules by the addresses in the container's namespace. If DEL is called after the namespace is gone, the rules
//! are left.

use std::collections::HashSet;
use std::net::IpAddr;
use std::process::{Command, Stdio};

use super::addresses::InUse;
use super::setup::program;
use super::{Finding, Kind, Node};

/// The programs that list and change rules, one pair for each family.
const PROGRAMS: [(&str, &str); 2] = [("iptables-save", "iptables"), ("ip6tables-save", "ip6tables")];

/// A rule that leads to a chain which a plugin has made for one container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerRule {
    /// The program that changes it.
    pub program: &'static str,
    /// The table.
    pub table: String,
    /// The chain that contains the rule, and the rule in the program's format.
    pub rule: Vec<String>,
    /// The chain that it leads to.
    pub target: String,
    /// The network.
    pub network: String,
    /// The container.
    pub container_id: String,
    /// The container's addresses in the rule or its chain.
    pub addresses: Vec<IpAddr>,
}

impl ContainerRule {
    /// Its name in a finding.
    fn subject(&self) -> String {
        format!("{} {} {}", self.program, self.table, self.target)
    }
}

/// Lists the rules of all families whose program exists.
pub(super) fn rules() -> Vec<ContainerRule> {
    let listed = PROGRAMS.iter().flat_map(|(save, change)| {
        let output = program(save).and_then(|path| Command::new(path).stdin(Stdio::null()).output().ok());
        output.map(|output| parse(change, &String::from_utf8_lossy(&output.stdout))).unwrap_or_default()
    });
    listed.collect()
}

/// All findings of this family.
pub(super) fn check(node: &Node) -> Vec<Finding> {
    let in_use = InUse::of(node);
    let is_unused = |rule: &&ContainerRule| {
        !rule.addresses.is_empty()
            && !in_use.has_container(&rule.container_id)
            && !rule.addresses.iter().any(|address| in_use.has_address(*address))
    };
    let mut seen = HashSet::new();
    let leaked = node.rules.iter().filter(is_unused).filter(|rule| seen.insert(rule.subject()));
    let findings = leaked.map(|rule| {
        let meaning = format!(
            "a plugin has made these rules for network {:?} of container {}, and no record of that container is left",
            rule.network, rule.container_id
        );
        Finding::safe(Kind::RuleLeaked, rule.subject(), meaning, "remove the rule and its chain")
    });
    findings.collect()
}

/// Removes the rules of a finding, and the chain that they lead to.
pub(super) fn remove(subject: &str, node: &Node) -> Result<String, String> {
    let rules: Vec<&ContainerRule> = node.rules.iter().filter(|rule| rule.subject() == subject).collect();
    let Some(first) = rules.first() else { return Err("it is not there any more".into()) };
    for rule in &rules {
        change(rule, "-D", &rule.rule)?;
    }
    for action in ["-F", "-X"] {
        change(first, action, std::slice::from_ref(&first.target))?;
    }
    Ok("removed the rule and its chain".into())
}

fn change(rule: &ContainerRule, action: &str, words: &[String]) -> Result<(), String> {
    let path = program(rule.program).ok_or_else(|| format!("{} is not on this node", rule.program))?;
    let mut command = Command::new(path);
    command.args(["-w", "5", "-t", &rule.table, action]).args(words).stdin(Stdio::null());
    let output = command.output().map_err(|error| format!("{}: {error}", rule.program))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{} {action}: {}", rule.program, String::from_utf8_lossy(&output.stderr).trim()))
}

/// Reads what `iptables-save` prints.
fn parse(program: &'static str, text: &str) -> Vec<ContainerRule> {
    let mut table = "";
    let mut rules = Vec::new();
    let mut chains: Vec<(String, String, Vec<IpAddr>)> = Vec::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('*') {
            table = name.trim();
        } else if let Some(rule) = line.strip_prefix("-A ") {
            let words = words(rule);
            let addresses = addresses(&words);
            rules.extend(marked(program, table, &words, &addresses));
            chains.extend(words.into_iter().next().map(|chain| (table.to_owned(), chain, addresses)));
        }
    }
    for rule in &mut rules {
        let of_target = chains.iter().filter(|(table, chain, _)| *table == rule.table && *chain == rule.target);
        rule.addresses.extend(of_target.flat_map(|(_, _, addresses)| addresses));
    }
    rules
}

/// A rule that is marked as a container's, and leads to a chain of its own.
fn marked(program: &'static str, table: &str, words: &[String], addresses: &[IpAddr]) -> Option<ContainerRule> {
    let after = |word: &str| words.iter().position(|other| other == word).and_then(|at| words.get(at + 1));
    let target = after("-j").filter(|target| is_own_chain(target))?;
    let comment = after("--comment")?;
    let (network, rest) = comment.split_once("name: \"")?.1.split_once('"')?;
    let (container_id, _) = rest.split_once("id: \"")?.1.split_once('"')?;
    Some(ContainerRule {
        program,
        table: table.to_owned(),
        rule: words.to_vec(),
        target: target.clone(),
        network: network.to_owned(),
        container_id: container_id.to_owned(),
        addresses: addresses.to_vec(),
    })
}

/// Whether a chain belongs to one container: plugins name such chains after a hash of network and container.
fn is_own_chain(name: &str) -> bool {
    let hash = name.strip_prefix("CNI-DN-").or_else(|| name.strip_prefix("CNI-"));
    hash.is_some_and(|hash| hash.len() >= 20 && hash.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')))
}

/// The container's addresses in a rule: a source with one address, or a destination.
fn addresses(words: &[String]) -> Vec<IpAddr> {
    let pairs = words.windows(2);
    let found = pairs.filter_map(|pair| match pair[0].as_str() {
        "-s" => pair[1].strip_suffix("/32").or_else(|| pair[1].strip_suffix("/128"))?.parse().ok(),
        "--to-destination" => {
            let (host, _port) = pair[1].rsplit_once(':')?;
            host.trim_matches(['[', ']']).parse().ok()
        }
        _ => None,
    });
    found.collect()
}

/// The words of a rule, without the quotes and backslashes around them.
fn words(rule: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut is_quoted = false;
    let mut characters = rule.chars();
    while let Some(character) = characters.next() {
        match character {
            '"' => {
                is_quoted = !is_quoted;
                word.get_or_insert_default();
            }
            '\\' => word.get_or_insert_default().extend(characters.next()),
            ' ' if !is_quoted => words.extend(word.take()),
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAVED: &str = r#"*nat
:PREROUTING ACCEPT [0:0]
:CNI-4dd579b5a6a0e3f0a2a1c8b2 - [0:0]
:CNI-DN-0f0e0d0c0b0a09080706a - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
-A POSTROUTING -s 10.1.0.2/32 -m comment --comment "name: \"front\" id: \"web-1\"" -j CNI-4dd579b5a6a0e3f0a2a1c8b2
-A CNI-4dd579b5a6a0e3f0a2a1c8b2 -d 10.1.0.0/24 -m comment --comment "name: \"front\" id: \"web-1\"" -j ACCEPT
-A CNI-HOSTPORT-DNAT -p tcp -m comment --comment "dnat name: \"ports\" id: \"db-1\"" -m multiport --dports 8080 -j CNI-DN-0f0e0d0c0b0a09080706a
-A CNI-DN-0f0e0d0c0b0a09080706a -s 10.1.0.0/24 -p tcp -m tcp --dport 8080 -j CNI-HOSTPORT-SETMARK
-A CNI-DN-0f0e0d0c0b0a09080706a -p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.1.0.3:80
COMMIT
"#;

    #[test]
    fn rules_are_known_by_their_comments_and_chains() {
        let rules = parse("iptables", SAVED);
        let marked: Vec<_> = rules
            .iter()
            .map(|rule| (rule.network.as_str(), rule.container_id.as_str(), rule.addresses.clone()))
            .collect();
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(marked, [("front", "web-1", vec![ip("10.1.0.2")]), ("ports", "db-1", vec![ip("10.1.0.3")])]);
        assert_eq!(rules[0].rule[..3], ["POSTROUTING", "-s", "10.1.0.2/32"]);
        assert!(rules[0].rule.contains(&"name: \"front\" id: \"web-1\"".to_owned()));
    }

    #[test]
    fn an_address_of_ipv6_is_read_where_a_rule_leads_to_it() {
        let words = words("CNI-DN-x -p tcp -j DNAT --to-destination [fd00::3]:80");
        assert_eq!(addresses(&words), ["fd00::3".parse::<IpAddr>().unwrap()]);
    }
}
