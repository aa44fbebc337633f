"""An HTTP server in the test's own process that records every request and answers as it is told.

It is written on sockets, not on a web framework, since it must be able to misbehave in every way there is: hang, drip, reset,
never end, speak nonsense. One thread a connection; HTTP/1.1 with connections kept.
"""

import contextlib
import json
import select
import socket
import struct
import threading
import time
from collections import defaultdict
from dataclasses import dataclass

ENDLESS_CHUNK = b"x" * 16_384
# How often a thread that waits looks whether the receiver is being closed.
TICK_SECONDS = 0.05


class Gate(threading.Event):
    """Holds answers until it is opened."""

    open = threading.Event.set


@dataclass
class Answer:
    """What a request gets. `then`: keep (the connection), close, reset, or hang (say nothing more)."""

    status: int = 200
    headers: tuple = ()
    body: bytes = b""
    delay: float = 0
    hold: Gate | None = None
    drip: float = 0  # seconds between the bytes of the whole answer
    raw: bytes | None = None  # sent instead of a well-formed answer
    endless: bool = False  # the body goes on until the other side has had enough
    then: str = "keep"

    def head(self):
        lines = [f"HTTP/1.1 {self.status} {'OK' if self.status < 300 else 'Whatever'}"]
        names = {name.lower() for name, _ in self.headers}
        if not self.endless and not names & {"content-length", "transfer-encoding"}:
            lines.append(f"Content-Length: {len(self.body)}")
        lines += [f"{name}: {value}" for name, value in self.headers]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def hang():
    """No answer, ever."""
    return Answer(raw=b"", then="hang")


def reset():
    """The connection is reset instead of an answer."""
    return Answer(raw=b"", then="reset")


@dataclass
class Request:
    method: str
    target: str  # path with query
    headers: list  # (name, value), in order, as sent
    body: bytes
    at: float  # monotonic, when its head had arrived
    wall: float  # time.time() of the same moment
    connection: int
    answered: float | None = None  # monotonic, when we began to answer
    closed: float | None = None  # monotonic, when the other side gave up waiting
    sent: int = 0  # bytes of the answer that the system took

    @property
    def path(self):
        return self.target.partition("?")[0]

    def all(self, name):
        return [value for other, value in self.headers if other.lower() == name.lower()]

    def header(self, name):
        """The value of a header that must be there once."""
        values = self.all(name)
        assert len(values) == 1, f"{name}: {values} in {self.headers}"
        return values[0]

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def data(self):
        return self.json["data"]


