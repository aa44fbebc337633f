"""What processes use: CPU time, memory, descriptors and threads, from /proc."""

import contextlib
import os
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pids, with_ended_children_of=None):
    """CPU time so far of these processes, and of the children of one of them that have ended."""
    ticks = 0
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            ticks += int(fields[11]) + int(fields[12])
            if pid == with_ended_children_of:
                ticks += int(fields[13]) + int(fields[14])
    return ticks / TICKS


def server_cpu(server, *others):
    """CPU time so far of a whole PostgreSQL server, and of other processes."""
    return cpu_seconds([server.process.pid, *server.children(), *others], server.process.pid)


def anonymous_mb(pid):
    """Memory of a process that no file backs, in MB: the RssAnon of its status."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise ValueError(f"no RssAnon of {pid}")


def descriptors(pid):
    """What a process has open: paths of files, and others such as `socket:[1]`."""
    found = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(entry))
    return found


def threads(pid):
    """How many threads a process has."""
    return len(os.listdir(f"/proc/{pid}/task"))
