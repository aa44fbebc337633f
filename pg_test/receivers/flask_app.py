"""A Flask application as the integration guide shows it: the signature is checked over the raw body.

SECRET=… python flask_app.py      prints "listening <port>"; GET /received tells what was verified
"""

import hashlib
import hmac
import logging
import os

from flask import Flask, jsonify, request
from werkzeug.serving import make_server

SECRET = os.environ["SECRET"]
received = []
app = Flask(__name__)


@app.post("/hook")
def hook():
    expected = hmac.new(SECRET.encode(), request.get_data(), hashlib.sha256).hexdigest()
    verified = hmac.compare_digest(expected, request.headers.get("X-Lanonasis-Signature", ""))
    received.append(
        {
            "verified": verified,
            "event": request.headers.get("X-Lanonasis-Event"),
            "delivery": request.headers.get("X-Lanonasis-Delivery"),
            "body": request.get_json(),
        }
    )
    return "", 200 if verified else 401


@app.get("/received")
def what_was_received():
    return jsonify(received)


logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = make_server("127.0.0.1", 0, app, threaded=True)
print(f"listening {server.server_port}", flush=True)
server.serve_forever()
