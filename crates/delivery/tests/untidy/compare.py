#!/usr/bin/env python3
"""Asks curl, Go and Node what they make of the answers in answers.txt, and writes docs/answers.md.

    crates/delivery/tests/untidy/compare.py          all of them
    crates/delivery/tests/untidy/compare.py --show   to standard output instead

Needs curl, go and node. The column "ours" is what answers.txt says and untidy.rs tests.
"""

import json
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
DOCUMENT = HERE.parents[3] / "docs" / "answers.md"
PATIENCE = 4
PAUSE = 0.02  # between two pieces
ESCAPES = {"r": "\r", "n": "\n", "t": "\t", "\\": "\\"}
# Of curl, in place of its number.
CURL_ERRORS = {
    1: "unsupported protocol",
    8: "weird server reply",
    18: "partial file",
    28: "timed out",
    43: "bad function argument",
    52: "empty reply",
    56: "failure in receiving",
}
INTRODUCTION = """\
# Answers

What we make of {count} answers, tidy and untidy, and what curl, Go and Node make of them. An answer is
read as curl and browsers read it: what its status line says counts, in whatever state the rest is.

| column | what made it |
|---|---|
| ours | `crates/delivery/tests/untidy.rs` tests it; "kept": the connection carries the next request |
| curl | {curl}, `--json` |
| Go | {go}, `net/http` |
| Node | {node}, `fetch` |

"after": the `Retry-After` that is seen. "(body)": the head was read, and the body was broken or did not
end. "–": no answer, and why. `crates/delivery/tests/untidy/answers.txt` has the bytes, and
`compare.py` beside it makes this file.
"""
AGAIN = """\
## What hyper refuses

These heads are read once more, by the rule in `crates/delivery/src/untidy.rs`: the status and
`Retry-After` count, the body is not read, and the connection carries no other request. What hyper
demands, without a switch unless one is named:
"""
DIFFERENCES = """\
## Where we differ from curl
"""


@dataclass
class Case:
    name: str
    group: str
    pieces: list = field(default_factory=list)
    ours: str = ""
    reason: str = ""  # why we differ from curl
    demand: str = ""  # of hyper, that the answer does not meet
    kept: bool = False
    closes: bool = False
    by_byte: bool = False


def unescaped(text):
    repeated = re.sub(
        r"\{(\d+)\*([^}]*)\}",
        lambda found: "".join(found[2].replace("#", str(number)) for number in range(int(found[1]))),
        text,
    )
    plain = re.sub(
        r"\\(x[0-9a-f]{2}|.)",
        lambda found: ESCAPES.get(found[1]) or chr(int(found[1][1:], 16)),
        repeated,
    )
    return plain.encode("latin-1")


def cases(text):
    found, group = [], ""
    for paragraph in text.split("\n\n"):
        lines = [line for line in paragraph.splitlines() if not line.startswith("# ")]
        if not lines:
            continue
        if lines[0].startswith("## "):
            group = lines[0][3:]
            continue
        if lines[0] == "#":
            continue
        name = lines[0].partition(" [")[0]
        case = Case(name, group, closes="[closes]" in lines[0], by_byte="[byte by byte]" in lines[0])
        for line in lines[1:]:
            mark, rest = line[0], line[2:]
            if mark == "|":
                case.pieces.append(unescaped(rest))
            elif mark == "=":
                case.ours, case.kept = rest.removesuffix(" kept"), rest.endswith(" kept")
            elif mark == "~":
                case.reason = f"{case.reason} {rest}".strip()
            elif mark == "!":
                case.demand = rest
            else:
                raise ValueError(line)
        if case.by_byte:
            case.pieces = [bytes([byte]) for piece in case.pieces for byte in piece]
        found.append(case)
    return found


def serve(connection, all_cases):
    """One connection, for as long as the client likes."""
    with connection:
        connection.settimeout(2 * PATIENCE)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        unread = b""
        while True:
            while b"\r\n\r\n" not in unread:
                more = connection.recv(65536)
                if not more:
                    return
                unread += more
            head, _, unread = unread.partition(b"\r\n\r\n")
            length = int((re.search(rb"(?i)content-length: *(\d+)", head) or [0, 0])[1])
            while len(unread) < length:
                unread += connection.recv(65536)
            unread = unread[length:]
            case = all_cases[int(head.split(b" ")[1].rpartition(b"/")[2])]
            for number, piece in enumerate(case.pieces):
                time.sleep(0 if number == 0 else 0.001 if case.by_byte else PAUSE)
                connection.sendall(piece)
            if case.closes:
                connection.shutdown(socket.SHUT_WR)
                connection.recv(1)
                return


