"""The benchmarks. Each prints its figures as one line; the machine is noisy, so each is run several times and the median
stands with its range.

    bench.py [name…]        default: all
"""

import contextlib
import http.server
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from database import Database
from server import Server, free_port

ROUNDS = 3
SINK = """
daemon off; master_process off; worker_processes 1; pid {dir}/pid; error_log {dir}/error;
events {{ worker_connections 4096; }}
http {{
    access_log off; keepalive_requests 100000000; keepalive_timeout 600s; client_body_buffer_size 64k;
    client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/fastcgi;
    uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;
    server {{ listen 127.0.0.1:{port} backlog=4096; location / {{ return 200 "ok"; }} }}
}}
"""


@contextlib.contextmanager
def nginx():
    """A sink that answers 200 as fast as can be; gives its address."""
    with tempfile.TemporaryDirectory() as directory:
        port = free_port()
        config = Path(directory) / "nginx.conf"
        config.write_text(SINK.format(dir=directory, port=port))
        process = subprocess.Popen(["nginx", "-c", config, "-e", f"{directory}/error"], stderr=subprocess.DEVNULL)
        try:
            time.sleep(0.5)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


class Arrivals(http.server.ThreadingHTTPServer):
    """A sink that notes when each row arrived, by the id in the body."""

    daemon_threads = True

    def __init__(self):
        self.at = {}
        arrivals = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True
            wbufsize = -1

            def do_POST(self):
                now = time.monotonic()
                body = self.rfile.read(int(self.headers["Content-Length"]))
                start = body.index(b'"id":"', body.index(b'"data":')) + 6
                arrivals.at[int(body[start : body.index(b'"', start)])] = now
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()


def spread(values, unit, digits=0):
    values = sorted(values)
    return (
        f"{statistics.median(values):,.{digits}f} {unit} ({values[0]:,.{digits}f} to {values[-1]:,.{digits}f}, {len(values)} rounds)"
    )


def cpu_seconds(pids):
    ticks = 0
    for pid in pids:
        with contextlib.suppress(FileNotFoundError):
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / 100


TABLE = """
CREATE TABLE memories (id bigint PRIMARY KEY, content text, tags text[], metadata jsonb DEFAULT '{}',
                       created_at timestamptz DEFAULT now(), shard int);
SELECT webhooks.attach('memories');
"""


def throughput(server, events=20_000, webhooks=200):
    """Events that have committed, each to one of 200 webhooks: how fast they drain."""
    rates, costs = [], []
    with nginx() as sink:
        for _ in range(ROUNDS):
            with contextlib.closing(Closing(server)) as db:
                db.execute(TABLE)
                db.execute(
                    "SELECT count(webhooks.create_webhook(%s || g, '{memory.created}', filters => jsonb_build_object('shard', g)))"
                    " FROM generate_series(0, %s - 1) g",
                    f"{sink}/", webhooks,
                )
                before = cpu_seconds([server.process.pid, *server.children()])
                db.execute(
                    "INSERT INTO memories (id, content, shard, metadata)"
                    " SELECT g, repeat('x', 150), g %% %s, '{\"source\": \"chat\"}' FROM generate_series(1, %s) g",
                    webhooks, events,
                )
                inserted = cpu_seconds([server.process.pid, *server.children()])
                began = time.monotonic()
                while db.one("SELECT backlog FROM webhooks.status"):
                    time.sleep(0.02)
                rates.append(events / (time.monotonic() - began))
                costs.append((cpu_seconds([server.process.pid, *server.children()]) - inserted) * 1e6 / events)
                delivered = db.one("SELECT count(*) FROM webhooks.deliveries WHERE state = 'delivered'")
                assert delivered == events, f"{delivered} delivered of {events}"
                assert before <= inserted
    print(f"throughput  {spread(rates, 'deliveries/s')}, CPU of the server {spread(costs, 'µs a delivery')}", flush=True)


def latency(server, rate=100, seconds=5):
    """Commit to receipt of single-row inserts."""
    for each in (50, rate, 200):
        medians, tails = [], []
        for _ in range(ROUNDS):
            sink = Arrivals()
            with contextlib.closing(Closing(server)) as db:
                db.execute(TABLE)
                db.execute(
                    "SELECT webhooks.create_webhook(%s, '{memory.created}')", f"http://127.0.0.1:{sink.server_port}/"
                )
                committed = {}
                began = time.monotonic()
                for number in range(each * seconds):
                    pause = began + number / each - time.monotonic()
                    if pause > 0:
                        time.sleep(pause)
                    db.execute("INSERT INTO memories (id, content) VALUES (%s, 'likes tea')", number)
                    committed[number] = time.monotonic()
                deadline = time.monotonic() + 30
                while len(sink.at) < len(committed) and time.monotonic() < deadline:
                    time.sleep(0.02)
                assert len(sink.at) == len(committed), f"{len(sink.at)} arrived of {len(committed)}"
            sink.shutdown()
            # A receipt may be noted before the client has read that its commit is done.
            taken = sorted(max(0.0, sink.at[number] - at) * 1e3 for number, at in committed.items())
            medians.append(statistics.median(taken))
            tails.append(taken[int(len(taken) * 0.99)])
        print(f"latency     at {each}/s: p50 {spread(medians, 'ms', 2)}, p99 {spread(tails, 'ms', 2)}", flush=True)


class Closing(Database):
    """A database that goes when it is closed."""

    def __init__(self, server):
        super().__init__(server, True)

    def close(self):
        self.drop()


BENCHMARKS = {"throughput": throughput, "latency": latency}


def main():
    names = sys.argv[1:] or list(BENCHMARKS)
    server = Server(
        {
            "shared_preload_libraries": "webhooks",
            "webhooks.allowed_networks": "127.0.0.0/8",
            "webhooks.deliveries_per_minute": 0,
            "max_wal_size": "4GB",
            "autovacuum_naptime": "1min",
        }
    )
    try:
        server.start()
        for name in names:
            BENCHMARKS[name](server)
    finally:
        server.remove()


if __name__ == "__main__":
    main()
