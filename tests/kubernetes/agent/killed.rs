//! An agent that is killed again and again while annotations change, on a node whose clock jumps.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::hash::{BuildHasher as _, RandomState};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rstest::rstest;
use serde_json::{Value, json};

use super::real::interfaces_of;
use super::stand_in::{Agent, NETWORKS, patiently, pod};
use crate::kubernetes::cluster::Cluster;
use crate::kubernetes::double::Double;
use crate::kubernetes::in_cluster;
use crate::support::{Case, Json as _, Namespace, recorder};

/// How many pods there are, unless `BRAID_TEST_AGENT_PODS` says otherwise.
const PODS: usize = 6;
const KILLS: u32 = 36;
/// For each of this many pods, an agent lives one period longer before it is killed, because it checks every pod first.
const PODS_OF_A_LIFE: u32 = 50;
/// Between two edits: two thousand a minute.
const PAUSE: Duration = Duration::from_millis(30);
/// The networks that a pod can ask for, and the plugin of each.
const CHOICE: [(&str, &str); 4] = [("one", "beta"), ("two", "gamma"), ("three", "delta"), ("four", "epsilon")];
/// By how many seconds the clock jumps, one after another.
const JUMPS: [i64; 6] = [7200, -7200, 36_000, -3, 86_400, -86_400];

fn pods() -> usize {
    let count = std::env::var("BRAID_TEST_AGENT_PODS").ok();
    count.map_or(PODS, |count| count.parse().expect("a number of pods"))
}

/// A generator of random numbers.
struct Random(u64);

impl Random {
    fn new() -> Self {
        Self(RandomState::new().hash_one(0) | 1)
    }

    /// A random number below this one.
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).expect("31 bits") % end
    }
}

/// A container of a pod.
struct Member {
    name: String,
    netns: Namespace,
}

impl Member {
    fn container(&self) -> String {
        format!("container-of-{}", self.name)
    }

    fn path(&self) -> String {
        format!("/api/v1/namespaces/web/pods/{}", self.name)
    }

    fn attach(&self, case: &Case, api: &Cluster<Double>) {
        let call = case.call("ADD").env("CNI_CONTAINERID", self.container()).env("CNI_NETNS", self.netns.path());
        call.env("CNI_ARGS", api.args("web", &self.name)).run().succeeds();
    }

    fn detach(&self, case: &Case, api: &Cluster<Double>) {
        let call = case.call("DEL").env("CNI_CONTAINERID", self.container()).env("CNI_NETNS", self.netns.path());
        call.env("CNI_ARGS", api.args("web", &self.name)).run().succeeds();
    }
}

/// A node with the pods. None of them asks for a network yet.
fn node() -> (Case, Cluster<Double>, Vec<Member>) {
    let alpha = recorder("alpha").link().ip("10.1.0.5/24");
    let braid = json!({"type": "braid", "stateDir": "@DIR@/state", "kubeconfig": "@DIR@/kubeconfig",
        "kubernetes": {"timeout": 10}, "delegates": [alpha.clone().value()]});
    let list = json!({"cniVersion": "1.0.0", "name": "outer", "plugins": [braid]});
    let (case, api) = in_cluster(Case::new().delegate(alpha).configuration("outer.conflist", list));
    for (number, (name, kind)) in CHOICE.iter().enumerate() {
        let plugin = recorder(kind).without("name").link().ip(&format!("10.2.{number}.5/24"));
        api.definition("web", name, &plugin.into_json());
    }
    // No ID is the beginning of another, because `braid show` accepts the first characters of an ID.
    let member = |number| Member { name: format!("pod-{number:04}"), netns: Namespace::new("member") };
    let members: Vec<Member> = (0..pods()).map(member).collect();
    for member in &members {
        pod(&api, &member.name, "");
        member.attach(&case, &api);
    }
    (case, api, members)
}

/// A random choice of networks in random order. Sometimes one names its interface.
fn choice(random: &mut Random) -> Vec<&'static str> {
    let mut left: Vec<&str> = CHOICE.iter().map(|(name, _)| *name).collect();
    let count = random.below(left.len() + 1);
    (0..count).map(|_| left.remove(random.below(left.len()))).collect()
}

fn annotation(networks: &[&str], random: &mut Random) -> String {
    let word = |network: &&str| {
        if *network == "four" { format!("four@data{}", random.below(2)) } else { (*network).to_owned() }
    };
    networks.iter().map(word).collect::<Vec<_>>().join(",")
}

