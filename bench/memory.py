"""Benchmark 6: memory of the worker with 1,000,000 deliveries waiting and 1,000 requests under way."""

import time

import setting
from figures import Figure
from sinks import Timing
from usage import anonymous_mb

WAITING = 1_000_000
IN_FLIGHT = 1_000
WEBHOOKS = 400
SETTINGS = {
    "webhooks.max_in_flight": IN_FLIGHT * 2,
    "webhooks.request_timeout": "60s",
    "max_connections": 50,
}


def hanging(server, sink, waiting, content):
    """The most that the worker had while so many requests hung and the rest waited, in MB."""
    with setting.attached(server) as db:
        # An endpoint of which nothing is known yet gets five at once while few are slow.
        setting.create_webhooks(db, f"{sink.url}/hang", WEBHOOKS)
        pid = db.wait_for_worker()
        for first in range(1, waiting + 1, 100_000):
            setting.insert(db, min(100_000, waiting - first + 1), WEBHOOKS, content, first)
        most, under_way = 0.0, 0
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            most = max(most, anonymous_mb(pid))
            under_way = max(under_way, db.one("SELECT in_flight FROM webhooks.worker()"))
            time.sleep(0.2)
        return most, under_way


def run(report):
    sink = Timing()
    try:
        with setting.server(SETTINGS) as server:
            most, under_way = hanging(server, sink, WAITING, setting.CONTENT)
            report.tell("memory", "requests under way, 350-byte bodies", Figure([under_way]))
            report.at_most("memory", "worker, 1,000,000 waiting, 350-byte bodies", Figure([most], "MB", 1), 60)
        with setting.server(SETTINGS) as server:
            most, under_way = hanging(server, sink, 20_000, "repeat('x', 65536)")
            report.tell("memory", "requests under way, 64 KiB bodies", Figure([under_way]))
            report.at_most("memory", "worker, 64 KiB bodies", Figure([most], "MB", 1), 60 + 2 * under_way * 65536 / 1e6)
    finally:
        sink.close()
