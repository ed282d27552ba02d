//! Help, versions, and command lines that are wrong.

use rstest::rstest;

use crate::support::Machine;

#[test]
fn every_command_has_help() {
    let machine = Machine::new();
    let help = machine.run("braid --help").succeeds().prints("Examples:\n").stdout;
    let (_, commands) = help.split_once("Commands:\n").expect("a list of commands");
    let (commands, _) = commands.split_once("\n\n").expect("an end of it");
    let names: Vec<_> = commands
        .lines()
        .filter(|line| !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    for name in ["add", "check", "del", "gc", "status", "run", "validate", "plan", "list", "show", "completions", "man"]
    {
        assert!(names.contains(&name), "{name} is not in {names:?}");
    }
    for name in names.iter().filter(|name| **name != "help") {
        let one = machine.run(&format!("braid {name} --help")).succeeds().prints(&format!("Usage: braid {name}"));
        assert_eq!(machine.run(&format!("braid help {name}")).succeeds().stdout, one.stdout);
        one.require(
            one.stdout.lines().all(|line| line.chars().count() <= 130),
            "no line was to be longer than 130 characters",
        );
    }
    machine.run("braid -h").succeeds().prints("Usage: braid <COMMAND>");
}

#[rstest]
#[case::unknown("braid valdiate /etc", "unrecognized subcommand 'valdiate'")]
#[case::similar("braid valdiate /etc", "'validate'")]
#[case::option("braid list --stat-dir /run", "'--state-dir'")]
#[case::missing("braid add pods", "<NETNS>")]
#[case::format("braid list -o yaml", "[possible values: table, json]")]
#[case::no_command("braid run pods", "<COMMAND>")]
fn a_wrong_command_line_exits_with_2(#[case] line: &str, #[case] message: &str) {
    Machine::new().run(line).exits(2).says(message).prints_nothing();
}

#[test]
fn without_a_command_it_prints_its_usage() {
    Machine::new().run("braid").exits(2).says("Usage: braid <COMMAND>").says("validate").prints_nothing();
}

#[test]
fn its_version() {
    let machine = Machine::new();
    let expected = format!("braid {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(machine.run("braid --version").succeeds().stdout, expected);
    assert_eq!(machine.run("braid -V").succeeds().stdout, expected);
}

#[rstest]
#[case("list")]
#[case("list -o json")]
#[case("--help")]
#[case("plan --help")]
#[case("man")]
#[case("completions bash")]
#[case("validate /etc/cni/net.d")]
fn a_reader_that_goes_away_is_no_fault(#[case] arguments: &str) {
    let machine = Machine::new().conf("a.conf", r#"{"cniVersion":"1.0.0","name":"a","type":"bridge"}"#);
    let ran = machine.run(&format!("(sleep 0.2; braid {arguments}) | head -0")).succeeds();
    ran.require(!ran.stderr.contains("panic"), "there was to be no panic");
}

#[rstest]
#[case("bash")]
#[case("zsh")]
#[case("fish")]
#[case("elvish")]
#[case("powershell")]
fn completions_are_scripts_of_their_shells(#[case] shell: &str) {
    let machine = Machine::new();
    machine.run(&format!("braid completions {shell}")).succeeds().prints("validate");
    if shell == "bash" {
        machine.run("braid completions bash | bash -n").succeeds();
    }
}

#[test]
fn the_manual_page_has_every_command() {
    let page = Machine::new().run("braid man").succeeds().prints(".TH");
    let commands =
        ["ADD", "CHECK", "DEL", "GC", "STATUS", "RUN", "VALIDATE", "PLAN", "LIST", "SHOW", "COMPLETIONS", "MAN"];
    for command in commands {
        page.require(page.stdout.contains(&format!(".SH \"BRAID {command}\"")), command);
    }
    for word in ["CNI_CACHE_DIR", "EXIT STATUS", "NETCONFPATH"] {
        page.require(page.stdout.contains(word), word);
    }
}

#[test]
fn a_full_disk_is_reported() {
    Machine::new().run("braid list >/dev/full").exits(1).says("No space left on device");
}
