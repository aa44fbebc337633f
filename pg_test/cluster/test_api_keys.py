"""API keys: tokens that PostgREST takes as they are, and that end when they are revoked or have expired."""

import hashlib
import json
from datetime import UTC, datetime, timedelta

import pytest
import signatures
from forms import is_id, is_now, time_of
from requests_as import SECRET, Gateway, bearer, tell

URL = "http://127.0.0.1:9/hook"
LIST = "SELECT webhooks.list_webhooks()"
CHECK = "SELECT webhooks_api.check_request()"


def owned(db, session):
    """The owners of what a session sees."""
    return {it["owner"] for it in db.one(LIST, session=session)["webhooks"]}


def webhooks_of(db, *owners):
    for owner in owners:
        db.create_webhook(URL, owner=owner)


def refused(db, session, says=()):
    """Asserts that the request of a session is ended, by the functions and before them."""
    db.fails(LIST, state="42501", says=says, session=session)
    db.fails(CHECK, state="PT401", says=says, hint=False, session=session)


# create_api_key


def test_create_api_key_returns_the_key_and_what_is_known_of_it(db, keys):
    expires = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
    key = keys.create("alice", "her laptop", expires)
    assert set(key) == {"id", "name", "owner", "key", "created_at", "expires_at"}
    assert is_id("key", key["id"], version=7)
    assert (key["name"], key["owner"]) == ("her laptop", "alice")
    assert is_now(key["created_at"])
    assert time_of(key["expires_at"]) == expires
    assert keys.create()["expires_at"] is None
    assert keys.create(expires_at="infinity")["expires_at"] is None


def test_a_key_is_a_token_signed_with_the_secret_and_says_role_owner_id_and_times(db, keys):
    expires = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
    key = keys.create("alice", expires_at=expires)
    claims = signatures.claims_of(key["key"])
    assert claims == {
        "role": keys.role,
        "sub": "alice",
        "jti": key["id"],
        "iat": int(time_of(key["created_at"]).timestamp()),
        "exp": int(expires.timestamp()),
    }
    assert key["key"] == signatures.signed_again(key["key"], SECRET)
    assert "exp" not in signatures.claims_of(keys.create()["key"])


@pytest.mark.settings({"webhooks.owner_claim": "org"})
def test_the_owner_is_also_in_the_claim_that_owners_are_read_from(db, keys):
    key = keys.create("alice")
    claims = signatures.claims_of(key["key"])
    assert (claims["sub"], claims["org"]) == ("alice", "alice")
    webhooks_of(db, "alice", "bob")
    session = Gateway(db, keys.role).request(keys.role, claims={"sub": "bob", "org": "alice"})
    assert owned(db, session) == {"alice"}


def test_another_owner_claim_locks_out_keys_that_were_made_without_it(db, keys):
    webhooks_of(db, "alice")

    def request(key):
        return Gateway(db, keys.role).request(keys.role, claims=signatures.claims_of(key["key"]))

    before = keys.create("alice")
    with db.server.configured({"webhooks.owner_claim": "org"}):
        db.fails(LIST, state="42501", says="webhooks.owner_claim", session=request(before))
        after = keys.create("alice")
        assert owned(db, request(after)) == {"alice"}
    # When it is set back, both are good.
    assert owned(db, request(before)) == owned(db, request(after)) == {"alice"}


def test_of_a_key_only_a_hash_is_stored(db, keys):
    key = keys.create()
    (row,) = db.rows("SELECT * FROM webhooks.api_key")
    assert row["hash"] == hashlib.sha256(key["key"].encode()).digest()
    assert key["key"] not in json.dumps(row, default=repr)
    for listed in (db.rows("SELECT * FROM webhooks.api_keys"), keys.revoke(key)):
        assert key["key"] not in json.dumps(listed, default=repr)
    assert "hash" not in db.row("SELECT * FROM webhooks.api_keys")


@pytest.mark.parametrize(
    "name, owner", [("", "alice"), (" ", "alice"), (None, "alice"), ("a key", ""), ("a key", "\t"), ("a key", None)]
)
def test_a_key_has_a_name_and_an_owner(db, keys, name, owner):
    db.fails("SELECT webhooks.create_api_key(%s, %s)", name, owner, state="22023")


@pytest.mark.parametrize("expires_at", ["-infinity", "2001-01-01", "now"])
def test_a_key_expires_in_the_future(db, keys, expires_at):
    db.fails(
        "SELECT webhooks.create_api_key('a key', 'alice', %s)", expires_at, state="22023", says="past"
    )


