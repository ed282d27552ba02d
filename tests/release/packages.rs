//! The packages: installed, upgraded and removed below a folder, as an administrator would on a node.

use std::path::Path;
use std::process::Command;

use crate::support::{Machine, NEXT, Release, is_real_root};

/// A version that reads only format 1 of journals.
const OLDER: &str = "0.1.0";
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// A machine with a folder to install packages into. The folder contains only a shell, for the packages' scripts.
fn machine(programs: &[&str]) -> Option<Machine> {
    if !is_real_root() {
        eprintln!("packages are installed by real root: skipped");
        return None;
    }
    if let Some(missing) = programs.iter().find(|program| Command::new(program).arg("--version").output().is_err()) {
        eprintln!("there is no {missing}: skipped");
        return None;
    }
    let machine = Machine::new();
    let folder = format!("{}/node", machine.dir().display());
    machine.run(&format!("mkdir -p {folder}/bin; cp $(which busybox) {folder}/bin/sh")).succeeds();
    Some(machine)
}

/// The package manager of a family of distributions.
struct Manager {
    /// Its name for 64-bit x86.
    file: fn(&str) -> String,
    initialise: &'static str,
    install: &'static str,
    /// The same package with an older version.
    downgrade: &'static str,
    remove: &'static str,
    /// Whether it runs a script of the installed version before it installs an older one.
    asks_what_is_there: bool,
    /// Prints the version that is installed.
    version: &'static str,
}

const DPKG: Manager = Manager {
    file: |version| format!("braid-cni_{version}-1_amd64.deb"),
    initialise: "mkdir -p node/var/lib/dpkg/{info,updates,triggers}; touch node/var/lib/dpkg/{status,available}",
    install: "dpkg --root=$PWD/node --force-bad-path --force-architecture --install",
    downgrade: "dpkg --root=$PWD/node --force-bad-path --force-architecture --install",
    remove: "dpkg --root=$PWD/node --force-bad-path --purge braid-cni",
    asks_what_is_there: true,
    version: "dpkg-query --admindir=node/var/lib/dpkg --show --showformat='${Version}' braid-cni",
};

const RPM: Manager = Manager {
    file: |version| format!("braid-cni-{version}-1.x86_64.rpm"),
    initialise: "rpm --root $PWD/node --initdb",
    // The shell that its script needs exists, but is not from a package.
    install: "rpm --root $PWD/node --nodeps --ignorearch --upgrade",
    downgrade: "rpm --root $PWD/node --nodeps --ignorearch --upgrade --oldpackage",
    remove: "rpm --root $PWD/node --nodeps --erase braid-cni",
    asks_what_is_there: false,
    version: "rpm --root $PWD/node --query --queryformat '%{VERSION}' braid-cni",
};

