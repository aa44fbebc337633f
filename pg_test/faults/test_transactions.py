"""Transactions that are long, prepared, rolled back or in the way, while events flow."""

import os
import signal
import time

from psycopg import sql

# How much later than just before something may come, for nine in ten and for each: far below what waiting would be.
PROMPT_SECONDS = 0.5
LATE_SECONDS = 2.0
BEFORE_SECONDS = 1.0


def is_prompt(flow, since, until, what=""):
    """Asserts that what was committed in between came at once; the longest it took."""
    delays, before = flow.delays(since, until), flow.delays(since - BEFORE_SECONDS, since)
    assert delays and before, "nothing was committed"
    stalled = flow.stalled(since, time.monotonic())
    most = before[len(before) * 9 // 10] + PROMPT_SECONDS + stalled, before[-1] + LATE_SECONDS + stalled
    longest = delays[len(delays) * 9 // 10], delays[-1]
    assert longest[0] < most[0] and longest[1] < most[1], f"{what}: {longest} is more than {most}"
    return delays[-1]


def test_a_prepared_transaction_is_delivered_when_another_session_commits_it(flow, record):
    db = flow.db
    preparing = db.connect()
    preparing.execute("BEGIN")
    rows = flow.insert(preparing, 10)
    preparing.execute("PREPARE TRANSACTION 'kept'")
    preparing.execute("BEGIN")
    undone = flow.insert(preparing, 10)
    preparing.execute("PREPARE TRANSACTION 'undone'")
    preparing.close()
    flow.for_a_while()
    worker = flow.worker()
    flow.strike(lambda: os.kill(worker, signal.SIGKILL), worker)
    flow.for_a_while()
    assert flow.arrived(rows + undone) == {}
    db.reconnect()
    db.execute("ROLLBACK PREPARED 'undone'")
    committed = time.monotonic()
    db.execute("COMMIT PREPARED 'kept'")
    arrived = flow.wait_for_rows(rows)
    assert arrived - committed < LATE_SECONDS + flow.stalled(committed, arrived)
    record("`PREPARE TRANSACTION`, crash, `COMMIT PREPARED` elsewhere", flow.finish())


def test_nobody_waits_for_a_writer_that_keeps_its_transaction_open(flow, long, record):
    seconds = 60 if long else 5
    writer = flow.db.connect()
    flow.for_a_while(BEFORE_SECONDS, BEFORE_SECONDS)
    writer.execute("BEGIN")
    rows = flow.insert(writer, 10)
    began = time.monotonic()
    flow.stopping.wait(seconds)  # the promise is about time that passes
    longest = is_prompt(flow, began, time.monotonic() - LATE_SECONDS)
    assert flow.arrived(rows) == {}
    committed = time.monotonic()
    writer.execute("COMMIT")
    arrived = flow.wait_for_rows(rows)
    assert arrived - committed < LATE_SECONDS + flow.stalled(committed, arrived)
    record(f"a transaction open for {seconds} s (others late by {longest * 1000:.0f} ms at most)", flow.finish(), rounds=1)


def test_nothing_is_sent_of_what_is_rolled_back_to_a_savepoint(flow, rounds, record):
    session = flow.db.connect()
    kept, undone = [], []
    times = min(20 * rounds, 200)
    for _ in range(times):
        session.execute("BEGIN")
        kept += flow.insert(session)
        session.execute("SAVEPOINT a")
        undone += flow.insert(session)
        session.execute("SAVEPOINT b")
        undone += flow.insert(session, 2)
        session.execute("ROLLBACK TO a")
        kept += flow.insert(session)
        session.execute("SAVEPOINT c")
        kept += flow.insert(session)
        session.execute("RELEASE c")
        session.execute("COMMIT")
        session.execute("BEGIN")
        undone += flow.insert(session)
        session.execute("ROLLBACK")
    flow.wait_for_rows(kept, timeout=120)
    assert flow.arrived(undone) == {}
    record("savepoints rolled back", flow.finish(), rounds=times)


OPEN = {
    "updated": ["SELECT webhooks.update_webhook(%(mine)s, '{\"url\": \"http://127.0.0.1:1/\"}')"],
    "paused": ["SELECT webhooks.update_webhook(%(mine)s, '{\"active\": false}')"],
    "deleted": ["SELECT webhooks.delete_webhook(%(mine)s)"],
    "rotated": ["SELECT webhooks.rotate_secret(%(mine)s)"],
    "retried": ["SELECT webhooks.retry_delivery(%(failed)s)"],
    "replayed": ["SELECT webhooks.replay(%(mine)s, '-infinity')"],
    "tested": ["SELECT webhooks.send_test(%(mine)s)"],
    "created": ["SELECT webhooks.create_webhook('http://127.0.0.1:1/', '{user.activity}')"],
}


def test_an_open_transaction_that_has_changed_webhooks_delays_nobody_else(flow, record):
    db, receiver = flow.db, flow.receiver
    receiver.answer("/mine", 500)
    mine = db.create_webhook(receiver.url("/mine"), ["user.activity"], retry_policy={"max_attempts": 1})
    db.emit()
    failed = db.the_delivery(mine, "failed")
    for what, statements in OPEN.items():
        session = db.connect()
        session.execute("BEGIN")
        for statement in statements:
            session.execute(statement, {"mine": mine["id"], "failed": failed["id"]})
        began = time.monotonic()
        db.emit()  # something for that very webhook, too
        flow.stopping.wait(0.5)
        flow.wait_for_fresh(time.monotonic())
        is_prompt(flow, began, time.monotonic() - 0.05, what)
        session.execute("ROLLBACK")
        session.close()
    record("open transactions that changed webhooks", flow.finish(), rounds=len(OPEN))


# Writers themselves need these two; a lock on them is the writers' own affair, and the worker's only when it is over.
WRITTEN_BY_USERS = {"event", "outbox"}


def test_a_lock_on_a_table_of_ours_delays_no_delivery(flow, long, record):
    db = flow.db
    tables = [
        row["relname"]
        for row in db.rows(
            "SELECT relname FROM pg_class WHERE relnamespace = 'webhooks'::regnamespace AND relkind = 'r' ORDER BY relname"
        )
        if row["relname"] not in WRITTEN_BY_USERS
    ]
    longest = 0
    for table in tables:
        session = db.connect()
        session.execute("BEGIN")
        session.execute(sql.SQL("LOCK TABLE webhooks.{} IN ACCESS EXCLUSIVE MODE").format(sql.Identifier(table)))
        began = time.monotonic()
        flow.stopping.wait(5 if long else 0.8)  # longer than the worker waits for any lock
        until = time.monotonic()
        flow.stopping.wait(0.2)
        longest = max(longest, is_prompt(flow, began, until, table))
        session.execute("COMMIT")
        session.close()
        flow.wait_for_fresh(time.monotonic())
    record(f"`LOCK TABLE` on each table of ours (others late by {longest * 1000:.0f} ms at most)", flow.finish(), rounds=len(tables))
