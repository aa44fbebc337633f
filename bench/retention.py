"""Soak: events as fast as they are delivered, up to 20,000 a second, for MINUTES minutes (default 10) with a retention of
one minute: what has ended goes again as fast as it comes, the tables stop growing, and removing slows neither the writer nor
the deliveries.
"""

import os
import threading
import time

import setting
from figures import Figure, ratio
from sinks import nginx

RATE = 20_000
# Rows of one statement, and how many events may wait to be delivered.
BATCH, WAITING_MOST = 200, 20_000
WEBHOOKS = 50
RETENTION = 60
# Autovacuum is left as often as it is by default, so that dead rows stay for a while.
SETTINGS = {"webhooks.retention": RETENTION, "autovacuum_naptime": "1min"}
SAMPLE_SECONDS = 5
SIZE = "SELECT sum(pg_total_relation_size(oid))::int8 FROM pg_class WHERE relnamespace = 'webhooks'::regnamespace AND relkind = 'r'"
ROWS = "SELECT (SELECT count(*) FROM webhooks.event) + (SELECT count(*) FROM webhooks.delivery)"
# Seconds since the oldest event that is still there.
AGE = "SELECT extract(epoch FROM clock_timestamp() - created_at)::float8 FROM webhooks.event ORDER BY id LIMIT 1"
# How long the oldest may stay beyond the retention: a pass begins every few seconds, and takes its time.
LATE_SECONDS = RETENTION / 2
# How much is written and delivered while as much is removed, and how often that is measured.
EVENTS = 100_000
ROUNDS = 7


class Writer(threading.Thread):
    """RATE events a second, evenly, as long as they are delivered as fast."""

    def __init__(self, db, sink):
        super().__init__(daemon=True)
        self.db, self.sink = db, sink
        self.written = 0
        self.over = threading.Event()

    def run(self):
        began = time.monotonic()
        with self.db.connect() as session:
            while not self.over.is_set():
                if self.written - self.sink.count() > WAITING_MOST:
                    time.sleep(0.02)
                    continue
                session.execute(
                    f"INSERT INTO memories (id, content, shard) SELECT g, {setting.CONTENT}, g %% %s::int"
                    " FROM generate_series(%s::int, %s::int) g",
                    [WEBHOOKS, self.written + 1, self.written + BATCH],
                )
                # The application's own table is not what is measured.
                session.execute("DELETE FROM memories WHERE id > %s AND id <= %s", [self.written, self.written + BATCH])
                self.written += BATCH
                time.sleep(max(0.0, began + self.written / RATE - time.monotonic()))


def sampled(db, sink, seconds):
    """Every few seconds: events written so far, size of the tables in MB, rows in them, age of the oldest event."""
    writer = Writer(db, sink)
    began = time.monotonic()
    writer.start()
    samples = []
    try:
        while time.monotonic() < began + seconds:
            time.sleep(SAMPLE_SECONDS)
            assert writer.is_alive()
            samples.append((writer.written, db.one(SIZE) / 1e6, db.one(ROWS), db.one(AGE)))
    finally:
        writer.over.set()
        writer.join()
    setting.until_empty(db)
    return samples


def growth(report, minutes):
    """What there is of size and rows at most, in the second and in the last third of the time."""
    with setting.server(SETTINGS) as server, nginx() as sink, setting.attached(server) as db:
        setting.create_webhooks(db, sink.url, WEBHOOKS)
        samples = sampled(db, sink, 60 * minutes)
    third = len(samples) // 3
    middle, last = samples[third : 2 * third], samples[2 * third :]
    written = (samples[-1][0] - samples[0][0]) / (SAMPLE_SECONDS * (len(samples) - 1))
    report.tell("retention", f"events written and delivered, of {RATE:,} a second, for {minutes} min", Figure([written], "/s"))
    for what, unit, index in (("size of the tables", "MB", 1), ("events and deliveries kept", "", 2)):
        before, after = (max(it[index] for it in part) for part in (middle, last))
        report.tell("retention", f"{what}, second third of {minutes} min", Figure([before], unit))
        report.at_most("retention", f"{what}, last third against it", Figure([after / before], "×", 2), 1.1)
    late = max(it[3] for it in last) - RETENTION
    report.at_most("retention", "the oldest event beyond the retention, last third", Figure([late], "s", 1), LATE_SECONDS)


def age(db):
    """Makes all events and deliveries old. Ids tell the time: what is to be old must look so."""
    for table, column in (("event", "id"), ("delivery", "id"), ("delivery", "event_id")):
        db.execute(f"UPDATE webhooks.{table} SET {column} = overlay({column}::text PLACING '00' FROM 1 FOR 2)::uuid")
    db.execute("UPDATE webhooks.delivery SET completed_at = completed_at - interval '1 hour'")


def rates(server, sink, removing):
    """Rows a second that a session writes, and deliveries a second, while as much has to be removed, or nothing."""
    with setting.attached(server) as db:
        setting.create_webhooks(db, sink.url, WEBHOOKS)
        setting.insert(db, EVENTS, WEBHOOKS)
        setting.until_empty(db)
        db.stop_worker()
        if removing:
            age(db)
        db.execute("VACUUM (ANALYZE, FREEZE) webhooks.event, webhooks.delivery")
        server.execute("CHECKPOINT")
        before = sink.count()
        db.start_worker()
        began = time.monotonic()
        for first in range(EVENTS + 1, 2 * EVENTS, 10 * BATCH):
            setting.insert(db, 10 * BATCH, WEBHOOKS, first=first)
        written = time.monotonic()
        done = sink.wait_for(before + EVENTS)
        left = db.one("SELECT count(*) FROM webhooks.event WHERE id < '01000000-0000-0000-0000-000000000000'")
        assert not removing or left < EVENTS / 2, f"{EVENTS - left} of {EVENTS} were removed meanwhile"
        return EVENTS / (written - began), EVENTS / (done - began)


def slowness(report):
    with setting.server(SETTINGS) as server, nginx() as sink:
        rounds = [(rates(server, sink, False), rates(server, sink, True)) for _ in range(ROUNDS)]
    for what, index in (("rows written", 0), ("deliveries", 1)):
        without, beside = (Figure([it[n][index] for it in rounds], "/s") for n in (0, 1))
        report.tell("retention", f"{what}, nothing to remove", without)
        report.tell("retention", f"{what}, {EVENTS:,} events to remove", beside)
        report.at_least("retention", f"{what}: the latter against the former", ratio(beside, without), 0.9)


def run(report):
    # Below that there is no third in which as much goes as comes.
    growth(report, max(4, int(os.environ.get("MINUTES") or 10)))
    slowness(report)
