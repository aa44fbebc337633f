"""Secrets are shown once, and stand in no view, list, log, error or activity."""

import json
import threading

import psycopg
import pytest
from receiver import Answer
from requests_as import Gateway
from server import PRELOADED

JWT_SECRET = "the secret of all API keys, which is long enough"
SHORT = "a secret too short"
LOUD = {
    **PRELOADED,
    "log_min_messages": "debug1",
    "log_min_error_statement": "debug1",
    "log_statement": "none",
    "log_error_verbosity": "verbose",
}


def tells(text, secret):
    """Whether a text holds a secret, also as Postgres prints texts in plans: their bytes in decimal, with line breaks."""
    printed = " ".join(str(byte) for byte in secret.encode())
    return secret in text or printed in " ".join(text.split())


@pytest.fixture
def loud(make_server, make_database):
    """A database of a server that logs all it can without being told to log statements."""
    return make_database(server=make_server(LOUD))


def never_logged(server, *secrets):
    text = server.log()
    for secret in secrets:
        assert not tells(text, secret)


def test_no_secret_is_in_the_log_nor_in_what_the_worker_is_seen_to_do(loud, receiver):
    db, server = loud, loud.server
    role = db.role()
    db.grant(role, "api")
    server.alter_system({"webhooks.api_role": role})
    server.execute(f"ALTER SYSTEM SET webhooks.jwt_secret = '{JWT_SECRET}'", "SELECT pg_reload_conf()")
    db.wait_until("SHOW webhooks.jwt_secret", "********")
    activity, done = [], threading.Event()

    def watch():
        with server.connect(db.name) as session:
            query = "SELECT query FROM pg_stat_activity WHERE backend_type LIKE 'webhooks%%'"
            while not done.is_set():
                activity.extend(row[0] for row in session.execute(query).fetchall())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        receiver.answer("/hook", 500, Answer(raw=b"nonsense"), 200)
        webhook = db.create_webhook(receiver.url(), secret="the first secret of all")
        rotated = db.one("SELECT webhooks.rotate_secret(%s)", webhook["id"])["secret"]
        db.emit_many(20)
        db.wait_for_states(webhook, delivered=20, timeout=20)
        db.update_webhook(webhook, secret="the second secret of all")
        db.update_webhook(webhook, active=False)
        key = db.one("SELECT webhooks.create_api_key('k', 'alice')")["key"]
        for bad in ("x" * 257, ""):
            db.fails("SELECT webhooks.create_webhook(%s, '{*}', %s)", receiver.url(), bad, state="22023")
    finally:
        done.set()
        watcher.join()
    server.stop()
    secrets = ["the first secret of all", "the second secret of all", rotated, key, JWT_SECRET]
    assert "settle" in activity
    seen = json.dumps(activity)
    assert not any(secret in seen for secret in secrets)
    never_logged(server, *secrets)


def test_a_caller_who_has_plans_logged_sees_no_secret_in_them(loud):
    """Anybody may switch that on for his session; what a change does not touch it does not show either."""
    db = loud
    web = db.role()
    db.grant(web, "api")
    session = Gateway(db, web).request(web, claims={"sub": "alice"})
    webhook = db.create_webhook("http://127.0.0.1:9/hook", owner="alice", secret="never to be seen again")
    said = []
    session.add_notice_handler(lambda notice: said.append(f"{notice.message_primary} {notice.message_detail}"))
    session.execute("SET client_min_messages = log")
    for setting in ("debug_print_parse", "debug_print_rewritten", "debug_print_plan"):
        session.execute(f"SET {setting} = on")
    db.update_webhook(webhook, session=session, active=False)
    rotated = db.one("SELECT webhooks.rotate_secret(%s)", webhook["id"], session=session)["secret"]
    assert said
    for secret in ("never to be seen again", rotated):
        assert not tells(" ".join(said), secret)
    never_logged(db.server, "never to be seen again", rotated)