impl Manager {
    fn try_all(&self, machine: &Machine) {
        let dir = machine.dir().display();
        let run = |line: &str| machine.run(&format!("cd {dir}; {line}"));
        let [older, first, next] =
            [Release::of(OLDER), Release::new(), Release::of(NEXT)].map(|release| release.make(&["packages"]));
        let (first, next) = (first.file(&(self.file)(VERSION)), next.file(&(self.file)(NEXT)));
        let older = older.file(&(self.file)(OLDER));
        run(self.initialise).succeeds();

        run(&format!("{} {}", self.install, first.display())).succeeds();
        run("node/opt/cni/bin/braid --version").succeeds().prints(&format!("braid {VERSION}"));
        run("stat -c '%a %U:%G' node/opt/cni/bin/braid").succeeds().prints("755 root:root");
        run("readlink node/usr/bin/braid; test node/usr/bin/braid -ef node/opt/cni/bin/braid").succeeds();
        run("zcat node/usr/share/man/man1/braid.1.gz").succeeds().prints(".TH braid 1");
        run("grep -l braid node/usr/share/bash-completion/completions/braid node/usr/share/zsh/*/_braid \
             node/usr/share/fish/vendor_completions.d/braid.fish")
        .succeeds();
        run("braid validate node/usr/share/doc/braid-cni/conf").succeeds();
        run("ls node/usr/share/doc/braid-cni/{LICENSE,conf/kubernetes/base/daemonset.yaml}").succeeds();

        // The agent's unit is there, and nothing enables it.
        run("grep -x 'ExecStart=/opt/cni/bin/braid agent .*' node/usr/lib/systemd/system/braid-agent.service; find node/etc").succeeds();
        run("find node -name 'braid-agent*' | grep -v '/usr/lib/systemd/system/\\|/usr/share/doc/'")
            .fails()
            .prints_nothing();

        // An upgrade does not touch the administrator's files or what is attached, and prints nothing about them.
        run("mkdir -p node/var/lib/cni/braid/attachments/c1 node/etc/cni/net.d; \
             echo '{\"format\":2,\"time\":1}' >node/var/lib/cni/braid/attachments/c1/eth0.jsonl; \
             echo '{\"type\": \"braid\"}' >node/etc/cni/net.d/10-pods.conf; echo '# mine' >>node/etc/logrotate.d/braid")
        .succeeds();
        let ran = run(&format!("{} {} </dev/null", self.install, next.display())).succeeds();
        ran.require(!ran.stderr.contains("braid: "), "an upgrade leaves nothing without its Braid");
        run("tail -n 1 node/etc/logrotate.d/braid").succeeds().prints("# mine");
        self.refuses_downgrades(machine, [&older, &first, &next]);

        let ran = run(self.remove).succeeds();
        ran.says("journals of attachments stay in /var/lib/cni/braid: 1")
            .says("/etc/cni/net.d/10-pods.conf still names braid");
        run("cat node/var/lib/cni/braid/attachments/c1/eth0.jsonl node/etc/cni/net.d/10-pods.conf").succeeds();
        run("ls -d node/usr/lib/systemd/system/braid-agent.service").fails();
        run("ls -d node/opt/cni/bin node/usr/bin/braid node/usr/share/doc/braid-cni").fails().prints_nothing();
    }

    /// A version is not installed over journals that it cannot read. The newest version stays installed.
    fn refuses_downgrades(&self, machine: &Machine, [older, first, next]: [&Path; 3]) {
        let dir = machine.dir().display();
        let run = |line: &str| machine.run(&format!("cd {dir}; {line}"));
        let downgrade = |to: &Path| run(&format!("{} {} </dev/null", self.downgrade, to.display()));
        let is_there = |version: &str| {
            run(self.version).succeeds().prints(version);
        };
        downgrade(first).succeeds();
        is_there(VERSION);
        if self.asks_what_is_there {
            let journal = "node/var/lib/cni/braid/attachments/c1/eth0.jsonl";
            let ran = downgrade(older).fails();
            ran.says("/var/lib/cni/braid/attachments/c1/eth0.jsonl has format 2").says("`braid uninstall --drain`");
            is_there(VERSION);
            run(&format!("mv {journal} format-2; echo '{{\"format\":1,\"time\":1}}' >{journal}")).succeeds();
            downgrade(older).succeeds();
            is_there(OLDER);
            run(&format!("mv format-2 {journal}")).succeeds();
        } else {
            downgrade(older).succeeds();
        }
        // An upgrade is always possible, because newer versions read all journals.
        run(&format!("{} {}", self.install, first.display())).succeeds();
        is_there(VERSION);
        run("mkdir node/var/lib/cni/braid/attachments/c2; \
             echo '{\"format\":3,\"time\":1}' >node/var/lib/cni/braid/attachments/c2/eth0.jsonl")
        .succeeds();
        run(&format!("{} {}", self.install, next.display())).fails().says("c2/eth0.jsonl has format 3").says("up to 2");
        is_there(VERSION);
        run("rm -r node/var/lib/cni/braid/attachments/c2").succeeds();
        run(&format!("{} {}", self.install, next.display())).succeeds();
    }
}

#[test]
fn the_deb_installs_upgrades_and_removes() {
    let Some(machine) = machine(&["dpkg", "rpmbuild"]) else { return };
    DPKG.try_all(&machine);
}

#[test]
fn the_rpm_installs_upgrades_and_removes() {
    let Some(machine) = machine(&["dpkg-deb", "rpm", "rpmbuild"]) else { return };
    RPM.try_all(&machine);
}
