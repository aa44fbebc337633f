# shellcheck shell=bash
# What demo/run and demo/stop share: where the demo is kept, and how it ends. Sourced, never run.

# shellcheck source=scripts/throwaway.sh
. "$(dirname "${BASH_SOURCE[0]}")/../scripts/throwaway.sh"

state=$top/target/demo
# shellcheck disable=SC2034 # for demo/run
receiver_log=$state/receiver.log
receiver_port=$state/receiver.port

stop_demo() {
    stop_process "$state/receiver.pid" "$receiver_port"
    stop_cluster
}
