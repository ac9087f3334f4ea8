//! The image that is made without a container engine: what is in it runs with nothing else, and the same
//! programs give the same bytes.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::repository;

/// Makes an archive of a program.
fn make(out: &Path, program: &str, options: &[&str]) {
    let made = Command::new("python3")
        .arg(repository().join("deploy/scripts/oci.py"))
        .args(["--tag", "lockgate:test", program, "--out"])
        .arg(out)
        .args(options)
        .output()
        .expect("python3 runs");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

fn unpack(archive: &Path, into: &Path) {
    fs::create_dir_all(into).expect("a folder");
    let unpacked = Command::new("tar").arg("-xf").arg(archive).arg("-C").arg(into).status();
    assert!(unpacked.expect("tar runs").success());
}

fn blob(folder: &Path, descriptor: &Value) -> std::path::PathBuf {
    let digest = descriptor["digest"].as_str().expect("a digest");
    folder.join("blobs").join(digest.replace(':', "/"))
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).expect("a file")).expect("JSON")
}

#[test]
fn the_same_program_gives_the_same_image() {
    let folder = tempfile::tempdir().expect("a folder");
    let archives = ["one.tar", "two.tar"].map(|name| folder.path().join(name));
    archives.iter().for_each(|archive| make(archive, "/bin/sh", &[]));
    let [one, two] = archives.map(|archive| fs::read(archive).expect("an archive"));
    assert!(one == two, "the archives differ");
}

#[test]
fn the_program_runs_with_what_is_in_the_image() {
    let folder = tempfile::tempdir().expect("a folder");
    let (archive, image, root) =
        ["lockgate.tar", "image", "root"].map(|name| folder.path().join(name)).into();
    // Compressing a debug build takes longer than all the rest.
    make(&archive, env!("CARGO_BIN_EXE_lockgate"), &["--plain"]);
    unpack(&archive, &image);
    let manifest = json(&blob(&image, &json(&image.join("index.json"))["manifests"][0]));
    let config = json(&blob(&image, &manifest["config"]));
    assert_eq!(config["config"]["User"], "65532:65532");
    assert_eq!(config["config"]["Entrypoint"][0], "/lockgate");
    let layers = manifest["layers"].as_array().expect("layers");
    assert_eq!(config["rootfs"]["diff_ids"].as_array().map(Vec::len), Some(layers.len()));
    layers.iter().for_each(|layer| unpack(&blob(&image, layer), &root));
    assert!(root.join("etc/ssl/certs/ca-certificates.crt").is_file());

    // By the loader and the libraries of the image, where it needs any: a static program has none.
    let loader = fs::read_dir(root.join("lib64")).ok().and_then(|mut files| files.next());
    let mut program = match loader {
        Some(loader) => {
            let libraries = fs::read_dir(root.join("lib")).expect("libraries").flatten();
            let folders = libraries.map(|folder| folder.path().display().to_string());
            let mut command = Command::new(loader.expect("the loader").path());
            command.args(["--inhibit-cache", "--library-path"]);
            command.arg(folders.collect::<Vec<_>>().join(":")).arg(root.join("lockgate"));
            command
        }
        None => Command::new(root.join("lockgate")),
    };
    let said = program.arg("--version").output().expect("it runs");
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    assert!(String::from_utf8_lossy(&said.stdout).starts_with("lockgate "), "{said:?}");
}