def test_the_secret_of_keys_is_masked_for_everybody(cluster, shared_db):
    db = shared_db
    reader = db.role()
    db.execute(f"GRANT pg_read_all_settings TO {reader}")
    shown = "SELECT name, setting, reset_val, boot_val FROM pg_settings WHERE name = 'webhooks.jwt_secret'"
    assert db.one("SHOW webhooks.jwt_secret") == ""
    with cluster.configured({"webhooks.jwt_secret": JWT_SECRET}):
        db.wait_until("SHOW webhooks.jwt_secret", "********")
        for session in (db.session, db.connect(user=reader)):
            db.wait_until("SHOW webhooks.jwt_secret", "********", session=session)
            assert JWT_SECRET not in json.dumps(db.rows(shown, session=session))
            assert JWT_SECRET not in json.dumps(db.rows("SHOW ALL", session=session))
            assert len(db.rows(shown, session=session)) == 1
        plain = db.connect(user=db.role())
        db.fails("SHOW webhooks.jwt_secret", state="42501", hint=False, session=plain)
        assert db.rows(shown, session=plain) == []
        db.fails("SELECT * FROM pg_file_settings", state="42501", hint=False, session=plain)
    db.wait_until("SHOW webhooks.jwt_secret", "")


def test_the_log_tells_of_no_change_of_it_nor_of_one_that_is_refused(make_server):
    server = make_server(LOUD)
    server.alter_system({"webhooks.jwt_secret": JWT_SECRET})
    server.alter_system({"webhooks.jwt_secret": JWT_SECRET[::-1]})
    with server.connect() as session:
        assert session.execute("SHOW webhooks.jwt_secret").fetchone()[0] == "********"
        with pytest.raises(psycopg.Error) as raised:
            session.execute(f"ALTER SYSTEM SET webhooks.jwt_secret = '{SHORT}'")
        assert raised.value.sqlstate == "22023" and "32 bytes" in raised.value.diag.message_detail
        assert SHORT not in str(raised.value)
    server.restart()
    with server.connect() as session:
        assert session.execute("SHOW webhooks.jwt_secret").fetchone()[0] == "********"
    # Somebody writes one into the file that is too short.
    conf = server.data / "postgresql.auto.conf"
    conf.write_text(conf.read_text().replace(JWT_SECRET[::-1], SHORT))
    began = server.log_size()
    with server.connect() as session:
        session.execute("SELECT pg_reload_conf()")
    server.wait_for_log("contains errors", began)
    assert 'invalid value for parameter "webhooks.jwt_secret"' in server.log(began)
    log = server.log().replace(f"ALTER SYSTEM SET webhooks.jwt_secret = '{SHORT}'", "")  # the statement itself
    for secret in (JWT_SECRET, JWT_SECRET[::-1], SHORT):
        assert secret not in log.replace(f"ALTER SYSTEM SET webhooks.jwt_secret = '{secret}'", "")


def test_it_survives_a_parallel_query_and_a_reload_that_changes_something_else(cluster, db, keys):
    for setting, value in {
        "parallel_setup_cost": "0",
        "parallel_tuple_cost": "0",
        "min_parallel_table_scan_size": "0",
        "debug_parallel_query" if db.session.info.server_version >= 160000 else "force_parallel_mode": "on",
    }.items():
        db.execute(f"SET {setting} = {value}")
    db.execute("CREATE TABLE many AS SELECT n FROM generate_series(1, 1000) n")
    assert db.one("SELECT count(*) FROM many") == 1000
    first = keys.create()
    with cluster.configured({"work_mem": "5MB"}):
        db.wait_until("SHOW work_mem", "5MB")
        assert db.one("SELECT count(*) FROM many") == 1000
        assert keys.create()["key"].split(".")[0] == first["key"].split(".")[0]


def test_no_secret_is_in_any_view_or_list(db, receiver, keys):
    webhook = db.create_webhook(receiver.url(), secret="the first secret of all")
    rotated = db.one("SELECT webhooks.rotate_secret(%s)", webhook["id"])["secret"]
    key = keys.create()
    db.send_test(webhook)
    db.wait_for_states(webhook, delivered=1)
    views = db.rows(
        "SELECT oid::regclass::text AS name FROM pg_class WHERE relnamespace = 'webhooks'::regnamespace AND relkind = 'v'"
    )
    shown = [db.rows(f"SELECT * FROM {view['name']}") for view in views]
    delivery = db.the_delivery(webhook)
    shown += [
        db.get_webhook(webhook),
        db.one("SELECT webhooks.list_webhooks()"),
        db.one("SELECT webhooks.list_deliveries(%s)", webhook["id"]),
        db.one("SELECT webhooks.get_delivery(%s)", delivery["id"]),
        db.one("SELECT webhooks.metrics()"),
        keys.revoke(key),
    ]
    text = json.dumps(shown, default=str)
    assert webhook["id"] in text
    for secret in ("the first secret of all", rotated, key["key"]):
        assert secret not in text
