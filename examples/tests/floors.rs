//! The floors of each crate: who may know whom. An arrow that is not in the tables is an error, and
//! so is one in the tables that the code does not have.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A part of a crate, and the parts that it may use.
type Floors = &'static [(&'static str, &'static [&'static str])];

/// `bus/src`, from below.
const BUS: Floors = &[
    ("util", &[]),
    ("nouns", &["util"]),
    ("driver", &["nouns", "util"]),
    ("embedded", &["driver", "nouns", "util"]),
    ("nats", &["driver", "nouns", "util"]),
    ("kafka", &["driver", "nouns", "util"]),
    ("engine", &["driver", "nouns", "util"]),
    ("handles", &["engine", "driver", "nouns", "util"]),
    ("lease", &["handles", "nouns"]),
    ("topology", &["handles", "nouns"]),
    ("consume", &["lease", "handles", "engine", "driver", "nouns", "util"]),
    ("dead_letter", &["handles", "engine"]),
    ("connect", &["handles", "embedded", "nats", "kafka", "nouns"]),
    ("testkit", &["nouns"]),
    ("fault", &["handles", "driver", "nouns", "util"]),
    ("conformance", &["dead_letter", "handles", "engine", "driver", "nouns"]),
];

/// `services/src`, from below. The words are a crate of their own, which all may use.
const SERVICES: Floors = &[
    ("limits", &[]),
    ("metrics", &[]),
    ("platform", &["metrics"]),
    ("store", &["limits", "platform"]),
    ("work", &["store"]),
    ("http", &["store", "metrics", "limits"]),
    ("client", &["limits"]),
    ("events", &["http", "store", "limits"]),
    ("prefill", &["work", "store"]),
    ("dispatcher", &["work", "store"]),
    ("registration", &["http", "work", "store", "metrics", "limits"]),
    ("messages", &["prefill", "http", "work", "store", "metrics", "limits", "platform"]),
    ("roles", &["events", "registration", "messages", "dispatcher", "prefill", "http", "store"]),
    ("demo", &["client", "registration", "store", "platform"]),
    ("cli", &["demo", "roles", "client", "http", "prefill", "store", "limits", "platform"]),
    ("main", &[]),
];

type Arrows = BTreeMap<String, BTreeSet<String>>;

fn sources(crate_: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(crate_).join("src")
}

/// Every source file below `folder` that is no file of tests, with the part it belongs to.
fn files(folder: &Path, part: Option<&str>, found: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let of = part.map_or_else(|| name.clone(), str::to_owned);
        let is_tests = name == "tests" || name.ends_with("_tests") || name == "lib";
        if path.is_dir() {
            files(&path, Some(&of), found);
        } else if !is_tests && path.extension().is_some_and(|extension| extension == "rs") {
            found.push((of, fs::read_to_string(&path).unwrap()));
        }
    }
}

