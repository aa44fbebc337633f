"""Operating it: start_worker, stop_worker, status, metrics, sign, verify, register_event_type; settings that are reloaded."""

import os
from pathlib import Path

import pytest
import signatures
from prometheus_client.openmetrics import parser
from receiver import Answer, hang
from server import free_port

STATUS_COLUMNS = [
    "pid",
    "state",
    "backlog",
    "oldest_pending_seconds",
    "in_flight",
    "delivered_total",
    "failed_total",
    "last_error",
    "last_error_at",
]
ONE_ATTEMPT = {"max_attempts": 1}


# Worker


def test_stop_worker_stops_delivery_and_start_worker_sends_what_waited(db, receiver):
    db.create_webhook(receiver.url())
    assert db.one("SELECT webhooks.stop_worker()") is True
    db.wait_until("SELECT pid IS NULL FROM webhooks.status")
    event = db.emit()
    db.wait_until("SELECT backlog FROM webhooks.status", 1)
    assert receiver.to() == []
    assert db.one("SELECT webhooks.start_worker()") is True
    (request,) = receiver.wait(1)
    assert request.json["id"] == event


def test_a_stop_lasts_though_there_is_work_and_the_launcher_is_busy(db, make_database, receiver):
    db.create_webhook(receiver.url())
    db.stop_worker()
    db.emit()
    make_database().drop()  # the launcher starts another database's worker, and loses it
    db.emit()
    assert db.row("SELECT pid, backlog FROM webhooks.status") == {"pid": None, "backlog": 2}
    assert receiver.to() == []


def test_who_terminates_all_processes_has_worker_and_launcher_back(make_server, make_database, receiver):
    server = make_server()
    db = make_database(server=server)
    webhook = db.create_webhook(receiver.url())
    db.emit()
    db.wait_for_states(webhook, delivered=1)
    terminated = db.rows(
        "SELECT backend_type, pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE backend_type LIKE 'webhooks%' ORDER BY backend_type"
    )
    assert [it["backend_type"] for it in terminated] == ["webhooks launcher", "webhooks worker"]
    db.emit()
    db.wait_for_states(webhook, delivered=2)
    db.wait_until("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'webhooks launcher'", 1)
    assert db.one("SELECT webhooks.start_worker()") is True


def test_a_stop_ends_with_the_servers_restart(make_server, make_database, receiver):
    server = make_server()
    db = make_database(server=server)
    db.create_webhook(receiver.url())
    db.stop_worker()
    event = db.emit()
    server.restart()
    db.reconnect()
    (request,) = receiver.wait(1, timeout=30)
    assert request.json["id"] == event


def test_start_worker_of_a_worker_that_runs_changes_nothing(db):
    pid = db.wait_for_worker()
    assert db.one("SELECT webhooks.start_worker()") is True
    assert db.one("SELECT pid FROM webhooks.status") == pid


def test_a_stopped_worker_frees_its_database_for_drop_template_and_rename(db, make_database):
    db.stop_worker()
    db.session.close()
    db.server.execute(
        f"CREATE DATABASE {db.name}_clone TEMPLATE {db.name}",
        f"DROP DATABASE {db.name}_clone",
        f"ALTER DATABASE {db.name} RENAME TO {db.name}_renamed",
        f"ALTER DATABASE {db.name}_renamed RENAME TO {db.name}",
        f"DROP DATABASE {db.name}",
    )


def test_drop_database_with_force_just_works(db, receiver):
    receiver.answer("/hook", Answer(delay=0.05))
    db.create_webhook(receiver.url())
    db.emit_many(50)
    receiver.wait(5)
    db.session.close()
    db.server.execute(f"DROP DATABASE {db.name} WITH (FORCE)")


def test_drop_extension_works_against_a_busy_worker_and_it_can_come_again(db, receiver):
    receiver.answer("/hook", Answer(delay=0.05))
    db.create_webhook(receiver.url())
    db.emit_many(50)
    receiver.wait(5)
    db.execute("DROP EXTENSION webhooks CASCADE")
    db.execute("CREATE EXTENSION webhooks")
    db.wait_for_worker()
    db.create_webhook(receiver.url("/again"))
    db.emit()
    receiver.wait(1, "/again")


def test_every_database_that_has_the_extension_is_served_without_a_list(db, make_database, receiver):
    for number, database in enumerate([db, make_database(), make_database()]):
        database.create_webhook(receiver.url(f"/{number}"))
        database.emit()
        receiver.wait(1, f"/{number}")


