//! The README's code map names what exists, and everything that exists is on it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The first column of the code map.
fn mapped() -> BTreeSet<String> {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let (_, map) = readme.split_once("## Code map").expect("a code map");
    let (map, _) = map.split_once("\n## ").expect("a section after it");
    let first = |line: &str| Some(line.strip_prefix("| `")?.split_once('`')?.0.to_owned());
    map.lines().filter_map(first).collect()
}

#[test]
fn everything_on_the_code_map_exists() {
    let mapped = mapped();
    assert!(mapped.len() > 10, "{mapped:?}");
    for place in mapped {
        let path = root().join(&place);
        assert!(path.exists(), "the code map names {place}, which does not exist");
        assert_eq!(path.is_dir(), place.ends_with('/'), "{place}");
    }
}

/// Of `services` every module; of `bus` the folders, and the crate's own guide tells the rest.
#[test]
fn every_module_is_on_the_code_map() {
    let mapped = mapped();
    for (sources, folders_only) in [("services/src", false), ("bus/src", true)] {
        for entry in fs::read_dir(root().join(sources)).unwrap() {
            let (path, name) = {
                let entry = entry.unwrap();
                (entry.path(), entry.file_name().into_string().unwrap())
            };
            let place = match path.is_dir() {
                true => format!("{sources}/{name}/"),
                false if folders_only || matches!(name.as_str(), "lib.rs" | "main.rs") => continue,
                false => format!("{sources}/{name}"),
            };
            assert!(mapped.contains(&place), "{place} is missing from the README's code map");
        }
    }
}
