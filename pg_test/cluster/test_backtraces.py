"""RUST_BACKTRACE in the server's environment is the operator's affair: no client sees a backtrace."""

import re

import psycopg
import pytest
from server import PRELOADED


@pytest.mark.parametrize("wanted", ["1", "full"])
def test_no_client_sees_a_backtrace(make_server, make_database, receiver, wanted):
    server = make_server(dict(PRELOADED), {"RUST_BACKTRACE": wanted})
    db = make_database(server=server)
    db.memories()
    for statement in (
        "SELECT webhooks.create_webhook('ftp://a', '{*}')",
        "SELECT webhooks.get_webhook('webhook_0')",
        "SELECT webhooks.attach('nowhere')",
        "SELECT webhooks.emit('no.such.type', '{}')",
        # Errors of PostgreSQL's own that pass through the library.
        "SELECT webhooks.attach('pg_class')",
        "SELECT webhooks.replay('webhook_0', now())",
        "SELECT webhooks.register_event_type('a.b', NULL)",
        "ALTER SCHEMA webhooks RENAME TO a",
        "CREATE INDEX ON webhooks.event ((id::text))",
    ):
        with pytest.raises(psycopg.Error) as raised:
            db.execute(statement)
        told = raised.value.diag
        said = [told.message_detail, told.message_hint, told.context, str(raised.value)]
        assert not any(re.search(r"stack backtrace|\.rs:\d|core::|std::|pgrx", text or "") for text in said), said
    db.execute("SET statement_timeout = 1")
    with pytest.raises(psycopg.Error) as raised:
        db.execute("SELECT webhooks.start_worker() FROM generate_series(1, 1000000)")
    assert raised.value.diag.message_detail is None
    assert server.alarms() == []