def test_only_utf8_databases_are_served(cluster):
    cluster.execute("CREATE DATABASE latin ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
    try:
        with cluster.connect("latin") as session, pytest.raises(Exception, match="(?i)utf-?8"):
            session.execute("CREATE EXTENSION webhooks")
    finally:
        cluster.execute("DROP DATABASE latin")


def test_without_preloading_create_extension_fails_with_that_hint(make_server):
    server = make_server({})
    with server.connect() as session, pytest.raises(Exception) as raised:
        session.execute("CREATE EXTENSION webhooks")
    assert "shared_preload_libraries" in raised.value.diag.message_hint


# status


def test_status_has_one_row_with_the_columns_of_the_contract_first(db):
    (row,) = db.rows("SELECT * FROM webhooks.status")
    assert list(row)[: len(STATUS_COLUMNS)] == STATUS_COLUMNS


def test_status_shows_the_worker(db):
    pid = db.wait_for_worker()
    assert db.one("SELECT datname FROM pg_stat_activity WHERE pid = %s", pid) == db.name
    assert Path(f"/proc/{pid}").exists() and pid != os.getpid()
    assert db.one("SELECT state FROM webhooks.status")
    db.stop_worker()
    assert not db.rows("SELECT FROM pg_stat_activity WHERE pid = %s", pid)


def test_status_shows_what_waits_and_what_is_under_way(db, receiver):
    gate = receiver.gate()
    receiver.answer("/hook", Answer(hold=gate))
    db.create_webhook(receiver.url())
    assert db.row("SELECT backlog, oldest_pending_seconds, in_flight FROM webhooks.status") == {
        "backlog": 0,
        "oldest_pending_seconds": 0,
        "in_flight": 0,
    }
    db.emit_many(8)
    receiver.wait_under_way(5, "/hook")
    db.wait_until("SELECT in_flight FROM webhooks.status", 5)
    assert db.one("SELECT backlog FROM webhooks.status") == 8
    db.wait_until("SELECT oldest_pending_seconds FROM webhooks.status", lambda seconds: seconds > 0.2)
    gate.open()
    db.settle()
    assert db.one("SELECT oldest_pending_seconds FROM webhooks.status") == 0


def test_status_counts_how_deliveries_ended(db, receiver):
    receiver.answer("/bad", 500)
    db.create_webhook(receiver.url("/good"), ["user.activity"])
    db.create_webhook(receiver.url("/bad"), ["search.performed"], retry_policy=ONE_ATTEMPT)
    db.emit_many(3)
    db.emit_many(2, "search.performed")
    db.wait_until("SELECT ARRAY[delivered_total, failed_total]::int[] FROM webhooks.status", [3, 2])


# metrics


def samples(text):
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parser.text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics_are_openmetrics(db, receiver):
    webhook = db.create_webhook(receiver.url())
    db.emit()
    db.wait_for_states(webhook, delivered=1)
    text = db.one("SELECT webhooks.metrics()")
    assert text.endswith("# EOF\n")
    families = list(parser.text_string_to_metric_families(text))
    assert families and all(family.documentation for family in families)
    assert all(family.name.startswith("webhooks_") for family in families)


def test_metrics_count_deliveries(db, receiver):
    receiver.answer("/hook", 200, 200, 500)
    webhook = db.create_webhook(receiver.url(), retry_policy=ONE_ATTEMPT)
    before = samples(db.one("SELECT webhooks.metrics()"))
    for n in range(2):
        db.emit()
        db.wait_for_states(webhook, delivered=n + 1)
    db.emit()
    db.wait_for_states(webhook, failed=1)
    db.settle()

    def growth(text):
        return {value - before.get(name, 0) for name, value in samples(text).items()}

    # Two deliveries, one failure: figures are written a moment after what they count.
    db.wait_until("SELECT webhooks.metrics()", lambda text: {1, 2} <= growth(text))


def test_metrics_count_requests_by_what_came_of_them(db, receiver):
    receiver.answer("/all", 200, 204, 302, 404, 429, 500, hang(), 200)
    webhook = db.create_webhook(receiver.url("/all"), retry_policy=ONE_ATTEMPT)
    with db.server.configured({"webhooks.request_timeout": "500ms"}):
        for _ in range(8):  # one after the other
            db.send_test(webhook)
            db.settle()
    nobody = db.create_webhook(f"http://127.0.0.1:{free_port()}/", retry_policy=ONE_ATTEMPT)
    db.send_test(nobody)
    db.settle()
    # Counts outlast the worker.
    db.stop_worker()
    with db.server.configured({"webhooks.allowed_networks": ""}):
        db.start_worker()
        db.send_test(webhook)
        db.settle()

    def counted(text):
        return {dict(labels).get("class"): value for (name, labels), value in samples(text).items() if "requests" in name}

    wanted = {"2xx": 3, "3xx": 1, "4xx": 2, "5xx": 1, "timeout": 1, "connect": 1, "refused": 1}
    none = dict.fromkeys(("dns", "tls", "other", "not_tried"), 0)
    db.wait_until("SELECT webhooks.metrics()", lambda text: counted(text) == wanted | none)


def test_metrics_tell_how_late_delivery_threads_are(db, receiver):
    def lag():
        return samples(db.one("SELECT webhooks.metrics()"))["webhooks_delivery_lag_seconds", ()]

    assert lag() == 0
    receiver.answer("/hook", Answer(delay=0.3))
    webhook = db.create_webhook(receiver.url())
    db.emit()
    db.wait_for_states(webhook, delivered=1)
    # A timer is late by a little at least.
    db.wait_until("SELECT webhooks.metrics()", lambda _: 0 < lag() < 60)


# sign and verify


@pytest.mark.parametrize("secret", ["Jefe", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "schlüssel"])
@pytest.mark.parametrize("body", ["what do ya want for nothing?", "", '{"content":"é\u2028🎉"}'])
def test_sign_is_the_hmac_of_the_body_under_the_secret_as_it_is_written(shared_db, body, secret):
    signature = shared_db.one("SELECT webhooks.sign(%s, %s)", body, secret)
    assert signature == signatures.body_signature(secret, body.encode())
    assert shared_db.one("SELECT webhooks.verify(%s, %s, %s)", body, signature, secret) is True


@pytest.mark.parametrize("signature", ["", "0", "zz" * 32, "00" * 32, "00" * 31, "00" * 33, "é" * 32])
def test_verify_of_a_wrong_signature_is_false(shared_db, signature):
    assert shared_db.one("SELECT webhooks.verify('body', %s, 'secret')", signature) is False


def test_verify_of_another_body_or_secret_is_false(shared_db):
    signature = signatures.body_signature("secret", b"body")
    assert shared_db.one("SELECT webhooks.verify('Body', %s, 'secret')", signature) is False
    assert shared_db.one("SELECT webhooks.verify('body', %s, 'Secret')", signature) is False


# register_event_type


def test_register_event_type_makes_a_type_known(db, receiver):
    db.execute("SELECT webhooks.register_event_type('invoice.paid', 'an invoice was paid')")
    db.create_webhook(receiver.url(), ["invoice.paid"])
    event = db.emit("invoice.paid", {"object": "invoice", "id": "7"})
    (request,) = receiver.wait(1)
    assert (request.json["id"], request.json["type"]) == (event, "invoice.paid")


def test_register_event_type_again_is_no_error(db):
    for description in ("first", "second"):
        db.execute("SELECT webhooks.register_event_type('invoice.paid', %s)", description)


# Settings

DEFAULTS = {
    "enabled": "on",
    "request_timeout": "5s",
    "deliveries_per_minute": "1000",
    "concurrent_deliveries": "5",
    "creations_per_hour": "10",
    "retention": "7d",
    "allowed_ports": "",
    "require_https": "off",
    "health_interval": "1min",
    "analytics_interval": "1h",
    "disable_after": "5d",
    "retry_jitter": "on",
    "max_payload": "1MB",
    "max_webhooks_per_owner": "100",
    "max_pending_per_owner": "0",
    "livemode": "on",
    "header_prefix": "X-Lanonasis",
    "user_agent": "Lanonasis-Webhooks/1.0",
    "ca_file": "",
    "owner_claim": "sub",
    "api_role": "",
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_a_setting_has_the_default_of_the_contract(shared_db, name):
    assert shared_db.one(f"SHOW webhooks.{name}") == DEFAULTS[name]


def test_no_network_is_allowed_by_default(shared_db):
    assert shared_db.one("SELECT boot_val FROM pg_settings WHERE name = 'webhooks.allowed_networks'") == ""


def test_no_tenant_can_change_a_setting(shared_db):
    changeable = (
        "SELECT name FROM pg_settings WHERE name LIKE 'webhooks.%' AND context = ANY (ARRAY['user', 'backend'])"
    )
    assert shared_db.rows(changeable) == []
    tenant = shared_db.connect(user=shared_db.role())
    for name in (*DEFAULTS, "allowed_networks", "max_in_flight", "jwt_secret"):
        shared_db.fails(f"SET webhooks.{name} = '1'", state="", hint=False, session=tenant)


def test_a_misspelled_setting_is_refused(shared_db):
    shared_db.fails("SET webhooks.retentoin = '1d'", state="42602", hint=False)


def test_a_reloaded_setting_holds_without_a_restart(db, receiver):
    webhook = db.create_webhook(receiver.url())
    pid = db.wait_for_worker()
    with db.server.configured(
        {"webhooks.livemode": "off", "webhooks.user_agent": "Other/2.0", "webhooks.header_prefix": "X-Other"}
    ):
        sent = 0

        def livemode():
            nonlocal sent
            sent += 1
            db.send_test(webhook)
            return receiver.wait(sent)[-1].json["livemode"]

        while livemode():
            assert sent < 500, "the setting does not hold"
        last = receiver.to()[-1]
        assert last.header("User-Agent") == "Other/2.0"
        assert last.header("X-Other-Event") == "webhook.test"
        assert last.header("X-Other-Delivery") and last.header("X-Other-Signature")
        assert last.all("X-Lanonasis-Signature") == []
    assert db.one("SELECT pid FROM webhooks.status") == pid


@pytest.mark.settings({"webhooks.deliveries_per_minute": "0"})
def test_alter_database_holds_for_the_worker_that_runs(db, receiver):
    webhook = db.create_webhook(receiver.url())
    receiver.answer("/hook", Answer(delay=0.02))
    db.emit_many(20)
    db.wait_for_states(webhook, delivered=20)
    assert receiver.peak("/hook") == 5
    pid = db.one("SELECT pid FROM webhooks.status")
    db.execute(f"ALTER DATABASE {db.name} SET webhooks.concurrent_deliveries = 1")
    db.wait_until("SELECT pid FROM webhooks.status", lambda now: now not in (pid, None), timeout=15)
    receiver.answer("/one", Answer(delay=0.02))
    db.update_webhook(webhook, url=receiver.url("/one"))
    db.emit_many(20)
    db.wait_for_states(webhook, delivered=40)
    assert receiver.peak("/one") == 1


def test_require_https_holds_on_reload_for_webhooks_there_are(db, cluster, receiver):
    webhook = db.create_webhook(receiver.url(), retry_policy=ONE_ATTEMPT)

    def refused():
        event = db.send_test(webhook)
        error = "SELECT last_error FROM webhooks.deliveries WHERE event_id = %s AND state <> 'pending'"
        db.wait_until(f"SELECT EXISTS ({error})", True, params=[event])
        return "https" in (db.one(error, event) or "")

    assert not refused()
    with cluster.configured({"webhooks.require_https": "on"}):
        tries = iter(range(500))
        while not refused():
            assert next(tries, None) is not None, "the setting does not hold"


@pytest.mark.settings({"webhooks.enabled": "off"})
def test_enabled_off_captures_and_sends_nothing(empty_db, receiver):
    db = empty_db
    db.execute("CREATE EXTENSION webhooks")
    db.create_webhook(receiver.url())
    assert db.emit() is None
    db.server.alter_system({"webhooks.enabled": None})
    db.wait_for_worker()
    event = db.emit(session=db.connect())
    (request,) = receiver.wait(1)
    assert request.json["id"] == event


@pytest.mark.settings({"webhooks.require_https": "on"})
def test_require_https_refuses_http(db):
    db.fails("SELECT webhooks.create_webhook('http://127.0.0.1/', '{*}')", state="22", says="https")
    assert db.create_webhook("https://127.0.0.1/")


@pytest.mark.settings({"webhooks.allowed_ports": "443, 8443"})
def test_allowed_ports_refuses_other_ports(db):
    db.fails("SELECT webhooks.create_webhook('https://127.0.0.1:9443/', '{*}')", state="22", says="port")
    assert db.create_webhook("https://127.0.0.1/") and db.create_webhook("http://127.0.0.1:8443/")
