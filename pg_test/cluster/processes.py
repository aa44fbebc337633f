"""Receivers that are programs of their own, in pg_test/receivers: real applications, and node as a judge of JSON."""

import base64
import json
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

RECEIVERS = Path(__file__).parent.parent / "receivers"
LISTENING = "listening "


def _command(program):
    return [sys.executable if program.endswith(".py") else "node", str(RECEIVERS / program)]


def _need_packages(program):
    if program.endswith(".js") and not (RECEIVERS / "node_modules").is_dir():
        raise RuntimeError(f"{RECEIVERS}/node_modules is missing: run npm ci there (scripts/setup node does)")


class Application:
    """A receiver in a process of its own, which verifies with the given secret."""

    def __init__(self, program, secret):
        _need_packages(program)
        self.process = subprocess.Popen(
            _command(program),
            cwd=RECEIVERS,
            env={**os.environ, "SECRET": secret},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        line = self.process.stdout.readline()
        if not line.startswith(LISTENING):
            self.stop()
            raise RuntimeError(f"{program} did not start: {line!r}")
        self.base = f"http://127.0.0.1:{int(line.removeprefix(LISTENING))}"
        self.url = f"{self.base}/hook"

    def received(self):
        with urllib.request.urlopen(f"{self.base}/received", timeout=10) as answer:
            return json.load(answer)

    def wait(self, n, timeout=15):
        """What was received, once it is n."""
        deadline = time.monotonic() + timeout
        while len(found := self.received()) < n:
            assert time.monotonic() < deadline, f"{len(found)} of {n} after {timeout} s: {found}"
            time.sleep(0.02)
        return found

    def verifies(self, request):
        """Whether it accepts a request that another receiver got."""
        again = urllib.request.Request(self.url, request.body, dict(request.headers), method="POST")
        try:
            with urllib.request.urlopen(again, timeout=10):
                return True
        except urllib.error.HTTPError as error:
            error.close()
            return False

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


class JavaScript:
    """The real node: what JSON.stringify(JSON.parse(body)) makes of a body."""

    def __init__(self):
        self._lock = threading.Lock()
        self._process = None

    def round_trip(self, body):
        """The bytes that node gives back; an exception if it cannot parse them."""
        with self._lock:
            if self._process is None:
                self._process = subprocess.Popen(
                    _command("round_trip.js"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
                )
            self._process.stdin.write(base64.b64encode(body).decode() + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline().rstrip("\n")
        if answer == "same":
            return body
        assert answer and not answer.startswith("error"), f"node: {answer or 'ended'}: {body[:500]}"
        return base64.b64decode(answer)

    def stop(self):
        if self._process is not None:
            self._process.stdin.close()
            self._process.wait(10)
            self._process.stdout.close()
