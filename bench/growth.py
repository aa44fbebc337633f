"""Benchmark 5: whether more of everything makes a delivery slower."""

import statistics
import time

import setting
from figures import Figure, ratio
from sinks import nginx

ROUNDS = 3
FEW = 4


def drained(db, sink, deliveries):
    """Deliveries a second once the worker starts on what waits."""
    before = sink.count()
    db.one("SELECT webhooks.start_worker()")
    began = sink.wait_for(before + 1)
    done = sink.wait_for(before + deliveries, timeout=900)
    setting.until_empty(db)
    return deliveries / (done - began)


def backlog(server, sink, events, webhooks=200):
    """The rate at which so many waiting events drain."""
    with setting.attached(server) as db:
        setting.create_webhooks(db, sink.url, webhooks)
        db.stop_worker()
        for first in range(1, events + 1, 100_000):
            setting.insert(db, min(100_000, events - first + 1), webhooks, first=first)
        server.execute("CHECKPOINT")
        return drained(db, sink, events)


def webhooks(server, sink, count, events=20_000):
    with setting.attached(server) as db:
        setting.create_webhooks(db, sink.url, count)
        before = sink.count()
        began = time.monotonic()
        setting.insert(db, events, count)
        done = sink.wait_for(before + events)
        setting.until_empty(db)
        return events / (done - began)


def fan_out(server, sink, each, deliveries=40_000):
    """The rate of deliveries when each event goes to so many webhooks."""
    with setting.attached(server) as db:
        db.execute(
            "SELECT count(webhooks.create_webhook(%s || '/' || g, '{memory.created}',"
            " filters => jsonb_build_object('shard', g / %s))) FROM generate_series(0, 199) g",
            sink.url,
            each,
        )
        before = sink.count()
        began = time.monotonic()
        setting.insert(db, deliveries // each, 200 // each)
        done = sink.wait_for(before + deliveries)
        setting.until_empty(db)
        return deliveries / (done - began)


def compare(report, what, small, large, goal):
    small, large = Figure(small, "/s"), Figure(large, "/s")
    report.tell("growth", f"{what}: small case", small)
    report.tell("growth", f"{what}: large case", large)
    report.at_least("growth", f"{what}: large against small", ratio(large, small), goal)


def run(report):
    with setting.server() as server, nginx() as sink:
        pairs = [(webhooks(server, sink, 10), webhooks(server, sink, 10_000)) for _ in range(ROUNDS)]
        compare(report, "10,000 webhooks against 10", *zip(*pairs, strict=True), 0.8)
        pairs = [(fan_out(server, sink, 1), fan_out(server, sink, 20)) for _ in range(ROUNDS)]
        compare(report, "20 webhooks for each event against 1", *zip(*pairs, strict=True), 1.0)
        # A small backlog is gone in a fifth of a second: many of them, before and after each large one.
        small, large = [], []
        few = [backlog(server, sink, 10_000) for _ in range(FEW)]
        for _ in range(ROUNDS):
            large.append(backlog(server, sink, 1_000_000))
            after = [backlog(server, sink, 10_000) for _ in range(FEW)]
            small.append(statistics.median(few + after))
            few = after
        compare(report, "backlog of 1,000,000 against 10,000", small, large, 0.9)
