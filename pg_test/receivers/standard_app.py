"""Verifies deliveries with the official standardwebhooks library of PyPI, unmodified.

SECRET=whsec_… python standard_app.py      prints "listening <port>"; GET /received tells what was verified
"""

import http.server
import json
import os

from standardwebhooks import Webhook, WebhookVerificationError

webhook = Webhook(os.environ["SECRET"])
received = []


class Receiver(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        payload = self.rfile.read(int(self.headers["Content-Length"]))
        try:
            received.append({"verified": True, "body": webhook.verify(payload, dict(self.headers))})
            self.answer(204)
        except WebhookVerificationError as error:
            received.append({"verified": False, "error": str(error)})
            self.answer(401)

    def do_GET(self):
        self.answer(200, json.dumps(received).encode())

    def answer(self, status, body=b""):
        self.send_response(status)
        if status != 204:
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Nothing: what counts is at /received."""


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
print(f"listening {server.server_port}", flush=True)
server.serve_forever()
