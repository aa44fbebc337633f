# shellcheck shell=bash
# What every script here shares: where things are kept, who runs what, how progress looks. Sourced, never run.
#
# The caller may set WEBHOOKS_CACHE and CARGO_TARGET_DIR; all else is worked out here.

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
cd "$top" || exit 1

# Elapsed seconds count from the outermost script.
export WEBHOOKS_STARTED=${WEBHOOKS_STARTED:-$(date +%s)}

elapsed() { echo $(($(date +%s) - WEBHOOKS_STARTED)); }
say() { printf '==> [%4ds] %s\n' "$(elapsed)" "$*"; }
die() {
    printf '!!! [%4ds] %s\n' "$(elapsed)" "$*" >&2
    exit 1
}

current_version() { sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -1; }

# install_script: what CREATE EXTENSION runs, from the files that src/lib.rs names, in its order. No function is declared
# in Rust alone (pg_extern says sql = false), so nothing has to be generated.
install_script() {
    local file separator=
    grep -o '"\.\./sql/[a-z_]*\.sql"' src/lib.rs | tr -d '"' | while read -r file; do
        printf %s "$separator"
        cat "${file#../}"
        separator=$'\n'
    done
}

am_root() { [ "$(id -u)" -eq 0 ]; }

# A server refuses to run as root, so root runs it as `postgres`, which must then be able to read all that it uses.
if am_root; then
    server_user=postgres
    : "${WEBHOOKS_CACHE:=/var/cache/webhooks}"
else
    server_user=$(id -un)
    : "${WEBHOOKS_CACHE:=${XDG_CACHE_HOME:-$HOME/.cache}/webhooks}"
fi
absolute() { case $1 in /*) echo "$1" ;; *) echo "$top/$1" ;; esac }
WEBHOOKS_CACHE=$(absolute "$WEBHOOKS_CACHE")
export WEBHOOKS_CACHE
# shellcheck disable=SC2034 # for those who source this
target=$(absolute "${CARGO_TARGET_DIR:-target}")

# What is made here must be readable by the server, whatever the caller keeps to himself elsewhere.
umask 022

# rustup's place, for shells that were open before it was installed.
case :$PATH: in
*":${CARGO_HOME:-$HOME/.cargo}/bin:"*) ;;
*) export PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH" ;;
esac

# Stands in for PostgREST where there is none; scripts/setup builds it.
postrust_version=3.1.0
postgrest_substitute() { echo "$WEBHOOKS_CACHE/postrust-$postrust_version/bin/postrust"; }

# as_root command…: as it is for root, else through sudo.
as_root() {
    if am_root; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "this needs root, and there is no sudo: $*"
    fi
}

# as_server command…: as the user who runs the servers, from a directory that everybody may enter (PostgreSQL's programs
# refuse to start in one that they cannot read).
as_server() {
    if am_root; then
        (cd / && exec runuser -u "$server_user" -- "$@")
    else
        (cd / && exec "$@")
    fi
}

# server_can_enter directory
server_can_enter() { as_server test -r "$1" -a -x "$1"; }
