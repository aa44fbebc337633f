"""Benchmark 9: what a writer of large values pays, beside a table whose triggers do nothing.

Both tables have statement triggers with the same transition tables. Each statement runs in a backend of its
own. The two backends of a round run one after the other.
"""

import re
import time
from pathlib import Path

import setting
from figures import Figure, ratio

ROUNDS = 3
MEGABYTES = 200
TIME_GOAL, MEMORY_GOAL_MB = 1.1, 20
# What a statement takes that touches no large value is too short for a ratio: to write an event takes as long. Of these the
# bench says how much longer they take.
SHORT_SECONDS, EVENT_GOAL_MS = 0.01, 1.0
SIZE = MEGABYTES << 20
SETTINGS = {"shared_buffers": "16MB"}

# A type, and an expression that makes a value of it.
KINDS = {
    "bytea": ("bytea", f"convert_to(repeat('x', {SIZE}), 'UTF8')"),
    "text": ("text", f"repeat('x', {SIZE})"),
    "jsonb": ("jsonb", f"jsonb_build_object('a', repeat('x', {SIZE}))"),
    "int[]": ("int[]", f"array_fill(7, ARRAY[{SIZE // 4}])"),
    "composite": ("pair", f"ROW(1, repeat('x', {SIZE}))::pair"),
}
STATEMENTS = {
    "insert": "INSERT INTO {} SELECT 1, 'a', v FROM stored",
    "update of another column": "UPDATE {} SET note = 'b'",
    "delete": "DELETE FROM {}",
}
OURS, EMPTY = "memories", "plain"
TRIGGERS = """
    CREATE FUNCTION do_nothing() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
    CREATE TRIGGER on_insert AFTER INSERT ON plain REFERENCING NEW TABLE AS added
        FOR EACH STATEMENT EXECUTE FUNCTION do_nothing();
    CREATE TRIGGER on_update AFTER UPDATE ON plain REFERENCING OLD TABLE AS removed NEW TABLE AS added
        FOR EACH STATEMENT EXECUTE FUNCTION do_nothing();
    CREATE TRIGGER on_delete AFTER DELETE ON plain REFERENCING OLD TABLE AS removed
        FOR EACH STATEMENT EXECUTE FUNCTION do_nothing();"""


def prepare(db, type_name, expression):
    """Both tables, and the value to insert. A webhook subscribes; no worker takes its share of the cores."""
    db.execute("CREATE TYPE pair AS (number int, words text)")
    db.execute(f"CREATE TABLE stored (v {type_name})")
    for table in (OURS, EMPTY):
        db.execute(f"CREATE TABLE {table} (id int PRIMARY KEY, note text, v {type_name})")
    # What is large is compressed already, as a rule, and PostgreSQL leaves it as it is.
    for table in ("stored", OURS, EMPTY):
        db.execute(f"ALTER TABLE {table} ALTER COLUMN v SET STORAGE EXTERNAL")
    db.execute(f"INSERT INTO stored SELECT {expression}")
    db.execute(TRIGGERS)
    db.attach(OURS)
    db.create_webhook("http://127.0.0.1:9/", ["memory.*"])
    db.stop_worker()


def cost(db, table, statement):
    """Seconds that a statement takes in a new backend, and the most memory that the backend had, in MB.

    The backend has written a small row before, since its first statement fills the caches of the catalog. It
    does not wait for the disk at commit, since that time varies more than what is compared here.
    """
    with db.connect() as session:
        session.execute("SET synchronous_commit = off")
        for warm_up in ("INSERT INTO {} VALUES (0, 'a', NULL)", "UPDATE {} SET note = 'b' WHERE id = 0"):
            session.execute(warm_up.format(table))
        session.execute(f"DELETE FROM {table} WHERE id = 0")
        began = time.monotonic()
        session.execute(statement.format(table))
        took = time.monotonic() - began
        status = Path(f"/proc/{session.info.backend_pid}/status").read_text()
    return took, int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024 / 1e6


def measure(db):
    """Costs by statement and table, round by round. The first round only warms up."""
    costs = {(name, table): [] for name in STATEMENTS for table in (OURS, EMPTY)}
    for number in range(ROUNDS + 1):
        for name, statement in STATEMENTS.items():
            for table in (OURS, EMPTY) if number % 2 else (EMPTY, OURS):
                taken = cost(db, table, statement)
                if number:
                    costs[name, table].append(taken)
        db.execute(f"TRUNCATE {OURS}, {EMPTY}")
        db.execute("CHECKPOINT")
    return costs


def run(report):
    for kind, (type_name, expression) in KINDS.items():
        with setting.server(SETTINGS) as server, setting.database(server) as db:
            prepare(db, type_name, expression)
            costs = measure(db)
        for name in STATEMENTS:
            ours, empty = costs[name, OURS], costs[name, EMPTY]
            what = f"{kind} of {MEGABYTES} MB, {name}"
            seconds = [Figure([took for took, _ in taken], "s", 3) for taken in (ours, empty)]
            extra = Figure([a - b for (_, a), (_, b) in zip(ours, empty, strict=True)], "MB", 1)
            report.tell("large values", f"{what}: an empty trigger", seconds[1])
            report.tell("large values", f"{what}: attached", seconds[0])
            if seconds[1].median < SHORT_SECONDS:
                longer = [1000 * (a - b) for (a, _), (b, _) in zip(ours, empty, strict=True)]
                longer = Figure(longer, "ms", 2)
                report.at_most("large values", f"{what}: time beyond an empty trigger", longer, EVENT_GOAL_MS)
            else:
                figure = ratio(*seconds)
                report.at_most("large values", f"{what}: time against an empty trigger", figure, TIME_GOAL)
            report.at_most("large values", f"{what}: memory beyond an empty trigger", extra, MEMORY_GOAL_MB)
