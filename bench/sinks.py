"""Receivers: one as fast as can be, and one that notes times and can hang. Both in processes of their own."""

import asyncio
import contextlib
import multiprocessing
import re
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path

from server import free_port

NGINX = """
daemon off; master_process off; worker_processes 1; pid {dir}/pid; error_log {dir}/error;
events {{ worker_connections 4096; }}
http {{
    access_log off; keepalive_requests 100000000; keepalive_timeout 600s; client_body_buffer_size 128k;
    client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/fastcgi;
    uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location = /count {{ stub_status; }}
        location / {{ return 200 "ok"; }}
    }}
}}
"""


class Nginx:
    """Answers 200, and counts."""

    def __init__(self, directory):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        config = Path(directory) / "nginx.conf"
        config.write_text(NGINX.format(dir=directory, port=self.port))
        self.process = subprocess.Popen(["nginx", "-c", config, "-e", f"{directory}/error"], stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        self.asked = 0
        while True:
            with contextlib.suppress(OSError):
                self.count()
                return
            if time.monotonic() > deadline:
                raise RuntimeError("nginx did not start")
            time.sleep(0.02)

    def count(self):
        """Requests so far, without those of this function."""
        self.asked += 1
        with urllib.request.urlopen(f"{self.url}/count", timeout=5) as answer:
            return int(answer.read().split()[9]) - self.asked

    def wait_for(self, count, timeout=300):
        """Waits until so many have come; the time at which that was seen."""
        deadline = time.monotonic() + timeout
        while self.count() < count:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.count()} requests of {count} after {timeout} s")
            time.sleep(0.01)
        return time.monotonic()


@contextlib.contextmanager
def nginx():
    with tempfile.TemporaryDirectory() as directory:
        sink = Nginx(directory)
        try:
            yield sink
        finally:
            sink.process.terminate()
            sink.process.wait()


HEAD_END = b"\r\n\r\n"
LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
# The mark that a benchmark put into what it sent: in the content of a row, or in a job.
MARK = re.compile(rb"mark=(\d+);")
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Connection(asyncio.Protocol):
    """One connection. What is posted to /hang is never answered, what is posted to /after/S after S seconds."""

    def __init__(self, arrivals):
        self.arrivals = arrivals
        self.buffer = b""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        now = time.monotonic()
        self.buffer += data
        while (end := self.buffer.find(HEAD_END)) >= 0:
            head = self.buffer[:end]
            length = int(LENGTH.search(head).group(1))
            whole = end + len(HEAD_END) + length
            if len(self.buffer) < whole:
                return
            body, self.buffer = self.buffer[end + len(HEAD_END) : whole], self.buffer[whole:]
            path = head.split(b" ", 2)[1]
            if path.startswith(b"/hang"):
                continue
            if path.startswith(b"/after/"):
                asyncio.get_running_loop().call_later(float(path.split(b"/")[2]), self.answer)
                continue
            mark = MARK.search(body)
            if mark:
                self.arrivals.append((int(mark.group(1)), now))
            self.answer()

    def answer(self):
        if not self.transport.is_closing():
            self.transport.write(ANSWER)


def listen(port, pipe):
    """The process of a timing sink: sends what arrived whenever it is asked."""
    arrivals = []

    async def serve():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Connection(arrivals), "127.0.0.1", port, backlog=4096)
        stop = asyncio.Event()

        def asked():
            if pipe.recv() == "stop":
                stop.set()
                return
            pipe.send(list(arrivals))
            arrivals.clear()

        loop.add_reader(pipe.fileno(), asked)
        pipe.send("ready")
        await stop.wait()
        server.close()

    asyncio.run(serve())


class Timing:
    """A sink that notes when each mark arrived, on the clock of time.monotonic()."""

    def __init__(self):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.pipe, theirs = multiprocessing.Pipe()
        self.process = multiprocessing.get_context("fork").Process(target=listen, args=(self.port, theirs), daemon=True)
        self.process.start()
        assert self.pipe.recv() == "ready"
        self.seen = {}

    def arrivals(self, count, timeout=30):
        """The first arrival of each mark, once there are so many."""
        deadline = time.monotonic() + timeout
        while True:
            self.pipe.send("arrivals")
            for mark, at in self.pipe.recv():
                self.seen.setdefault(mark, at)
            if len(self.seen) >= count:
                return self.seen
            if time.monotonic() > deadline:
                raise RuntimeError(f"{len(self.seen)} arrived of {count} after {timeout} s")
            time.sleep(0.05)

    def close(self):
        self.pipe.send("stop")
        self.process.join(10)
        self.process.kill()
