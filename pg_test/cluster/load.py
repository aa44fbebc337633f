"""Writers that go on while a test does something to what they write: what became of each statement, and how long it took."""

import threading
import time

import psycopg


class Writers:
    """Threads that run a statement over and over, each in a session of its own. A context: they end with it.

    `statement` is a function of a number that is new each time, and returns what one transaction is made of.
    """

    def __init__(self, db, statement, count=3):
        self.db = db
        self.statement = statement
        self.done = []  # the numbers of what has committed
        self.longest = 0.0
        self.errors = []
        self._number = 0
        self._changed = threading.Condition()
        self._ending = threading.Event()
        self._sessions = [db.connect() for _ in range(count)]
        self._threads = [threading.Thread(target=self._work, args=[it], daemon=True) for it in self._sessions]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._ending.set()
        for session in self._sessions:
            session.cancel()
        for thread in self._threads:
            thread.join()

    def _work(self, session):
        while not self._ending.is_set():
            with self._changed:
                self._number += 1
                number = self._number
            began = time.monotonic()
            try:
                with session.transaction():
                    for query, *params in self.statement(number):
                        session.execute(query, params or None)
            except psycopg.Error as error:
                if self._ending.is_set():
                    return
                self._note(began, error=error)
            else:
                self._note(began, number)

    def _note(self, began, number=None, error=None):
        with self._changed:
            self.longest = max(self.longest, time.monotonic() - began)
            if error is None:
                self.done.append(number)
            else:
                self.errors.append(error)
            self._changed.notify_all()

    def wait_for_more(self, count=50, timeout=20):
        """Waits until so many more have committed; the numbers so far."""
        with self._changed:
            goal = len(self.done) + count
            assert self._changed.wait_for(lambda: len(self.done) >= goal, timeout), f"{goal - len(self.done)} to go"
            return list(self.done)


def until_done(session, statement, tries=20):
    """Runs a statement again as long as it fails with what a user would try again: locks. How often it failed."""
    for failed in range(tries):
        try:
            session.execute(statement)
            return failed
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected) as error:
            last = error
    raise last
