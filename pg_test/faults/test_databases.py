"""Many databases, and a server that has no process left for one."""

import os
import re
import signal
import time

import pytest
from server import PRELOADED

# So many databases can be served at once.
SLOTS = 128

DATABASES = 10


def test_ten_databases_at_once_lose_nothing_when_a_worker_is_killed(make_flowing, rounds, record):
    first = make_flowing(rate=30)
    flows = [first, *(make_flowing(server=first.db.server, rate=30) for _ in range(DATABASES - 1))]
    others = flows[1:]
    for _ in range((rounds + 2) // 3):
        first.for_a_while()
        workers = [flow.worker() for flow in flows]
        victim = first.random.choice(workers)
        first.strike(lambda: os.kill(victim, signal.SIGKILL), *workers, also=others)  # noqa: B023
    accounts = [flow.finish() for flow in flows]
    record(f"{DATABASES} databases, `kill -9` of one worker", sum(accounts[1:], accounts[0]), rounds=len(first.strikes))


def test_without_a_free_worker_slot_there_is_one_warning_and_service_when_there_is_one(make_server, make_flowing, record):
    # The launcher takes one, and so does logical replication's.
    server = make_server({**PRELOADED, "webhooks.deliveries_per_minute": 0, "max_worker_processes": 4})
    flow = make_flowing(server=server)
    second = make_flowing(server=server, rate=30)
    began = server.log_size()
    third = make_flowing(server=server, rate=30, served=False)
    waiting = "waiting for a worker slot"
    third.db.wait_until("SELECT state FROM webhooks.status", waiting)
    # It looks again and again, quietly, and nobody else notices.
    for _ in range(3):
        at = time.monotonic()
        flow.wait_for_fresh(at, timeout=5)
        second.wait_for_fresh(at, timeout=5)
        flow.stopping.wait(1.5)
    assert third.db.one("SELECT state FROM webhooks.status") == waiting
    assert server.log(began).count("max_worker_processes") == 1
    assert third.receiver.requests == []
    second.stop()
    second.db.settle()
    at = time.monotonic()
    second.db.stop_worker()
    third.wait_for_fresh(0, timeout=10)
    assert time.monotonic() - at < 5
    assert server.alarms() == []
    record("`max_worker_processes` used up", flow.finish() + third.finish(), rounds=1)


def test_a_worker_that_cannot_start_is_tried_again_ever_less_often_and_serves_when_it_can(flow, long, record):
    """Level-triggered and with a back-off of each database's own: no news is missed, and nothing is forked in a loop."""
    db, server = flow.db, flow.db.server
    locking = db.connect()
    locking.execute("BEGIN")
    locking.execute("LOCK TABLE webhooks.webhook IN ACCESS EXCLUSIVE MODE")
    began = server.log_size()
    worker = flow.worker()

    def keep_from_starting():
        os.kill(worker, signal.SIGTERM)
        server.wait_for_log("could not start", began)
        flow.stopping.wait(10 if long else 3)
        starts = server.log(began).count("could not start")
        assert 2 <= starts <= (8 if long else 6), starts
        locking.execute("COMMIT")

    flow.strike(keep_from_starting)
    record("a worker that cannot start for a while", flow.finish())


@pytest.mark.long
def test_databases_without_the_extension_take_no_place_from_one_that_has_it(make_server, make_database, receiver):
    """More databases than slots: the one that has the extension is found after a restart, wherever it is in the catalog, and
    though nobody emits anything there."""
    server = make_server({**PRELOADED, "fsync": "off", "full_page_writes": "off"})
    db = make_database(server=server)
    db.create_webhook(receiver.url())
    db.stop_worker()
    event = db.emit()
    names = [f"empty_{number}" for number in range(SLOTS + 5)]
    server.execute(*(f"CREATE DATABASE {name} TEMPLATE template0 STRATEGY FILE_COPY" for name in names))
    # Its row in the catalog goes behind theirs.
    server.execute(f"ALTER DATABASE {db.name} CONNECTION LIMIT 100")
    began = server.log_size()
    server.restart()
    assert [it.json["id"] for it in receiver.wait(1, timeout=60)] == [event]
    assert not re.search("serves at most", server.log(began)), "there is room for all that have it"
    db.reconnect()
