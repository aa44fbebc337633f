"""Processes of the server are killed while events flow: nothing is lost, and what comes again was in flight or just settled."""

import os
import signal
import subprocess
import time

from receiver import Answer


def kill(*pids):
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def stop_immediately(server):
    """As an operator does it."""
    subprocess.run(
        [server.bin / "pg_ctl", "stop", "-D", server.data, "-m", "immediate"],
        cwd=server.dir,
        check=True,
        stdout=subprocess.DEVNULL,
        **server.run_as,
    )
    server.process.wait()


def test_nothing_is_lost_when_the_worker_is_killed(flow, rounds, record):
    for _ in range(rounds):
        flow.for_a_while()
        worker = flow.worker()
        flow.strike(lambda: kill(worker), worker)  # noqa: B023: called at once
    record("`kill -9` of the worker", flow.finish())


def test_nothing_is_lost_when_the_launcher_is_killed(flow, rounds, record):
    for _ in range((rounds + 2) // 3):
        flow.for_a_while()
        launcher, worker = flow.backend("webhooks launcher"), flow.worker()
        flow.strike(lambda: kill(launcher), launcher, worker)  # noqa: B023
    record("`kill -9` of the launcher", flow.finish())


def test_nothing_is_lost_nor_made_up_when_a_backend_is_killed_in_an_emitting_transaction(flow, rounds, record):
    for _ in range((rounds + 2) // 3):
        flow.for_a_while()
        session = flow.db.connect()
        session.execute("BEGIN")
        doomed = flow.insert(session, 100)
        backend, worker = session.info.backend_pid, flow.worker()
        flow.strike(lambda: kill(backend), backend, worker)  # noqa: B023
        flow.db.reconnect()
        assert flow.db.one("SELECT count(*) FROM memories WHERE id::text = ANY (%s)", doomed) == 0
    record("`kill -9` of a backend in an emitting transaction", flow.finish())


def test_nothing_is_lost_when_the_postmaster_is_killed(flow, rounds, record):
    server = flow.db.server
    for _ in range((rounds + 2) // 3):
        flow.for_a_while()
        children = server.children()
        # A new server starts only when the old one's last process is gone.
        flow.strike(server.process.kill, *children)
    record("`kill -9` of the postmaster", flow.finish())


def test_nothing_is_lost_by_an_immediate_shutdown(flow, rounds, record):
    for _ in range((rounds + 2) // 3):
        flow.for_a_while()
        worker = flow.worker()
        flow.strike(lambda: stop_immediately(flow.db.server), worker)
    record("`pg_ctl stop -m immediate`", flow.finish())


def test_nothing_is_lost_by_a_restart_with_10_000_deliveries_waiting(make_flowing, long, record):
    flow = make_flowing({"webhooks.request_timeout": "1min"})
    server, receiver, waiting = flow.db.server, flow.receiver, 10_000 if long else 2_000
    gate = receiver.gate()
    receiver.answer("/waiting", Answer(hold=gate))
    webhooks = [flow.db.create_webhook(receiver.url("/waiting"), ["user.activity"]) for _ in range(4)]
    flow.db.emit_many(waiting // len(webhooks))
    flow.db.wait_until("SELECT count(*) FROM webhooks.queue WHERE attempts = 0", lambda n: n >= waiting, timeout=60)
    receiver.wait_under_way(5 * len(webhooks), "/waiting")
    held = len(receiver.to("/waiting"))
    worker = flow.worker()
    flow.strike(server.stop, worker)
    gate.open()
    account = flow.finish(timeout=120)
    came = {it.header("X-Lanonasis-Delivery") for it in receiver.to("/waiting")}
    assert len(came) == waiting
    # What hung came again; nothing else did.
    assert len(receiver.to("/waiting")) == waiting + held
    record(f"restart with {waiting:,} deliveries waiting", account)


def test_nothing_is_lost_by_a_power_loss(flow, rounds, record):
    """`kill -9` of everything."""
    server = flow.db.server
    for _ in range((rounds + 2) // 3):
        flow.for_a_while()
        flow.strike(server.crash, *server.children())
    record("power loss (`kill -9` of all)", flow.finish())


def test_nothing_is_sent_of_a_row_that_a_power_loss_takes_from_a_writer_without_synchronous_commit(
    make_flowing, rounds, record
):
    """The same with WAL that nobody flushes but who must."""
    unhurried = {"wal_writer_delay": "10s", "wal_writer_flush_after": "1GB"}
    flow = make_flowing(unhurried, prelude=["SET synchronous_commit = off"])
    server = flow.db.server
    for _ in range(rounds):
        flow.for_a_while(0.2, 0.5)
        flow.strike(server.crash, *server.children())
    account = flow.finish()
    record(f"power loss, writers with `synchronous_commit = off` ({account.vanished} rows gone)", account, vanishing=True)


def test_what_was_answered_before_the_worker_died_is_sent_again_with_the_same_ids(flow, record):
    """The receiver answers 200, and the worker dies before it has read that."""
    gate = flow.receiver.gate()
    flow.receiver.answer("/answered", Answer(hold=gate), 200)
    webhook = flow.db.create_webhook(flow.receiver.url("/answered"), ["user.activity"])
    flow.db.emit()
    (first,) = flow.receiver.wait(1, "/answered")
    worker = flow.worker()
    os.kill(worker, signal.SIGSTOP)
    gate.open()
    deadline = time.monotonic() + 10
    while first.sent == 0:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    flow.strike(lambda: kill(worker), worker)
    second = flow.receiver.wait(2, "/answered", timeout=30)[1]
    for name in ("X-Lanonasis-Delivery", "webhook-id", "X-Lanonasis-Event"):
        assert first.header(name) == second.header(name)
    assert first.body == second.body
    account = flow.finish()
    assert [it["attempts"] for it in flow.db.deliveries(webhook, "delivered")] == [1]
    assert len(flow.receiver.to("/answered")) == 2
    record("answered 200, killed before it was settled", account)
