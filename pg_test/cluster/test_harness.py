"""The harness itself, without the extension: what tests rest on must hold before they can say anything."""

import http.client
import socket
import ssl
import time

import psycopg
import pytest
import signatures
from database import Database
from processes import Application
from receiver import Answer, hang, reset
from server import is_alive

PLAIN = {}


@pytest.fixture
def plain(make_server):
    return make_server(PLAIN)


def post(receiver, path="/hook", body=b"{}", headers=(), connection=None):
    """A request of ours, over its own connection or a given one; the status and body of the answer."""
    own = connection is None
    connection = connection or http.client.HTTPConnection(receiver.host, receiver.port, timeout=10)
    try:
        connection.request("POST", path, body, dict(headers))
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        if own:
            connection.close()


def test_a_server_starts_reloads_and_restarts(plain):
    assert plain.show("max_prepared_transactions") == "5"
    with plain.configured({"work_mem": "5MB"}):
        assert plain.show("work_mem") == "5MB"
    assert plain.show("work_mem") == "4MB"
    plain.restart()
    assert plain.show("server_encoding") == "UTF8"


def test_a_crash_loses_nothing_that_was_committed_and_leaves_no_process(plain):
    plain.execute("CREATE TABLE kept AS SELECT 1 AS n")
    pids = [plain.process.pid, *plain.children()]
    plain.crash()
    assert not any(map(is_alive, pids))
    plain.start()
    with plain.connect() as session:
        assert session.execute("SELECT n FROM kept").fetchone() == (1,)


def test_an_alarm_in_the_log_is_seen(plain):
    began = plain.log_size()
    with plain.connect() as session:
        session.execute("DO $$ BEGIN RAISE WARNING 'something panicked'; END $$")
    assert [line for line in plain.alarms(began) if "panicked" in line]


def test_nothing_is_left_of_a_removed_server(plain):
    directory, pid = plain.dir, plain.process.pid
    plain.remove()
    assert not directory.exists()
    assert not is_alive(pid)


def test_a_database_is_made_and_dropped_with_its_sessions_and_roles(plain):
    database = Database(plain, extension=False)
    role = database.role("CREATE ON SCHEMA public")
    other = database.connect(user=role)
    database.execute("CREATE TABLE of_mine (n int)", session=other)
    database.execute("INSERT INTO of_mine VALUES (%s), (%s)", 1, 2)
    assert database.one("SELECT count(*) FROM of_mine") == 2
    assert database.rows("SELECT n FROM of_mine ORDER BY n") == [{"n": 1}, {"n": 2}]
    assert database.wait_until("SELECT max(n) FROM of_mine", 2) == 2
    database.fails("SELECT * FROM of_nobody", state="42P01", says="of_nobody", hint=False)
    database.execute("DROP TABLE of_mine")
    database.drop()
    with pytest.raises(psycopg.OperationalError):
        plain.connect(database.name)
    with plain.connect() as session:
        assert session.execute("SELECT FROM pg_roles WHERE rolname = %s", [role]).fetchone() is None


def test_what_is_waited_for_and_does_not_come_fails_the_test(plain, receiver):
    database = Database(plain, extension=False)
    with pytest.raises(AssertionError, match="still 1"):
        database.wait_until("SELECT 1", 2, timeout=0.1)
    with pytest.raises(AssertionError, match="0 of 1 requests"):
        receiver.wait(1, timeout=0.1)
    database.drop()


def test_the_receiver_records_what_was_sent_and_answers_in_turn(receiver):
    receiver.answer("/a", 500, Answer(body=b"good"))
    assert post(receiver, "/a?x=1", b"first", {"X-One": "1"})[0] == 500
    assert post(receiver, "/a", b"second") == (200, b"good")
    assert post(receiver, "/a", b"third") == (200, b"good")
    receiver.round_trip = False
    first, second, _ = receiver.wait(3, "/a")
    assert (first.target, first.path, first.body, first.header("x-one")) == ("/a?x=1", "/a", b"first", "1")
    assert first.answered <= second.at and abs(first.wall - time.time()) < 5


def test_the_receiver_keeps_connections_and_counts_them(receiver):
    connection = http.client.HTTPConnection(receiver.host, receiver.port)
    for _ in range(3):
        post(receiver, connection=connection)
    connection.close()
    assert receiver.connections == 1
    assert {it.connection for it in receiver.to("/hook")} == {1}


