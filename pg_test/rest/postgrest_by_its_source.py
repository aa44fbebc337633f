"""An HTTP server that answers what the gateway asks as PostgREST 12.2 does, by PostgREST's source: for tests of what no server
at hand does, or does at will. It calls the functions in a real database, in PostgREST's order, and makes of errors what
PostgREST's Error.hs makes of them. What a test sets as `canned` is answered instead.

The gateway can see two differences of later versions. 13 and 14 send `Proxy-Status: PostgREST; error=<code>` with errors. If the
role of a token does not exist, 13.0.1 and later answer 401; 12.2 and 13.0.0 answer 400.
"""

import base64
import hashlib
import hmac
import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

import psycopg
from psycopg import pq

SCHEMA = "webhooks_api"
TYPES = {"application/octet-stream": ("bytea", 17), "text/plain": ("text", 0), "application/json": ("json", 0)}
STATUS_OF_SQLSTATE = [
    ("08", 503), ("09", 500), ("0L", 403), ("0P", 403), ("23503", 409), ("23505", 409), ("25006", 405), ("25", 500), ("28", 403),
    ("2D", 500), ("38", 500), ("39", 500), ("3B", 500), ("40", 500), ("53400", 500), ("53", 503), ("54", 500), ("55", 500),
    ("57P01", 503), ("57", 500), ("58", 500), ("F0", 500), ("HV", 500), ("P0001", 400), ("P0", 500), ("XX", 500), ("42883", 404),
    ("42P01", 404), ("42P17", 500),
]  # fmt: skip


class Failed(Exception):
    """An error as PostgREST answers it."""

    def __init__(self, status, code, message, details=None, hint=None, headers=()):
        self.status = status
        self.body = {"code": code, "message": message, "details": details, "hint": hint}
        self.headers = dict(headers)


