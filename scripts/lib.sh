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

# logged command…: with its output in a log file, whose last lines are shown if the command fails.
logged() {
    mkdir -p "$(dirname "$WEBHOOKS_LOG")"
    echo "\$ $*" >>"$WEBHOOKS_LOG"
    "$@" >>"$WEBHOOKS_LOG" 2>&1 </dev/null || {
        tail -n 40 "$WEBHOOKS_LOG" >&2
        die "failed: ${step_text:-$*} (its whole output: $WEBHOOKS_LOG)"
    }
}

# step text command…: one line on the screen, all else in the log.
step() {
    local step_text=$1
    say "$step_text"
    shift
    logged "$@"
}

# count_tests text cargo…: a step that ends with the number of tests that have passed.
count_tests() {
    local before
    before=$(passed_tests)
    step "$@"
    say "$(($(passed_tests) - before)) tests passed"
}
passed_tests() {
    [ -e "$WEBHOOKS_LOG" ] || {
        echo 0
        return
    }
    sed -n 's/^test result: ok\. \([0-9]*\) passed.*/\1/p' "$WEBHOOKS_LOG" | awk '{ sum += $1 } END { print sum + 0 }'
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
target=$(absolute "${CARGO_TARGET_DIR:-target}")

for place in "$target" "$WEBHOOKS_CACHE"; do
    [ ! -e "$place" ] || [ -w "$place" ] ||
        die "$place belongs to $(stat -c %U "$place"): remove it as that user, or run this as that user"
done

# A log for each run of the outermost script.
export WEBHOOKS_LOG=${WEBHOOKS_LOG:-$target/log/$(basename "$0")-$WEBHOOKS_STARTED-$$.log}

# What is made here must be readable by the server, whatever the caller keeps to himself elsewhere.
umask 022

# rustup's place, for shells that were open before it was installed.
case :$PATH: in
*":${CARGO_HOME:-$HOME/.cargo}/bin:"*) ;;
*) PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH ;;
esac

# The cargo tools that scripts/setup installs. They are kept apart, so that no other version of them is replaced.
tools=$WEBHOOKS_CACHE/tools
case :$PATH: in
*":$tools/bin:"*) ;;
*) PATH=$tools/bin:$PATH ;;
esac
export PATH

# require_rust: one sentence that says what to install, unless cargo and rustc are recent enough.
require_rust() {
    local wanted program version
    wanted=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml)
    for program in cargo rustc; do
        command -v "$program" >/dev/null ||
            die "there is no $program here: install Rust $wanted or later with rustup (https://rustup.rs)"
        version=$("$program" --version 2>/dev/null | sed -nE 's/^[a-z]+ ([0-9]+\.[0-9]+).*/\1/p') || true
        [ -n "$version" ] ||
            die "$(command -v "$program") --version fails: install Rust $wanted or later (rustup default stable)"
        printf '%s\n' "$wanted" "$version" | sort -C -V ||
            die "$(command -v "$program") is $version: install Rust $wanted or later (rustup update stable; https://rustup.rs)"
    done
}

# A checkout may belong to another user than the one who runs this; git would refuse to read it.
git() { command git -c safe.directory="$top" "$@"; }

# require_git: one sentence, where git is missing.
require_git() { type -P git >/dev/null || die 'there is no git here: install it (Debian: apt-get install git)'; }

# real_postgrest: where PostgREST is, as POSTGREST says (make rest-test POSTGREST=/path) or else the PATH. Fails if there is none.
real_postgrest() {
    if [ -n "${POSTGREST:-}" ]; then absolute "$POSTGREST"; else command -v postgrest; fi
}

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
        die "this needs root, and there is no sudo: install sudo, or run it as root: $*"
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
