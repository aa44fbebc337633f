"""Soak: 1,000 events a second while somebody else holds a snapshot open, for MINUTES minutes (default 10).

Dead rows cannot be vacuumed away meanwhile, so whatever reads a queue from its left end gets slower and slower.
"""

import os
import statistics
import time

import setting
from figures import Figure
from latency import percentile
from sinks import Timing
from usage import anonymous_mb, cpu_seconds, descriptors, threads

WEBHOOKS = 20
# Each webhook's requests at once, as webhooks.concurrent_deliveries has it.
AT_ONCE = 5
# A delivery thread that has had nothing to do for 30 s ends, and closes what connections were kept.
REST_SECONDS = 60
# Rows a statement, statements a second.
ROWS, STATEMENTS = 50, 20
# So many at once before. A second in which this machine does something else makes 1,000 wait, whenever that is, and what they
# took, 2 MB, the process keeps for the next; with these it has that from the beginning, and what grows then is a leak.
BURST = 3_000
SAMPLE_SECONDS = 5
INSERT = (
    "INSERT INTO memories (id, content, shard)"
    " SELECT g, 'mark=' || g || ';' || repeat('x', 60), g %% %s::int FROM generate_series(%s::int, %s::int) g"
)


class Soak:
    """What was written and when it arrived, and what the worker had meanwhile."""

    def __init__(self, db, sink):
        self.db, self.sink = db, sink
        self.pid = db.wait_for_worker()
        self.committed = {}
        self.samples = []

    def write(self, minutes):
        with self.db.connect() as session:
            self.insert(session, 1, BURST)
            self.at_rest = [self.rest()]
            self.began = sample_at = time.monotonic()
            for number in range(minutes * 60 * STATEMENTS):
                time.sleep(max(0.0, self.began + number / STATEMENTS - time.monotonic()))
                now = self.insert(session, BURST + number * ROWS + 1, ROWS)
                if now >= sample_at:
                    self.sample(now)
                    sample_at += SAMPLE_SECONDS
        self.arrived = self.sink.arrivals(len(self.committed), timeout=120)
        self.at_rest.append(self.rest())

    def rest(self):
        """Waits until the worker has nothing to do and no delivery threads; how many descriptors it has that are no files,
        which PostgreSQL opens and closes as it likes."""
        setting.until_empty(self.db)
        deadline = time.monotonic() + REST_SECONDS
        while threads(self.pid) > 1:
            assert time.monotonic() < deadline, f"{threads(self.pid)} threads after {REST_SECONDS} s of rest"
            time.sleep(0.1)
        return sum(not it.startswith("/") for it in descriptors(self.pid))

    def insert(self, session, first, count):
        """Rows in one statement; when they were committed."""
        session.execute(INSERT, [WEBHOOKS, first, first + count - 1])
        now = time.monotonic()
        self.committed.update(dict.fromkeys(range(first, first + count), now))
        return now

    def sample(self, now):
        self.sink.arrivals(0)  # so that its process need not keep them all
        opened = descriptors(self.pid)
        sockets = sum(it.startswith("socket:") for it in opened)
        self.samples.append(
            (now, anonymous_mb(self.pid), len(opened), threads(self.pid), cpu_seconds([self.pid]), sockets)
        )

    def minute(self, at):
        return int((at - self.began) // 60)

    def delivered(self, minute):
        return sum(self.minute(at) == minute for at in self.arrived.values())

    def p99(self, minute):
        """Milliseconds from commit to receipt."""
        waits = [max(0.0, self.arrived[mark] - at) for mark, at in self.committed.items() if self.minute(at) == minute]
        return percentile(sorted(waits), 0.99) * 1e3

    def usage(self, minute):
        """MB, file descriptors and threads, medians; CPU seconds in that minute."""
        samples = [it for it in self.samples if self.minute(it[0]) == minute]
        medians = [statistics.median(it[n] for it in samples) for n in (1, 2, 3)]
        return *medians, samples[-1][4] - samples[0][4]


def run(report):
    minutes = max(3, int(os.environ.get("MINUTES") or 10))
    sink = Timing()
    try:
        with setting.server() as server, setting.attached(server) as db, db.connect() as holder:
            setting.create_webhooks(db, sink.url, WEBHOOKS)
            holder.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            holder.execute("SELECT count(*) FROM memories")
            soak = Soak(db, sink)
            soak.write(minutes)
            assert db.wait_for_worker() == soak.pid, "the worker was started again"
    finally:
        sink.close()
    last = minutes - 1
    what = f"snapshot held open {minutes} min at {ROWS * STATEMENTS:,} events a second"
    first_rate, last_rate = soak.delivered(0), soak.delivered(last)
    report.at_least("soak", f"{what}: delivered in the last minute against the first", Figure([last_rate / first_rate], "×", 3), 0.9)
    for minute, name in ((0, "first"), (last, "last")):
        report.tell("soak", f"{what}: p99 of the {name} minute", Figure([soak.p99(minute)], "ms", 2))
    early, half, late = soak.usage(1), soak.usage(minutes // 2), soak.usage(last)
    for number, name, digits in ((0, "memory of the worker, MB", 1), (1, "file descriptors", 0), (2, "threads", 0), (3, "CPU seconds", 2)):
        values = [early[number], half[number], late[number]]
        report.tell("soak", f"{name}: second minute, middle, last minute", Figure(values, "", digits))
    for number, name, most in ((0, "memory", 1.05), (2, "threads", 1.1)):
        report.at_most("soak", f"{name} of the worker, last minute against the middle", Figure([late[number] / half[number]], "×", 3), most)
    # Under load they come and go with the connections that are kept: as many as were needed at once, a moment ago.
    connections = max(it[5] for it in soak.samples)
    report.at_most("soak", f"connections of the worker, at most, for {WEBHOOKS} webhooks", Figure([connections], ""), WEBHOOKS * AT_ONCE)
    before, after = soak.at_rest
    report.at_most("soak", "descriptors at rest that are no files, after all against before", Figure([after / before], "×", 3), 1.0)
