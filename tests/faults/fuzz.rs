//! Every parser on mutated input, for a bounded number of rounds: what libFuzzer does with more time (`tests/fuzz/`).

use std::path::Path;
use std::{fs, panic};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

#[path = "../fuzz/targets.rs"]
mod targets;

use targets::{TARGETS, Target};

/// The first inputs, by name. Those whose names begin with `refused` must be refused; a parser once crashed on each of them.
fn seeds(target: &Target) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/seeds").join(target.name);
    let files = fs::read_dir(&folder).expect("a folder of seeds").map(|entry| entry.expect("an entry").path());
    let named = |path: &Path| path.file_name().expect("a name").to_string_lossy().into_owned();
    let mut seeds: Vec<_> = files.map(|path| (named(&path), fs::read(&path).expect("a seed"))).collect();
    seeds.sort();
    assert!(!seeds.is_empty(), "{}", folder.display());
    seeds
}

/// Texts that parsers often fail on, to be inserted anywhere.
const PIECES: [&str; 24] = [
    "\"",
    "\\",
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "null",
    "true",
    "-1",
    "1e999",
    "99999999999999999999",
    "\\ud800",
    "\\u0000",
    "\n",
    "\u{202e}",
    "../",
    "\"type\":",
    "\"name\":",
    "\"Name\":\"x\",",
    "{\"a\":",
    "[[[[[[[[",
    "\u{0}",
];

/// A change to an input.
#[derive(Debug, Clone)]
enum Change {
    Insert(usize, &'static str),
    Remove(usize, usize),
    Repeat(usize, usize, usize),
    Flip(usize, u8),
    Truncate(usize),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => (any::<usize>(), prop::sample::select(&PIECES[..])).prop_map(|(at, piece)| Change::Insert(at, piece)),
        2 => (any::<usize>(), 1..40usize).prop_map(|(at, length)| Change::Remove(at, length)),
        2 => (any::<usize>(), 1..60usize, 2..50usize).prop_map(|(at, length, times)| Change::Repeat(at, length, times)),
        2 => (any::<usize>(), any::<u8>()).prop_map(|(at, bits)| Change::Flip(at, bits)),
        1 => any::<usize>().prop_map(Change::Truncate),
    ]
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    let length = bytes.len();
    let place = |at: usize| at % (length + 1);
    match *change {
        Change::Insert(at, piece) => drop(bytes.splice(place(at)..place(at), piece.bytes())),
        Change::Remove(at, count) => drop(bytes.drain(place(at)..(place(at) + count).min(length))),
        Change::Repeat(at, count, times) => {
            let part = bytes[place(at)..(place(at) + count).min(length)].repeat(times);
            drop(bytes.splice(place(at)..place(at), part));
        }
        Change::Flip(at, bits) => {
            if let Some(byte) = bytes.get_mut(place(at)) {
                *byte ^= bits;
            }
        }
        Change::Truncate(at) => bytes.truncate(place(at)),
    }
}

#[test]
fn every_parser_on_its_own_seeds() {
    for target in &TARGETS {
        for (name, seed) in seeds(target) {
            assert_eq!((target.run)(&seed), !name.starts_with("refused"), "{}: {name}", target.name);
        }
    }
}

#[test]
fn every_parser_on_mutated_input() {
    for target in &TARGETS {
        let input = (prop::sample::select(seeds(target)), prop::collection::vec(change(), 1..8));
        let mut runner = TestRunner::new(Config { cases: 3000, failure_persistence: None, ..Config::default() });
        let outcome = runner.run(&input, |((_, mut bytes), changes)| {
            for change in &changes {
                apply(&mut bytes, change);
            }
            let held = panic::catch_unwind(|| (target.run)(&bytes));
            prop_assert!(held.is_ok(), "{}", String::from_utf8_lossy(&bytes));
            Ok(())
        });
        if let Err(fault) = outcome {
            panic!("{}: {fault}", target.name);
        }
    }
}

#[test]
fn every_parser_on_anything() {
    for target in &TARGETS {
        let mut runner = TestRunner::new(Config { cases: 500, failure_persistence: None, ..Config::default() });
        let input = prop::collection::vec(any::<u8>(), 0..200);
        let outcome = runner.run(&input, |bytes| {
            (target.run)(&bytes);
            Ok(())
        });
        if let Err(fault) = outcome {
            panic!("{}: {fault}", target.name);
        }
    }
}
