"""Benchmark 2: from a commit to the receipt at the endpoint, at several rates, beside graphile-worker."""

import time

import setting
from figures import Figure
from sinks import Timing

RATES = (50, 200, 1000)
SECONDS = 6
ROUNDS = 3
OURS = "INSERT INTO memories (id, content) VALUES (%s, %s)"
GRAPHILE = "SELECT graphile_worker.add_job('deliver', json_build_object('path', '/', 'id', %s::bigint, 'content', %s::text))"


def at_rate(db, statement, sink, rate, seconds=SECONDS):
    """Milliseconds from commit to receipt, sorted, of one-row commits at this rate.

    The commit counts from when its client has read that it is done. A receipt may come before: that is 0.
    """
    committed = {}
    content = "x" * 60
    began = time.monotonic()
    with db.connect() as session:
        session.prepare_threshold = 1
        for number in range(rate * seconds):
            pause = began + number / rate - time.monotonic()
            if pause > 0:
                time.sleep(pause)
            session.execute(statement, [number, f"mark={number};{content}"])
            committed[number] = time.monotonic()
    seen = sink.arrivals(len(committed))
    return sorted(max(0.0, seen[number] - at) * 1e3 for number, at in committed.items())


def percentile(values, share):
    return values[min(int(len(values) * share), len(values) - 1)]


def ours(server, rate):
    sink = Timing()
    try:
        with setting.attached(server) as db:
            db.create_webhook(sink.url + "/", ["memory.created"])
            return at_rate(db, OURS, sink, rate)
    finally:
        sink.close()


def graphile(server, rate):
    sink = Timing()
    try:
        with setting.database(server, extension=False) as db:
            setting.prepare_graphile(db)
            with setting.peer("graphile.mjs", db, sink.url):
                return at_rate(db, GRAPHILE, sink, rate)
    finally:
        sink.close()


def run(report):
    with setting.server() as server:
        for rate in RATES:
            rounds = [(ours(server, rate), graphile(server, rate)) for _ in range(ROUNDS)]
            for name, share, limit in (("p50", 0.5, 0.6), ("p99", 0.99, 4)):
                mine = Figure([percentile(it[0], share) for it in rounds], "ms", 2)
                theirs = Figure([percentile(it[1], share) for it in rounds], "ms", 2)
                report.below("latency", f"{name} at {rate} a second", mine, theirs, "graphile-worker")
                if rate == 200:
                    report.at_most("latency", f"{name} at {rate} a second", mine, limit)
