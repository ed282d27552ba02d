//! Properties of all downloads: building them again gives the same bytes, and their names and contents agree.

use std::process::Command;

use serde_json::Value;

use crate::support::Release;

const VERSION: &str = env!("CARGO_PKG_VERSION");

#[test]
fn an_archive_has_all_that_belongs_to_an_executable_and_is_always_the_same() {
    let [one, other] = [(); 2].map(|()| Release::new().make(&["archives", "sums"]));
    assert_eq!(one.content(), other.content());
    let archive = one.file(&format!("braid-{VERSION}-linux-arm64.tar.gz"));
    let listing = Command::new("tar").arg("-tvf").arg(&archive).output().expect("run tar");
    let listing = String::from_utf8(listing.stdout).expect("UTF-8");
    for name in
        ["braid", "braid.1", "completions/braid.zsh", "LICENSE", "README.md", "CHANGELOG.md", "conf/podman.conflist"]
    {
        let name = format!(" braid-{VERSION}-linux-arm64/{name}\n");
        assert!(listing.contains(&name), "{name} is not among\n{listing}");
    }
    assert!(listing.lines().all(|line| line.contains(" 0/0 ") && line.contains(" 2023-11-14 ")), "{listing}");
}

#[test]
fn an_executable_holds_its_bill_of_materials_and_loads_none_of_it() {
    let run = |program: &str, arguments: &[&str]| Command::new(program).args(arguments).output();
    let tools =
        [("cargo-cyclonedx", "--version"), ("objcopy", "--version"), ("readelf", "--version"), ("busybox", "--help")];
    if let Some((missing, _)) = tools.iter().find(|(program, option)| run(program, &[option]).is_err()) {
        eprintln!("there is no {missing}: skipped");
        return;
    }
    // A static executable stands for each of those that a release has.
    let release = Release::new();
    let busybox = run("sh", &["-c", "command -v busybox"]).expect("run sh");
    let busybox = String::from_utf8(busybox.stdout).expect("UTF-8");
    for platform in ["amd64", "arm64"] {
        std::fs::copy(busybox.trim(), release.file(&format!("braid-{VERSION}-linux-{platform}"))).expect("copy it");
    }
    let release = release.make(&["sbom", "sbom"]);
    let executable = release.file(&format!("braid-{VERSION}-linux-arm64"));
    let executable = executable.to_str().expect("UTF-8");
    let beside = std::fs::read(release.file(&format!("braid-{VERSION}-linux-arm64.cdx.json"))).expect("it is beside");
    let bill: Value = serde_json::from_slice(&beside).expect("JSON");
    assert_eq!((&bill["bomFormat"], &bill["metadata"]["component"]["version"]), (&"CycloneDX".into(), &VERSION.into()));
    // As in docs/releases.md.
    let dumped = release.file("sbom.json.gz");
    let copy = release.file("copy");
    let section = format!(".sbom={}", dumped.display());
    let ran =
        run("objcopy", &["--dump-section", &section, executable, copy.to_str().expect("UTF-8")]).expect("run objcopy");
    assert!(ran.status.success(), "{ran:?}");
    let inside = run("gunzip", &["--stdout", dumped.to_str().expect("UTF-8")]).expect("run gunzip");
    assert!(inside.stdout == beside, "what is inside is not what is beside");
    // The parts that the kernel loads are unchanged, and the program runs.
    let loaded = |file: &str| {
        let headers = run("readelf", &["--program-headers", "--wide", file]).expect("run readelf");
        let headers = String::from_utf8(headers.stdout).expect("UTF-8");
        let lines = headers.lines().filter(|line| line.trim_start().starts_with("LOAD"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(loaded(executable), loaded(busybox.trim()));
    assert!(!loaded(executable).is_empty() && run(executable, &["--help"]).is_ok());
}

#[test]
fn the_sums_are_of_all_that_there_is_to_download() {
    let release = Release::new().make(&["archives", "sums"]);
    let check =
        Command::new("sha256sum").args(["--check", "--strict", "SHA256SUMS"]).current_dir(release.path()).output();
    let check = String::from_utf8(check.expect("run sha256sum").stdout).expect("UTF-8");
    let names = release.content().into_iter().map(|(name, _)| name).filter(|name| name != "SHA256SUMS");
    let expected: Vec<_> = names.map(|name| format!("{name}: OK")).collect();
    assert_eq!(check.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn the_provenance_is_of_all_that_was_made_before_it() {
    let release = Release::new().make(&["archives", "provenance", "sums"]);
    let path = release.file(&format!("braid-{VERSION}.intoto.json"));
    let statement: Value = serde_json::from_slice(&std::fs::read(path).expect("a statement")).expect("JSON");
    assert_eq!(statement["_type"], "https://in-toto.io/Statement/v1");
    assert_eq!(statement["predicateType"], "https://slsa.dev/provenance/v1");
    let sums = std::fs::read_to_string(release.file("SHA256SUMS")).expect("the sums");
    let subjects = statement["subject"].as_array().expect("a list").iter();
    let subjects = subjects.map(|subject| {
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        format!("{}  {}", text(&subject["digest"]["sha256"]), text(&subject["name"]))
    });
    let others = sums.lines().filter(|line| !line.ends_with(".intoto.json"));
    assert_eq!(subjects.collect::<Vec<_>>(), others.collect::<Vec<_>>());
    let made_of = &statement["predicate"]["buildDefinition"]["resolvedDependencies"];
    assert!(made_of.as_array().expect("a list").iter().any(|one| one["name"] == "Cargo.lock"), "{made_of}");
}

#[test]
fn a_step_that_is_not_known_or_comes_too_early_says_so() {
    let release = Release::new();
    let ran = release.run(&["archivse"]);
    assert!(
        !ran.status.success() && String::from_utf8_lossy(&ran.stderr).contains("there is no step \"archivse\""),
        "{ran:?}"
    );
    std::fs::remove_file(release.file(&format!("braid-{VERSION}-linux-arm64"))).expect("remove it");
    let ran = release.run(&["archives"]);
    assert!(
        !ran.status.success() && String::from_utf8_lossy(&ran.stderr).contains("run the step \"executables\""),
        "{ran:?}"
    );
}
