"""A real proxy: tinyproxy, in a process of its own."""

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from names import Names
from server import free_port

PATIENCE_SECONDS = 20
# Debian puts it there; not every user's PATH has it.
PROGRAM = shutil.which("tinyproxy", path=f"{os.environ['PATH']}:/usr/bin:/usr/sbin:/sbin")


class TinyProxy:
    """Listens at 127.0.0.1, and connects to anything. With `user`, "name:password", for that user alone. `names` answers
    its look-ups."""

    def __init__(self, user=None):
        if PROGRAM is None:
            raise RuntimeError("tinyproxy is missing (scripts/setup proxy installs it)")
        self.dir = Path(tempfile.mkdtemp(prefix="wh-proxy-", dir="/tmp"))
        self.dir.chmod(0o755)
        self.names = Names(self.dir)
        self.port = free_port()
        self.log_file = self.dir / "log"
        lines = [
            f"Port {self.port}",
            "Listen 127.0.0.1",
            "Allow 127.0.0.1",
            f'LogFile "{self.log_file}"',
            "LogLevel Connect",
            "Timeout 60",
        ]
        if user:
            lines.append("BasicAuth " + user.replace(":", " "))
        conf = self.dir / "tinyproxy.conf"
        conf.write_text("\n".join(lines) + "\n")
        # It has its log file made by the user that it runs as.
        run_as = {}
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            os.chown(self.dir, nobody.pw_uid, nobody.pw_gid)
            run_as = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        self.process = subprocess.Popen(
            [PROGRAM, "-d", "-c", conf],
            env={**os.environ, **self.names.environment()},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            **run_as,
        )
        self._wait_until_ready()

    def _wait_until_ready(self):
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                break
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("tinyproxy did not start")
            time.sleep(0.02)

    def url(self, user=None):
        """For `webhooks.proxy`."""
        return f"http://{user + '@' if user else ''}127.0.0.1:{self.port}"

    def asked(self):
        """The first lines of the requests that it was sent."""
        marks = (line.partition("): ") for line in self.log_file.read_text().splitlines() if " Request (" in line)
        return [line for _, _, line in marks]

    def stop(self):
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.dir, ignore_errors=True)
