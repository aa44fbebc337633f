"""Receivers as people write them, unmodified: Express over the re-serialised body, Flask over the raw one, and the official
standardwebhooks libraries of npm and PyPI.
"""

import base64
import json

import pytest
from processes import Application

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
APPLICATIONS = {
    "express": "express_app.js",
    "flask": "flask_app.py",
    "standardwebhooks of npm": "standard_app.js",
    "standardwebhooks of PyPI": "standard_app.py",
}
pytestmark = pytest.mark.xdist_group("receivers")

CONTENTS = [
    "plain",
    'quotes " and \\ and /',
    "é ü 漢字 🎉 \u2028 \u2029 \x7f \x01",
    "line\nbreak\ttab",
    "</script>",
    "a" * 100_000,
]
METADATA = [
    '{"10": 1, "2": 2, "b": 3, "a": 4}',
    '{"n": [1.0, 1e21, 1e-7, 0.1, 100.00, -0, 123456789.123]}',
    '{"nested": {"deep": [{"a": null}, true, false, {}, []]}, "": "empty key"}',
]


@pytest.fixture(scope="module")
def application(request):
    started = Application(APPLICATIONS[request.param], SECRET)
    yield started
    started.stop()


def verified_by(db, application, n):
    """What the application received and verified, once all deliveries have ended."""
    received = application.wait(n)
    db.settle()
    assert all(it["verified"] for it in received), received
    return [it["body"] for it in received]


@pytest.mark.parametrize("application", APPLICATIONS, indirect=True)
def test_every_delivery_is_verified_by(db, application):
    db.memories()
    webhook = db.create_webhook(application.url, secret=SECRET)
    before = len(application.received())
    for content in CONTENTS:
        db.execute("INSERT INTO memories (content, tags) VALUES (%s, '{a,b}')", content)
    for metadata in METADATA:
        db.execute("INSERT INTO memories (content, metadata) VALUES ('m', %s)", metadata)
    db.execute("UPDATE memories SET content = 'changed' WHERE content = 'plain'")
    db.execute("DELETE FROM memories WHERE content = 'changed'")
    db.send_test(webhook)
    n = len(CONTENTS) + len(METADATA) + 3
    bodies = verified_by(db, application, before + n)[before:]
    db.wait_for_states(webhook, delivered=n, failed=0)
    assert {body["data"].get("content") for body in bodies} >= set(CONTENTS)
    assert sorted({body["type"] for body in bodies}) == [
        "memory.created",
        "memory.deleted",
        "memory.updated",
        "webhook.test",
    ]


@pytest.mark.parametrize("application", APPLICATIONS, indirect=True)
def test_json_columns_of_any_spelling_are_verified_by(db, application):
    db.execute("CREATE TABLE memories (id int, metadata json)")
    db.attach("memories")
    webhook = db.create_webhook(application.url, secret=SECRET)
    before = len(application.received())
    spelled = ['{ "b" : 1.50 , "1" : 2, "a" : "\\u00e9\\/" }', "[1E5, 1e+2, 10.0, -0.0]", '{"a":1,"a":2}']
    for n, metadata in enumerate(spelled):
        db.execute("INSERT INTO memories VALUES (%s, %s)", n, metadata)
    bodies = verified_by(db, application, before + len(spelled))[before:]
    db.wait_for_states(webhook, delivered=len(spelled))
    seen = {body["data"]["id"]: body["data"]["metadata"] for body in bodies}
    assert seen == {str(n): json.loads(metadata) for n, metadata in enumerate(spelled)}


@pytest.mark.parametrize("application", APPLICATIONS, indirect=True)
def test_a_delivery_with_another_secret_is_refused_by(db, application):
    other = "whsec_" + base64.b64encode(bytes(32)).decode()
    webhook = db.create_webhook(application.url, secret=other, retry_policy={"max_attempts": 1})
    before = len(application.received())
    db.emit()
    assert db.the_delivery(webhook, "failed")["last_status"] == 401
    assert [it["verified"] for it in application.wait(before + 1)[before:]] == [False]
