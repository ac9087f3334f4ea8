#!/usr/bin/env bash
# Installs the servers of a small Kubernetes control plane into $LOCKGATE_TOOLS/kube, once:
#   kube-apiserver, kube-controller-manager   built from their Go modules: no registry of images
#   etcd                                      the one on PATH, or Debian's package, unpacked there
# Needs Go (1.26 or newer) and, without an etcd on PATH, apt-get. On two cores it takes about five
# minutes, 5 GB of scratch space and 4 CPU-minutes; what stays is 190 MB.
# `kube.sh clean` removes it.
set -euo pipefail

tools=${LOCKGATE_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/lockgate/tools}
kube=$tools/kube
version=1.36.2
names=(kube-apiserver kube-controller-manager)
# The modules that Kubernetes develops in its own tree: its go.mod names them without a version.
staging=(api apiextensions-apiserver apimachinery apiserver cli-runtime client-go cloud-provider
    cluster-bootstrap code-generator component-base component-helpers controller-manager cri-api
    cri-client cri-streaming csi-translation-lib dynamic-resource-allocation endpointslice
    externaljwt kms kube-aggregator kube-controller-manager kube-proxy kube-scheduler kubectl
    kubelet metrics mount-utils pod-security-admission sample-apiserver sample-cli-plugin
    sample-controller streaming)

scratch=
trap 'if [ -n "$scratch" ]; then rm -rf "$scratch"; fi' EXIT

say() { printf '%s\n' "$*" >&2; }
fail() {
    say "error: $1"
    say "  $2"
    exit 1
}

have_servers() { # true if every binary is there and of the version that this script names
    local name
    [ "$(cat "$kube/version" 2>/dev/null)" = "$version" ] || return 1
    for name in "${names[@]}"; do [ -x "$kube/$name" ] || return 1; done
}

build_servers() {
    local module name flags package=k8s.io/component-base/version
    local packages=("${names[@]/#/k8s.io/kubernetes/cmd/}")
    command -v go >/dev/null ||
        fail "go is missing: kube-apiserver is built with it" "install Go 1.26 or newer, and repeat"
    say "building Kubernetes $version into $kube: about five minutes, once"
    # Caches of its own: what is needed once need not stay.
    export GOCACHE=$scratch/cache GOMODCACHE=$scratch/modules GOFLAGS=-modcacherw CGO_ENABLED=0
    mkdir "$scratch/wrapper"
    cd "$scratch/wrapper"
    go mod init wrapper 2>/dev/null
    for module in "${staging[@]}"; do
        go mod edit -replace "k8s.io/$module=k8s.io/$module@v0.${version#1.}"
    done
    go get -tool "${packages[@]/%/@v$version}" 2>"$scratch/log" ||
        fail "the modules of Kubernetes $version could not be had: $(tail -n 1 "$scratch/log")" \
            "check that go reaches a module proxy (go env GOPROXY), and repeat"
    flags="-s -w -X $package.gitVersion=v$version -X $package.gitMajor=1 -X $package.gitMinor=36"
    for name in "${names[@]}"; do
        go build -trimpath -ldflags "$flags" -o "$scratch/" "k8s.io/kubernetes/cmd/$name"
    done
    # Renames, so that a test run beside this one never sees half a file.
    for name in "${names[@]}"; do mv -f "$scratch/$name" "$kube/"; done
    printf '%s\n' "$version" >"$kube/version"
}

install_etcd() {
    local on_path
    on_path=$(command -v etcd || true)
    if [ -n "$on_path" ]; then
        ln -sfn "$on_path" "$kube/etcd"
        return
    fi
    command -v apt-get >/dev/null ||
        fail "etcd is missing" "put etcd 3.4 or newer on PATH, and repeat"
    say "unpacking Debian's etcd into $kube"
    # Unpacked, not installed: the package would start a server.
    chmod 755 "$scratch"
    (cd "$scratch" && { apt-get -qq download etcd-server 2>/dev/null ||
        { apt-get -qq update && apt-get -qq download etcd-server; }; }) >&2 ||
        fail "the package etcd-server could not be downloaded" "put etcd on PATH, and repeat"
    dpkg-deb -x "$scratch"/etcd-server_*.deb "$scratch/etcd"
    mv -f "$scratch/etcd/usr/bin/etcd" "$kube/etcd"
}

if [ "${1:-}" = clean ]; then
    rm -rf "$kube"
    exit 0
fi

mkdir -p "$kube"
scratch=$(mktemp -d "$kube/build.XXXXXX")
[ -x "$kube/etcd" ] || install_etcd
have_servers || (build_servers)
"$kube/etcd" --version >/dev/null || fail "$kube/etcd does not run here" "remove it, put another on PATH, and repeat"