class Receiver:
    def __init__(self, tls=None, host="127.0.0.1", port=0):
        self.requests = []
        self.round_trip = True  # whether node must give all bodies back as they are
        self.connections = 0
        self._tls = tls
        self._scripts = {}
        self._under_way = defaultdict(int)
        self._peaks = defaultdict(int)
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._sockets = set()
        self._gates = []
        self._listener = socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=1024
        )
        self.host = host
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, name="receiver", daemon=True)
        self._thread.start()

    # What tests do

    def url(self, path="/hook", host=None):
        host = host or (f"[{self.host}]" if ":" in self.host else self.host)
        return f"{'https' if self._tls else 'http'}://{host}:{self.port}{path}"

    def answer(self, path, *answers):
        """Answers for a path, in turn; the last one stays. Each is an Answer, a status, or a function of the request."""
        with self._changed:
            self._scripts[path] = [Answer(status=it) if isinstance(it, int) else it for it in answers]

    def gate(self):
        gate = Gate()
        self._gates.append(gate)
        return gate

    def to(self, path=None, where=None):
        """The requests so far, to a path."""
        with self._changed:
            return self._matching(path, where)

    def wait(self, n=1, path=None, timeout=10, where=None):
        """The requests to a path, once there are n."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while len(found := self._matching(path, where)) < n:
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    raise AssertionError(
                        f"{len(found)} of {n} requests to {path or 'any path'} after {timeout} s;"
                        f" there were: {[(it.target, it.body[:200]) for it in self.requests[-20:]]}"
                    )
                self._changed.wait(remaining)
            return found

    def peak(self, path):
        """How many requests to a path were under way at once, at most."""
        with self._changed:
            return self._peaks[path]

    def under_way(self, path):
        with self._changed:
            return self._under_way[path]

    def wait_under_way(self, n, path, timeout=10):
        with self._changed:
            reached = self._changed.wait_for(lambda: self._under_way[path] >= n, timeout)
            assert reached, f"{self._under_way[path]} of {n} requests to {path} under way after {timeout} s"

    def open_connections(self):
        with self._changed:
            return len(self._sockets)

    def close(self):
        self._closing.set()
        for gate in self._gates:
            gate.open()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._changed:
            left = list(self._sockets)
        for connection in left:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._thread.join()

    def _matching(self, path, where):
        return [it for it in self.requests if (path is None or it.path == path) and (where is None or where(it))]

    # Connections

    def _accept(self):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(connection, self.connections), daemon=True).start()

    def _serve(self, connection, number):
        with self._changed:
            self._sockets.add(connection)
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            stream = self._tls.wrap_socket(connection, server_side=True) if self._tls else connection
            with contextlib.closing(stream), stream.makefile("rb") as reader:
                while (request := _read(reader, number)) is not None:
                    if not self._reply(stream, request):
                        return
        except (OSError, ValueError):
            pass  # the other side is gone, or is not to be understood; requests that were whole are recorded
        finally:
            with self._changed:
                self._sockets.discard(connection)
            connection.close()

    def _reply(self, stream, request):
        """Records a request and answers it; whether the connection goes on."""
        answer = self._record(request)
        self._wait_to_answer(stream, request, answer)
        if answer.then == "hang" and answer.raw == b"":
            self._wait_for_close(stream, request)
        with self._changed:
            # Before the first byte, so that what the other side does once it has our answer never counts as simultaneous.
            request.answered = time.monotonic()
            self._under_way[request.path] -= 1
            self._changed.notify_all()
        if request.closed is not None:
            return False
        content = answer.raw if answer.raw is not None else answer.head() + answer.body
        self._send(stream, request, content, answer)
        if answer.then == "hang":
            self._wait_for_close(stream, request)
        elif answer.then == "reset":
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif answer.then == "close" and not self._tls:
            # Now, not when the reader of the same socket is let go.
            stream.shutdown(socket.SHUT_RDWR)
        return answer.then == "keep" and not answer.endless

    def _record(self, request):
        with self._changed:
            self.requests.append(request)
            self._under_way[request.path] += 1
            self._peaks[request.path] = max(self._peaks[request.path], self._under_way[request.path])
            script = self._scripts.get(request.path, [Answer()])
            answer = script.pop(0) if len(script) > 1 else script[0]
            self._changed.notify_all()
        return answer(request) if callable(answer) else answer

    def _wait_to_answer(self, stream, request, answer):
        """Until an answer's delay is over and its gate open, or the other side has gone."""
        until = time.monotonic() + answer.delay
        while time.monotonic() < until or (answer.hold and not answer.hold.is_set()):
            if self._closing.is_set() or self._peer_closed(stream, request):
                return
            if answer.hold and not answer.hold.is_set():
                answer.hold.wait(TICK_SECONDS / 5)
            else:
                time.sleep(max(0, min(TICK_SECONDS, until - time.monotonic())))

    def _wait_for_close(self, stream, request):
        while not self._closing.is_set() and not self._peer_closed(stream, request, TICK_SECONDS):
            pass

    def _peer_closed(self, stream, request, wait=0):
        readable, _, _ = select.select([stream], [], [], wait)
        if readable:
            try:
                closed = stream.recv(1) == b""
            except OSError:
                closed = True
            if closed:
                request.closed = time.monotonic()
            return closed
        return False

    def _send(self, stream, request, content, answer):
        try:
            if answer.drip:
                for byte in content:
                    if self._closing.is_set():
                        return
                    stream.sendall(bytes([byte]))
                    request.sent += 1
                    time.sleep(answer.drip)
            else:
                stream.sendall(content)
                request.sent += len(content)
            while answer.endless and not self._closing.is_set():
                request.sent += stream.send(ENDLESS_CHUNK)
        except OSError:
            request.closed = time.monotonic()
            raise
        finally:
            with self._changed:
                self._changed.notify_all()


def _read(reader, number):
    """The next request of a connection; None at its end."""
    line = reader.readline()
    if not line:
        return None
    at, wall = time.monotonic(), time.time()
    method, target, version = line.decode("latin-1").split()
    if version != "HTTP/1.1":
        raise ValueError(version)
    headers = []
    while (line := reader.readline()) not in (b"\r\n", b""):
        name, _, value = line.decode("latin-1").rstrip("\r\n").partition(":")
        headers.append((name, value.strip()))
    lower = {name.lower(): value for name, value in headers}
    if lower.get("transfer-encoding") == "chunked":
        body = _read_chunks(reader)
    else:
        length = int(lower.get("content-length", 0))
        body = reader.read(length)
        if len(body) < length:
            raise ValueError("a request that breaks off")
    return Request(method, target, headers, body, at, wall, number)


def _read_chunks(reader):
    body = b""
    while size := int(reader.readline().split(b";")[0], 16):
        body += reader.read(size)
        reader.readline()
    while reader.readline() not in (b"\r\n", b""):
        pass
    return body
