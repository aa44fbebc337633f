"""Bulk work for one webhook delays another webhook's event by no more than 50 ms, whatever the bulk waits for."""

import contextlib
import re
import secrets
import socket
import threading
import time
from pathlib import Path

import pytest
from receiver import Answer, hang
from stalls import Stalls

pytestmark = pytest.mark.quiet

BOUND_SECONDS = 0.05
ROWS = 100_000
# Events of the other webhook, and the time between two of them.
PROBES, PROBE_SECONDS = 60, 0.03
# What the default limit lets through in a minute.
AT_LEAST = 950
# Transactions of which the outbox is read as one stretch; bytes that are stored out of line, in hexadecimal.
NEAR_TRANSACTIONS, INCOMPRESSIBLE = 256, 100_000
NO_LIMIT = pytest.mark.settings({"webhooks.deliveries_per_minute": "0"})
BULK, OTHER = "user.activity", "search.performed"
MANY_TRANSACTIONS = """
    DO $$ BEGIN
        FOR n IN 1..{} LOOP
            PERFORM webhooks.emit('user.activity', '{{"object": "activity"}}');
            COMMIT;
        END LOOP;
    END $$"""


class Bulk:
    """Two webhooks: one that gets bulk, and another."""

    def __init__(self, db, receiver):
        self.db, self.receiver = db, receiver
        receiver.round_trip = False
        self.webhook = db.create_webhook(receiver.url("/bulk"), [BULK])
        self.other = db.create_webhook(receiver.url("/other"), [OTHER])
        # Connections are there, and both are known to answer.
        db.emit(BULK)
        db.emit(OTHER)
        receiver.wait(1, "/bulk")
        receiver.wait(1, "/other")
        db.settle()

    def waiting(self, least, timeout=60):
        """Waits until so many deliveries of the webhook wait in the queue."""
        self.db.wait_until("SELECT count(*) FROM webhooks.queue", lambda n: n >= least, timeout=timeout)

    def emit_large(self, count, size):
        """Events with a text of so many bytes, in one statement."""
        self.db.execute(
            "SELECT count(webhooks.emit(%s, jsonb_build_object('object', 'activity', 'text', repeat('x', %s))))"
            " FROM generate_series(1, %s)",
            BULK,
            size,
            count,
        )

    def other_is_prompt(self, probes=PROBES):
        """Sends events for the other webhook, one after the other: each arrives in time."""
        late, longest = [], 0.0
        arrived = len(self.receiver.to("/other"))
        with self.db.connect() as session, Stalls(self.db.wait_for_worker()) as stalls:
            for number in range(probes):
                self.db.emit(OTHER, session=session)
                committed = time.monotonic()
                arrived += 1
                self.receiver.wait(arrived, "/other", timeout=60)
                came = self.receiver.to("/other")[-1].at
                delay, stalled = came - committed, stalls.between(committed, came)
                longest = max(longest, delay - stalled)
                if delay > BOUND_SECONDS + stalled:
                    late.append((number, round(delay, 3), round(stalled, 3)))
                time.sleep(PROBE_SECONDS)
        print(f"longest delay of another webhook's event: {1000 * longest:.0f} ms, without what the machine stalled")
        assert not late, f"{len(late)} of {probes} late (number, seconds, of which the machine stalled): {late[:10]}"
        left = self.db.one("SELECT (SELECT count(*) FROM webhooks.queue) + (SELECT count(*) FROM webhooks.outbox)")
        assert left > probes, "the bulk was gone by then: nothing was shown"

    def retry_of_the_other_is_prompt(self):
        """The second attempt of the other webhook starts a second after the first, and no later."""
        self.receiver.answer("/other", 500, 200)
        self.db.update_webhook(self.other, retry_policy={"backoff_multiplier": 1})
        arrived = len(self.receiver.to("/other"))
        with Stalls(self.db.wait_for_worker()) as stalls:
            self.db.emit(OTHER)
            self.receiver.wait(arrived + 2, "/other", timeout=60)
            first, second = self.receiver.to("/other")[arrived:]
            due = first.answered + 1
            delay, stalled = second.at - due, stalls.between(due, second.at)
        print(f"delay of another webhook's retry: {1000 * delay:.0f} ms, of which the machine stalled {1000 * stalled:.0f}")
        assert delay <= BOUND_SECONDS + stalled


