"""Benchmark 7: what a worker with nothing to do does in a minute."""

import time

import setting
from figures import Figure
from usage import cpu_seconds

SECONDS = 60


def run(report):
    # Statements of others than the worker would be counted too: nobody else is connected.
    with setting.server({"autovacuum": "off"}) as server, setting.attached(server) as db:
        db.create_webhook("http://127.0.0.1:9/", ["memory.created"])
        pid = db.wait_for_worker()
        time.sleep(7)  # past the poll that follows a start
        committed = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = %s"
        db.execute("SELECT pg_stat_clear_snapshot()")
        with server.connect() as session:
            before = session.execute(committed, [db.name]).fetchone()[0]
            cpu = cpu_seconds([pid])
            time.sleep(SECONDS)
            cpu = cpu_seconds([pid]) - cpu
            after = session.execute(committed, [db.name]).fetchone()[0]
    report.at_most("idle", "CPU of the worker", Figure([cpu / SECONDS * 100], "%", 3), 0.1)
    # A poll every five seconds is two transactions, for the outbox and for ALTER DATABASE; nothing comes between two polls.
    report.at_most("idle", "transactions in a minute", Figure([after - before]), 2 * (SECONDS // 5 + 1))
