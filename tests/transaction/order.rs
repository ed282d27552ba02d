//! The order of calls in ADD and rollback, and what remains to be done after a failed clean-up.

use rstest::rstest;
use serde_json::json;

use crate::support::{Case, Network, Plugin, recorder};

/// The chains of the networks `net-0` to `net-4`.
const CHAINS: [&[&str]; 5] = [&["alpha"], &["beta", "gamma"], &["delta"], &["epsilon", "zeta"], &["eta"]];

/// One plugin of one attachment, in the order of ADD.
struct Step {
    plugin: &'static str,
    ifname: String,
    network: String,
}

impl Step {
    fn call(&self, command: &str) -> String {
        format!("{command} {} {}", self.plugin, self.ifname)
    }
}

fn steps(networks: usize) -> Vec<Step> {
    let ifname = |index| if index == 0 { "eth0".to_owned() } else { format!("net{index}") };
    let step = |index, plugin| Step { plugin, ifname: ifname(index), network: format!("net-{index}") };
    let chains = CHAINS[..networks].iter().enumerate();
    chains.flat_map(|(index, plugins)| plugins.iter().map(move |plugin| step(index, plugin))).collect()
}

fn calls<'a>(command: &str, steps: impl IntoIterator<Item = &'a Step>) -> Vec<String> {
    steps.into_iter().map(|step| step.call(command)).collect()
}

/// ADD of these steps, then DEL of the same in reverse.
fn forward_and_back(steps: &[Step]) -> Vec<String> {
    [calls("ADD", steps), calls("DEL", steps.iter().rev())].concat()
}

/// The first networks, each with plugins that `shape` makes.
fn case(networks: usize, shape: impl Fn(Plugin, &str) -> Plugin) -> Case {
    CHAINS[..networks].iter().enumerate().fold(Case::new(), |case, (index, plugins)| {
        let name = format!("net-{index}");
        match plugins {
            [only] => case.delegate(shape(recorder(only), only).key("name", name)),
            chain => {
                let network = Network::new(&name);
                case.delegate(chain.iter().fold(network, |network, kind| network.plugin(shape(recorder(kind), kind))))
            }
        }
    })
}

#[rstest]
fn add_goes_forward_and_del_back(#[values(1, 2, 3, 4, 5)] networks: usize) {
    let case = case(networks, |plugin, _| plugin);
    let steps = steps(networks);
    case.add().succeeds().called(&calls("ADD", &steps));
    case.del().succeeds().called(&calls("DEL", steps.iter().rev())).leaves_nothing();
}

#[rstest]
fn a_failing_step_undoes_what_was_attempted(#[values(1, 2, 3, 4, 5)] networks: usize) {
    let steps = steps(networks);
    for (index, failing) in steps.iter().enumerate() {
        let case =
            case(networks, |plugin, kind| if kind == failing.plugin { plugin.failing("ADD", 142) } else { plugin });
        case.add()
            .fails(142)
            .message_contains(&format!("{} refuses ADD", failing.plugin))
            .message_contains(&failing.network)
            .message_contains(&failing.ifname)
            .called(&forward_and_back(&steps[..=index]))
            .leaves_nothing();
        // The DEL that every runtime sends after a failed ADD.
        case.del().succeeds().leaves_nothing();
    }
}

#[rstest]
fn what_cannot_be_undone_is_reported_and_owed(#[values(1, 2, 3, 4, 5)] networks: usize) {
    let steps = steps(networks);
    for (index, failing) in steps.iter().enumerate() {
        let case = case(networks, |plugin, kind| {
            let plugin = plugin.failing("DEL", 143);
            if kind == failing.plugin { plugin.failing("ADD", 142) } else { plugin }
        });
        let attempted = &steps[..=index];
        let outcome = case.add().fails(142).message_contains(&format!("{} refuses ADD", failing.plugin));
        let outcome = outcome.called(&forward_and_back(attempted));
        attempted.iter().fold(outcome, |outcome, step| {
            outcome
                .details_contains(&format!("{} refuses DEL", step.plugin))
                .details_contains(&step.network)
                .details_contains(&step.ifname)
        });
        assert!(case.owes(), "what was not undone is not written down");

        for step in attempted {
            case.behave(step.plugin, json!({}));
        }
        case.del().succeeds().called(&calls("DEL", attempted.iter().rev())).leaves_nothing();
        assert!(!case.owes(), "what was undone is still written down");
    }
}

