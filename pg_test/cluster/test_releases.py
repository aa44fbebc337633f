"""From one version to the next: an upgraded database is as a new one, nobody is disturbed on the way, and a library and a
catalog that do not belong together say what mends it."""

import os
import shutil
import subprocess
import time

import pytest
from definitions import definitions, differences
from load import Writers, until_done
from releases import FIRST, FUTURE, TOP, future_release, install_releases
from test_extension_life import LONGEST_SECONDS

PATIENT = {"max_attempts": 100, "backoff_multiplier": 1}


@pytest.fixture
def old(make_database):
    """A database whose extension is of the first release."""
    install_releases()
    db = make_database(extension=False)
    db.execute(f"CREATE EXTENSION webhooks VERSION '{FIRST}'")
    return db


def state(db):
    return db.one("SELECT state FROM webhooks.status")


def current_version(db):
    return db.one("SELECT default_version FROM pg_available_extensions WHERE name = 'webhooks'")


def warnings(db, since):
    said = f'WARNING:  webhooks is version {current_version(db)}, its extension in database "{db.name}"'
    return [line for line in db.server.log(since).splitlines() if said in line]


# Upgrades


def test_an_upgraded_database_equals_a_fresh_one_by_definition(old, make_database):
    old.execute("ALTER EXTENSION webhooks UPDATE")
    fresh = make_database()
    found = differences(definitions(old), definitions(fresh))
    assert not found, "\n".join(["sql/webhooks--A--B.sql lacks something:", *found])


def test_the_comparison_names_what_differs(db, make_database):
    fresh = definitions(make_database())
    for statement in (
        "ALTER TABLE webhooks.event ALTER COLUMN owner SET DEFAULT 'x'",
        "DROP INDEX webhooks.queue_due",
        "COMMENT ON VIEW webhooks.status IS 'something else'",
        "GRANT SELECT ON webhooks.event TO PUBLIC",
        "ALTER TABLE webhooks.queue DISABLE ROW LEVEL SECURITY",
        "CREATE POLICY p ON webhooks.queue USING (true)",
        "ALTER TABLE webhooks.delivery DROP CONSTRAINT delivery_state_check",
        "ALTER TABLE webhooks.webhook DISABLE TRIGGER webhook_changed",
        "ALTER FUNCTION webhooks.sign(text, text) COST 7",
        "ALTER DOMAIN webhooks.api_access SET NOT NULL",
        "ALTER EXTENSION webhooks DROP VIEW webhooks.attempts",
        "CREATE FUNCTION webhooks.more() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "DELETE FROM webhooks.event_type WHERE name = 'user.activity'",
        "UPDATE pg_extension SET extcondition[1] = 'WHERE false' WHERE extname = 'webhooks'",
    ):
        db.execute("BEGIN")
        db.execute(statement)
        db.execute("COMMIT")
        found = differences(definitions(db), fresh)
        assert found, statement
        assert all("webhooks" in line or "user.activity" in line for line in found)
        fresh = definitions(db)  # the next one is what differs from here


def test_an_upgrade_under_load_fails_no_writer_holds_none_up_and_loses_nothing(old, receiver, row):
    db = old
    webhook = db.create_webhook(receiver.url(), ["memory.*"])
    paused = db.create_webhook(receiver.url("/paused"), ["memory.*"], active=False)
    db.execute("CREATE TABLE memories (id bigint PRIMARY KEY, content text)")
    db.attach("memories")
    secrets = db.rows("SELECT id, secret FROM webhooks.webhook ORDER BY id")
    db.execute("INSERT INTO memories SELECT -n, 'waits' FROM generate_series(1, 20) n")
    assert db.one("SELECT backlog FROM webhooks.status") == 20 and receiver.to() == []
    with Writers(db, lambda number: [("INSERT INTO memories VALUES (%s, 'a')", number)]) as writers:
        writers.wait_for_more(50)
        at = time.monotonic()
        until_done(db.session, "ALTER EXTENSION webhooks UPDATE")
        resumed = receiver.wait(1, timeout=LONGEST_SECONDS)[0].at - at
        writers.wait_for_more(50)
    assert writers.errors == []
    assert writers.longest < LONGEST_SECONDS, f"a writer took {writers.longest:.1f} s"
    assert db.rows("SELECT id, secret FROM webhooks.webhook ORDER BY id") == secrets
    db.settle(20)
    sent = [int(it.data["id"]) for it in receiver.to("/hook")]
    assert sorted(sent) == sorted([*range(-20, 0), *writers.done])
    assert len(db.deliveries(webhook, "delivered")) == len(sent) and db.deliveries(paused) == []
    fault = f"`ALTER EXTENSION … UPDATE` (a writer took {writers.longest:.2f} s at most)"
    row(fault, 1, f"{len(sent):,}", resume=[resumed])


# Library and catalog of different versions