def test_without_a_secret_there_are_no_keys(db):
    error = db.fails("SELECT webhooks.create_api_key('a key', 'alice')", state="55000", says="jwt_secret")
    assert "32 bytes" in error.diag.message_hint


@pytest.mark.settings({"webhooks.jwt_secret": SECRET})
def test_without_a_role_there_are_no_keys(db):
    db.fails("SELECT webhooks.create_api_key('a key', 'alice')", state="55000", says="api_role")


@pytest.mark.settings({"webhooks.jwt_secret": SECRET, "webhooks.api_role": "no_such_role"})
def test_without_that_role_there_are_no_keys(db):
    db.fails("SELECT webhooks.create_api_key('a key', 'alice')", state="55000", says=["no_such_role", "not exist"])


@pytest.mark.settings({"webhooks.jwt_secret": SECRET, "webhooks.api_role": "postgres"})
def test_a_key_never_makes_a_superuser(db):
    db.fails("SELECT webhooks.create_api_key('a key', 'alice')", state="55000", says=["postgres", "superuser"])


def test_only_administrators_make_and_revoke_keys(db, keys):
    admin, other = db.role(), db.role()
    db.grant(admin, "admin")
    db.grant(other, "api", "emit", "read", "gateway")
    key = keys.create(session=db.connect(user=admin))
    plain = db.connect(user=other)
    for function in ("create_api_key(text, text, timestamptz)", "revoke_api_key(text)"):
        db.execute(f"GRANT EXECUTE ON FUNCTION webhooks.{function} TO {other}")
    db.fails("SELECT webhooks.create_api_key('mine', 'alice')", state="42501", session=plain)
    db.fails("SELECT webhooks.revoke_api_key(%s)", key["id"], state="42501", session=plain)
    assert keys.revoke(key, session=db.connect(user=admin))["revoked"] is True


def test_administrators_see_the_keys_and_nobody_else(db, keys):
    key = keys.create("alice", "her laptop")
    admin, reader = db.role(), db.role()
    db.grant(admin, "admin")
    db.grant(reader, "read")
    row = db.row("SELECT * FROM webhooks.api_keys", session=db.connect(user=admin))
    assert (row["id"], row["name"], row["owner"], row["revoked_at"]) == (key["id"], "her laptop", "alice", None)
    session = db.connect(user=reader)
    db.fails("SELECT * FROM webhooks.api_keys", state="42501", hint=False, session=session)
    db.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA webhooks TO {reader}")
    db.execute(f"GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA webhooks TO {reader}")
    for relation in ("api_key", "api_keys"):
        assert db.rows(f"SELECT * FROM webhooks.{relation}", session=session) == []


# A key in use


@pytest.fixture
def ways(db, keys):
    """How a key may come: through a gateway that has verified it, and in the headers of anybody."""
    plain = keys.role_that_logs_in()
    gateway = Gateway(db, keys.role)

    def by_gateway(key, **said):
        token = key["key"]
        return gateway.request(
            keys.role,
            **{"claims": signatures.claims_of(token), "headers": bearer(token), "search_path": '"webhooks_api"', **said},
        )

    def by_headers(key, **said):
        session = db.connect(user=plain)
        session.execute(f"SET ROLE {keys.role}")
        return tell(session, **{"headers": bearer(key["key"]), "search_path": '"webhooks_api"', **said})

    return {"gateway": by_gateway, "headers": by_headers}


WAYS = pytest.mark.parametrize("way", ["gateway", "headers"])


@WAYS
def test_a_key_is_its_owner(db, keys, ways, way):
    webhooks_of(db, "alice", "bob", None)
    session = ways[way](keys.create("alice"))
    assert owned(db, session) == {"alice"}
    assert db.create_webhook(URL, session=session)["owner"] == "alice"
    db.one(CHECK, session=session)


def test_an_owner_with_a_nul_in_it_is_none(db, keys):
    """Postgres ends texts at a NUL when it writes them: in a dump, and so after a restore, it would be another's name."""
    webhooks_of(db, "alice")
    gateway = Gateway(db, keys.role)
    for name in ("alice\0", "\0alice", "\0", "ali\0ce"):
        session = gateway.request(keys.role, claims={"role": keys.role, "sub": name})
        db.fails(LIST, state="42501", says="owner", session=session)
        db.fails("SELECT webhooks.create_webhook(%s, '{*}')", URL, state="42501", says="owner", session=session)
    assert {row["owner"] for row in db.rows("SELECT owner FROM webhooks.webhook")} == {"alice"}


@WAYS
def test_a_revoked_key_is_refused_at_once(db, keys, ways, way):
    key = keys.create()
    session = ways[way](key)
    db.one(CHECK, session=session)
    assert db.one(LIST, session=session)
    assert keys.revoke(key).keys() == {"id", "revoked", "revoked_at"}
    refused(db, session, says="revoked")


