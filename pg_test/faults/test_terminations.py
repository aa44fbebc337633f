"""The worker is told to go while events flow."""

import os
import signal
import time

from flow import SETTLED_SECONDS
from receiver import hang
from server import is_alive

HANGING = 200
AT_ONCE = 5


def test_a_worker_that_is_terminated_is_back_within_2_seconds(flow, rounds, record):
    for _ in range(rounds):
        flow.for_a_while()
        worker = flow.worker()
        with flow.db.server.connect(flow.db.name) as session:
            strike = flow.strike(lambda: session.execute("SELECT pg_terminate_backend(%s)", [worker]), worker)  # noqa: B023
        assert strike.resumed - strike.at < 2 + flow.stalled(strike.at, strike.resumed)
        assert flow.worker() != worker
    assert flow.db.server.alarms() == []
    account = flow.finish()
    assert set().union(*(writer.errors for writer in flow.writers)) == set(), "no writer noticed"
    record("`pg_terminate_backend` of the worker", account)


def test_a_worker_with_200_requests_that_hang_is_gone_within_2_seconds_and_they_are_sent_again(make_flowing, record):
    flow = make_flowing({"webhooks.request_timeout": "1min"})
    receiver = flow.receiver
    receiver.answer("/hang", hang())
    for _ in range(HANGING // AT_ONCE):
        flow.db.create_webhook(receiver.url("/hang"), ["user.activity"])
    flow.db.emit_many(AT_ONCE)
    receiver.wait_under_way(HANGING, "/hang", timeout=30)
    hung = {it.header("X-Lanonasis-Delivery"): it.header("webhook-id") for it in receiver.to("/hang")}
    receiver.answer("/hang", 200)
    worker = flow.worker()
    strike = flow.strike(lambda: os.kill(worker, signal.SIGTERM), worker)
    assert strike.gone - strike.at < 2 + flow.stalled(strike.at, strike.gone)
    again = receiver.wait(2 * HANGING, "/hang", timeout=30)[HANGING:]
    assert {it.header("X-Lanonasis-Delivery"): it.header("webhook-id") for it in again} == hung
    assert {it.json["attempt"] for it in again} == {1}
    account = flow.finish()
    assert len(receiver.to("/hang")) == 2 * HANGING
    record(f"`SIGTERM` while {HANGING} requests hang", account)


def test_a_shutdown_is_over_within_2_seconds_while_requests_hang(make_flowing, record):
    flow = make_flowing({"webhooks.request_timeout": "1min"})
    flow.receiver.answer("/hang", hang())
    flow.db.create_webhook(flow.receiver.url("/hang"), ["user.activity"])
    flow.db.emit_many(AT_ONCE)
    flow.receiver.wait_under_way(AT_ONCE, "/hang")
    flow.receiver.answer("/hang", 200)
    worker = flow.worker()
    began = time.monotonic()
    strike = flow.strike(flow.db.server.stop, worker)
    assert strike.gone - began < 2 + flow.stalled(began, strike.gone)
    account = flow.finish()
    assert len(flow.receiver.to("/hang")) == 2 * AT_ONCE
    record("`pg_ctl stop` while requests hang", account)


def test_a_worker_that_is_terminated_while_somebody_locks_the_log_is_gone_within_2_seconds(flow, record):
    locking = flow.db.connect()
    locking.execute("BEGIN")
    locking.execute("LOCK TABLE webhooks.delivery")
    locked = time.monotonic()
    flow.for_a_while()
    worker = flow.worker()

    def terminate():
        os.kill(worker, signal.SIGTERM)
        began = time.monotonic()
        while is_alive(worker):
            assert time.monotonic() < began + 2 + flow.stalled(began, time.monotonic())
        locking.execute("COMMIT")  # its successor needs the log to start

    strike = flow.strike(terminate)
    # All that was answered since the lock could not be written.
    strike.settled = flow.awake_before(locked, SETTLED_SECONDS)
    account = flow.finish()
    record("`SIGTERM` while the log is locked", account)
