"""Events that keep flowing while something goes wrong, and what became of them.

A flow is a database with several webhooks (two that are fast, one that is slow, one whose first attempts fail), a receiver
that records every request, and sessions that insert rows at a rate, come what may. A fault strikes it, once or many times;
at the end its account says what was lost, what was sent twice, and how many could have been.
"""

import contextlib
import itertools
import json
import random
import threading
import time
import uuid
from collections import defaultdict
from dataclasses import dataclass, fields

import psycopg
from receiver import Answer
from server import is_alive

# Rows a second. The promise is about 200; the rest is for a machine that is late.
RATE = 240
WRITERS = 4
SLOW_SECONDS = 0.06
EVERYTHING_ONCE = {"max_attempts": 100, "backoff_multiplier": 1}
# Which webhook gets which rows, by the row's number.
PATHS = {
    "/fast": lambda _n: True,
    "/other": lambda n: n % 2 == 0,
    "/slow": lambda n: n % 4 == 0,
    "/flaky": lambda n: n % 8 == 1,
}
FILTERS = {"/other": {"other": True}, "/slow": {"slow": True}, "/flaky": {"flaky": True}}
# Longest time from an answer to when no crash can undo that it was noted.
SETTLED_SECONDS = 0.1
# What a dead process sent may lie in our sockets for a moment longer than it lived.
UNREAD_SECONDS = 0.1
POLL_SECONDS = 0.005
STALL_TICK_SECONDS = 0.002
# Shorter ones are how processes take turns.
STALL_SECONDS = 0.01
INSERT = "INSERT INTO memories (id, content, metadata) VALUES (%s, %s, %s)"


def rows_metadata(n):
    return {"n": n, **{path.strip("/"): takes(n) for path, takes in PATHS.items()}}


@dataclass
class Strike:
    """One time that the fault came."""

    at: float  # monotonic: nothing was done yet
    gone: float = 0  # whoever had requests under way has ended
    connections: int = 0  # connections that the receiver had seen by then
    resumed: float = 0  # the first delivery arrived of a row that was committed after the strike
    settled: float = 0  # outcomes before this are safe

    def came_before(self, request):
        """Whether a request is of the process that has ended; we may have read it a little later."""
        return request.at <= self.gone + UNREAD_SECONDS or request.connection <= self.connections

    def may_repeat(self, request):
        """Whether a request was in flight, or its outcome not yet safe, when this came."""
        if not self.came_before(request):
            return False
        answered = request.answered if request.closed is None else None
        return answered is None or answered > self.settled


@dataclass
class Account:
    """What became of the events of a flow."""

    strikes: list
    events: int  # rows that are in the table at the end
    rate: float  # rows a second, time without a server included
    lost: list  # (path, row): it should have come and did not
    phantoms: list  # rows that were sent and are not in the table
    duplicates: list  # requests that came again
    unlicensed: list  # of those, the ones that neither flight nor the last moments' settles explain: (path, seconds too old)
    bound: int  # how many might have come again
    renamed: list  # rows whose deliveries have more than one id
    vanished: int  # commits that were confirmed, and that the crash took
    unlogged: int  # deliveries that came and are not in the log as delivered

    def __add__(self, other):
        """Of two flows together."""
        return Account(**{it.name: getattr(self, it.name) + getattr(other, it.name) for it in fields(self)})

    @property
    def resume_seconds(self):
        """Of each strike, in order of length."""
        return sorted(it.resumed - it.at for it in self.strikes if it.resumed)

    def check(self, vanishing=False):
        """What every fault must keep."""
        assert not self.lost, f"{len(self.lost)} lost: {self.lost[:10]}"
        assert not self.phantoms, f"{len(self.phantoms)} sent of rows that are gone"
        assert not self.renamed, f"sent again under another id: {self.renamed[:10]}"
        needless = f"{len(self.unlicensed)} of {len(self.duplicates)} sent again without need: {self.unlicensed[:10]}"
        assert not self.unlicensed, needless
        assert len(self.duplicates) <= self.bound
        assert not self.unlogged, f"{self.unlogged} deliveries are not logged as delivered"
        assert vanishing or not self.vanished, f"{self.vanished} confirmed commits are gone"
        return self


class Writer(threading.Thread):
    """A session that inserts rows by the clock, and comes back when it is thrown out."""

    def __init__(self, flow, first):
        super().__init__(name=f"writer {first}", daemon=True)
        self.flow = flow
        self.number = first
        self.confirmed = {}  # row: monotonic, when its commit was confirmed
        self.errors = defaultdict(int)  # by SQLSTATE; None: the connection broke

    def run(self):
        session = None
        while not self.flow.stopping.is_set():
            due = self.flow.began + self.number / self.flow.rate
            if self.flow.stopping.wait(max(0, due - time.monotonic())):
                break
            row = str(uuid.uuid4())
            try:
                if session is None:
                    session = self.flow.db.server.connect(self.flow.db.name)
                    for statement in self.flow.prelude:
                        session.execute(statement)
                session.execute(INSERT, [row, self.flow.content, json.dumps(rows_metadata(self.number))])
                self.confirmed[row] = time.monotonic()
                self.number += WRITERS
            except psycopg.Error as error:
                self.errors[error.sqlstate] += 1
                if session is not None and session.broken:
                    session.close()
                    session = None
                if self.flow.stopping.wait(0.05):
                    break
        if session is not None:
            session.close()


