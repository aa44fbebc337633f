"""How long the machine kept a worker, and the test that watches it, from running."""

import bisect
import contextlib
import threading
import time
from pathlib import Path

TICK_SECONDS = 0.002


class Stalls:
    """How long this machine kept us, or the worker, from running: that is no fault of the worker's."""

    def __init__(self, worker):
        self.waited = [task / "schedstat" for task in Path(f"/proc/{worker}/task").iterdir()]
        self.ours = self.theirs = 0.0
        self.times, self.sums = [], []
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self):
        self._note()
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()

    def _note(self):
        """Seconds so far that the worker's threads were ready to run and did not, and that our clock was late."""
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread may end
            self.theirs = sum(int(task.read_text().split()[1]) for task in self.waited) / 1e9
        self.sums.append(self.theirs + self.ours)
        self.times.append(time.monotonic())

    def _watch(self):
        while not self.over.is_set():
            before = time.monotonic()
            time.sleep(TICK_SECONDS)
            self.ours += max(0, time.monotonic() - before - 2 * TICK_SECONDS)
            self._note()

    def between(self, since, until):
        while self.times[-1] < until:
            time.sleep(TICK_SECONDS)
        first = max(0, bisect.bisect_right(self.times, since) - 1)
        return self.sums[bisect.bisect_left(self.times, until)] - self.sums[first]
