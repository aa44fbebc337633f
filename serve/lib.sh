# shellcheck shell=bash
# What serve/run and serve/stop share: where it is kept, and how it ends. Sourced, never run.

# shellcheck source=scripts/throwaway.sh
. "$(dirname "${BASH_SOURCE[0]}")/../scripts/throwaway.sh"

state=$top/target/serve

stop_serve() {
    local dir
    dir=$(cluster_dir)
    [ ! -d "$dir/rest" ] || serve/stack stop "$dir/rest"
    stop_cluster
}
