"""Who gets what: event types, owners, filters, changes of owner."""

import json

import pytest
from database import Sink

ID = "11111111-1111-4111-8111-111111111111"


# Types


def test_an_event_goes_to_whoever_subscribes_to_its_type_its_prefix_or_everything(db, receiver):
    db.memories()
    for path, events in {
        "/type": ["memory.created"],
        "/prefix": ["memory.*"],
        "/all": ["*"],
        "/several": ["user.activity", "memory.created"],
        "/other_type": ["memory.deleted"],
        "/other_prefix": ["search.performed"],
    }.items():
        db.create_webhook(receiver.url(path), events)
    db.execute("INSERT INTO memories (content) VALUES ('a')")
    for path in ("/type", "/prefix", "/all", "/several"):
        receiver.wait(1, path, where=lambda it: it.json["type"] == "memory.created")
    db.settle()
    assert receiver.to("/other_type") == receiver.to("/other_prefix") == []


def test_each_webhook_gets_an_event_once_though_several_entries_match(db, receiver):
    db.memories()
    db.create_webhook(receiver.url(), ["memory.created", "memory.*"])
    db.execute("INSERT INTO memories (content) VALUES ('a')")
    db.settle()
    assert len(receiver.wait(1)) == 1


# Owners


def test_a_webhook_with_an_owner_gets_only_events_of_that_owner_and_one_without_gets_all(db, receiver):
    db.memories(owner_column="owner_id")
    for owner in ("alice", "bob", None):
        db.create_webhook(receiver.url(f"/{owner}"), owner=owner)
    db.execute("INSERT INTO memories (owner_id, content) VALUES ('alice', 'a'), ('bob', 'b'), (NULL, 'n')")
    db.emit(data={"object": "activity", "content": "e"}, owner="alice")
    db.emit(data={"object": "activity", "content": "m"})
    db.settle()
    seen = {path: sorted(it.data["content"] for it in receiver.to(path)) for path in ("/alice", "/bob", "/None")}
    assert seen == {"/alice": ["a", "e"], "/bob": ["b"], "/None": ["a", "b", "e", "m", "n"]}


@pytest.mark.parametrize("type_name", ["int", "uuid", "text"])
def test_an_owner_column_of_any_type_is_compared_as_text(db, receiver, type_name):
    owner = {"int": "7", "uuid": ID, "text": "é"}[type_name]
    db.execute(f"CREATE TABLE memories (id int, owner {type_name})")
    db.attach("memories", owner_column="owner")
    db.create_webhook(receiver.url("/owner"), owner=owner)
    db.create_webhook(receiver.url("/other"), owner=f"{owner}x")
    db.execute("INSERT INTO memories VALUES (1, %s)", owner)
    db.settle()
    assert len(receiver.to("/owner")) == 1 and receiver.to("/other") == []


def test_an_excluded_owner_column_decides_and_is_not_sent(db, receiver):
    db.execute("CREATE TABLE memories (id int, owner text)")
    db.attach("memories", owner_column="owner", exclude_columns=["owner"])
    db.create_webhook(receiver.url(), owner="alice")
    db.execute("INSERT INTO memories VALUES (1, 'alice'), (2, 'bob')")
    db.settle()
    assert [it.data for it in receiver.to("/hook")] == [{"object": "memory", "id": "1"}]


@pytest.fixture
def two_owners(db, receiver):
    """A memory of alice's that becomes bob's; returns what each of them, and who sees all, was told of it."""
    db.memories(owner_column="owner_id")
    for owner in ("alice", "bob", None):
        db.create_webhook(receiver.url(f"/{owner}"), owner=owner)
    db.execute(
        """INSERT INTO memories (id, owner_id, content, metadata) VALUES (%s, 'alice', 'of alice', '{"of": "alice"}')""",
        ID,
    )
    receiver.wait(1, "/alice")
    db.execute("""UPDATE memories SET owner_id = 'bob', content = 'of bob', metadata = '{"of": "bob"}'""")
    db.settle()
    return {owner: receiver.to(f"/{owner}") for owner in ("alice", "bob", None)}


