"""A PostgreSQL server of our own: made, started, reloaded, crashed, stopped, removed.

Which one is chosen by PG_CONFIG (the path of a pg_config). PostgreSQL refuses to run as root, so root runs it as the user
`postgres`. Only processes that were started here are ended, by their pid.
"""

import contextlib
import itertools
import os
import pwd
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import psycopg
from psycopg import sql

START_SECONDS = 60
STOP_SECONDS = 30
# A data directory that is used once need not survive a power cut while it is made.
INITDB = ["--locale=C.UTF-8", "--encoding=UTF8", "--auth=trust", "--username=postgres", "--no-sync"]
SETTINGS = {
    "max_worker_processes": 32,
    "max_connections": 200,
    "max_prepared_transactions": 5,
    "log_line_prefix": "%m [%p] %b ",
    "log_checkpoints": "off",
    "autovacuum_naptime": "1h",
    "timezone": "UTC",
}
PRELOADED = {
    "shared_preload_libraries": "webhooks",
    "webhooks.allowed_networks": "127.0.0.0/8, ::1/128",
}
# What no log of ours may hold: a crash, or an error that somebody forgot.
ALARMS = ("PANIC", "terminated by signal", "internal error", "panicked")

# Ends a server, and removes its directory, when the tests were killed and could not: it waits for its input to be closed.
GUARD = """
    cat >/dev/null
    pid=$(head -n 1 "$1/data/postmaster.pid" 2>/dev/null)
    if [ -n "$pid" ] && [ "$(readlink "/proc/$pid/cwd")" = "$1/data" ]; then
        kill -INT "$pid"
        while [ "$(readlink "/proc/$pid/cwd")" = "$1/data" ]; do sleep 0.1; done
    fi
    rm -rf "$1"
"""


def pg_config():
    return os.environ.get("PG_CONFIG", "pg_config")