def test_the_receiver_holds_answers_and_knows_how_many_are_under_way(receiver):
    gate = receiver.gate()
    receiver.answer("/held", Answer(hold=gate), 200)
    connection = http.client.HTTPConnection(receiver.host, receiver.port)
    connection.request("POST", "/held", b"{}")
    receiver.wait_under_way(1, "/held")
    assert post(receiver, "/held")[0] == 200
    gate.open()
    assert connection.getresponse().status == 200
    assert (receiver.peak("/held"), receiver.under_way("/held")) == (2, 0)
    connection.close()


def test_the_receiver_misbehaves_as_it_is_told(receiver):
    receiver.round_trip = False
    receiver.answer("/reset", reset())
    with pytest.raises(ConnectionResetError):
        post(receiver, "/reset")
    receiver.answer("/closed", Answer(raw=b"", then="close"))
    with pytest.raises(http.client.RemoteDisconnected):
        post(receiver, "/closed")
    receiver.answer("/nonsense", Answer(raw=b"nonsense\r\n\r\n", then="close"))
    with pytest.raises(http.client.BadStatusLine):
        post(receiver, "/nonsense")
    receiver.answer("/hang", hang())
    connection = http.client.HTTPConnection(receiver.host, receiver.port, timeout=0.2)
    connection.request("POST", "/hang", b"{}")
    with pytest.raises(socket.timeout):
        connection.getresponse()
    connection.close()
    receiver.answer("/endless", Answer(endless=True))
    with socket.create_connection((receiver.host, receiver.port)) as raw:
        raw.sendall(b"POST /endless HTTP/1.1\r\nContent-Length: 0\r\n\r\n")
        received = 0
        while received < 1_000_000:
            received += len(raw.recv(65_536))
    receiver.answer("/drip", Answer(body=b"slow", drip=0.001))
    assert post(receiver, "/drip") == (200, b"slow")


def test_the_receiver_speaks_tls(make_receiver, authority):
    receiver = make_receiver(tls=authority.context("localhost", "127.0.0.1"))
    trusting = ssl.create_default_context(cafile=authority.file)
    connection = http.client.HTTPSConnection("localhost", receiver.port, context=trusting)
    assert post(receiver, connection=connection) == (200, b"")
    connection.close()
    with pytest.raises(ssl.SSLCertVerificationError):
        post(receiver, connection=http.client.HTTPSConnection("localhost", receiver.port))


def test_node_gives_canonical_bodies_back_and_others_not(javascript):
    same = b'{"1":1,"a":1e+21,"b":"\xc3\xa9"}'
    assert javascript.round_trip(same) == same
    assert javascript.round_trip(b'{"a": 1.0, "1": 2}') == b'{"1":2,"a":1}'
    with pytest.raises(AssertionError):
        javascript.round_trip(b"{")


@pytest.mark.parametrize("program", ["express_app.js", "flask_app.py", "standard_app.js", "standard_app.py"])
def test_the_applications_verify_and_refuse(program):
    secret = "whsec_" + "c2VjcmV0" * 4
    application = Application(program, secret)
    try:
        address = http.client.HTTPConnection(application.base.removeprefix("http://"))
        for key in (secret, "whsec_" + "b3RoZXIh" * 4):
            body = '{"id":"event_1","data":{"content":"é"}}'.encode()
            now = str(int(time.time()))
            headers = {
                "Content-Type": "application/json",
                "X-Lanonasis-Signature": signatures.body_signature(key, body),
                "webhook-id": "event_1",
                "webhook-timestamp": now,
                "webhook-signature": signatures.standard_signature(key, "event_1", now, body),
            }
            address.request("POST", "/hook", body, headers)
            address.getresponse().read()
        address.close()
        assert [it["verified"] for it in application.wait(2)] == [True, False]
    finally:
        application.stop()


def test_our_own_signatures_are_those_of_the_specification():
    # The example of the Standard Webhooks specification's libraries.
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    body = b'{"test": 2432232314}'
    assert (
        signatures.standard_signature(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", body)
        == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    )
    # RFC 4231, test case 2.
    assert (
        signatures.body_signature("Jefe", b"what do ya want for nothing?")
        == "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    )