def test_a_change_of_owner_is_deleted_for_the_old_and_created_for_the_new(two_owners):
    assert [it.json["type"] for it in two_owners["alice"]] == ["memory.created", "memory.deleted"]
    assert [it.json["type"] for it in two_owners["bob"]] == ["memory.created"]
    assert {it.data["id"] for requests in two_owners.values() for it in requests} == {ID}
    told = [it.json["type"] for it in two_owners[None]]
    assert sorted(told) == ["memory.created", "memory.created", "memory.deleted"], "who has no owner gets all of it"


def test_at_a_change_of_owner_neither_sees_the_others_values(two_owners):
    assert not any(b"bob" in it.body for it in two_owners["alice"])
    assert not any(b"alice" in it.body for it in two_owners["bob"])
    deleted = two_owners["alice"][1].data
    assert deleted["metadata"] == {"of": "alice"}
    assert two_owners["bob"][0].data["content"] == "of bob" and "changes" not in two_owners["bob"][0].data


@pytest.mark.parametrize(
    ("before", "after", "told"), [("alice", None, "memory.deleted"), (None, "alice", "memory.created")]
)
def test_an_owner_that_comes_or_goes_is_told(db, receiver, before, after, told):
    db.memories(owner_column="owner_id")
    db.execute("INSERT INTO memories (owner_id, content) VALUES (%s, 'a')", before)
    db.create_webhook(receiver.url(), owner="alice")
    db.execute("UPDATE memories SET owner_id = %s", after)
    assert [it.json["type"] for it in receiver.wait(1)] == [told]


# Filters

ROW = """
    INSERT INTO memories (id, content, tags, metadata, n, flag) VALUES
        ('11111111-1111-4111-8111-111111111111', 'a', '{x,y}',
         '{"project": "p", "n": 99, "deep": {"er": {"key": 5, "list": ["u", "v"]}}, "list": [1, 2], "on": false, "none": null}',
         7, true)"""


@pytest.mark.parametrize(
    ("filters", "matches"),
    [
        # A scalar matches equal values.
        ({"content": "a"}, True),
        ({"content": "A"}, False),
        ({"n": 7}, True),
        ({"n": 8}, False),
        ({"n": "7"}, False),
        ({"flag": True}, True),
        ({"flag": False}, False),
        ({"id": "11111111-1111-4111-8111-111111111111"}, True),
        # Or membership in an array.
        ({"tags": "x"}, True),
        ({"tags": "z"}, False),
        # An array: any of its members.
        ({"content": ["b", "a"]}, True),
        ({"content": ["b", "c"]}, False),
        ({"tags": ["z", "y"]}, True),
        ({"tags": ["z"]}, False),
        ({"content": []}, False),
        # A key is looked up in the row, then in its metadata.
        ({"project": "p"}, True),
        ({"project": "q"}, False),
        ({"on": False}, True),
        ({"n": 99}, False),
        ({"list": 2}, True),
        ({"list": [2, 3]}, True),
        # Dots descend.
        ({"metadata.project": "p"}, True),
        ({"deep.er.key": 5}, True),
        ({"metadata.deep.er.key": 5}, True),
        ({"deep.er.list": "v"}, True),
        ({"deep.er.nothing": 5}, False),
        ({"content.a": "a"}, False),
        # Every key must match.
        ({"content": "a", "project": "p", "n": 7}, True),
        ({"content": "a", "project": "q"}, False),
        ({"nowhere": "a"}, False),
        # No filter.
        ({}, True),
    ],
    ids=json.dumps,
)
def test_a_filter_lets_through_what_matches(db, receiver, filters, matches):
    db.memories()
    db.execute("ALTER TABLE memories ADD n int, ADD flag boolean")
    db.create_webhook(receiver.url("/filtered"), filters=filters)
    db.create_webhook(receiver.url("/all"))
    db.execute(ROW)
    receiver.wait(1, "/all")
    db.settle()
    assert len(receiver.to("/filtered")) == matches


