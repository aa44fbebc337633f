"""Benchmark 1: how fast events that have committed are delivered, beside graphile-worker and pg-boss."""

import time

import setting
from figures import Figure, ratio
from usage import server_cpu
from sinks import nginx

EVENTS = 100_000
WEBHOOKS = 200
ROUNDS = 3


def ours(server, sink):
    """From the commit until everything is delivered and logged."""
    with setting.attached(server) as db:
        setting.create_webhooks(db, sink.url, WEBHOOKS)
        before = sink.count()
        setting.insert(db, EVENTS, WEBHOOKS)
        began, cpu, written = time.monotonic(), server_cpu(server), setting.wal(db)
        sink.wait_for(before + EVENTS)
        setting.until_empty(db)
        took = time.monotonic() - began
        cpu, written = server_cpu(server) - cpu, setting.wal(db) - written
        delivered = db.one("SELECT count(*) FROM webhooks.delivery WHERE state = 'delivered'")
        assert delivered == EVENTS, f"{delivered} delivered of {EVENTS}"
    return EVENTS / took, cpu * 1e6 / EVENTS, written / EVENTS


def peer(server, sink, script, prepare, jobs, waiting):
    """From the first request until no job is left: its start and its loading do not count."""
    with setting.database(server, extension=False) as db:
        prepare(db)
        db.execute(jobs.format(EVENTS))
        before, written = sink.count(), setting.wal(db)
        with setting.peer(script, db, sink.url) as pid:
            began, cpu = sink.wait_for(before + 1), server_cpu(server, pid)
            sink.wait_for(before + EVENTS)
            while db.one(waiting):
                time.sleep(0.02)
            took = time.monotonic() - began
            cpu, written = server_cpu(server, pid) - cpu, setting.wal(db) - written
    return EVENTS / took, cpu * 1e6 / EVENTS, written / EVENTS


PEERS = {
    "graphile-worker": (
        "graphile.mjs",
        setting.prepare_graphile,
        setting.GRAPHILE_JOBS,
        "SELECT EXISTS (SELECT FROM graphile_worker.jobs)",
    ),
    "pg-boss": (
        "pgboss.mjs",
        setting.prepare_pgboss,
        setting.PGBOSS_JOBS,
        "SELECT EXISTS (SELECT FROM pgboss.job WHERE state < 'completed')",
    ),
}


def run(report):
    rounds = {"webhooks": [], **{name: [] for name in PEERS}}
    with setting.server() as server, nginx() as sink:
        for _ in range(ROUNDS):
            rounds["webhooks"].append(ours(server, sink))
            for name, how in PEERS.items():
                rounds[name].append(peer(server, sink, *how))
    rates = {name: Figure([it[0] for it in each], "/s") for name, each in rounds.items()}
    for name, each in rounds.items():
        report.tell("throughput", f"{name}: deliveries", rates[name])
        cost = Figure([it[1] for it in each], "µs")
        what = f"{name}: CPU a delivery, worker and server"
        if name == "webhooks":
            report.at_most("throughput", what, cost, 90)
        else:
            report.tell("throughput", what, cost)
        report.tell("throughput", f"{name}: WAL a delivery", Figure([it[2] for it in each], "bytes"))
    better = max((rates[name] for name in PEERS), key=lambda rate: rate.median)
    report.at_least("throughput", "webhooks against the better of the two", ratio(rates["webhooks"], better), 1.5)
