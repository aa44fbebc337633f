"""Look-ups as a test wants them. A name server cannot be given to the C library without rights over the machine, so those of a
server of the test's own are answered by a library that is loaded in front of it: names.c."""

import contextlib
import subprocess
from pathlib import Path


class Names:
    def __init__(self, directory):
        self.file, self.library = directory / "names", directory / "names.so"
        source = Path(__file__).with_name("names.c")
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-Wall", "-o", self.library, source], check=True)
        (asked := self.asked_file).touch()
        for path, mode in ((directory, 0o755), (self.library, 0o755), (asked, 0o666)):
            path.chmod(mode)
        self.answer()

    @property
    def asked_file(self):
        return self.file.with_suffix(".asked")

    def environment(self):
        return {"LD_PRELOAD": str(self.library), "TEST_NAMES": str(self.file)}

    def answer(self, **answers):
        """Answers for names, in turn: each a list of addresses; the address "-" is that there is no such name,
        "?" that the look-up never returns."""
        lines = (" ".join([name.replace("_", "."), *it]) for name, their in answers.items() for it in their)
        self.file.write_text("\n".join(lines) + "\n")
        self.file.chmod(0o644)

    @contextlib.contextmanager
    def stopped(self):
        """No name server answers meanwhile."""
        mark = self.file.with_suffix(".stopped")
        mark.touch()
        try:
            yield
        finally:
            mark.unlink()

    def asked(self):
        return self.asked_file.read_text().split()
