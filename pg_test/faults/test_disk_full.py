"""The tablespace is full: the writer hears it from Postgres, the worker lives on, and goes on when there is room."""

import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path

import psycopg
import pytest

MEGABYTES = 64
FULL = "53100"
LARGE_ROW = "x" * 4000


def as_root(*command):
    sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
    subprocess.run([*sudo, *command], check=True)


@pytest.fixture
def small_disk():
    """A directory with little room, for a tablespace."""
    directory = Path(tempfile.mkdtemp(prefix="wh-disk-", dir="/tmp"))
    server_user = pwd.getpwnam("postgres").pw_uid if os.geteuid() == 0 else os.geteuid()
    as_root("mount", "-t", "tmpfs", "-o", f"size={MEGABYTES}m,mode=0700,uid={server_user}", "tmpfs", str(directory))
    try:
        yield directory
    finally:
        # A server that is still there must not keep it.
        as_root("umount", "--lazy", str(directory))
        shutil.rmtree(directory)


def test_a_full_disk_is_the_writers_error_and_delivery_resumes_when_there_is_room(small_disk, make_flowing, record):
    flow = make_flowing(tablespace=small_disk, content=LARGE_ROW)
    db, server = flow.db, flow.db.server
    worker = flow.worker()
    began = server.log_size()
    filling = db.connect()
    filling.execute("CREATE TABLE filler (x text)")
    rows = 1 << 14
    while rows:
        try:
            filling.execute("INSERT INTO filler SELECT repeat('y', 2000) FROM generate_series(1, %s)", [rows])
        except psycopg.errors.DiskFull:
            rows //= 2
    # Now the writers use up what is left, each in its own words.
    db.wait_until("SELECT true", lambda _: all(writer.errors for writer in flow.writers), timeout=60)
    flow.stopping.wait(3)
    assert set().union(*(writer.errors for writer in flow.writers)) == {FULL}
    assert flow.worker() == worker
    filling.execute("DROP TABLE filler")
    filling.execute("CHECKPOINT")
    account = flow.finish()
    assert flow.worker() == worker, "it was there all the time"
    assert server.alarms(began) == []
    assert account.duplicates == []
    failed = sum(sum(writer.errors.values()) for writer in flow.writers)
    record(f"disk full on the tablespace ({failed} inserts failed)", account, rounds=1)
