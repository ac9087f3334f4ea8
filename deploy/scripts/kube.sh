#!/usr/bin/env bash
# Installs the servers of a small Kubernetes into $LOCKGATE_TOOLS/kube, once:
#   kube.sh         kube-apiserver and kube-controller-manager, built from their Go modules, as no
#                   registry of images is asked; etcd, the one on PATH or Debian's, unpacked there;
#                   in crds/ the custom resources of KEDA and Prometheus' operator
#   kube.sh node    also what runs pods: kube-scheduler, kubelet, kube-proxy and CoreDNS, and in node/
#                   Debian's containerd, runc, CNI plugins and nft, unpacked and not installed, and
#                   Kubernetes' own pause
#   kube.sh clean   removes all of it
# Needs Go (1.26 or newer) and apt-get, where etcd is not on PATH or for `node`, which needs a C
# compiler too. On two cores either takes about five minutes, 5 GB of scratch space and 4
# CPU-minutes; what stays is 220 MB, and 400 MB more for `node`.
set -euo pipefail

tools=${LOCKGATE_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/lockgate/tools}
kube=$tools/kube
version=1.36.2
planes=(kube-apiserver kube-controller-manager)
nodes=(kube-scheduler kubelet kube-proxy)
packages=(containerd runc containernetworking-plugins nftables libnftables1 libnftnl11 libedit2)
coredns=v1.15.0
keda=v2.21.0
prometheus_operator=v0.85.0
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

have() { # NAME...: true if every binary is there and of the version that this script names
    local name
    for name; do
        [ -x "$kube/$name" ] && [ "$(cat "$kube/$name.version" 2>/dev/null)" = "$version" ] || return 1
    done
}

build() { # NAME...
    local module name flags package=k8s.io/component-base/version
    local packages=("${@/#/k8s.io/kubernetes/cmd/}")
    command -v go >/dev/null ||
        fail "go is missing: $1 is built with it" "install Go 1.26 or newer, and repeat"
    say "building $* $version into $kube: about five minutes, once"
    mkdir -p "$scratch/wrapper"
    cd "$scratch/wrapper"
    [ -f go.mod ] || go mod init wrapper 2>/dev/null
    for module in "${staging[@]}"; do
        go mod edit -replace "k8s.io/$module=k8s.io/$module@v0.${version#1.}"
    done
    go get -tool "${packages[@]/%/@v$version}" 2>"$scratch/log" ||
        fail "the modules of Kubernetes $version could not be had: $(tail -n 1 "$scratch/log")" \
            "check that go reaches a module proxy (go env GOPROXY), and repeat"
    flags="-s -w -X $package.gitVersion=v$version -X $package.gitMajor=1 -X $package.gitMinor=36"
    for name; do
        go build -trimpath -ldflags "$flags" -o "$scratch/" "k8s.io/kubernetes/cmd/$name"
        # Renames, so that a test run beside this one never sees half a file.
        mv -f "$scratch/$name" "$kube/"
        printf '%s\n' "$version" >"$kube/$name.version"
    done
}

install_etcd() {
    local on_path
    on_path=$(command -v etcd || true)
    if [ -n "$on_path" ]; then
        ln -sfn "$on_path" "$kube/etcd"
        return
    fi
    unpack etcd etcd-server
    mv -f "$scratch/etcd/usr/bin/etcd" "$kube/etcd"
}

