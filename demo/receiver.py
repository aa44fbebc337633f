"""A webhook receiver in Python's standard library alone: it checks both signatures, by itself, and prints each delivery.

    DEMO_SECRET=… receiver.py PORT_FILE [PORT]

It listens on 127.0.0.1, on a free port unless PORT names one, and writes that port into PORT_FILE. POST /ok is answered with 200; POST /flaky with
500 twice for each delivery, then with 200; a wrong signature with 401.
"""

import base64
import collections
import hashlib
import hmac
import http.server
import json
import os
import sys
import threading
import time
from datetime import datetime, timezone

FAILURES_OF_FLAKY = 2
TIMESTAMP_TOLERANCE_SECONDS = 300


def say(line):
    """A whole line at once: requests come on several threads, and print() writes the end of a line by itself."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def plain_signature_ok(secret, headers, body):
    """X-Lanonasis-Signature: HMAC-SHA256 over the body, in hex; the key is the secret as it is written."""
    expected = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    return hmac.compare_digest(expected, headers.get("X-Lanonasis-Signature", ""))


def standard_signature_ok(secret, headers, body):
    """webhook-signature, as Standard Webhooks 1.0.0 has it: over id, time and body, in base64."""
    message_id = headers.get("webhook-id", "")
    timestamp = headers.get("webhook-timestamp", "")
    if not timestamp.isdecimal() or abs(time.time() - int(timestamp)) > TIMESTAMP_TOLERANCE_SECONDS:
        return False
    prefix, _, encoded = secret.partition("whsec_")
    key = base64.b64decode(encoded) if not prefix and encoded else secret.encode()
    signed = f"{message_id}.{timestamp}.".encode() + body
    expected = "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    # There are several while a secret is being rotated.
    return any(hmac.compare_digest(expected, one) for one in headers.get("webhook-signature", "").split(" "))


class Receiver(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # the sender may keep its connection
    disable_nagle_algorithm = True
    secret = ""
    attempts_seen = collections.Counter()
    first = threading.Lock()  # taken by the first request, which is shown whole, and never released

    def do_POST(self):
        arrived = datetime.now(timezone.utc)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if not (
            plain_signature_ok(self.secret, self.headers, body)
            and standard_signature_ok(self.secret, self.headers, body)
        ):
            say(f"signature WRONG  {self.path}  answered 401")
            return self.answer(401)

        event = json.loads(body)
        status = self.status_for(self.headers["X-Lanonasis-Delivery"])
        # `created` is set by the statement, just before its commit.
        milliseconds = (arrived - datetime.fromisoformat(event["created"].replace("Z", "+00:00"))).total_seconds() * 1000
        line = (
            f"signature ok  {event['type']}  row {event['data']['id']}  to {self.path:<6}"
            f"  attempt {event['attempt']}  {milliseconds:5.0f} ms after commit  answered {status}"
        )
        if self.first.acquire(blocking=False):
            line = f"The first request, as it arrived:\n\n{self.as_it_arrived(body)}\n\n{line}"
        say(line)
        self.answer(status)

    def as_it_arrived(self, body):
        """Request line, headers and body."""
        lines = [self.requestline, *(f"{name}: {value}" for name, value in self.headers.items()), "", body.decode()]
        return "\n".join(f"    {line}".rstrip() for line in lines)

    def status_for(self, delivery):
        self.attempts_seen[delivery] += 1
        if self.path == "/flaky" and self.attempts_seen[delivery] <= FAILURES_OF_FLAKY:
            return 500
        return 200

    def answer(self, status):
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        """Nothing but our own lines."""


def main():
    Receiver.secret = os.environ["DEMO_SECRET"]
    port_file, *port = sys.argv[1:]
    server = http.server.ThreadingHTTPServer(("127.0.0.1", int(port[0]) if port else 0), Receiver)
    with open(port_file + ".new", "w", encoding="ascii") as file:
        file.write(str(server.server_port))
    os.rename(port_file + ".new", port_file)
    server.serve_forever()


main()
