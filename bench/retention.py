"""Soak: 500 events a second for MINUTES minutes (default 10) with a retention of one: what has ended goes again, the tables
stop growing, and removing does not slow delivery.
"""

import os
import threading
import time

import setting
from figures import Figure, ratio
from sinks import nginx

RATE = 500
# Rows of one commit.
BATCH = 25
WEBHOOKS = 50
RETENTION = 60
# Autovacuum is left as often as it is by default, so that dead rows stay for a while.
SETTINGS = {"webhooks.retention": RETENTION, "autovacuum_naptime": "1min"}
SAMPLE_SECONDS = 5
SIZE = "SELECT sum(pg_total_relation_size(oid))::int8 FROM pg_class WHERE relnamespace = 'webhooks'::regnamespace AND relkind = 'r'"
ROWS = "SELECT (SELECT count(*) FROM webhooks.event) + (SELECT count(*) FROM webhooks.delivery)"
# How much is delivered while as much is removed, and how often that is measured.
EVENTS = 100_000
ROUNDS = 7


def write(db, stop):
    """RATE events a second, evenly."""
    began, written = time.monotonic(), 0
    with db.connect() as session:
        while not stop.is_set():
            session.execute(
                f"INSERT INTO memories (id, content, shard) SELECT g, {setting.CONTENT}, g %% %s::int"
                " FROM generate_series(%s::int, %s::int) g",
                [WEBHOOKS, written + 1, written + BATCH],
            )
            written += BATCH
            time.sleep(max(0.0, began + written / RATE - time.monotonic()))
    return written


def grown(db, seconds):
    """Size in MB and rows of the tables, every few seconds."""
    stop = threading.Event()
    writer = threading.Thread(target=write, args=[db, stop])
    began = time.monotonic()
    writer.start()
    samples = []
    try:
        while time.monotonic() < began + seconds:
            time.sleep(SAMPLE_SECONDS)
            samples.append((db.one(SIZE) / 1e6, db.one(ROWS)))
    finally:
        stop.set()
        writer.join()
    setting.until_empty(db)
    return samples


def growth(report, minutes):
    """What there is of size and rows at most, in the second and in the last third of the time."""
    with setting.server(SETTINGS) as server, nginx() as sink, setting.attached(server) as db:
        setting.create_webhooks(db, sink.url, WEBHOOKS)
        samples = grown(db, 60 * minutes)
    third = len(samples) // 3
    for what, unit, index in (("size of the tables", "MB", 0), ("events and deliveries kept", "", 1)):
        middle, last = (max(it[index] for it in part) for part in (samples[third : 2 * third], samples[2 * third :]))
        report.tell("retention", f"{what}, second third of {minutes} min", Figure([middle], unit))
        report.at_most("retention", f"{what}, last third against it", Figure([last / middle], "×", 2), 1.1)


def rate(server, sink, removing):
    """Deliveries a second out of a backlog, while as much has to be removed, or nothing."""
    with setting.attached(server) as db:
        setting.create_webhooks(db, sink.url, WEBHOOKS)
        setting.insert(db, EVENTS, WEBHOOKS)
        setting.until_empty(db)
        db.stop_worker()
        if removing:
            # Ids tell the time: what is to be old must look so.
            for table, column in (("event", "id"), ("delivery", "id"), ("delivery", "event_id")):
                db.execute(
                    f"UPDATE webhooks.{table} SET {column} = overlay({column}::text PLACING '00' FROM 1 FOR 2)::uuid"
                )
            db.execute("UPDATE webhooks.delivery SET completed_at = completed_at - interval '1 hour'")
        db.execute("VACUUM (ANALYZE, FREEZE) webhooks.event, webhooks.delivery")
        setting.insert(db, EVENTS, WEBHOOKS, first=EVENTS + 1)
        server.execute("CHECKPOINT")
        before = sink.count()
        db.one("SELECT webhooks.start_worker()")
        began = sink.wait_for(before + 1)
        done = sink.wait_for(before + EVENTS)
        left = db.one("SELECT count(*) FROM webhooks.delivery WHERE completed_at < now() - interval '30 minutes'")
        assert not removing or left < EVENTS, "nothing was removed meanwhile"
        return EVENTS / (done - began)


def slowness(report):
    with setting.server(SETTINGS) as server, nginx() as sink:
        rounds = [(rate(server, sink, False), rate(server, sink, True)) for _ in range(ROUNDS)]
    without, beside = (Figure([it[n] for it in rounds], "/s") for n in (0, 1))
    report.tell("retention", f"{EVENTS:,} waiting: deliveries, nothing to remove", without)
    report.tell("retention", f"{EVENTS:,} waiting: deliveries, {EVENTS:,} to remove", beside)
    report.at_least("retention", "the latter against the former", ratio(beside, without), 0.9)


def run(report):
    # Below that there is no third in which as much goes as comes.
    growth(report, max(4, int(os.environ.get("MINUTES") or 10)))
    slowness(report)
