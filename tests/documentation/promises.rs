//! Every promise names tests that exist.

use std::fs;
use std::path::Path;

use regex_lite::Regex;

/// The text of all Rust files below a folder.
fn sources(folder: &Path) -> String {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    let text = entries.map(|path| match path.extension() {
        _ if path.is_dir() => sources(&path),
        Some(ending) if ending == "rs" => fs::read_to_string(path).expect("a source"),
        _ => String::new(),
    });
    text.collect()
}

#[test]
fn every_test_that_a_promise_names_exists() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let promises = fs::read_to_string(repository.join("docs/promises.md")).expect("the promises");
    let sources = sources(&repository.join("tests")) + &sources(&repository.join("src"));
    let a_name = Regex::new(r"`(?:…|[a-z_]+)::(?:[a-z_0-9]+::)*([a-z_0-9]+)`").expect("an expression");
    let is_there = |name: &str| {
        ["fn", "mod"]
            .iter()
            .any(|kind| [" ", "(", ";", "<"].iter().any(|end| sources.contains(&format!("{kind} {name}{end}"))))
    };
    let named: Vec<&str> =
        a_name.captures_iter(&promises).map(|found| found.get(1).expect("a name").as_str()).collect();
    assert!(named.len() > 100, "{} names", named.len());
    let missing: Vec<_> = named.into_iter().filter(|name| !is_there(name)).collect();
    assert_eq!(missing, [""; 0]);
}
