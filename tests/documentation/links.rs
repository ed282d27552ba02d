//! Every link has a target, and every page can be reached.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use regex_lite::Regex;
use tempfile::TempDir;

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The pages that people read, relative to the repository.
fn pages() -> Vec<PathBuf> {
    let mut pages = Vec::new();
    for folder in ["", "docs", "conf", "examples"] {
        for entry in fs::read_dir(repository().join(folder)).expect("a folder").flatten() {
            let path = Path::new(folder).join(entry.file_name());
            if path.extension().is_some_and(|ending| ending == "md") {
                pages.push(path);
            }
        }
    }
    assert!(pages.len() > 20, "{pages:?}");
    pages
}

/// A page without its blocks of code, in which nothing is a link.
fn prose(path: &Path) -> String {
    let text = fs::read_to_string(repository().join(path)).expect("a page");
    let mut is_code = false;
    let mut kept = String::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            is_code = !is_code;
        } else if !is_code {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    kept
}

/// The targets of a page's links, without those on the web.
fn links(text: &str) -> Vec<String> {
    let code = Regex::new(r"`[^`\n]*`").expect("an expression");
    let link = Regex::new(r"\]\(\s*([^)\s]+)\s*\)").expect("an expression");
    // A link's text may be code, its target is not.
    let text = code.replace_all(text, "code");
    let targets = link.captures_iter(&text).map(|found| found[1].to_owned());
    targets.filter(|target| !target.contains("://") && !target.starts_with("mailto:")).collect()
}

/// The anchors of a page's headings, as GitHub and mdBook make them.
fn anchors(path: &Path) -> BTreeSet<String> {
    let text = prose(path);
    let headings = text.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let anchor = |heading: &str| {
        let plain = heading.chars().filter(|char| char.is_alphanumeric() || matches!(char, ' ' | '-' | '_'));
        plain.collect::<String>().to_lowercase().replace(' ', "-")
    };
    let number = |anchor: String| {
        let times = seen.entry(anchor.clone()).and_modify(|times| *times += 1).or_insert(0);
        if *times == 0 { anchor } else { format!("{anchor}-{times}") }
    };
    headings.map(anchor).map(number).collect()
}

/// Resolves `.` and `..` in a path.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => assert!(plain.pop(), "{} leads out of the repository", path.display()),
            other => plain.push(other),
        }
    }
    plain
}

/// Where a link leads: a path relative to the repository, and an anchor.
fn target(page: &Path, link: &str) -> (PathBuf, Option<String>) {
    let (path, anchor) = link.split_once('#').map_or((link, None), |(path, anchor)| (path, Some(anchor.to_owned())));
    let path = if path.is_empty() { page.to_owned() } else { plain(&page.with_file_name("").join(path)) };
    (path, anchor)
}

#[test]
fn every_link_leads_to_an_existing_file_and_heading() {
    let mut broken = Vec::new();
    for page in pages() {
        for link in links(&prose(&page)) {
            let (path, anchor) = target(&page, &link);
            // This file is made with the site, and checked below.
            let is_made = path.starts_with("docs/api");
            let is_there = is_made || repository().join(&path).exists();
            let has_anchor = anchor.is_none_or(|anchor| anchors(&path).contains(&anchor));
            if !is_there || !has_anchor {
                broken.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn every_page_of_the_documentation_can_be_reached() {
    let listed = |page: &str| -> BTreeSet<PathBuf> {
        let page = Path::new(page);
        links(&prose(page)).iter().map(|link| target(page, link).0).collect()
    };
    let pages = pages().into_iter().filter(|page| page.starts_with("docs"));
    let pages: BTreeSet<_> = pages.filter(|page| !page.ends_with("SUMMARY.md")).collect();
    let contents = listed("docs/SUMMARY.md");
    assert_eq!(pages, contents, "docs/SUMMARY.md lists each page");
    let map = listed("docs/README.md");
    let unmentioned: Vec<_> =
        pages.iter().filter(|page| !page.ends_with("README.md") && !map.contains(*page)).collect();
    assert!(unmentioned.is_empty(), "docs/README.md does not lead to {unmentioned:?}");
}

#[test]
fn the_site_has_no_dead_link() {
    if Command::new("mdbook").arg("--version").output().is_err() {
        eprintln!("there is no mdbook: skipped");
        return;
    }
    let dir = TempDir::new().expect("a temporary folder");
    let mut built = Command::new("mdbook");
    built.arg("build").arg(repository().join("docs")).arg("--dest-dir").arg(dir.path());
    let built = built.output().expect("run mdbook");
    assert!(built.status.success(), "{built:?}");
    let href = Regex::new(r##"(?:href|src)="([^"#]+)(?:#[^"]*)?""##).expect("an expression");
    let mut broken = Vec::new();
    let mut seen = 0;
    for entry in fs::read_dir(dir.path()).expect("the site").flatten() {
        let name = entry.file_name().into_string().expect("UTF-8");
        // The first is shown for missing pages, and the others are not meant to be read.
        if entry.path().extension().is_none_or(|ending| ending != "html")
            || ["404.html", "print.html", "toc.html"].contains(&&*name)
        {
            continue;
        }
        let text = fs::read_to_string(entry.path()).expect("a page");
        for found in href.captures_iter(&text) {
            let link = &found[1];
            // Next to the site are the folders of the repository, and the library's documentation is in it.
            let is_elsewhere = link.contains("://") || link.starts_with("../") || link.starts_with("api/");
            seen += 1;
            if !is_elsewhere && !dir.path().join(link).exists() {
                broken.push(format!("{name}: {link}"));
            }
        }
    }
    assert!(seen > 100 && broken.is_empty(), "{seen} links, of which lead nowhere: {broken:#?}");
}
