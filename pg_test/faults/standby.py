"""A streaming standby of a server."""

import subprocess
import time

from server import Server


class Standby(Server):
    """A copy that follows `primary` as soon as it is started."""

    def __init__(self, primary):
        super().__init__(dict(primary.settings))
        self.primary = primary

    def _initdb(self):
        subprocess.run(
            [
                self.bin / "pg_basebackup",
                *("-D", self.data, "-h", self.primary.dir, "-p", str(self.primary.port), "-U", "postgres"),
                *("--checkpoint=fast", "--write-recovery-conf", "--no-sync"),
            ],
            cwd=self.dir,
            check=True,
            **self.run_as,
        )
        ours = {"port": self.port, "unix_socket_directories": self.dir}
        with (self.data / "postgresql.conf").open("a") as conf:
            conf.writelines(f"{name} = '{value}'\n" for name, value in ours.items())

    def in_recovery(self):
        with self.connect() as session:
            return session.execute("SELECT pg_is_in_recovery()").fetchone()[0]

    def follows(self, timeout=30):
        """Waits until it has replayed what the primary has written by now."""
        with self.primary.connect() as session:
            written = session.execute("SELECT pg_current_wal_insert_lsn()").fetchone()[0]
        deadline = time.monotonic() + timeout
        with self.connect() as session:
            while not session.execute("SELECT pg_last_wal_replay_lsn() >= %s", [written]).fetchone()[0]:
                assert time.monotonic() < deadline, f"the standby is behind after {timeout} s"
                time.sleep(0.01)

    def behind_seconds(self, at):
        """How old the last commit was that it knows, when its primary died: a wall clock's time."""
        with self.connect() as session:
            seconds = session.execute(
                "SELECT %s - extract(epoch FROM pg_last_xact_replay_timestamp())::float8", [at]
            ).fetchone()[0]
        return max(0, seconds)

    def promote(self):
        subprocess.run(
            [self.bin / "pg_ctl", "promote", "-D", self.data],
            cwd=self.dir,
            check=True,
            stdout=subprocess.DEVNULL,
            **self.run_as,
        )

    def processes(self):
        """What its processes call themselves."""
        return [self._title(pid) for pid in self.children()]

    @staticmethod
    def _title(pid):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                return file.read().replace(b"\0", b" ").decode().strip()
        except (FileNotFoundError, ProcessLookupError):  # the latter when it goes while it is looked at
            return ""
