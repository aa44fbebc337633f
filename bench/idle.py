"""Benchmark 7: what a worker with nothing to do does in a minute."""

import time

import setting
from figures import Figure
from usage import cpu_seconds

SECONDS = 60
POLL_SECONDS = 5
SAMPLE_SECONDS = 0.2
TRANSACTIONS = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = %s"


def run(report):
    # Transactions of others than the worker would be counted too: nobody else is connected to its database.
    with setting.server({"autovacuum": "off"}) as server, setting.attached(server) as db:
        db.create_webhook("http://127.0.0.1:9/", ["memory.created"])
        pid = db.wait_for_worker()
        time.sleep(POLL_SECONDS + 2)  # past the poll that follows a start
        moments = []
        with server.connect() as session:

            def transactions():
                return session.execute(TRANSACTIONS, [db.name]).fetchone()[0]

            began, cpu, before = time.monotonic(), cpu_seconds([pid]), transactions()
            first = last = before
            while (now := time.monotonic()) < began + SECONDS:
                if (last := transactions()) > before and (not moments or now - moments[-1] > 2 * SAMPLE_SECONDS):
                    moments.append(now)
                before = last
                time.sleep(SAMPLE_SECONDS)
            cpu = cpu_seconds([pid]) - cpu
    report.at_most("idle", "CPU of the worker", Figure([cpu / SECONDS * 100], "%", 3), 0.1)
    # Whatever is due once a while is done beside a poll.
    report.at_most("idle", "moments in a minute at which it runs SQL", Figure([len(moments)]), SECONDS // POLL_SECONDS + 1)
    report.tell("idle", "transactions in that minute", Figure([last - first]))
