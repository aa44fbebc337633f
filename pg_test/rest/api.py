"""The REST API over HTTP: the processes behind it, and callers."""

import http.client
import json
import os
import re
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

import httpx
from requests_as import SECRET
from server import is_alive

TOP = Path(__file__).parents[2]
STACK = TOP / "serve/stack"
PASSWORD = "authenticator"  # of a server that lives as long as the tests

CODES = {
    400: "VALIDATION_ERROR",
    401: "UNAUTHORIZED",
    403: "FORBIDDEN",
    404: "NOT_FOUND",
    405: "METHOD_NOT_ALLOWED",
    413: "PAYLOAD_TOO_LARGE",
    429: "RATE_LIMITED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
}
# What an answer has no business to tell.
INSIDES = re.compile(
    r"postgres|pgrst|sqlstate|\bsql\b|relation|schema|function|permission denied|syntax at|nginx|\bnull value\b", re.IGNORECASE
)


class Gateway:
    """PostgREST (or what stands in for it) and nginx, by serve/stack; with `upstream`, nginx alone in front of that address."""

    def __init__(self, db, server=None, upstream=None, jwt_secret=SECRET):
        self.db = db
        self.dir = db.server.dir / f"rest-{db.name}-{id(self):x}"
        self.dir.mkdir()
        if db.server.run_as:
            os.chown(self.dir, db.server.run_as["user"], db.server.run_as["group"])
        environment = {
            **os.environ,
            "DB_URI": f"postgresql://authenticator:{PASSWORD}@127.0.0.1:{(server or db.server).port}/{db.name}",
            "JWT_SECRET": jwt_secret,
            "ANON_ROLE": "anon",
            **({"POSTGREST_ADDRESS": upstream} if upstream else {}),
        }
        subprocess.run([STACK, "start", self.dir], env=environment, check=True)
        self.url = (self.dir / "gateway.url").read_text().strip()
        self.postgrest_url = (self.dir / "postgrest.url").read_text().strip()
        self.substitute = (self.dir / "postgrest.name").read_text().strip() == "substitute"
        self.client = httpx.Client(base_url=self.url, timeout=30)

    @staticmethod
    def set_up(db):
        """What serve/setup.sql says."""
        server = db.server
        command = [server.bin / "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-v", f"password={PASSWORD}"]
        where = ["-h", server.dir, "-p", str(server.port), "-U", "postgres", "-d", db.name]
        subprocess.run([*command, *where, "-f", TOP / "serve/setup.sql"], check=True, stdout=subprocess.DEVNULL)

    def key(self, owner, **arguments):
        """An API key."""
        names = "".join(f", {name} => %s" for name in arguments)
        return self.db.one(
            f"SELECT webhooks.create_api_key('a test', %s{names})", owner, *arguments.values()
        )

    def stop(self):
        self.client.close()
        pids = [int(file.read_text()) for file in self.dir.glob("*.pid")]
        subprocess.run([STACK, "stop", self.dir], check=True)
        assert not [pid for pid in pids if is_alive(pid)], "serve/stack leaves processes behind"

    def raw(self, request):
        """What comes back for these bytes: status and envelope."""
        url = httpx.URL(self.url)
        with socket.create_connection((url.host, url.port), timeout=30) as connection:
            connection.sendall(request)
            response = http.client.HTTPResponse(connection)
            response.begin()
            return response.status, json.loads(response.read())

    def stop_postgrest(self):
        """Ends PostgREST alone."""
        pid = int((self.dir / "postgrest.pid").read_text())
        os.kill(pid, 15)
        while is_alive(pid):
            pass


@dataclass
class Answer:
    """What came back; its body is an envelope, or the test fails."""

    status: int
    headers: httpx.Headers
    envelope: dict

    @property
    def data(self):
        assert self.envelope["success"] is True, self.envelope
        return self.envelope["data"]

    @property
    def error(self):
        assert self.envelope["success"] is False, self.envelope
        return self.envelope["error"]

    @property
    def fields(self):
        """Which fields are complained about."""
        return {detail["field"] for detail in self.error["details"]}


NO_KEY = object()


class Api:
    """A caller with a key of its own, with the given one, or with none."""

    def __init__(self, gateway, owner, key=None):
        self.gateway = gateway
        self.owner = owner
        self.key = key or gateway.key(owner)["key"]

    @property
    def headers(self):
        return {} if self.key is NO_KEY else {"Authorization": f"Bearer {self.key}"}

    def send(self, method, path, body=None, **options):
        """A request, with a JSON body if one is given, or with raw content."""
        if body is not None:
            options["content"] = json.dumps(body)
        options["headers"] = {**self.headers, **options.get("headers", {})}
        response = self.gateway.client.request(method, path, **options)
        assert response.headers["content-type"].split(";")[0] == "application/json", response.headers
        envelope = json.loads(response.content) if method != "HEAD" else {}
        return Answer(response.status_code, response.headers, envelope)

    def done(self, status, method, path, body=None, **options):
        """A request that succeeds; its data."""
        answer = self.send(method, path, body, **options)
        assert answer.status == status, answer
        assert set(answer.envelope) == {"success", "data"}, answer
        return answer.data

    def refused(self, status, method, path, body=None, **options):
        """A request that is refused, with an envelope as it must be."""
        answer = self.send(method, path, body, **options)
        assert answer.status == status, answer
        assert set(answer.envelope) == {"success", "error"}, answer
        assert set(answer.error) == {"code", "message", "details"}, answer
        assert answer.error["code"] == CODES[status]
        assert answer.error["message"]
        assert all(set(it) == {"field", "message"} for it in answer.error["details"])
        assert not INSIDES.search(json.dumps(answer.error)), answer.error
        return answer

    def create(self, url, events=("memory.*",), **more):
        return self.done(201, "POST", "/api/v1/webhooks", {"url": url, "events": list(events), **more})

    def remember(self, n=1, content="likes tea"):
        """Inserts memories of this owner."""
        self.gateway.db.execute(
            "INSERT INTO memories (owner_id, content) SELECT %s, %s FROM generate_series(1, %s)", self.owner, content, n
        )

    def deliveries(self, webhook, n, state="delivered", timeout=10):
        """Deliveries of a webhook, once so many are in a state."""
        self.gateway.db.wait_until(
            "SELECT count(*) FROM webhooks.deliveries WHERE webhook_id = %s AND state = %s",
            n,
            params=[webhook["id"], state],
            timeout=timeout,
        )
        return self.done(200, "GET", f"/api/v1/webhooks/{webhook['id']}/deliveries?state={state}")["deliveries"]