def test_filters_judge_the_data_of_emitted_events(db, receiver):
    db.create_webhook(receiver.url(), filters={"kind": "a", "place": "here"})
    for kind in ("a", "b"):
        db.emit(data={"object": "activity", "kind": kind, "metadata": {"place": "here"}})
    db.settle()
    assert [it.data["kind"] for it in receiver.to("/hook")] == ["a"]


def test_a_filter_on_the_object_lets_creation_change_and_deletion_through(db, receiver):
    sink = Sink(db, receiver, filters={"object": "memory"})
    db.memories()
    db.execute("INSERT INTO memories (content) VALUES ('a')")
    db.execute("UPDATE memories SET content = 'b'")
    db.execute("DELETE FROM memories")
    assert [body["type"] for body in sink.take(3)] == ["memory.created", "memory.updated", "memory.deleted"]


@pytest.mark.parametrize("filters", [{"content": "a"}, {"tags": "x"}, {"project": "p"}], ids=json.dumps)
def test_a_deletion_reaches_whoever_got_the_creation(db, receiver, filters):
    db.memories(soft_delete_column="deleted_at")
    db.create_webhook(receiver.url(), filters=filters)
    for end in ("DELETE FROM memories", "UPDATE memories SET deleted_at = now()"):
        db.execute(
            """INSERT INTO memories (content, tags, metadata) VALUES ('a', '{x}', '{"project": "p"}'), ('b', '{}', '{}')"""
        )
        db.execute(end)
        db.execute("DELETE FROM memories WHERE deleted_at IS NULL")
    db.settle()
    types = sorted(it.json["type"] for it in receiver.to("/hook"))
    assert types == ["memory.created"] * 2 + ["memory.deleted"] * 2


@pytest.mark.settings({"webhooks.max_payload": "4kB"})
def test_filters_judge_the_whole_row_though_the_body_is_truncated(db, receiver):
    db.memories()
    db.create_webhook(receiver.url("/x"), filters={"tags": "x", "project": "p"})
    db.create_webhook(receiver.url("/y"), filters={"tags": "y"})
    db.execute(
        """INSERT INTO memories (content, tags, metadata)
           VALUES (repeat('a', 9000), '{x}', jsonb_build_object('project', 'p', 'long', repeat('b', 9000)))"""
    )
    (request,) = receiver.wait(1, "/x")
    assert request.data["truncated"] is True and "tags" not in request.data
    db.settle()
    assert receiver.to("/y") == []


def test_a_changed_filter_holds_for_what_comes_after(db, receiver):
    webhook = db.create_webhook(receiver.url(), filters={"kind": "a"})
    db.emit(data={"object": "activity", "kind": "b"})
    db.settle()
    db.update_webhook(webhook, filters={"kind": "b"})
    db.emit(data={"object": "activity", "kind": "a"})
    db.emit(data={"object": "activity", "kind": "b"})
    db.settle()
    assert [it.data["kind"] for it in receiver.to("/hook")] == ["b"]


# When one subscribes


def test_a_new_webhook_gets_what_begins_after_it_was_committed(db, receiver):
    db.memories()
    writer = db.connect()
    Sink(db, receiver, "/first")
    for n in range(10):
        db.execute("INSERT INTO memories (content) VALUES (%s)", f"before {n}", session=writer)
        db.create_webhook(receiver.url(f"/{n}"))
        db.execute("INSERT INTO memories (content) VALUES (%s)", f"after {n}", session=writer)
        assert receiver.wait(1, f"/{n}", where=lambda it: it.data["content"].startswith("after"))
    db.settle()
    for n in range(10):
        contents = {it.data["content"] for it in receiver.to(f"/{n}")}
        assert contents >= {f"after {m}" for m in range(n, 10)} and f"before {n}" not in contents


def test_a_webhook_whose_creation_is_rolled_back_gets_nothing(db, receiver):
    with pytest.raises(ZeroDivisionError), db.session.transaction():
        db.create_webhook(receiver.url())
        db.emit()
        raise ZeroDivisionError
    db.create_webhook(receiver.url("/other"))
    db.emit()
    receiver.wait(1, "/other")
    db.settle()
    assert receiver.to("/hook") == []