#[rstest]
fn a_rollback_goes_on_after_a_failure_and_del_does_the_rest(
    #[values("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta")] stuck: &str,
) {
    let steps = steps(5);
    let case = case(5, |plugin, kind| {
        let plugin = if kind == "eta" { plugin.failing("ADD", 142) } else { plugin };
        if kind == stuck { plugin.failing("DEL", 143) } else { plugin }
    });
    let refusal = format!("{stuck} refuses DEL");
    case.add().fails(142).details_contains(&refusal).called(&forward_and_back(&steps));
    let rest = calls("DEL", steps.iter().filter(|step| step.plugin == stuck));
    case.del().fails_with_any_code().says(&refusal).called(&rest);
    case.behave(stuck, json!({}));
    case.del().succeeds().called(&rest).leaves_nothing();
    assert!(!case.owes());
}

#[rstest]
fn del_goes_on_after_a_failure_and_a_retry_does_the_rest(
    #[values("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta")] stuck: &str,
) {
    let steps = steps(5);
    let case = case(5, |plugin, kind| if kind == stuck { plugin.failing("DEL", 143) } else { plugin });
    let refusal = format!("{stuck} refuses DEL");
    let step = steps.iter().find(|step| step.plugin == stuck).expect("a step");
    case.add().succeeds();
    let outcome = case.del().fails_with_any_code().called(&calls("DEL", steps.iter().rev()));
    outcome.says(&refusal).says(&step.network).says(&step.ifname);
    case.del().fails_with_any_code().says(&refusal).called(&[step.call("DEL")]);
    case.behave(stuck, json!({}));
    case.del().succeeds().called(&[step.call("DEL")]).leaves_nothing();
}

#[test]
fn del_reports_every_failure() {
    let case = case(3, |plugin, kind| if kind == "gamma" { plugin } else { plugin.failing("DEL", 143) });
    case.add().succeeds();
    let outcome = case.del().fails_with_any_code();
    outcome.says("alpha refuses DEL").says("beta refuses DEL").says("delta refuses DEL");
}

#[test]
fn a_container_whose_add_failed_can_be_added_again() {
    let case = case(3, |plugin, kind| if kind == "delta" { plugin.failing("ADD", 142) } else { plugin });
    case.add().fails(142).leaves_nothing();
    case.behave("delta", json!({}));
    case.add().succeeds().called(&calls("ADD", &steps(3)));
    case.del().succeeds().called(&calls("DEL", steps(3).iter().rev())).leaves_nothing();
}

#[test]
fn a_plugin_that_does_not_speak_the_version_has_nothing_to_undo() {
    let old = recorder("beta").failing("ADD", 1).failing("DEL", 1);
    let case = Case::new().delegate(recorder("alpha")).delegate(old);
    let outcome = case.add().fails(1).called(&["ADD alpha eth0", "ADD beta net1", "DEL beta net1", "DEL alpha eth0"]);
    assert!(!outcome.error_text().contains("could not be undone"), "{}", outcome.error_text());
    assert!(!case.owes());
}

/// If a DEL error contains these words, containerd takes it for success and forgets the container.
#[test]
fn an_error_to_retry_never_says_not_found() {
    let case = Case::new().delegate(recorder("alpha")).delegate(recorder("beta"));
    case.add().succeeds();
    std::fs::remove_file(case.plugin_path("beta")).expect("take the plugin away");
    let outcome = case.del().fails_with_any_code().says("beta").called(&["DEL alpha eth0"]);
    assert!(!outcome.error_text().contains("not found"), "{}", outcome.error_text());
}
