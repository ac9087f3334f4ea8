#!/usr/bin/env python3
"""Makes a container image without a container engine: an OCI archive, the same bytes from the same files.

  deploy/scripts/oci.py --out lockgate.tar --tag lockgate:dev target/release/lockgate [MORE...]

The programs stand at the root, the first is the entrypoint. Beside them are the shared libraries
that they name (ldd), the loader, CA roots and a user without rights; nothing else. The archive is
read by `ctr images import`, `docker load`, `podman load` and `skopeo copy oci-archive:...`.
Needs Python 3.9, ldd, and nothing else.
"""

import argparse
import gzip
import hashlib
import io
import json
import os
import pathlib
import platform
import re
import subprocess
import sys
import tarfile

USER = 65532
ROOTS = "/etc/ssl/certs/ca-certificates.crt"
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}
# Reproducible: whoever builds from a commit may set the time of that commit.
EPOCH = int(os.environ.get("SOURCE_DATE_EPOCH", "0"))


def fail(what):
    sys.exit(f"error: {what}")


def libraries(program):
    """The files that the loader maps for a program, by the paths that it looks at; none if it is static."""
    ran = subprocess.run(["ldd", program], capture_output=True, text=True)
    if "not found" in ran.stdout:
        fail(f"{program} needs a library that is not here: {ran.stdout}")
    return set(re.findall(r"(?:=> |^\s+)(/\S+)", ran.stdout, re.MULTILINE))


class Layer:
    """A tar whose bytes depend on names, modes and contents alone."""

    def __init__(self):
        self.files = {}

    def file(self, path, content, mode=0o644):
        self.files[path.strip("/")] = (content, mode)

    def tar(self):
        folders = {str(parent) for path in self.files for parent in pathlib.PurePosixPath(path).parents}
        folders.discard(".")
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for path in sorted(folders | set(self.files)):
                entry = tarfile.TarInfo(path)
                entry.mtime = EPOCH
                if path in self.files:
                    content, entry.mode = self.files[path]
                    entry.size = len(content)
                    archive.addfile(entry, io.BytesIO(content))
                else:
                    entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                    archive.addfile(entry)
        return buffer.getvalue()


class Archive:
    """Blobs by digest, and what names them."""

    def __init__(self):
        self.blobs = {}

    def blob(self, content, media_type):
        digest = hashlib.sha256(content).hexdigest()
        self.blobs[f"blobs/sha256/{digest}"] = content
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}

    def json(self, value, media_type):
        return self.blob(json.dumps(value, sort_keys=True).encode(), media_type)

    def write(self, out, others):
        layer = Layer()
        for path, content in {**self.blobs, **others}.items():
            layer.file(path, content)
        partial = out.with_name(out.name + ".part")
        partial.write_bytes(layer.tar())
        partial.replace(out)


def system(programs, roots):
    layer = Layer()
    for library in sorted(set().union(*(libraries(program) for program in programs))):
        layer.file(library, pathlib.Path(library).read_bytes(), 0o755)
    if not os.path.exists(roots):
        fail(f"{roots} is missing: install ca-certificates, or name another file with --roots")
    layer.file(ROOTS, pathlib.Path(roots).read_bytes())
    layer.file("etc/passwd", f"nonroot:x:{USER}:{USER}:nonroot:/:/sbin/nologin\n".encode())
    layer.file("etc/group", f"nonroot:x:{USER}:\n".encode())
    # Names of hosts are looked up in files, then by DNS.
    layer.file("etc/nsswitch.conf", b"hosts: files dns\n")
    return layer


def make(out, tag, programs, roots, plain):
    archive, layers, diffs = Archive(), [], []
    top = Layer()
    for program in programs:
        top.file(os.path.basename(program), pathlib.Path(program).read_bytes(), 0o755)
    for layer in (system(programs, roots), top):
        tar = layer.tar()
        diffs.append("sha256:" + hashlib.sha256(tar).hexdigest())
        kind = "application/vnd.oci.image.layer.v1.tar"
        if not plain:
            tar, kind = gzip.compress(tar, compresslevel=6, mtime=0), kind + "+gzip"
        layers.append(archive.blob(tar, kind))
    architecture = ARCHITECTURE.get(platform.machine())
    if architecture is None:
        fail(f"images for {platform.machine()} are not made here")
    config = {
        "architecture": architecture,
        "os": "linux",
        "config": {
            "User": f"{USER}:{USER}",
            "Entrypoint": ["/" + os.path.basename(programs[0])],
            "Env": ["PATH=/", f"SSL_CERT_FILE={ROOTS}"],
            "ExposedPorts": {"8080/tcp": {}},
            "StopSignal": "SIGTERM",
            "WorkingDir": "/",
        },
        "rootfs": {"type": "layers", "diff_ids": diffs},
        "history": [{"created_by": "oci.py: libraries, CA roots"}, {"created_by": "oci.py: programs"}],
    }
    config = archive.json(config, "application/vnd.oci.image.config.v1+json")
    kind = "application/vnd.oci.image.manifest.v1+json"
    manifest = archive.json({"schemaVersion": 2, "mediaType": kind, "config": config, "layers": layers}, kind)
    name = tag if "/" in tag else f"docker.io/library/{tag}"
    manifest["annotations"] = {
        "io.containerd.image.name": name,
        "org.opencontainers.image.ref.name": tag.rpartition(":")[2],
    }
    path = lambda descriptor: "blobs/sha256/" + descriptor["digest"].partition(":")[2]
    text = lambda value: json.dumps(value, sort_keys=True).encode()
    archive.write(out, {
        "oci-layout": text({"imageLayoutVersion": "1.0.0"}),
        "index.json": text({"schemaVersion": 2, "manifests": [manifest]}),
        # Older engines read this one.
        "manifest.json": text([{"Config": path(config), "RepoTags": [tag], "Layers": [path(layer) for layer in layers]}]),
    })
    return manifest["digest"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, required=True, metavar="FILE", help="the archive")
    parser.add_argument("--tag", default="lockgate:dev", metavar="NAME:TAG", help="the image's name")
    parser.add_argument("--roots", default=ROOTS, metavar="FILE", help="the authorities to trust, as PEM")
    parser.add_argument("--plain", action="store_true", help="without compression: made faster, and larger")
    parser.add_argument("programs", nargs="+", metavar="PROGRAM", help="the first is the entrypoint")
    given = parser.parse_args()
    if ":" not in given.tag:
        parser.error("--tag is NAME:TAG")
    for program in given.programs:
        if not os.access(program, os.X_OK):
            fail(f"{program} is no program: build it first")
    given.out.parent.mkdir(parents=True, exist_ok=True)
    digest = make(given.out, given.tag, given.programs, given.roots, given.plain)
    print(f"{given.out}: {given.tag} {digest}, {given.out.stat().st_size >> 20} MiB")


if __name__ == "__main__":
    main()