def free_port():
    with contextlib.closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Server:
    """One cluster. `start()` makes it if it is new; `remove()` leaves nothing behind.

    `config`: the pg_config of another server than the tests' own; `initdb`: more options for the making.
    """

    def __init__(self, settings=None, environment=None, config=None, initdb=()):
        told = subprocess.run([config or pg_config(), "--bindir"], check=True, capture_output=True, text=True)
        self.bin = Path(told.stdout.strip())
        self.initdb = [*INITDB, *initdb]
        # A short path, since a socket's path has at most 107 characters.
        self.dir = Path(tempfile.mkdtemp(prefix="wh-", dir="/tmp"))
        self.data = self.dir / "data"
        self.log_file = self.dir / "log"
        self.port = free_port()
        self.settings = {**SETTINGS, **(PRELOADED if settings is None else settings)}
        self.environment = {**os.environ, **(environment or {})}
        self.process = None
        self.judged = 0  # how much of the log has been looked through for alarms
        self.guard = subprocess.Popen(
            ["sh", "-c", GUARD, "guard", self.dir], cwd="/", stdin=subprocess.PIPE, start_new_session=True
        )
        self.run_as = {}
        if os.geteuid() == 0:
            user = pwd.getpwnam("postgres")
            os.chown(self.dir, user.pw_uid, user.pw_gid)
            self.run_as = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}

    # Life

    def start(self):
        if not self.data.exists():
            self._initdb()
        began = self.log_size()
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [self.bin / "postgres", "-D", self.data],
                cwd=self.dir,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C in the terminal is for the tests, which then stop the server
                **self.run_as,
            )
        self._wait_until_ready(began)
        return self

    def recover(self):
        """After a crash of one of its processes: waits until the server is back, or starts it again."""
        if self.process is None or self.process.poll() is not None:
            self.start()
        else:
            self._wait_until_ready(self.log_size())

    def _wait_until_ready(self, began):
        deadline = time.monotonic() + START_SECONDS
        while not self.accepts_connections():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the server did not start:\n{self.log(began)}")
            time.sleep(0.02)

    def stop(self):
        """A fast shutdown; what hangs is ended the hard way."""
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.send_signal(signal.SIGQUIT)
                self.process.wait(STOP_SECONDS)
        self.process = None

    def restart(self):
        self.stop()
        return self.start()

    def crash(self):
        """kill -9 of the whole server, as far as a machine that stays up can play a power cut."""
        pids = [self.process.pid, *self.children()]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        for pid in pids[1:]:
            while is_alive(pid):
                time.sleep(0.01)
        self.process = None

    def remove(self):
        self.stop()
        self.guard.stdin.close()
        self.guard.wait()

    def _initdb(self):
        self.run("initdb", "-D", self.data, *self.initdb)
        self.settings.update(listen_addresses="127.0.0.1", port=self.port, unix_socket_directories=str(self.dir))
        lines = (f"{name} = '{str(value)}'\n" for name, value in self.settings.items())
        with (self.data / "postgresql.conf").open("a") as conf:
            conf.writelines(["\n", *lines])

    def run(self, program, *arguments, input=None):
        """Runs one of the server's programs as the server's user; what it printed."""
        done = subprocess.run(
            [self.bin / program, *arguments], cwd=self.dir, input=input, capture_output=True, text=True, **self.run_as
        )
        if done.returncode != 0:
            raise RuntimeError(f"{program} failed:\n{done.stdout}{done.stderr}")
        return done.stdout

    @contextlib.contextmanager
    def limited(self, pid, what, soft):
        """One of the server's processes with a lower limit, by its option of prlimit: nofile, nproc. Set by the server's user,
        who may raise it again."""
        option = ["prlimit", "--pid", str(pid)]
        told = subprocess.run([*option, "--raw", "--noheadings", "--output=SOFT", f"--{what}"], capture_output=True, check=True, **self.run_as)
        subprocess.run([*option, f"--{what}={soft}:"], check=True, **self.run_as)
        try:
            yield
        finally:
            subprocess.run([*option, f"--{what}={told.stdout.decode().strip()}:"], check=is_alive(pid), **self.run_as)

    def without_descriptors(self, pid, spare=0):
        """One of the server's processes that can open so many files, and no more unless it closes others."""
        before, used = None, self._descriptors(pid)
        while used != before:
            time.sleep(0.3)  # what it is about to close would be free afterwards
            before, used = used, self._descriptors(pid)
        unused = (it for it in itertools.count() if it not in used)
        return self.limited(pid, "nofile", next(itertools.islice(unused, spare, None)))

    def _descriptors(self, pid):
        told = subprocess.run(["ls", f"/proc/{pid}/fd"], capture_output=True, check=True, **self.run_as)
        return {int(it) for it in told.stdout.split()}

    def client(self, program, *arguments, input=None):
        """Runs one of the client programs against this server."""
        connection = ["--host", self.dir, "--port", str(self.port), "--username", "postgres"]
        return self.run(program, *connection, *arguments, input=input)

    # What is going on

    def accepts_connections(self):
        try:
            self.connect("postgres").close()
        except psycopg.OperationalError:
            return False
        return True

    def children(self):
        """Pids of the server's processes."""
        tasks = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in tasks.read_text().split()]

    def log_size(self):
        return self.log_file.stat().st_size if self.log_file.exists() else 0

    def log(self, since=0):
        with self.log_file.open("rb") as log:
            log.seek(since)
            return log.read().decode(errors="replace")

    def wait_for_log(self, words, since=0, timeout=10):
        """Waits until the log says something."""
        deadline = time.monotonic() + timeout
        while words not in self.log(since):
            assert time.monotonic() < deadline, f"no {words!r} in the log after {timeout} s:\n{self.log(since)}"
            time.sleep(0.01)

    def alarms(self, since=0):
        """Lines of the log that no run may have."""
        return [line for line in self.log(since).splitlines() if any(alarm in line for alarm in ALARMS)]

    # SQL

    def connect(self, dbname="postgres", user="postgres", **options):
        """A session that commits each statement (autocommit), over the unix socket."""
        return psycopg.connect(
            host=str(self.dir), port=self.port, dbname=dbname, user=user, autocommit=True, connect_timeout=20, **options
        )

    def execute(self, *statements):
        """Statements outside any test's database."""
        with self.connect() as session:
            for statement in statements:
                session.execute(statement)

    def show(self, name):
        """A setting as a new session sees it, and so as the postmaster hands it on."""
        with self.connect() as session:
            return session.execute("SELECT current_setting(%s)", [name]).fetchone()[0]

    @contextlib.contextmanager
    def configured(self, settings):
        """Settings by ALTER SYSTEM and reload; returns when the postmaster goes by them, and takes them back at the end."""
        self.alter_system(settings)
        try:
            yield
        finally:
            self.alter_system(dict.fromkeys(settings))

    def alter_system(self, settings):
        """Sets what has a value, resets what is None, reloads, and waits until new sessions see it."""
        with self.connect() as session:
            for name, value in settings.items():
                quoted = sql.SQL(".").join(map(sql.Identifier, name.split(".")))
                if value is None:
                    session.execute(sql.SQL("ALTER SYSTEM RESET {}").format(quoted))
                else:
                    session.execute(sql.SQL("ALTER SYSTEM SET {} = {}").format(quoted, sql.Literal(str(value))))
            before = session.execute("SELECT pg_conf_load_time()").fetchone()[0]
            session.execute("SELECT pg_reload_conf()")
        deadline = time.monotonic() + START_SECONDS
        while True:
            with self.connect() as session:
                if session.execute("SELECT pg_conf_load_time()").fetchone()[0] > before:
                    break
            if time.monotonic() > deadline:
                raise RuntimeError(f"the server did not reload {settings}")
            time.sleep(0.01)


def is_alive(pid):
    """Whether a process runs; one that only waits to be collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # the latter when it goes while it is looked at
        return False