class Flow:
    def __init__(self, db, receiver, rate=RATE, prelude=(), content="a memory"):
        self.db, self.receiver, self.rate, self.prelude, self.content = db, receiver, rate, prelude, content
        self.stopping = threading.Event()
        self.strikes = []
        self.random = random.Random()
        self.stalls = []
        receiver.round_trip = False  # other tests are about bodies
        receiver.answer("/slow", Answer(delay=SLOW_SECONDS))
        receiver.answer("/flaky", lambda request: Answer(status=500 if request.json["attempt"] == 1 else 200))
        db.memories()
        self.webhooks = {
            path: db.create_webhook(
                receiver.url(path), ["memory.created"], retry_policy=EVERYTHING_ONCE, filters=FILTERS.get(path)
            )
            for path in PATHS
        }
        self.writers = [Writer(self, first) for first in range(WRITERS)]
        self.clock = threading.Thread(target=self._watch_the_clock, name="stalls", daemon=True)

    def start(self, served=True):
        self.began = time.monotonic()
        for thread in (*self.writers, self.clock):
            thread.start()
        if served:
            self.wait_for_fresh(self.began)
        return self

    def _watch_the_clock(self):
        """How late this machine lets a process be: a worker that is not run cannot settle."""
        while not self.stopping.is_set():
            before = time.monotonic()
            time.sleep(STALL_TICK_SECONDS)
            late = time.monotonic() - before - STALL_TICK_SECONDS
            if late > STALL_SECONDS:
                self.stalls.append((before + STALL_TICK_SECONDS, before + STALL_TICK_SECONDS + late))

    def stalled(self, since, until):
        """Seconds of a time that this machine kept us from running."""
        return sum(max(0, min(end, until) - max(at, since)) for at, end in list(self.stalls))

    def awake_before(self, at, seconds):
        """When it was that we had so many seconds left to run before a moment."""
        since = at - seconds
        while (needed := at - seconds - self.stalled(since, at)) < since - 0.001:
            since = needed
        return since

    # While it flows

    def for_a_while(self, least=0.2, most=1.0):
        """Until a random moment: faults do not wait for a good one."""
        self.stopping.wait(self.random.uniform(least, most))

    def insert(self, session, count=1):
        """Rows of a test's own in a session of its own, which count as all others do; their ids."""
        rows = [str(uuid.uuid4()) for _ in range(count)]
        with session.cursor() as cursor:
            cursor.executemany(INSERT, [[row, self.content, json.dumps(rows_metadata(n))] for n, row in enumerate(rows)])
        return rows

    def arrived(self, rows, path="/fast"):
        """Which of these rows have come to a path, each with the time of its first arrival."""
        wanted, found = set(rows), {}
        for request in list(self.receiver.requests):
            if request.path == path and (row := request.data["id"]) in wanted:
                found.setdefault(row, request.at)
        return found

    def wait_for_rows(self, rows, timeout=10):
        """Waits until all of these rows have come; when the last of them did."""
        deadline = time.monotonic() + timeout
        while len(found := self.arrived(rows)) < len(rows):
            assert time.monotonic() < deadline, f"{len(found)} of {len(rows)} after {timeout} s\n{self.picture()}"
            time.sleep(POLL_SECONDS)
        return max(found.values())

    def delays(self, since, until, path="/fast"):
        """Seconds from commit to arrival of the rows that were committed between two moments, in order of length; a row that
        has not come is late by all the time since."""
        committed = {row: at for row, at in self.confirmed().items() if since < at < until}
        arrived, now = self.arrived(committed, path), time.monotonic()
        return sorted(max(0, arrived.get(row, now) - at) for row, at in committed.items())

    def confirmed(self):
        """All rows whose commit was confirmed, with when."""
        return dict(itertools.chain.from_iterable(list(writer.confirmed.items()) for writer in self.writers))

    def wait_for_fresh(self, since, timeout=60):
        """Waits until a row arrives that was committed after a moment; when it did."""
        deadline = time.monotonic() + timeout
        seen = len(self.receiver.requests)
        while seen and self.receiver.requests[seen - 1].at > since:
            seen -= 1
        while True:
            requests = self.receiver.requests
            while seen < len(requests):
                request = requests[seen]
                seen += 1
                if request.path in PATHS:
                    row = request.data["id"]
                    committed = next((it.confirmed[row] for it in self.writers if row in it.confirmed), None)
                    # A request may be faster than the confirmation of its commit.
                    if committed is not None and committed > since:
                        return request.at
            assert time.monotonic() < deadline, f"nothing new arrived for {timeout} s\n{self.picture()}"
            time.sleep(POLL_SECONDS)

    def picture(self):
        with contextlib.suppress(psycopg.Error), self.db.server.connect(self.db.name) as session:
            return session.execute("SELECT s::text FROM webhooks.status s").fetchone()
        return "(no picture)"

    def backend(self, kind):
        """Pid of the worker of this database, or of the launcher."""
        with self.db.server.connect(self.db.name) as session:
            deadline = time.monotonic() + 30
            while True:
                found = session.execute(
                    "SELECT pid FROM pg_stat_activity WHERE backend_type = %s AND (datname IS NULL OR datname = %s)",
                    [kind, self.db.name],
                ).fetchall()
                if len(found) == 1:
                    return found[0][0]
                assert time.monotonic() < deadline, f"{kind}: {found}"
                time.sleep(POLL_SECONDS)

    def worker(self):
        return self.backend("webhooks worker")

    def strike(self, act, *ends, also=()):
        """Lets something happen to a process that sends, and waits until events arrive again. `ends`: pids that end by it;
        `also`: other flows of the same server, whom it strikes too."""
        flows = [self, *also]
        at = time.monotonic()
        act()
        for pid in ends:
            while is_alive(pid):
                assert time.monotonic() < at + 30, f"{pid} lives on"
                time.sleep(0.001)
        gone = time.monotonic()
        strikes = [Strike(at=at, gone=gone, connections=flow.receiver.connections) for flow in flows]
        self.db.server.recover()
        for flow, strike in zip(flows, strikes, strict=True):
            flow.strikes.append(strike)
            strike.resumed = flow.wait_for_fresh(gone)
            strike.settled = self.awake_before(at, SETTLED_SECONDS)
        return strikes[0]

    # The end

    def stop(self):
        """No more rows."""
        self.stopping.set()
        for thread in (*self.writers, self.clock):
            if thread.is_alive():
                thread.join()
        self.ended = time.monotonic()

    def finish(self, timeout=90):
        """Stops, waits until everything has been delivered, and settles the account."""
        self.stop()
        self.db.server.recover()
        self.db.reconnect()
        self.db.settle(timeout)
        return self.account()

    def account(self):
        rows = {
            row["id"]: row["n"]
            for row in self.db.rows("SELECT id::text, (metadata->>'n')::int AS n FROM memories WHERE metadata ? 'n'")
        }
        came = defaultdict(list)  # by path and row
        by_attempt = defaultdict(list)  # by delivery and attempt
        for request in list(self.receiver.requests):
            if request.path in PATHS:
                body = request.json
                came[request.path, body["data"]["id"]].append(request)
                by_attempt[request.header("X-Lanonasis-Delivery"), body["attempt"]].append(request)
        expected = {(path, row) for row, n in rows.items() for path, takes in PATHS.items() if takes(n)}
        others = {row["id"] for row in self.db.rows("SELECT id::text FROM memories")} - rows.keys()
        duplicates, unlicensed = [], []
        for requests in by_attempt.values():
            for first, again in itertools.pairwise(requests):
                duplicates.append(again)
                between = [it for it in self.strikes if it.came_before(first) and again.at >= it.at]
                if not any(it.may_repeat(first) for it in between):
                    age = min((round(it.at - (first.answered or it.at), 3) for it in between), default=None)
                    unlicensed.append((first.path, age))
        return Account(
            strikes=self.strikes,
            events=len(rows),
            rate=len(rows) / (self.ended - self.began),
            lost=sorted(expected - came.keys()),
            phantoms=sorted({row for _, row in came} - rows.keys() - others),
            duplicates=duplicates,
            unlicensed=unlicensed,
            bound=sum(sum(map(it.may_repeat, self._before(it))) for it in self.strikes),
            renamed=[
                key
                for key, requests in came.items()
                if len({(it.header("X-Lanonasis-Delivery"), it.header("webhook-id")) for it in requests}) > 1
            ],
            vanished=len(self.confirmed().keys() - rows.keys()),
            unlogged=len(expected) - self._logged(),
        )

    def _logged(self):
        webhooks = [webhook["id"] for webhook in self.webhooks.values()]
        return self.db.one(
            "SELECT count(*) FROM webhooks.deliveries WHERE state = 'delivered' AND webhook_id = ANY (%s)", webhooks
        )

    def _before(self, strike):
        """The requests that were made before a strike and not answered long before it."""
        for request in reversed(list(self.receiver.requests)):
            if request.path not in PATHS:
                continue
            if request.at < strike.at - 10:
                return
            yield request