@pytest.fixture
def bulk(db, receiver):
    return Bulk(db, receiver)


def test_100_000_rows_of_one_statement_that_wait_for_their_limit(bulk):
    bulk.db.emit_many(ROWS)
    bulk.other_is_prompt()


def test_many_small_transactions_that_wait_for_their_limit(bulk):
    with bulk.db.connect() as session:
        session.execute("SET synchronous_commit = off")
        writer = threading.Thread(target=session.execute, args=[MANY_TRANSACTIONS.format(ROWS // 4)])
        writer.start()
        bulk.other_is_prompt()
        writer.join()


@NO_LIMIT
def test_an_endpoint_that_never_answers(bulk):
    bulk.receiver.answer("/bulk", hang())
    bulk.db.emit_many(ROWS)
    bulk.other_is_prompt()


@NO_LIMIT
def test_an_endpoint_that_answers_fast(bulk):
    bulk.db.emit_many(ROWS)
    bulk.other_is_prompt()


@NO_LIMIT
def test_an_endpoint_that_answers_after_20_ms(bulk):
    bulk.receiver.answer("/bulk", Answer(delay=0.02))
    bulk.db.emit_many(ROWS)
    bulk.other_is_prompt()


def test_what_was_held_while_a_webhook_was_paused_and_goes_on(bulk):
    bulk.db.emit_many(ROWS)
    bulk.db.update_webhook(bulk.webhook, active=False)
    bulk.other_is_prompt()
    bulk.waiting(ROWS // 2)
    bulk.db.update_webhook(bulk.webhook, active=True)
    bulk.other_is_prompt()


def test_a_replay(bulk):
    bulk.db.emit_many(ROWS)
    bulk.waiting(ROWS // 2)
    again = bulk.db.create_webhook(bulk.receiver.url("/bulk"), [BULK])
    began = time.monotonic()
    queued = bulk.db.one("SELECT webhooks.replay(%s, now() - interval '1 hour')", again["id"])
    assert queued >= ROWS // 2, f"{queued} after {time.monotonic() - began:.1f} s"
    bulk.other_is_prompt()


@NO_LIMIT
def test_retries_that_come_due_together(bulk):
    bulk.receiver.answer("/bulk", Answer(status=500))
    bulk.db.update_webhook(bulk.webhook, retry_policy={"max_attempts": 100, "backoff_multiplier": 1})
    bulk.db.emit_many(ROWS // 4)
    bulk.other_is_prompt()
    bulk.retry_of_the_other_is_prompt()


@NO_LIMIT
def test_retries_that_came_due_while_no_worker_ran(bulk):
    bulk.receiver.answer("/bulk", hang())
    bulk.db.emit_many(ROWS)
    bulk.waiting(ROWS // 2)
    bulk.db.stop_worker()
    bulk.db.execute("UPDATE webhooks.queue SET attempts = 1, due = now()")
    bulk.db.start_worker()
    bulk.retry_of_the_other_is_prompt()
    bulk.other_is_prompt()


def test_a_worker_that_starts_with_much_to_read(bulk):
    bulk.db.emit_many(ROWS // 2)
    bulk.waiting(ROWS // 4)
    bulk.db.stop_worker()
    bulk.db.emit_many(ROWS // 2)
    bulk.db.emit(OTHER)
    bulk.db.start_worker()
    bulk.receiver.wait(2, "/other", timeout=1)
    bulk.other_is_prompt()


def test_a_webhook_that_is_deleted_while_much_waits(bulk):
    bulk.db.emit_many(ROWS)
    bulk.waiting(ROWS // 2)
    bulk.db.delete_webhook(bulk.webhook)
    bulk.other_is_prompt(PROBES // 3)


@NO_LIMIT
def test_many_endpoints_that_never_answer(bulk):
    """Each has few events waiting, and together they fill whatever memory there is for those."""
    # The kernel takes the connections, and nobody reads: a receiver that accepts a thousand at once would be late itself.
    with contextlib.closing(socket.socket()) as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(4096)
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        bulk.db.execute("SELECT webhooks.create_webhook(%s, %s) FROM generate_series(1, 500)", url, [BULK])
        bulk.db.emit_many(100)
        bulk.waiting(40_000)
        bulk.other_is_prompt()


def test_events_that_both_get_are_not_kept_for_the_one_that_waits(bulk):
    bulk.db.create_webhook(bulk.receiver.url("/all"), [BULK, OTHER])
    bulk.db.emit_many(ROWS)
    bulk.other_is_prompt()


def test_bulk_itself_goes_out_in_order(bulk):
    """What was committed later does not overtake what waits for the limit."""
    bulk.db.emit_many(3_000)
    bulk.db.emit(BULK, {"object": "activity", "n": 0})
    bulk.receiver.wait(1 + AT_LEAST, "/bulk", timeout=30)
    bulk.waiting(1_500)
    bulk.db.wait_until("SELECT count(*) FROM webhooks.outbox", 0, timeout=30)
    sent = [request.data["n"] for request in bulk.receiver.to("/bulk")[1:]]
    assert set(sent) <= set(range(1, 1_100)), "the first of the statement, and nothing that came after it"
    waiting = bulk.db.rows(
        "SELECT (e.data::jsonb->>'n')::int AS n FROM webhooks.queue q JOIN webhooks.event e ON e.id = q.event_id ORDER BY q.seq"
    )
    waiting = [row["n"] for row in waiting if row["n"] not in sent]
    assert waiting[-1] == 0, "the one that was committed last"
    assert waiting[:-1] == sorted(waiting[:-1])


def peak_bytes(pid):
    """The most memory that a process has had since it started, or since its peak was forgotten."""
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())[1]) << 10


def test_large_events_that_follow_small_ones_do_not_fill_the_memory(bulk):
    """The size of those before says nothing of the next ones."""
    large, count = 250_000, 2_400
    bulk.db.emit_many(100)
    bulk.receiver.wait(101, "/bulk", timeout=30)
    bulk.db.settle()
    worker = bulk.db.wait_for_worker()
    before = peak_bytes(worker)
    bulk.emit_large(count, large)
    bulk.receiver.wait(201, "/bulk", timeout=60)
    taken = peak_bytes(worker) - before
    print(f"{taken >> 20} MB for {large * count >> 20} MB of events")
    assert taken < 120 << 20


def test_a_damaged_event_among_those_looked_at_ahead_is_set_aside(bulk):
    """It lies in a stretch of the outbox that is neither read in order yet nor the newest: one transaction of many."""
    db = bulk.db
    db.execute("CREATE EXTENSION pg_surgery")
    toast = db.one("SELECT reltoastrelid::regclass FROM pg_class WHERE oid = 'webhooks.event'::regclass")
    bulk.receiver.answer("/bulk", hang())
    db.execute(
        "SELECT webhooks.create_webhook(%s, %s) FROM generate_series(1, 500)", bulk.receiver.url("/bulk"), [BULK]
    )
    worker = db.wait_for_worker()
    with db.connect() as late:
        late.execute("BEGIN")
        db.emit(BULK, {"object": "activity", "text": secrets.token_hex(INCOMPRESSIBLE)}, session=late)
        chunks = db.one(f"SELECT array_agg(ctid)::text FROM {toast}", session=late)
        db.execute("SELECT heap_force_kill(%s::regclass, %s::tid[])", toast, chunks, session=late)
        # So many others that the damaged one is a stretch of its own; and so much to read that it is not its turn yet.
        for _ in range(NEAR_TRANSACTIONS + 2):
            db.execute("SELECT pg_current_xact_id()")
        db.emit_many(1_000)
        db.emit(OTHER)
        bulk.receiver.wait(2, "/other")
        # The worker finds both at once.
        with db.stopped_between_transactions(worker):
            late.execute("COMMIT")
            db.emit(OTHER)
    bulk.receiver.wait(3, "/other")
    assert db.one("SELECT count(*) FROM webhooks.outbox") > 256, "the damaged one was not read in its turn"
    db.wait_until("SELECT array_agg(stage) FROM webhooks.set_aside", ["dispatch"])
    bulk.other_is_prompt(PROBES // 3)


def test_ten_webhooks_that_wait_for_their_limit(bulk):
    """More is queued for them than is written in one turn of the worker, which has more to do meanwhile."""
    for _ in range(9):
        bulk.db.create_webhook(bulk.receiver.url("/bulk"), [BULK])
    bulk.db.emit_many(1_000)
    bulk.receiver.wait(1 + 9 * AT_LEAST, "/bulk", timeout=60)
    bulk.db.emit_many(ROWS)
    bulk.waiting(5_000)
    bulk.other_is_prompt(PROBES)
    bulk.retry_of_the_other_is_prompt()
    left = bulk.db.one("SELECT count(*) FROM webhooks.outbox")
    assert left > 1_000, "all the bulk was queued by then: nothing was shown"


@NO_LIMIT
@pytest.mark.parametrize(("count", "size"), [(500, 1), (100, 300_000)])
def test_rows_that_share_their_place_are_all_sent(bulk, count, size):
    """They come from users who retry and replay within a millisecond, and a page of the queue may end among them."""
    bulk.receiver.answer("/bulk", hang())
    bulk.emit_large(count, size)
    bulk.waiting(count)
    bulk.db.stop_worker()
    bulk.db.execute(
        "UPDATE webhooks.queue q SET seq = n.n / 3 FROM (SELECT id, row_number() OVER (ORDER BY seq) AS n"
        " FROM webhooks.queue) n WHERE n.id = q.id"
    )
    bulk.receiver.answer("/bulk", 200)
    bulk.db.start_worker()
    bulk.db.wait_for_states(bulk.webhook, delivered=1 + count, pending=0)


@NO_LIMIT
def test_who_wants_one_delivery_now_again_and_again_keeps_no_retry_of_others_waiting(bulk):
    """A paused webhook has many retries that are past due; its owner asks for one of them all the time."""
    db = bulk.db
    bulk.receiver.answer("/bulk", hang())
    db.emit_many(ROWS // 4)
    bulk.waiting(ROWS // 4)
    db.update_webhook(bulk.webhook, active=False)
    bulk.receiver.answer("/other", hang())
    db.emit(OTHER)
    waits = "SELECT count(*) FROM webhooks.queue WHERE webhooks.format_id('webhook', webhook_id) = %s"
    db.wait_until(waits, 1, params=[bulk.other["id"]])
    db.stop_worker()
    db.execute("UPDATE webhooks.queue SET attempts = 1, due = date_trunc('second', now()) - interval '1 hour'")
    soon = "UPDATE webhooks.queue SET due = now() + interval '5 s' WHERE webhooks.format_id('webhook', webhook_id) = %s"
    db.execute(soon, bulk.other["id"])
    (one,) = db.rows("SELECT id FROM webhooks.deliveries WHERE webhook_id = %s LIMIT 1", bulk.webhook["id"])
    bulk.receiver.answer("/other", 200)
    arrived = len(bulk.receiver.to("/other"))
    over = threading.Event()

    def ask():
        with db.connect() as session:
            while not over.wait(0.02):
                session.execute("SELECT webhooks.retry_delivery(%s)", [one["id"]])

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        db.start_worker()
        bulk.receiver.wait(arrived + 1, "/other", timeout=15)
    finally:
        over.set()
        asking.join()


@NO_LIMIT
def test_large_retries_that_follow_small_ones_do_not_fill_the_memory(bulk):
    """They come due together, after small rows of the queue were read."""
    db, large, count = bulk.db, 250_000, 1_000
    bulk.receiver.answer("/bulk", hang())
    db.emit_many(100)
    bulk.emit_large(count, large)
    bulk.waiting(100 + count)
    db.stop_worker()
    db.execute("UPDATE webhooks.queue SET attempts = 1, due = date_trunc('second', now()) + interval '3 s'")
    db.execute("UPDATE webhooks.queue SET due = now() WHERE id IN (SELECT id FROM webhooks.queue ORDER BY seq LIMIT 100)")
    bulk.receiver.answer("/bulk", 200)
    worker = db.start_worker()
    before = peak_bytes(worker)
    db.wait_for_states(bulk.webhook, timeout=40, delivered=101 + count)
    taken = peak_bytes(worker) - before
    print(f"{taken >> 20} MB for {large * count >> 20} MB of events")
    assert taken < 120 << 20
