"""The benchmarks: bench.py [name…]. Default: all the short ones. The table goes to target/bench/."""

import datetime
import importlib
import json
import subprocess
import sys
from pathlib import Path

import figures
from setting import NODE, PEERS
from server import pg_config

NAMES = ["throughput", "latency", "writer", "isolation", "bulk", "growth", "memory", "idle", "fanout", "large"]
# These take MINUTES minutes each.
LONG = ["snapshot", "retention"]


def about():
    """What the table was made on, and with whom it compares."""
    release = subprocess.run([pg_config(), "--version"], check=True, capture_output=True, text=True).stdout.strip()
    peers = json.loads((PEERS / "package.json").read_text())["dependencies"]
    node = subprocess.run([NODE, "--version"], check=True, capture_output=True, text=True).stdout.strip()
    against = ", ".join(f"{name} {peers[name]}" for name in ("graphile-worker", "pg-boss"))
    return f"{datetime.date.today()}, {release}, {figures.machine()}. Peers: {against}, node {node}."


def main():
    names = sys.argv[1:] or NAMES
    for name in names:
        if name not in NAMES + LONG:
            sys.exit(f"no such benchmark: {name}; there are {', '.join(NAMES + LONG)}")
    report = figures.Report()
    for name in names:
        importlib.import_module(name).run(report)
    report.write(Path(__file__).parent.parent / "target/bench", "soak" if set(names) <= set(LONG) else "table", about())
    sys.exit(1 if report.missed else 0)


if __name__ == "__main__":
    main()