# Unpacked, not installed: a package would start its server.
unpack() { # FOLDER PACKAGE...
    local folder=$scratch/$1 package
    shift
    command -v apt-get >/dev/null ||
        fail "apt-get is missing: $* is had with it" "run this on Debian or Ubuntu, or put etcd on PATH"
    say "unpacking Debian's $* into $kube"
    chmod 755 "$scratch"
    mkdir "$folder"
    (cd "$folder" && { apt-get -qq download "$@" 2>/dev/null ||
        { apt-get -qq update && apt-get -qq download "$@"; }; }) >&2 ||
        fail "the packages $* could not be downloaded" "check that apt-get reaches its mirror, and repeat"
    for package in "$folder"/*.deb; do dpkg-deb -x "$package" "$folder"; done
}

# A module's folder, downloaded.
module() { # MODULE@VERSION
    go mod download "$1" >&2 || fail "$1 could not be had" "check that go reaches a module proxy, and repeat"
    printf '%s' "$GOMODCACHE/$1"
}

install_crds() {
    local folder
    mkdir "$scratch/crds"
    folder=$(module "github.com/kedacore/keda/v2@$keda")/config/crd/bases
    cp "$folder/keda.sh_scaledjobs.yaml" "$folder/keda.sh_triggerauthentications.yaml" "$scratch/crds/"
    folder=$(module "github.com/prometheus-operator/prometheus-operator@$prometheus_operator")/example/prometheus-operator-crd
    cp "$folder"/monitoring.coreos.com_{podmonitors,prometheusrules}.yaml "$scratch/crds/"
    printf '%s\n' "$crds" >"$scratch/crds/versions"
    rm -rf "$kube/crds"
    mv -T "$scratch/crds" "$kube/crds"
}

# With the one plugin that a cluster needs: all of them are half a cloud.
build_coredns() {
    say "building CoreDNS $coredns into $kube"
    mkdir "$scratch/dns"
    cd "$scratch/dns"
    cat >main.go <<'GO'
package main

import (
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/kubernetes"
)

func init() { dnsserver.Directives = []string{"errors", "kubernetes"} }

func main() { coremain.Run() }
GO
    go mod init dns 2>/dev/null
    # By package, so that the modules of the other plugins are not asked for.
    go get github.com/coredns/coredns/{core/dnsserver,coremain,plugin/errors,plugin/kubernetes}@"$coredns" 2>"$scratch/log" ||
        fail "CoreDNS $coredns could not be had: $(tail -n 1 "$scratch/log")" "check that go reaches a module proxy, and repeat"
    go build -trimpath -ldflags "-s -w" -o "$scratch/coredns" .
    mv -f "$scratch/coredns" "$kube/"
}

install_node() {
    local source
    unpack packages "${packages[@]}"
    source=$(module "k8s.io/kubernetes@v$version")/build/pause/linux/pause.c
    mkdir -p "$scratch/packages/node/lib"
    cd "$scratch/packages"
    mv usr/bin/containerd usr/bin/containerd-shim-runc-v2 usr/bin/ctr usr/lib/cni node/
    # The package has it in one of both places, or links one to the other.
    cp -L usr/sbin/runc node/ 2>/dev/null || cp -L usr/bin/runc node/
    mv usr/sbin/nft node/nft.real
    mv usr/lib/*/lib{nftables,nftnl,edit}.so.* node/lib/
    printf '#!/bin/sh\nLD_LIBRARY_PATH=%s exec %s "$@"\n' "$kube/node/lib" "$kube/node/nft.real" >node/nft
    chmod 755 node/nft
    # What holds a pod's namespaces: a C file of Kubernetes' own.
    cc -Os -static -DVERSION="$version" -o node/pause "$source" ||
        fail "pause could not be built" "install a C compiler and the static C library (libc6-dev), and repeat"
    rm -rf "$kube/node"
    mv -T node "$kube/node"
}

if [ "${1:-}" = clean ]; then
    rm -rf "$kube"
    exit 0
fi

mkdir -p "$kube"
scratch=$(mktemp -d "$kube/build.XXXXXX")
[ -x "$kube/etcd" ] || install_etcd
# Caches of its own: what is needed once need not stay.
export GOCACHE=$scratch/cache GOMODCACHE=$scratch/modules GOFLAGS=-modcacherw CGO_ENABLED=0
have "${planes[@]}" || (build "${planes[@]}")
crds="keda $keda, prometheus-operator $prometheus_operator"
[ "$(cat "$kube/crds/versions" 2>/dev/null)" = "$crds" ] || (install_crds)
"$kube/etcd" --version >/dev/null || fail "$kube/etcd does not run here" "remove it, put another on PATH, and repeat"
[ "${1:-}" = node ] || exit 0
have "${nodes[@]}" || (build "${nodes[@]}")
[ -x "$kube/coredns" ] || (build_coredns)
[ -x "$kube/node/pause" ] || (install_node)
for name in containerd runc nft; do
    "$kube/node/$name" --version >/dev/null ||
        fail "$kube/node/$name does not run here" "install what it misses (libseccomp2, libmnl0, libjansson4), and repeat"
done