class Postgrest:
    """On a port of its own, in front of a database."""

    def __init__(self, secret, anonymous="anon", **connection):
        self.secret = secret
        self.anonymous = anonymous
        self.connection = connection
        self.canned = None
        self.local = threading.local()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = lambda self: server._serve(self)

            def log_message(self, *_):
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.address = f"127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def stop(self):
        self._http.shutdown()
        self._http.server_close()

    def answers(self, status, code, message="a message"):
        """From now on this, as PostgREST writes an error; None: what it is asked for."""
        headers = {"Content-Type": "application/json; charset=utf-8"}
        body = {"code": code, "details": None, "hint": None, "message": message}
        self.canned = None if status is None else (status, headers, json.dumps(body).encode())

    # HTTP

    def _serve(self, request):
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        try:
            status, headers, answer = self.canned or self._answer(request, body)
        except Failed as failed:
            status, answer = failed.status, json.dumps(failed.body).encode()
            headers = {"Content-Type": "application/json; charset=utf-8", **failed.headers}
            if status == 401:
                headers.setdefault("WWW-Authenticate", "Bearer")
        except UnicodeDecodeError:
            # A header that is no UTF-8 is an exception in PostgREST, of which its HTTP server says this.
            status, headers, answer = 500, {"Content-Type": "text/plain; charset=utf-8"}, b"Something went wrong"
        request.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(answer))}.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(answer)

    def _answer(self, request, body):
        headers = {name.lower(): value.encode("latin-1") for name, value in request.headers.items()}
        claims = self._claims(headers.get("authorization", b""))
        address = urlsplit(request.path)
        name = re.fullmatch(r"/rpc/(\w+)", address.path)
        if not name or request.command not in ("GET", "POST"):
            raise Failed(405, "PGRST101", f"Cannot use the {request.command} method on RPC")
        # A parameter of the query string is an argument of the function, and no function here takes one by name. Some names are
        # PostgREST's own: they would cut or order what is answered.
        if parse_qsl(address.query, keep_blank_values=True):
            raise Failed(404, "PGRST202", f"Could not find the function {SCHEMA}.{name[1]} with these parameters")
        with self._connect() as session:
            try:
                return self._call(session.pgconn, name[1], request, headers, claims, body)
            except psycopg.OperationalError as error:
                raise Failed(503, "PGRST001", "Database client error. Retrying the connection.", str(error)) from None

    def _claims(self, authorization):
        """The claims of the token, which must be signed with our secret and not have expired."""
        scheme, _, token = authorization.decode("latin-1").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            return {"role": self.anonymous}
        try:
            message, _, signature = token.strip().rpartition(".")
            header, payload = (json.loads(_unbase64(part)) for part in message.split("."))
            expected = hmac.new(self.secret.encode(), message.encode(), hashlib.sha256).digest()
            good = header["alg"] == "HS256" and hmac.compare_digest(expected, _unbase64(signature))
        except (ValueError, KeyError, TypeError):
            good = False
        if not good:
            raise Failed(401, "PGRST301", "JWSError JWSInvalidSignature")
        if payload.get("exp", time.time()) < time.time() - 30:
            raise Failed(401, "PGRST301", "JWT expired")
        return {"role": self.anonymous, **payload}

    # The database

    def _connect(self):
        try:
            return psycopg.connect(autocommit=True, **self.connection)
        except psycopg.OperationalError as error:
            details = "Database connection error. Retrying the connection."
            raise Failed(503, "PGRST000", details, str(error)) from None

    def _run(self, session, sql, params=(), types=None, formats=None):
        """Rows as texts. Parameters go out as they come: in text format they end at a NUL byte, as in any C string."""
        done = session.exec_params(sql.encode(), list(params), types, formats)
        if done.status not in (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK):
            raise self._failed(done)
        return [[done.get_value(row, column) for column in range(done.nfields)] for row in range(done.ntuples)]

    def _failed(self, result):
        said = {
            name: (result.error_field(field) or b"").decode() or None
            for name, field in {
                "code": pq.DiagnosticField.SQLSTATE,
                "message": pq.DiagnosticField.MESSAGE_PRIMARY,
                "details": pq.DiagnosticField.MESSAGE_DETAIL,
                "hint": pq.DiagnosticField.MESSAGE_HINT,
            }.items()
        }
        state = said["code"]
        if state is None:  # the connection is gone, and nothing was said
            why = result.error_message.decode(errors="replace").strip()
            return Failed(503, "PGRST001", "Database client error. Retrying the connection.", why)
        if state.startswith("PT"):
            status = int(state[2:])
        elif state == "42501":
            status = 401 if self.local.role == self.anonymous else 403
        else:
            status = next((status for prefix, status in STATUS_OF_SQLSTATE if state.startswith(prefix)), 400)
        return Failed(status, **said)

    def _call(self, session, name, request, headers, claims, body):
        self.local.role = claims["role"]
        reads = request.command == "GET"
        media = headers.get("content-type", b"application/json").decode().split(";")[0]
        kind, oid = (None, None) if reads else TYPES[media]
        known = self._run(
            session,
            "SELECT FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = $1 AND p.proname = $2"
            " AND ($3::text IS NULL OR p.proargtypes[0] = $3::regtype)",
            [SCHEMA.encode(), name.encode(), kind.encode() if kind else None],
        )
        # What the schema cache knows is not what there is: a schema that was dropped is there until the cache is read again.
        if not known and self._run(session, "SELECT to_regnamespace($1)", [SCHEMA.encode()]) != [[None]]:
            raise Failed(404, "PGRST202", f"Could not find the function {SCHEMA}.{name} in the schema cache")
        self._run(session, f"BEGIN ISOLATION LEVEL READ COMMITTED {'READ ONLY' if reads else 'READ WRITE'}")
        told = {header: value.decode("utf-8") for header, value in headers.items() if header != "cookie"}
        settings = {
            "search_path": f'"{SCHEMA}", "public"',
            "role": claims["role"],
            "request.jwt.claims": json.dumps(claims),
            "request.method": request.command,
            "request.path": f"/rpc/{name}",
            "request.headers": json.dumps(told),
        }
        places = ", ".join(f"set_config(${n}, ${n + 1}, true)" for n in range(1, 2 * len(settings), 2))
        self._run(session, f"SELECT {places}", [text.encode() for setting in settings.items() for text in setting])
        self._run(session, f'SELECT "{SCHEMA}"."check_request"()')
        argument, formats = ([], None) if reads else ([body], [pq.Format.BINARY if kind == "bytea" else pq.Format.TEXT])
        place = "" if reads else f"$1::{kind}"
        ((answer, status, more),) = self._run(
            session,
            f'SELECT "{SCHEMA}"."{name}"({place}), nullif(current_setting(\'response.status\', true), \'\'),'
            " nullif(current_setting('response.headers', true), '')",
            argument,
            [oid] if argument else None,
            formats,
        )
        self._run(session, "COMMIT")
        headers = {name: value for header in json.loads(more or b"[]") for name, value in header.items()}
        return int(status or 200), {"Content-Type": "application/json; charset=utf-8", **headers}, answer


def _unbase64(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
