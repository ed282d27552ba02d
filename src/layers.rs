//! Checks what each file of `src/` uses against the layers.
//!
//! There are two rules. A module uses only modules of the layers below it, and those to the left of it in its own layer. Files of
//! different folders never use each other in a circle. docs/architecture.md shows the same layers.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::path::Path;

use proc_macro2::{TokenStream, TokenTree};

/// From the lowest layer to the highest.
const LAYERS: &[&[&str]] = &[
    &["cni"],
    &["output", "panic", "answer", "request", "runtime", "plugin"],
    &["config", "log", "telemetry"],
    &["source"],
    &["plan", "netns", "merge"],
    &["transaction"],
    &["verb"],
    &["metrics"],
    &["doctor"],
    &["agent"],
    &["cli"],
];

#[test]
fn no_file_uses_a_higher_layer_or_is_part_of_a_circle() {
    let problems = Sources::read(Path::new(env!("CARGO_MANIFEST_DIR"))).problems();
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn the_documentation_draws_the_same_layers() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/architecture.md")).unwrap();
    let rows: Vec<String> = LAYERS.iter().rev().map(|layer| layer.join("  ")).collect();
    let drawn: Vec<&str> = page
        .lines()
        .filter_map(|line| line.split_once('│')?.1.split_once('│'))
        .map(|(row, _)| row.trim())
        .filter(|row| !row.is_empty())
        .collect();
    assert_eq!(drawn, rows, "docs/architecture.md does not draw the layers of src/layers.rs");
}

#[test]
fn an_arrow_that_runs_back_is_found_however_it_is_written() {
    for text in [
        "use crate::verb::Error;",
        "use crate::{cni::Version, verb::Error};",
        "use super::super::verb::Error;",
        "fn f() -> crate::verb::Error { loop {} }",
        "fn f() { println!(\"{}\", crate::verb::NAME) }",
        "mod inner { use crate::verb::Error as E; }",
        "#[cfg(test)] mod tests { use crate::verb::Error; }",
    ] {
        let problems = sources(&[("src/plan/build.rs", text), ("src/verb/mod.rs", "mod error; pub use error::Error;")]);
        assert_eq!(problems.len(), 1, "{text}: {problems:?}");
        assert!(problems[0].starts_with("src/plan/build.rs uses src/verb/"), "{text}: {problems:?}");
    }
}

#[test]
fn a_circle_between_folders_is_found_through_files_of_others() {
    let problems = sources(&[
        ("src/source/lookup.rs", "use super::device::Devices;"),
        ("src/source/mod.rs", "pub mod device; pub mod lookup;"),
        ("src/source/device/mod.rs", "mod assign; mod inventory; pub use inventory::Devices;"),
        ("src/source/device/inventory.rs", "use super::assign::Assigned;"),
        ("src/source/device/assign.rs", "fn f() { crate::source::lookup::find() }"),
    ]);
    assert_eq!(
        problems,
        ["src/source/device/assign.rs uses src/source/lookup.rs, which comes back to it through \
          src/source/device/inventory.rs"]
    );
}

#[test]
fn what_a_folder_hands_out_is_not_a_circle() {
    let problems = sources(&[
        ("src/source/mod.rs", "mod error; pub mod device; pub use device::Devices; pub use error::SourceError;"),
        ("src/source/error.rs", ""),
        ("src/source/device/mod.rs", "mod inventory; pub use inventory::Devices;"),
        ("src/source/device/inventory.rs", "use crate::source::SourceError; use super::super::SourceError as E;"),
    ]);
    assert_eq!(problems, [""; 0]);
}

#[test]
fn a_module_without_a_layer_is_a_problem() {
    let problems = sources(&[("src/novelty.rs", "")]);
    assert_eq!(
        problems,
        ["src/novelty.rs is in no layer: give `novelty` one in src/layers.rs and docs/architecture.md"]
    );
}

/// The problems of files with these texts.
fn sources(files: &[(&str, &str)]) -> Vec<String> {
    Sources(files.iter().map(|(path, text)| ((*path).to_owned(), File::parse(path, text))).collect()).problems()
}

/// Every file by its path, `src/…`.
struct Sources(BTreeMap<String, File>);

