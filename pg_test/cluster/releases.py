"""Released versions of the extension, where the tests' own copy of the server finds them."""

import contextlib
import os
import subprocess
from pathlib import Path

from server import pg_config

TOP = Path(__file__).parent.parent.parent
FIRST = "0.1.0"
# A version that there is not yet.
FUTURE = "9.9.9"


def scripts_directory():
    told = subprocess.run([pg_config(), "--sharedir"], check=True, capture_output=True, text=True)
    return Path(told.stdout.strip()) / "extension"


def _put(file, text):
    """At once: another process of pytest may do the same, or read it."""
    made = file.with_name(f"{file.name}.{os.getpid()}")
    made.write_text(text)
    made.replace(file)


def install_releases():
    """Makes CREATE EXTENSION webhooks VERSION '…' work for every release."""
    for script in (TOP / "sql/releases").glob("webhooks--*.sql"):
        _put(scripts_directory() / script.name, script.read_text())


@contextlib.contextmanager
def future_release(current):
    """A version to come, with nothing new in it; and the way back, which only a test takes."""
    files = [scripts_directory() / f"webhooks--{a}--{b}.sql" for a, b in ((current, FUTURE), (FUTURE, current))]
    for file in files:
        _put(file, "-- Nothing.\n")
    try:
        yield FUTURE
    finally:
        for file in files:
            file.unlink(missing_ok=True)