/// The descendants of a process.
fn descendants(pid: Pid) -> Vec<Pid> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let children = children.split_whitespace().filter_map(|word| word.parse().ok()).map(Pid::from_raw);
    children.flat_map(|child| [descendants(child), vec![child]].concat()).collect()
}

/// Kills an agent with all its descendants, as a runtime kills a container.
fn kill_container(agent: &mut Agent) {
    let started = descendants(agent.pid());
    agent.signal(Signal::SIGKILL);
    for pid in started {
        let _ = kill(pid, Signal::SIGKILL);
    }
    agent.wait();
}

/// The library that gives a program another clock.
fn clock_library() -> Option<PathBuf> {
    let folders = fs::read_dir("/usr/lib").ok()?.flatten().map(|entry| entry.path());
    folders.map(|folder| folder.join("faketime/libfaketime.so.1")).find(|file| file.is_file())
}

/// A clock for the agent and its children. The calls of the test use the machine's clock.
struct Clock(Option<PathBuf>);

impl Clock {
    fn new(case: &Case, jumps: bool) -> Option<Self> {
        if !jumps {
            return Some(Self(None));
        }
        let library = clock_library()?;
        let file = case.dir().join("clock");
        let lines = [
            format!("LD_PRELOAD={}", library.display()),
            format!("FAKETIME_TIMESTAMP_FILE={}", file.display()),
            "FAKETIME_NO_CACHE=1".to_owned(),
            "FAKETIME_DONT_FAKE_MONOTONIC=1".to_owned(),
            "NO_FAKE_STAT=1".to_owned(),
        ];
        let lines = lines.map(|line| format!("export {line}\n"));
        fs::write(case.dir().join("environment"), lines.concat()).expect("write the environment");
        let clock = Self(Some(file));
        clock.jump(0);
        Some(clock)
    }

    /// Sets the difference to the machine's clock, in seconds.
    fn jump(&self, seconds: i64) {
        let Some(file) = &self.0 else { return };
        let new = file.with_extension("new");
        fs::write(&new, format!("{seconds:+}\n")).expect("write the clock");
        fs::rename(new, file).expect("set the clock");
    }
}

/// What plugins hold for a container, as their networks.
fn held(case: &Case, container: &str) -> BTreeSet<String> {
    let files = fs::read_dir(case.dir().join("recorder/state")).expect("what plugins hold");
    let names = files.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"));
    let network = |name: String| {
        let (kind, rest) = name.split_once('-')?;
        let interface = rest.strip_prefix(container)?.strip_prefix('-')?;
        let network = CHOICE.iter().find(|(_, of)| *of == kind).map_or("primary", |(network, _)| *network);
        Some(format!("{network} on {interface}"))
    };
    names.filter_map(network).collect()
}

/// The attached networks, according to the container's journal. `None` while it is being changed.
fn in_journal(case: &Case, container: &str) -> Option<BTreeSet<String>> {
    let output = case.braid(&["show", container, "-o", "json", "--state-dir", "@DIR@/state"]).output();
    let known: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(known.as_array().map(Vec::len), Some(1), "{known:#}");
    if known[0]["state"] != "attached" {
        return None;
    }
    let attachments = known[0]["attachments"].as_array().expect("a list");
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let named = |one: &Value| {
        let plugin = &one["plugins"][0];
        assert!(["attached", "undone"].contains(&plugin["state"].as_str().expect("a state")), "{known:#}");
        let reference = text(&one["reference"]);
        let network = reference.strip_prefix("web/").unwrap_or("primary").to_owned();
        (plugin["state"] == "attached").then(|| format!("{network} on {}", text(&one["ifname"])))
    };
    let all: Vec<String> = attachments.iter().filter_map(named).collect();
    let each: BTreeSet<String> = all.iter().cloned().collect();
    assert_eq!(all.len(), each.len(), "{known:#}");
    Some(each)
}

/// The networks in the network status of a pod.
fn in_status(api: &Cluster<Double>, name: &str) -> BTreeSet<String> {
    let status = api.status("web", name).unwrap_or_default();
    let entries: Vec<&Value> = status.as_array().into_iter().flatten().collect();
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let named = |one: &&Value| {
        let name = text(&one["name"]);
        format!("{} on {}", name.strip_prefix("web/").unwrap_or("primary"), text(&one["interface"]))
    };
    let each: BTreeSet<String> = entries.iter().map(named).collect();
    assert_eq!(entries.len(), each.len(), "{status:#}");
    each
}

/// The networks without their interfaces.
fn networks(named: &BTreeSet<String>) -> BTreeSet<&str> {
    named.iter().filter_map(|text| text.split(' ').next()).filter(|network| *network != "primary").collect()
}

