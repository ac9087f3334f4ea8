#!/usr/bin/env bash
# Checks the Helm chart: lint, and what it renders for each file of deploy/chart/values against
# deploy/chart/golden. `chart.sh update` writes the golden files anew, to be read before they are
# committed.
#
# The rendered manifests are looked through by manifests.py, and NATS's configuration by nats-server.
#
# Helm is the one on PATH, or is built of its Go module into $LOCKGATE_TOOLS, once (some minutes).
set -euo pipefail
cd "$(dirname "$0")/../.."

tools=${LOCKGATE_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/lockgate/tools}
version=v4.3.2
chart=deploy/chart

fail() {
    printf 'error: %s\n  %s\n' "$1" "$2" >&2
    exit 1
}

find_helm() {
    if command -v helm >/dev/null; then
        helm=helm
        return
    fi
    helm=$tools/bin/helm
    [ -x "$helm" ] && return
    command -v go >/dev/null || fail "helm is missing" "put helm on PATH, or Go 1.26 to build it with"
    echo "building helm $version into $tools" >&2
    mkdir -p "$tools/bin"
    GOBIN=$tools/bin CGO_ENABLED=0 nice -n 15 go install -trimpath -ldflags "-s -w" "helm.sh/helm/v4/cmd/helm@$version"
}

render() { # VALUES
    "$helm" template lockgate "$chart" --namespace lockgate --kube-version 1.34 --values "$1"
}

# A chart can carry files of its own folder only: these are copies.
for copy in topology.toml:nats/topology.toml alerts.yaml:deploy/monitoring/alerts.yaml; do
    if [ "${1:-}" = update ]; then cp "${copy#*:}" "$chart/files/${copy%%:*}"; fi
    cmp -s "${copy#*:}" "$chart/files/${copy%%:*}" ||
        fail "$chart/files/${copy%%:*} is not ${copy#*:}" "deploy/scripts/chart.sh update"
done

find_helm
differs=0
for values in "$chart"/values/*.yaml; do
    name=$(basename "$values" .yaml)
    "$helm" lint --strict --quiet "$chart" --values "$values"
    if [ "${1:-}" = update ]; then
        render "$values" >"$chart/golden/$name.yaml"
    else
        render "$values" | diff -u "$chart/golden/$name.yaml" - || differs=1
    fi
done
[ "$differs" = 0 ] || fail "the chart renders something else than its golden files" \
    "if that is meant: deploy/scripts/chart.sh update, and read the difference"

LOCKGATE_NATS_SERVER=${LOCKGATE_NATS_SERVER:-$tools/bin/nats-server} \
    "$tools/python/bin/python" deploy/scripts/manifests.py "$chart"/golden/*.yaml

# What must not be installed is refused, and says why.
refused() { # WHY ARGUMENTS
    local why=$1 said
    shift
    if said=$("$helm" template lockgate "$chart" --kube-version 1.34 "$@" 2>&1); then
        fail "the chart takes $*" "it must be refused: $why"
    fi
    grep -q "$why" <<<"$said" || fail "the chart refuses $* with other words" "$said"
}
refused "bus.url is empty" --set nats.enabled=false
refused "nats.serverSecret is not" --set bus.credentials=users
refused "no more copies than servers" --set replicas=3
refused "ingress.host is empty" --set ingress.enabled=true
refused "mode" --set mode=apart
refused "roles" --set roles.message.replicas=3
refused "url" --set bus.url=nats://anna:secret@nats:4222
echo "the chart is sound: $(ls "$chart"/values | wc -l) renders"
