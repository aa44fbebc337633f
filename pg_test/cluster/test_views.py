"""What people find in the schema: webhooks without secrets, and which functions and views are not for them."""

import re

from releases import TOP

ONE_ATTEMPT = {"max_attempts": 1}


def test_webhooks_are_shown_to_people_without_secrets(db, receiver):
    receiver.answer("/alice", 500)
    secret = "whsec_" + "QUFB" * 11
    alice = db.create_webhook(receiver.url("/alice"), owner="alice", secret=secret, retry_policy=ONE_ATTEMPT)
    bob = db.create_webhook(receiver.url("/bob"), owner="bob", filters={"a": 1})
    db.one("SELECT webhooks.rotate_secret(%s)", bob["id"])
    db.emit(owner="alice")
    db.wait_until("SELECT failed_deliveries FROM webhooks.webhooks WHERE owner = 'alice'", 1)
    shown = {it["id"]: it for it in db.rows("SELECT * FROM webhooks.webhooks")}
    assert set(shown) == {alice["id"], bob["id"]}
    one = shown[alice["id"]]
    assert (one["url"], one["active"], one["total_attempts"]) == (alice["url"], True, 1)
    assert one["failing_since"] is not None and shown[bob["id"]]["failing_since"] is None
    secrets = db.execute("SELECT array_agg(s) FROM webhooks.webhook, unnest(ARRAY[secret, previous_secret]) s").fetchone()[0]
    assert not any(value in str(shown) for value in filter(None, secrets))
    # Whoever reads the log sees neither where it goes nor what is filtered.
    reader = db.role()
    db.grant(reader, "read")
    read = {it["id"]: it for it in db.rows("SELECT * FROM webhooks.webhooks", session=db.connect(user=reader))}
    assert read == {id: it | {"url": None, "filters": None} for id, it in shown.items()}
    db.fails("SELECT * FROM webhooks.webhooks", state="42501", hint=False, session=db.as_owner("bob"))


def test_a_webhook_fails_since_its_first_failed_attempt(db, receiver):
    """Whoever asks is told the same, long before the first delivery has used its last attempt."""
    receiver.answer("/hook", 500)
    webhook = db.create_webhook(receiver.url(), retry_policy={"max_attempts": 100, "backoff_multiplier": 10})
    query = """
        SELECT webhooks.format_time(failing_since) AS since, failed_attempts AS attempts, last_status, last_error
          FROM webhooks.webhooks"""
    assert list(db.row(query).values()) == [None, 0, None, None]
    db.emit()
    db.wait_until("SELECT total_attempts FROM webhooks.webhooks", lambda attempts: attempts > 0)
    failing = db.get_webhook(webhook)["failing"]
    shown = db.row(query)
    assert shown == failing and failing["since"] is not None and failing["last_status"] == 500


def test_what_is_not_for_people_says_so(shared_db):
    """Every function and view of the schema is in the README, or its comment says that it is not for people."""
    described = shared_db.rows("""
        SELECT p.proname AS name, obj_description(p.oid, 'pg_proc') AS said FROM pg_proc p
         WHERE p.pronamespace = 'webhooks'::regnamespace
        UNION ALL
        SELECT c.relname, obj_description(c.oid, 'pg_class') FROM pg_class c
         WHERE c.relnamespace = 'webhooks'::regnamespace AND c.relkind = 'v'""")
    assert len(described) > 40
    texts = "".join(it.read_text() for it in [TOP / "README.md", *sorted((TOP / "docs").glob("*.md"))])
    for it in described:
        documented = re.search(rf"`[^`]*\b{it['name']}\b[^`]*`", texts) is not None
        assert it["said"], it["name"]
        assert documented or it["said"].startswith("Internal:"), it
    for name in ("emit_changes", "webhook_changed", "restored", "worker", "wants", "install", "backlog", "waiting"):
        assert all(it["said"].startswith("Internal:") for it in described if it["name"] == name), name
