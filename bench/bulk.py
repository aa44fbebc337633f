"""Benchmark 10: how long bulk work for one webhook delays an event of another.

The one has many rows of one statement waiting for its rate limit, which is the default, or for its endpoint. The other gets
an event every few milliseconds, from the commit of the bulk until the worker has read all of it.
"""

import time

import setting
from figures import Figure
from sinks import Timing

ROUNDS = 3
GOAL_MS = 50
# Time between two events of the other webhook, and for how long they come at least.
PAUSE_SECONDS, LEAST_SECONDS = 0.01, 5
LIMITED = {"webhooks.deliveries_per_minute": 1000}
# What the bulk waits for: settings, the path of its endpoint, rows.
KINDS = {
    "100,000 rows at the default limit": (LIMITED, "/bulk", 100_000),
    "300,000 rows at the default limit": (LIMITED, "/bulk", 300_000),
    "300,000 rows for an endpoint that never answers": ({}, "/hang", 300_000),
    "300,000 rows for an endpoint that answers": ({}, "/bulk", 300_000),
}
OTHER = "INSERT INTO memories (id, content, shard) VALUES (%s, %s, 1)"


def delays(db, sink, rows):
    """Milliseconds from the commit of each event of the other webhook to its arrival, in order of length."""
    setting.insert(db, rows, 1)
    committed, began = {}, time.monotonic()
    with db.connect() as session:
        while time.monotonic() < began + LEAST_SECONDS or db.one("SELECT EXISTS (SELECT FROM webhooks.outbox OFFSET 1000)"):
            mark = rows + len(committed) + 1
            session.execute(OTHER, [mark, f"mark={mark};"])
            committed[mark] = time.monotonic()
            time.sleep(PAUSE_SECONDS)
    arrived = sink.arrivals(len(committed), timeout=600)
    return sorted(max(0.0, arrived[mark] - at) * 1000 for mark, at in committed.items())


def measure(server, path, rows):
    """The longest of these delays, and the 99th percentile."""
    sink = Timing()
    try:
        with setting.attached(server) as db:
            db.create_webhook(f"{sink.url}{path}", ["memory.created"], filters={"shard": 0})
            db.create_webhook(f"{sink.url}/other", ["memory.created"], filters={"shard": 1})
            found = delays(db, sink, rows)
            return found[-1], found[len(found) * 99 // 100]
    finally:
        sink.close()


def run(report):
    for name, (settings, path, rows) in KINDS.items():
        with setting.server(settings) as server:
            rounds = [measure(server, path, rows) for _ in range(ROUNDS)]
        longest, most = (Figure([it[n] for it in rounds], "ms", 1) for n in (0, 1))
        report.tell("bulk", f"{name}: p99 of another webhook's event", most)
        report.at_most("bulk", f"{name}: longest delay of another webhook's event", longest, GOAL_MS)