@WAYS
def test_a_revocation_ends_what_a_transaction_with_an_older_snapshot_may_do(db, keys, ways, way):
    key = keys.create()
    session = ways[way](key)
    session.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    assert db.one(LIST, session=session)
    keys.revoke(key)
    db.fails(LIST, state="42501", says="revoked", session=session)


@WAYS
def test_an_expired_key_is_refused(db, keys, ways, way):
    key = keys.create(expires_at=datetime.now(UTC) + timedelta(seconds=1.5))
    session = ways[way](key)
    assert db.one(LIST, session=session)
    db.wait_until("SELECT clock_timestamp() > max(expires_at) + interval '1 second' FROM webhooks.api_key")
    refused(db, session, says="expired")


def test_the_end_of_a_key_is_judged_by_what_is_stored_too(db, keys, ways):
    key = keys.create()
    db.execute("UPDATE webhooks.api_key SET expires_at = now()")
    for way in ways.values():
        refused(db, way(key), says="expired")


@WAYS
def test_an_unknown_key_is_refused(db, keys, ways, way):
    key = keys.create()
    db.execute("DELETE FROM webhooks.api_key")
    refused(db, ways[way](key), says="not known")
    for jti in ("key_" + "0" * 32, "key_", "key_x"):
        claims = {"role": keys.role, "sub": "alice", "jti": jti}
        token = signatures.jwt(claims, SECRET)
        refused(db, ways[way]({"key": token}), says="not known")


def test_a_key_of_another_owner_is_not_taken_for_the_claims(db, keys, ways):
    """Whoever could make a gateway hand on such claims holds the secret, or found a way around it."""
    key = keys.create("alice")
    claims = {**signatures.claims_of(key["key"]), "sub": "bob"}
    refused(db, ways["gateway"](key, claims=claims), says="not known")


