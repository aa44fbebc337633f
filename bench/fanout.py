"""Benchmark 8: one event for 10,000 webhooks."""

import time

import setting
from figures import Figure
from sinks import nginx

WEBHOOKS = 10_000
ROUNDS = 3


def run(report):
    taken = []
    with setting.server() as server, nginx() as sink, setting.attached(server) as db:
        db.execute(
            "SELECT count(webhooks.create_webhook(%s || g, '{memory.created}')) FROM generate_series(1, %s::int) g",
            f"{sink.url}/",
            WEBHOOKS,
        )
        for number in range(ROUNDS):
            before, began = sink.count(), time.monotonic()
            setting.insert(db, 1, 1, first=number)
            taken.append(sink.wait_for(before + WEBHOOKS) - began)
            setting.until_empty(db)
    report.at_most("fan-out", "one event to 10,000 webhooks", Figure(taken, "s", 2), 2)