def test_a_newer_library_says_how_to_update_the_extension_and_sends_nothing_until_then(old, receiver):
    db = old
    since = db.server.log_size()
    db.wait_until("SELECT state FROM webhooks.status", "version mismatch")
    webhook = db.create_webhook(receiver.url(), retry_policy=PATIENT)
    db.memories()
    for _ in range(20):
        db.execute("INSERT INTO memories (content) VALUES ('a')")
    error = db.fails("SELECT webhooks.start_worker()", state="55000", says=[current_version(db), FIRST, db.name])
    assert error.diag.message_hint == "Run ALTER EXTENSION webhooks UPDATE in this database."
    assert db.row("SELECT pid, state, backlog FROM webhooks.status") == {
        "pid": None,
        "state": "version mismatch",
        "backlog": 20,
    }
    assert receiver.to() == []
    # Each look says it in the log: the first one, and that of start_worker(). Writers cause none.
    assert 1 <= len(warnings(db, since)) <= 2
    assert "HINT:  Run ALTER EXTENSION webhooks UPDATE in this database." in db.server.log()
    db.execute("ALTER EXTENSION webhooks UPDATE")
    receiver.wait(20, timeout=5)
    db.wait_for_states(webhook, delivered=20)


def test_an_older_library_leaves_when_the_extension_is_updated_and_says_what_to_install(db, receiver):
    webhook = db.create_webhook(receiver.url())
    db.memories()
    current = current_version(db)
    with future_release(current):
        db.execute(f"ALTER EXTENSION webhooks UPDATE TO '{FUTURE}'")
        db.wait_until("SELECT state FROM webhooks.status", "version mismatch", timeout=2)
        db.execute("INSERT INTO memories (content) VALUES ('a')")
        error = db.fails("SELECT webhooks.start_worker()", state="55000", says=[current, FUTURE])
        assert error.diag.message_hint == f"Install version {FUTURE} of the library, and restart the server."
        assert receiver.to() == []
        db.execute(f"ALTER EXTENSION webhooks UPDATE TO '{current}'")
        db.wait_for_states(webhook, delivered=1, timeout=5)


def test_an_extension_that_is_made_anew_instead_of_updated_is_served(old, receiver):
    db = old
    db.wait_until("SELECT state FROM webhooks.status", "version mismatch")
    db.execute("DROP EXTENSION webhooks")
    db.execute("CREATE EXTENSION webhooks")
    db.wait_for_worker()
    db.create_webhook(receiver.url())
    db.emit()
    receiver.wait(1)


def test_another_databases_older_extension_hinders_nobody(old, db, receiver):
    old.wait_until("SELECT state FROM webhooks.status", "version mismatch")
    db.create_webhook(receiver.url())
    db.emit()
    receiver.wait(1)


# Released scripts


@pytest.fixture
def checkout(tmp_path):
    """A copy of what scripts/check-releases looks at, in a repository of its own with the first release tagged."""
    for directory in ("sql", "scripts"):
        shutil.copytree(TOP / directory, tmp_path / directory)
    shutil.copy(TOP / "Cargo.toml", tmp_path)

    def git(*arguments):
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments], cwd=tmp_path, check=True)

    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--message", "released")
    git("tag", f"v{FIRST}")
    return tmp_path


def check(directory, script="check-releases", *arguments):
    told = subprocess.run(
        [f"scripts/{script}", *arguments],
        cwd=directory,
        capture_output=True,
        text=True,
        env={**os.environ, "WEBHOOKS_CACHE": str(directory / "cache")},
    )
    return told.returncode == 0, told.stdout + told.stderr


def test_a_released_script_is_never_edited(checkout):
    assert check(checkout) == (True, "")
    script = checkout / f"sql/releases/webhooks--{FIRST}.sql"
    script.write_text(script.read_text().replace("PRIMARY KEY", "UNIQUE", 1))
    fine, said = check(checkout)
    assert not fine and script.name in said and "upgrade script" in said
    # Nor with a new checksum.
    sums = checkout / "sql/releases/SHA256SUMS"
    sums.write_text("".join(line for line in sums.read_text().splitlines(True) if script.name not in line))
    subprocess.run(f"sha256sum sql/releases/{script.name} >> {sums}", shell=True, cwd=checkout, check=True)
    fine, said = check(checkout)
    assert not fine and f"v{FIRST} was released with" in said
    fine, said = check(checkout, "freeze", FIRST)
    assert not fine and "has been released" in said


def test_every_release_leads_to_the_current_version(checkout):
    released = sorted(it.stem.split("--")[1] for it in checkout.glob("sql/releases/webhooks--*.sql"))
    last = released[-1]
    (step,) = checkout.glob(f"sql/webhooks--{last}--*.sql")
    step.rename(step.with_name("elsewhere.sql"))
    fine, said = check(checkout)
    assert not fine and f"no upgrade script from {last}" in said
