#!/usr/bin/env bash
# Starts and stops one local NATS server with nats/single.conf: nats.sh up|down
# Data, log and pid file are in target/nats; only the server of that pid file is ever stopped.
set -euo pipefail
cd "$(dirname "$0")/../.."

server=${LOCKGATE_NATS_SERVER:-nats-server}
state=target/nats
pid_file=$state/nats.pid
log=$state/nats.log

running() {
    [ -f "$pid_file" ] && kill -0 "$(cat "$pid_file")" 2>/dev/null &&
        ps -p "$(cat "$pid_file")" -o comm= | grep -q '^nats-server'
}

up() {
    if running; then
        echo "nats-server runs already, pid $(cat "$pid_file")"
        return
    fi
    mkdir -p "$state"
    : >"$log"
    nohup "$server" --config nats/single.conf --store_dir "$state/data" --pid "$pid_file" --log "$log" \
        >/dev/null 2>>"$log" </dev/null &
    local started=$!
    for _ in $(seq 100); do
        if grep -q 'Server is ready' "$log"; then
            echo "nats-server is ready: nats://127.0.0.1:4222, pid $started, log $log"
            return
        fi
        kill -0 "$started" 2>/dev/null || break
        sleep 0.1
    done
    echo "error: nats-server did not start" >&2
    tail -n 5 "$log" >&2
    kill "$started" 2>/dev/null || true
    exit 1
}

down() {
    if ! running; then
        echo "no nats-server of make nats-up runs"
        rm -f "$pid_file"
        return
    fi
    local pid
    pid=$(cat "$pid_file")
    kill "$pid"
    for _ in $(seq 100); do
        if ! kill -0 "$pid" 2>/dev/null; then
            rm -f "$pid_file"
            echo "nats-server stopped, its data is kept in $state/data"
            return
        fi
        sleep 0.1
    done
    echo "error: nats-server, pid $pid, did not stop within 10 s" >&2
    exit 1
}

case ${1:-} in
up) up ;;
down) down ;;
*)
    echo "usage: nats.sh up|down" >&2
    exit 2
    ;;
esac