/// Edits annotations until it has to stop. Returns what each pod asks for in the end.
fn edit(api: &Cluster<Double>, members: &[Member], random: &mut Random, stop: &AtomicBool) -> BTreeMap<String, String> {
    let mut wanted = BTreeMap::new();
    let mut count = 0;
    let began = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let member = &members[random.below(members.len())];
        let text = annotation(&choice(random), random);
        api.server.annotate(&member.path(), NETWORKS, &text);
        wanted.insert(member.name.clone(), text);
        count += 1;
        thread::sleep(PAUSE);
    }
    eprintln!("{count} edits in {:?}", began.elapsed());
    wanted
}

/// Kills the agent, and starts another one each time: before or after the end of the first.
fn kill_again_and_again(case: &Case, members: &[Member], clock: &Clock, random: &mut Random) -> Agent {
    let start = || Agent::start_recording(case, &[]);
    let (mut agent, mut largest) = (start(), 0);
    for number in 0..KILLS {
        let life = Duration::from_millis(50 + u64::try_from(random.below(600)).expect("a number"));
        thread::sleep(life * u32::try_from(members.len()).expect("a number").div_ceil(PODS_OF_A_LIFE));
        largest = largest.max(agent.status("VmRSS:"));
        clock.jump(JUMPS[random.below(JUMPS.len())]);
        let early = (number % 3 == 0).then(start);
        if number % 2 == 0 {
            kill_container(&mut agent);
        } else {
            // Its children continue.
            agent.signal(Signal::SIGKILL);
            agent.wait();
        }
        agent = early.unwrap_or_else(start);
    }
    eprintln!("{KILLS} kills of an agent of {} pods; the largest had {largest} KiB", members.len());
    agent
}

fn links_of(attached: &BTreeSet<String>) -> BTreeSet<String> {
    let links = attached.iter().filter_map(|text| text.rsplit(' ').next()).map(str::to_owned);
    links.chain(["lo".to_owned()]).collect()
}

#[rstest]
fn nothing_is_lost_and_nothing_is_done_twice(#[values(false, true)] clock_jumps: bool) {
    let (case, api, members) = node();
    let Some(clock) = Clock::new(&case, clock_jumps) else { return eprintln!("there is no libfaketime") };
    let (mut random, mut of_editor) = (Random::new(), Random::new());
    let stop = AtomicBool::new(false);
    let (agent, wanted) = thread::scope(|scope| {
        let editor = scope.spawn(|| edit(&api, &members, &mut of_editor, &stop));
        let agent = kill_again_and_again(&case, &members, &clock, &mut random);
        stop.store(true, Ordering::Relaxed);
        (agent, editor.join().expect("the editor"))
    });
    let began = Instant::now();
    for member in &members {
        let wanted = wanted.get(&member.name).map(String::as_str).unwrap_or_default();
        let wanted: BTreeSet<&str> = wanted.split(',').filter(|word| !word.is_empty()).collect();
        let named: BTreeSet<&str> = wanted.iter().filter_map(|word| word.split('@').next()).collect();
        let holds = || {
            networks(&in_status(&api, &member.name)) == named && networks(&held(&case, &member.container())) == named
        };
        patiently(&format!("{wanted:?} of {}", member.name), || holds().then_some(()));
        // The last edit may have changed only an interface.
        let with_interface: Vec<String> =
            wanted.iter().filter(|word| word.contains('@')).map(|word| word.replace('@', " on ")).collect();
        let status = patiently(&format!("{with_interface:?}, and the same in the journal"), || {
            let status = in_status(&api, &member.name);
            (with_interface.iter().all(|named| status.contains(named))
                && in_journal(&case, &member.container()).as_ref() == Some(&status)
                && held(&case, &member.container()) == status)
                .then_some(status)
        });
        let there: Vec<String> = interfaces_of(&member.netns);
        assert_eq!(there.iter().cloned().collect::<BTreeSet<_>>(), links_of(&status));
    }
    eprintln!("{} pods had what they asked for {:?} after the last edit", members.len(), began.elapsed());
    // A sync now finds nothing to do.
    for member in &members {
        let words = ["sync", &member.container(), "--state-dir", "@DIR@/state", "-o", "json"];
        let output = case.braid(&words).run_unrecorded();
        let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        for key in ["attached", "detached", "updated", "failed"] {
            assert_eq!(report[key], json!([]), "{report:#}");
        }
    }
    drop(agent);
    for member in &members {
        member.detach(&case, &api);
    }
    assert!(!case.owes());
    assert_eq!(fs::read_dir(case.dir().join("recorder/state")).expect("what plugins hold").count(), 0);
}
