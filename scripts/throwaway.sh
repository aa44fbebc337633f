# shellcheck shell=bash
# A throw-away cluster that goes on running beside a script, for the demo and for make serve. Sourced, never run.
#
# `state`, which the caller sets: a directory in target/ that says where the cluster is (it may have to lie elsewhere).

# shellcheck source=scripts/servers.sh
. "$(dirname "${BASH_SOURCE[0]}")/servers.sh"

state=

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

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

random_hex() { od -An -N "$1" -tx1 /dev/urandom | tr -d ' \n'; }

# The cluster's directory, of what was started before.
cluster_dir() { cat "$state/cluster.path" 2>/dev/null || true; }

# start_cluster pg_config settings: sets dir, bin, port and password; sql() is psql as a superuser.
start_cluster() {
    bin=$(dirname "$1")
    # Somewhere else where the server's user may not come here, and where the path of a socket would be too long.
    mkdir -p "$state"
    dir=$state/cluster
    if ! server_can_enter "$state" || [ ${#dir} -gt 80 ]; then
        dir=$(mktemp -d "/tmp/webhooks-$(basename "$state").XXXXXX")
    fi
    echo "$dir" >"$state/cluster.path"
    mkdir -p "$dir"
    chmod 700 "$dir"
    if am_root; then chown "$server_user" "$dir"; fi

    say "a cluster of $("$1" --version) in $dir"
    port=$(free_port)
    password=$(random_hex 16)
    as_server tee "$dir/password" <<<"$password" >/dev/null
    as_server "$bin/initdb" -D "$dir/data" -U postgres --pwfile "$dir/password" --auth-local trust \
        --auth-host scram-sha-256 --locale C.UTF-8 --encoding UTF8 --no-sync >/dev/null
    as_server tee -a "$dir/data/postgresql.conf" >/dev/null <<CONF
listen_addresses = '127.0.0.1'
port = $port
unix_socket_directories = '$dir'
shared_preload_libraries = 'webhooks'
$2
CONF
    as_server "$bin/pg_ctl" start -w -D "$dir/data" -l "$dir/log" >/dev/null || {
        tail -n 20 "$dir/log" >&2
        die 'the server did not start'
    }
}

sql() { "$bin/psql" -X -v ON_ERROR_STOP=1 -h "$dir" -p "$port" -U postgres "$@"; }

# stop_process file word: ends the process whose pid a file holds, if its command line still has that word in it.
stop_process() {
    local pid
    pid=$(cat "$1" 2>/dev/null || true)
    if [ -n "$pid" ] && tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" | grep -qF "$2"; then
        kill "$pid" || true
        wait_until 10 gone "$pid" || kill -KILL "$pid" || true
    fi
}

# Ends the cluster, known by pid and checked to be still what it was, and removes its files.
stop_cluster() {
    local pid dir
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
