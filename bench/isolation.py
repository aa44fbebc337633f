"""Benchmark 4: what bad neighbours do to a healthy endpoint."""

import concurrent.futures
import threading
import time

import setting
from figures import Figure, ratio
from latency import at_rate, percentile
from sinks import Timing

RATE = 100
SECONDS = 12
ROUNDS = 3
# Statements a second that write the events of the bad endpoints.
STEPS = 50
HEALTHY = "INSERT INTO memories (id, content, shard) VALUES (%s, %s, -1)"
# What the bad endpoints are, how many, and whose shards their events are for: one a second each.
NEIGHBOURS = {"1,000 endpoints that never answer": ("/hang", 1000), "50 endpoints that answer after 4 s": ("/after/4", 50)}


def keep_busy(db, count, stop):
    """An event a second for each of the bad endpoints, spread evenly over the second."""
    with db.connect() as session:
        due, step = time.monotonic(), 0
        while not stop.is_set():
            session.execute(
                "INSERT INTO memories (id, content, shard)"
                " SELECT nextval('bad'), repeat('x', 60), g FROM generate_series(%s::int, %s::int) g",
                [step * count // STEPS, (step + 1) * count // STEPS - 1],
            )
            step = (step + 1) % STEPS
            due += 1 / STEPS
            time.sleep(max(0.0, due - time.monotonic()))


def healthy(server, neighbours=None):
    """The healthy endpoint's p99 in milliseconds, while the neighbours have their events."""
    sink = Timing()
    try:
        with setting.attached(server) as db:
            db.execute("CREATE SEQUENCE bad START 1000000")
            db.create_webhook(f"{sink.url}/", ["memory.created"], filters={"tags": "food", "shard": -1})
            if neighbours:
                path, count = neighbours
                setting.create_webhooks(db, sink.url + path, count)
            stop = threading.Event()
            with concurrent.futures.ThreadPoolExecutor() as pool:
                busy = pool.submit(keep_busy, db, neighbours[1], stop) if neighbours else None
                try:
                    if busy:
                        time.sleep(6)  # longer than their requests take: their state is what it will stay
                    return percentile(at_rate(db, HEALTHY, sink, RATE, SECONDS), 0.99)
                finally:
                    stop.set()
                    if busy:
                        busy.result()
    finally:
        sink.close()


def run(report):
    with setting.server() as server:
        rounds = [
            [healthy(server), *(healthy(server, neighbours) for neighbours in NEIGHBOURS.values())] for _ in range(ROUNDS)
        ]
    alone = Figure([it[0] for it in rounds], "ms", 2)
    report.tell("isolation", "p99 of a healthy endpoint, alone", alone)
    for number, name in enumerate(NEIGHBOURS, 1):
        beside = Figure([it[number] for it in rounds], "ms", 2)
        report.tell("isolation", f"p99 beside {name}", beside)
        report.at_most("isolation", f"p99 beside {name}, against alone", ratio(beside, alone), 3)