impl Sources {
    /// Reads `src/`. The crate's root, `main.rs` and this file are above the layers.
    fn read(root: &Path) -> Self {
        let mut files = BTreeMap::new();
        let mut folders = vec![root.join("src")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
                let path = entry.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                if entry.is_dir() {
                    folders.push(entry);
                } else if !["src/lib.rs", "src/main.rs", "src/layers.rs"].contains(&path.as_str()) {
                    let file = File::parse(&path, &fs::read_to_string(&entry).unwrap());
                    files.insert(path, file);
                }
            }
        }
        Self(files)
    }

    fn problems(&self) -> Vec<String> {
        let edges: BTreeMap<&str, BTreeSet<&str>> =
            self.0.iter().map(|(path, file)| (path.as_str(), self.used_by(path, file))).collect();
        let mut problems: Vec<String> = self.0.keys().filter_map(|path| without_layer(path)).collect();
        let mut circle = None;
        for (user, used) in edges.iter().flat_map(|(user, used)| used.iter().map(move |used| (*user, *used))) {
            if runs_back(user, used) {
                problems.push(format!("{user} uses {used}, which is in a higher layer"));
            } else if circle.is_none() && self.folder(user) != self.folder(used) {
                circle = way(&edges, used, user).map(|between| match between.as_slice() {
                    [] => format!("{user} uses {used}, which uses it"),
                    _ => format!("{user} uses {used}, which comes back to it through {}", between.join(", ")),
                });
            }
        }
        // A circle is found at each of its arrows. The first one is enough.
        problems.extend(circle);
        problems
    }

    /// The other files that a file uses.
    fn used_by<'a>(&'a self, path: &str, file: &File) -> BTreeSet<&'a str> {
        let used = file.paths.iter().filter_map(|segments| self.file_of(segments, 0));
        used.filter(|used| *used != path).collect()
    }

    /// The file that defines what a path from the crate's root names, following re-exports.
    fn file_of(&self, segments: &[String], depth: usize) -> Option<&str> {
        let mut module = Vec::new();
        for (index, segment) in segments.iter().enumerate() {
            let inner: Vec<String> = module.iter().chain([segment]).cloned().collect();
            if self.module(&inner).is_some() {
                module = inner;
                continue;
            }
            let (path, file) = self.module(&module)?;
            return match file.names.get(segment) {
                Some(target) if depth < 16 => {
                    let full: Vec<String> = target.iter().chain(&segments[index + 1..]).cloned().collect();
                    self.file_of(&full, depth + 1)
                }
                _ => Some(path),
            };
        }
        self.module(&module).map(|(path, _)| path)
    }

    /// The folder of a file. If the file has a folder of its own name, that folder.
    fn folder<'a>(&self, path: &'a str) -> &'a str {
        let own = path.trim_end_matches(".rs");
        let has_folder = self.0.range(format!("{own}/")..format!("{own}0")).next().is_some();
        match path.rsplit_once('/') {
            Some((parent, _)) if !has_folder && parent != "src" => parent,
            _ => own,
        }
    }

    /// The file of a module.
    fn module(&self, module: &[String]) -> Option<(&str, &File)> {
        let path = format!("src/{}", module.join("/"));
        let entry = self.0.get_key_value(&format!("{path}.rs"));
        entry.or_else(|| self.0.get_key_value(&format!("{path}/mod.rs"))).map(|(path, file)| (path.as_str(), file))
    }
}

/// What a file says about others.
struct File {
    /// The module of the file, from the crate's root.
    module: Vec<String>,
    /// How many inline modules enclose the current position.
    inner: usize,
    /// Every path that may lead to another file, from the crate's root.
    paths: Vec<Vec<String>>,
    /// The names that its `use` lines import, with their paths.
    names: BTreeMap<String, Vec<String>>,
}

impl File {
    fn parse(path: &str, text: &str) -> Self {
        let parts = path.trim_start_matches("src/").trim_end_matches(".rs").trim_end_matches("/mod");
        let module: Vec<String> = parts.split('/').map(str::to_owned).collect();
        let mut file = Self { module, inner: 0, paths: Vec::new(), names: BTreeMap::new() };
        file.read(text.parse().unwrap_or_else(|error| panic!("{path}: {error}")));
        file
    }

    /// Reads tokens. Comments and the contents of strings are not tokens.
    fn read(&mut self, tokens: TokenStream) {
        let mut tokens = tokens.into_iter().peekable();
        while let Some(token) = tokens.next() {
            match token {
                TokenTree::Ident(word) if word == "use" => {
                    let tree = tokens.by_ref().take_while(|token| !is_punct(token, ';')).collect();
                    self.read_use(tree, &[]);
                }
                TokenTree::Ident(word) if word == "mod" => {
                    tokens.next();
                    if let Some(TokenTree::Group(body)) = tokens.next_if(|token| matches!(token, TokenTree::Group(_))) {
                        self.inner += 1;
                        self.read(body.stream());
                        self.inner -= 1;
                    }
                }
                TokenTree::Ident(word) if word == "pub" => {
                    // A visibility, such as `pub(in crate::cli)`.
                    tokens.next_if(|token| matches!(token, TokenTree::Group(_)));
                }
                TokenTree::Ident(word) => {
                    let mut segments = vec![word.to_string()];
                    while tokens.next_if(|token| is_punct(token, ':')).is_some() {
                        if let Some(word) = tokens.next_if(|token| matches!(token, TokenTree::Ident(_))) {
                            segments.push(word.to_string());
                        }
                    }
                    if segments.len() > 1 {
                        self.paths.push(self.absolute(&segments));
                    }
                }
                TokenTree::Group(group) => self.read(group.stream()),
                TokenTree::Punct(_) | TokenTree::Literal(_) => {}
            }
        }
    }