FORGERIES = {
    "another secret": lambda claims, key: signatures.jwt(claims, "another secret, which somebody made up"),
    "no signature": lambda claims, key: signatures.jwt(claims, SECRET, {"alg": "none"}).rsplit(".", 1)[0] + ".",
    "another algorithm": lambda claims, key: signatures.jwt(claims, SECRET, {"alg": "HS512"}),
    "no algorithm": lambda claims, key: signatures.jwt(claims, SECRET, {}),
    "not the same token": lambda claims, key: signatures.jwt({**claims, "more": 1}, SECRET),
    "another owner": lambda claims, key: signatures.jwt({**claims, "sub": "bob"}, SECRET),
    "expired": lambda claims, key: signatures.jwt({**claims, "exp": 1}, SECRET),
    "not yet": lambda claims, key: signatures.jwt({**claims, "nbf": 32503680000}, SECRET),
    "an expiry that is no number": lambda claims, key: signatures.jwt({**claims, "exp": "never"}, SECRET),
    "somebody else's token": lambda claims, key: signatures.jwt({"role": claims["role"], "sub": "alice"}, SECRET),
    "cut": lambda claims, key: key[:-1],
    "garbage": lambda claims, key: "a.b.c",
    "nothing": lambda claims, key: "",
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_token_that_is_not_the_key_is_refused(db, keys, ways, forgery):
    key = keys.create()["key"]
    forged = FORGERIES[forgery](signatures.claims_of(key), key)
    refused(db, ways["headers"]({"key": forged}))


@pytest.mark.parametrize("headers", ["{", "[]", "null", "7", '"Bearer"', '{"authorization": 7}', '{"authorization": "Basic x"}'])
def test_headers_that_hold_no_token_give_nobody_anything(db, keys, ways, headers):
    refused(db, ways["headers"](keys.create(), headers=headers))


def test_a_key_needs_a_role_with_the_right_api(db, keys, ways):
    key = keys.create()
    session = ways["headers"](key)
    db.execute("SELECT webhooks.revoke_access(%s, 'api')", keys.role)
    db.fails(LIST, state="42501", hint=False, session=session)
    db.execute(f"GRANT USAGE ON SCHEMA webhooks TO {keys.role}")
    db.execute(f"GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA webhooks TO {keys.role}")
    db.fails(LIST, state="42501", session=session)


def test_when_the_secret_changes_old_keys_end(db, keys, ways, cluster):
    session = ways["headers"](keys.create())
    assert db.one(LIST, session=session)
    loaded = db.one("SELECT pg_conf_load_time()", session=session)
    with cluster.configured({"webhooks.jwt_secret": SECRET[::-1]}):
        fresh = ways["headers"](keys.create())
        assert db.one(LIST, session=fresh)
        db.wait_until("SELECT pg_conf_load_time()", lambda at: at > loaded, session=session)
        refused(db, session, says="signature")


# revoke_api_key


def test_revoke_api_key_says_when_and_again_says_the_same(db, keys):
    key = keys.create()
    revoked = keys.revoke(key)
    assert (revoked["id"], revoked["revoked"]) == (key["id"], True)
    assert is_now(revoked["revoked_at"])
    assert keys.revoke(key) == revoked


def test_what_is_no_key_cannot_be_revoked(db):
    absent = "key_" + "0" * 32
    db.fails("SELECT webhooks.revoke_api_key(%s)", absent, state="P0002", says=[absent, "api_keys"])
    for bad in ("", "key_1", "webhook_" + "0" * 32, None):
        db.fails("SELECT webhooks.revoke_api_key(%s)", bad, state="22023")


# Last use


@WAYS
def test_the_last_use_is_written_down_also_of_requests_that_may_not_write(db, keys, ways, way):
    key, other = keys.create(), keys.create()
    session = ways[way](key)
    session.execute("SET default_transaction_read_only = on")
    used = "SELECT last_used_at FROM webhooks.api_keys WHERE id = %s"
    before = db.one("SELECT clock_timestamp()")
    db.one(LIST, session=session)
    first = db.wait_until(used, lambda at: at is not None, params=[key["id"]])
    assert abs((first - before).total_seconds()) < 5
    db.one(LIST, session=session)
    db.wait_until(used, lambda at: at > first, params=[key["id"]])
    assert db.one(used, other["id"]) is None


def test_the_worker_does_not_wait_for_whoever_holds_the_row_of_a_key(db, keys, ways):
    held, free = keys.create(), keys.create()
    holder = db.connect()
    holder.execute("BEGIN")
    keys.revoke(held, session=holder)
    for key in (held, free):
        db.one(LIST, session=ways["headers"](key))
    used = "SELECT last_used_at IS NOT NULL FROM webhooks.api_keys WHERE id = %s"
    db.wait_until(used, params=[free["id"]])
    assert db.one("SELECT last_error FROM webhooks.status") is None
    holder.rollback()
    db.one(LIST, session=ways["headers"](held))
    db.wait_until(used, params=[held["id"]])


# check_request


def test_requests_for_other_schemas_are_not_judged(db, keys):
    gateway = Gateway(db, keys.role)
    for said in (
        {"search_path": '"public"', "claims": {"role": keys.role}},
        {"search_path": '"public", "webhooks_api"', "headers": bearer("garbage")},
        {"search_path": ""},
    ):
        db.one(CHECK, session=gateway.request(keys.role, **said))


@pytest.mark.parametrize(
    "said",
    [
        {"search_path": '"webhooks_api", "public"'},
        {"search_path": "webhooks_api"},
        {"search_path": '"public"', "headers": {"accept-profile": "webhooks_api"}},
        {"search_path": '"public"', "headers": {"content-profile": "webhooks_api"}},
    ],
)
def test_a_request_for_our_schema_without_a_token_is_401(db, keys, said):
    gateway = Gateway(db, keys.role)
    for claims in (None, "", {"role": keys.role}):
        session = gateway.request(keys.role, claims=claims, **said)
        error = db.fails(CHECK, state="PT401", says="token is needed", hint=False, session=session)
        assert error.diag.message_primary == "a token is needed"


def test_a_token_of_the_applications_own_issuer_passes_by_its_owner(db, keys):
    webhooks_of(db, "alice", "bob")
    claims = {"role": keys.role, "sub": "alice", "jti": "theirs", "iss": "https://auth.example.com"}
    session = Gateway(db, keys.role).request(keys.role, claims=claims, search_path="webhooks_api")
    db.one(CHECK, session=session)
    assert owned(db, session) == {"alice"}


def test_whoever_has_a_token_without_an_owner_is_known_and_may_do_nothing(db, keys):
    token = signatures.jwt({"role": keys.role}, SECRET)
    session = Gateway(db, keys.role).request(
        keys.role, claims={"role": keys.role}, headers=bearer(token), search_path="webhooks_api"
    )
    db.one(CHECK, session=session)
    db.fails(LIST, state="42501", says="owner", session=session)


def test_a_refusal_says_nothing_of_the_token(db, keys, ways):
    token = keys.create()["key"]
    error = db.fails(CHECK, state="PT401", hint=False, session=ways["headers"]({"key": token[:-2]}))
    assert token[:20] not in f"{error} {error.diag.message_detail} {error.diag.context}"
