# shellcheck shell=bash
# What demo/run and demo/stop share: where the demo is kept, and how it ends. Sourced, never run.

# shellcheck source=scripts/servers.sh
. "$(dirname "${BASH_SOURCE[0]}")/../scripts/servers.sh"

state=$top/target/demo
# shellcheck disable=SC2034 # for demo/run
receiver_log=$state/receiver.log
receiver_port=$state/receiver.port

# The cluster's directory: its path is in a file, since it may lie elsewhere (see demo/run).
cluster_dir() { cat "$state/cluster.path" 2>/dev/null || true; }

# wait_until seconds command…
wait_until() {
    local tries=$(($1 * 10))
    shift
    until "$@"; do
        [ $((tries -= 1)) -gt 0 ] || return 1
        sleep 0.1
    done
}

gone() { [ ! -e "/proc/$1" ]; }

# Ends the demo's own processes, known by pid and checked to be still what they were, and removes its files.
stop_demo() {
    local pid dir
    pid=$(cat "$state/receiver.pid" 2>/dev/null || true)
    if [ -n "$pid" ] && tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" | grep -qF "$receiver_port"; then
        kill "$pid" || true
    fi
    dir=$(cluster_dir)
    if [ -n "$dir" ]; then
        pid=$(head -n 1 "$dir/data/postmaster.pid" 2>/dev/null || true)
        if [ -n "$pid" ] && [ "$(readlink "/proc/$pid/cwd")" = "$dir/data" ]; then
            kill -INT "$pid" || true
            wait_until 20 gone "$pid" || kill -QUIT "$pid" || true
        fi
        rm -rf "$dir"
    fi
    rm -rf "$state"
}