    /// Reads the part between `use` and its semicolon, or one part of a list in braces.
    fn read_use(&mut self, tree: TokenStream, prefix: &[String]) {
        let mut segments = prefix.to_vec();
        let mut tokens = tree.into_iter();
        while let Some(token) = tokens.next() {
            match token {
                TokenTree::Ident(word) if word == "as" => {
                    let name = tokens.next().map(|name| name.to_string());
                    return self.import(name, &segments);
                }
                TokenTree::Ident(word) if word == "self" && !segments.is_empty() => {}
                TokenTree::Ident(word) => segments.push(word.to_string()),
                TokenTree::Group(list) => {
                    let parts: Vec<TokenTree> = list.stream().into_iter().collect();
                    for part in parts.split(|token| is_punct(token, ',')).filter(|part| !part.is_empty()) {
                        self.read_use(part.iter().cloned().collect(), &segments);
                    }
                    return;
                }
                // The names that `*` imports are not known here, so its module counts as used.
                TokenTree::Punct(punct) if punct.as_char() == '*' => return self.paths.push(self.absolute(&segments)),
                TokenTree::Punct(_) | TokenTree::Literal(_) => {}
            }
        }
        self.import(segments.last().cloned(), &segments);
    }

    fn import(&mut self, name: Option<String>, segments: &[String]) {
        let absolute = self.absolute(segments);
        self.paths.push(absolute.clone());
        if let Some(name) = name {
            self.names.entry(name).or_insert(absolute);
        }
    }

    /// A path from the crate's root. A path into another crate is changed to one that ends at this file.
    fn absolute(&self, segments: &[String]) -> Vec<String> {
        let ups = segments.iter().take_while(|segment| *segment == "super").count();
        match segments.first().map(String::as_str) {
            Some("crate") => segments[1..].to_vec(),
            Some("self") => self.module.iter().chain(&segments[1..]).cloned().collect(),
            // In an inline module, the first `super` leads to the file itself.
            Some("super") => {
                let kept = self.module.len().saturating_sub(ups.saturating_sub(self.inner));
                self.module[..kept].iter().chain(&segments[ups..]).cloned().collect()
            }
            Some(first) if self.names.contains_key(first) => {
                self.names[first].iter().chain(&segments[1..]).cloned().collect()
            }
            _ => self.module.iter().chain(segments).cloned().collect(),
        }
    }
}

fn is_punct(token: &TokenTree, expected: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == expected)
}

/// The top-level module to which a file belongs.
fn top(path: &str) -> &str {
    let inner = path.trim_start_matches("src/");
    inner.split('/').next().unwrap_or(inner).trim_end_matches(".rs")
}

fn place(path: &str) -> Option<(usize, usize)> {
    let module = top(path);
    LAYERS.iter().enumerate().find_map(|(height, layer)| Some((height, layer.iter().position(|name| *name == module)?)))
}

fn without_layer(path: &str) -> Option<String> {
    let module = top(path);
    let missing = place(path).is_none();
    missing.then(|| format!("{path} is in no layer: give `{module}` one in src/layers.rs and docs/architecture.md"))
}

fn runs_back(from: &str, to: &str) -> bool {
    top(from) != top(to) && place(from).zip(place(to)).is_some_and(|(from, to)| to > from)
}

/// The files between two files on the shortest path of uses. `None` if there is no path.
fn way<'a>(edges: &BTreeMap<&'a str, BTreeSet<&'a str>>, from: &'a str, to: &str) -> Option<Vec<&'a str>> {
    let mut queue = VecDeque::from([vec![from]]);
    let mut seen = BTreeSet::from([from]);
    while let Some(way) = queue.pop_front() {
        for next in edges.get(way.last()?).into_iter().flatten() {
            if *next == to {
                return Some(way[1..].to_vec());
            }
            if seen.insert(next) {
                queue.push_back(way.iter().copied().chain([*next]).collect());
            }
        }
    }
    None
}