/// What the code says, without comments and the tests at its end.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]").next().unwrap_or_default();
    let text = text.split("#[cfg(all(test").next().unwrap_or_default();
    let lines = text.lines().map(|line| line.split("//").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

/// The names that follow each `prefix`, of which there may be several in braces.
fn names_after<'a>(code: &'a str, prefix: &str) -> Vec<&'a str> {
    let mut names = Vec::new();
    for (at, _) in code.match_indices(prefix) {
        let rest = &code[at + prefix.len()..];
        let inner = rest.strip_prefix('{').and_then(|list| list.split('}').next());
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        match inner {
            Some(list) => names.extend(list.split(',').map(|name| {
                let name = name.trim();
                name.split(|c| !is_word(c)).next().unwrap_or(name)
            })),
            None => names.extend(rest.split(|c| !is_word(c)).next()),
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

/// To which part a name at the crate's root belongs: what `lib.rs` takes from a part.
fn aliases(lib: &str, parts: &[&str]) -> BTreeMap<String, String> {
    let lib = code(lib);
    let mut known: BTreeMap<String, String> = BTreeMap::new();
    for part in parts {
        known.insert((*part).to_owned(), (*part).to_owned());
        for name in names_after(&lib, &format!("use {part}::")) {
            known.insert(name.to_owned(), (*part).to_owned());
        }
    }
    // And what it takes from those in turn, under the names that it gave them.
    for (name, part) in known.clone() {
        for further in names_after(&lib, &format!("use {name}::")) {
            known.entry(further.to_owned()).or_insert_with(|| part.clone());
        }
    }
    known
}

fn arrows(crate_: &str, floors: Floors) -> Arrows {
    let parts: Vec<&str> = floors.iter().map(|(part, _)| *part).collect();
    let lib = fs::read_to_string(sources(crate_).join("lib.rs")).unwrap();
    let known = aliases(&lib, &parts);
    let mut found = Vec::new();
    files(&sources(crate_), None, &mut found);
    assert!(found.len() > 20, "{} files of {crate_}", found.len());
    let mut arrows = Arrows::new();
    for (part, text) in found {
        assert!(parts.contains(&part.as_str()), "{crate_}/src/{part} is on no floor: add it here");
        let targets = arrows.entry(part.clone()).or_default();
        let code = code(&text);
        let named = names_after(&code, "crate::").into_iter().filter_map(|name| known.get(name));
        targets.extend(named.filter(|target| **target != part).cloned());
    }
    arrows
}

/// What is wrong between the tables and the arrows.
fn judge(floors: Floors, arrows: &Arrows) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut below: BTreeSet<&str> = BTreeSet::new();
    for (part, allowed) in floors {
        let upward = allowed.iter().filter(|target| !below.contains(*target));
        wrong.extend(upward.map(|target| format!("the table lets {part} use {target} above it")));
        below.insert(part);
        let none = BTreeSet::new();
        let has = arrows.get(*part).unwrap_or(&none);
        let new = has.iter().filter(|target| !allowed.contains(&target.as_str()));
        wrong.extend(new.map(|target| format!("{part} uses {target}")));
        let gone = allowed.iter().filter(|target| !has.contains(**target));
        wrong.extend(gone.map(|target| format!("{part} uses {target} no more")));
    }
    wrong
}

#[test]
fn no_part_of_the_bus_knows_one_above_it() {
    assert_eq!(judge(BUS, &arrows("bus", BUS)), [""; 0]);
}

#[test]
fn no_part_of_the_services_knows_one_above_it() {
    assert_eq!(judge(SERVICES, &arrows("services", SERVICES)), [""; 0]);
}

#[test]
fn an_arrow_that_is_added_is_noticed() {
    let mut found = arrows("bus", BUS);
    found.entry(String::from("nouns")).or_default().insert(String::from("handles"));
    found.entry(String::from("nats")).or_default().insert(String::from("kafka"));
    assert_eq!(judge(BUS, &found), ["nouns uses handles", "nats uses kafka"]);
    found.insert(String::from("topology"), BTreeSet::from([String::from("nouns")]));
    assert!(judge(BUS, &found).contains(&String::from("topology uses handles no more")));
}

#[test]
fn names_are_found_as_rust_writes_them() {
    let text = "use crate::error::{Error, Result}; // crate::bus\nlet a = crate::Bus::new();\n\
                use crate::{Backoff, name::Subject};\n#[cfg(test)]\nmod tests { use crate::kafka; }";
    assert_eq!(names_after(&code(text), "crate::"), ["error", "Bus", "Backoff", "name"]);
    let lib = "use nouns::{error, name};\npub use error::{Error, Result};\npub use bus::Bus;";
    let known = aliases(lib, &["nouns", "handles"]);
    assert_eq!((known["error"].as_str(), known["Result"].as_str()), ("nouns", "nouns"));
    assert!(!known.contains_key("Bus"));
}