def attempt(connection, all_cases):
    try:
        serve(connection, all_cases)
    except OSError:
        pass  # the client has seen enough


def start(all_cases):
    """Serves the cases, each at an address of its own, so that no client mixes up the connections of two."""
    listener = socket.create_server(("0.0.0.0", 0), backlog=256)

    def accept():
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=attempt, args=(connection, all_cases), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    port = listener.getsockname()[1]
    return [f"http://127.1.{n // 250}.{n % 250 + 1}:{port}/{n}" for n in range(len(all_cases))]


def has_head(dumped):
    """Whether there is a whole head of an answer among the heads, which may be followed by trailers."""
    heads = re.split(rb"(?<=\n)\r?\n", dumped)[:-1]
    return any(not re.match(rb"(?i)HTTP/[\d.]+ +1(?!01)\d\d", head) for head in heads)


def curl(url):
    with tempfile.NamedTemporaryFile() as head:
        options = ["--silent", "--max-time", str(PATIENCE), "--output", "/dev/null", "--dump-header", head.name]
        written = "%{stderr}%{exitcode} %{http_code} %header{retry-after}"
        command = ["curl", *options, "--write-out", written, "--json", "{}", url]
        done = subprocess.run(command, capture_output=True, check=False)
        dumped = Path(head.name).read_bytes()
    code, status, after = done.stderr.decode("latin-1").split(" ", 2)
    error = CURL_ERRORS.get(int(code), f"error {code}") if code != "0" else ""
    if error and not has_head(dumped):
        status, after = "0", ""
    return {"status": int(status), "after": after.strip(), "error": error}


def cell(result):
    if result["status"] == 0:
        words = result["error"].rpartition("transport connection broken: ")[2]
        words = re.sub(r'^Post "[^"]*": |net/http: |\s*\(Client.Timeout.*\)|\|', "", words)
        if "deadline exceeded" in words:
            words = "timed out"
        words = words if len(words) < 50 else words[:47] + "…"
        return "– " + (words.strip() or "no error, and no status")
    after = result["after"].encode("unicode_escape").decode("ascii")
    return str(result["status"]) + (f" after {after}" if after else "") + (" (body)" if result["error"] else "")


def ask(all_cases):
    urls = start(all_cases)
    with ThreadPoolExecutor(4) as pool:
        seen = [list(pool.map(curl, urls))]
    with tempfile.TemporaryDirectory() as place:
        subprocess.run(["go", "build", "-o", f"{place}/ask", HERE / "ask.go"], check=True)
        for command in ([f"{place}/ask"], ["node", HERE / "ask.mjs"]):
            output = subprocess.run([*command, *urls], capture_output=True, check=True).stdout
            seen.append([json.loads(line) for line in output.splitlines()])
    return [[cell(result) for result in results] for results in seen]


def differs(case, of_curl):
    ours = case.ours.removesuffix(" after nothing")
    answered = ours[:3].isdigit()
    return answered == of_curl.startswith("–") or (answered and ours != of_curl.removesuffix(" (body)"))


def listed(all_cases, reason_of):
    """The cases by their reasons, in the order in which these come first."""
    by_reason = {}
    for case in all_cases:
        by_reason.setdefault(reason_of(case), []).append(case)
    for reason, of_it in by_reason.items():
        yield f"- {reason or 'NO REASON IS GIVEN'}:"
        yield from (f"  - {case.name}" for case in of_it)


def version(*command):
    return re.search(r"\d+\.\d+(\.\d+)?", subprocess.run(command, capture_output=True, text=True).stdout)[0]


def document(all_cases, seen):
    versions = {
        "curl": "curl " + version("curl", "--version"),
        "go": "go " + version("go", "version"),
        "node": "node " + version("node", "--version"),
    }
    yield INTRODUCTION.format(count=len(all_cases), **versions)
    rows = list(zip(all_cases, *seen, strict=True))
    for group in dict.fromkeys(case.group for case in all_cases):
        yield f"## {group}\n\n| case | ours | curl | Go | Node |\n|---|---|---|---|---|"
        for case, *cells in rows:
            if case.group == group:
                yield "| " + " | ".join([case.name, case.ours + (" kept" if case.kept else ""), *cells]) + " |"
        yield ""
    yield AGAIN
    yield from listed([case for case in all_cases if case.demand], lambda case: case.demand)
    yield "\n" + DIFFERENCES
    yield from listed([case for case, of_curl, *_ in rows if differs(case, of_curl)], lambda case: case.reason)


if __name__ == "__main__":
    found = cases((HERE / "answers.txt").read_text())
    text = "\n".join(document(found, ask(found))) + "\n"
    if "--show" in sys.argv:
        print(text, end="")
    else:
        DOCUMENT.write_text(text)
