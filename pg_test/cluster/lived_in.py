"""A database with something of everything that must outlast a dump or an upgrade, and what must be found again."""

from receiver import Answer
from requests_as import SECRET

SETTINGS = {
    "shared_preload_libraries": "webhooks",
    "webhooks.allowed_networks": "127.0.0.0/8",
    "webhooks.jwt_secret": SECRET,
    "webhooks.api_role": "app",
}
PATIENT = {"max_attempts": 100, "backoff_multiplier": 1}
# Kept whole: by a dump, and so by an upgrade.
TABLES = ["webhook", "webhook_stats", "disabled", "creation", "api_key", "outbox", "queue", "set_aside"]
WAITING_EVENTS = "SELECT e.* FROM webhooks.event e WHERE e.id IN (SELECT id FROM webhooks.outbox UNION SELECT event_id FROM webhooks.queue)"


def figures(db):
    """Attempts, deliveries that ended delivered and that ended failed, by the webhook's uuid in hex."""
    columns = "webhook_id, total_attempts, successful_deliveries, failed_deliveries"
    return {it.pop("webhook_id").hex: tuple(it.values()) for it in db.rows(f"SELECT {columns} FROM webhooks.webhook_stats")}


class LivedIn:
    """Furnishes the database, and stops its worker."""

    def __init__(self, db, receiver):
        self.receiver = receiver
        db.execute("CREATE ROLE app LOGIN")
        db.execute("CREATE ROLE watcher LOGIN")
        db.grant("app", "api")
        db.grant("watcher", "read")
        self.key = db.one("SELECT webhooks.create_api_key('laptop', 'alice')")
        revoked = db.one("SELECT webhooks.create_api_key('lost', 'alice')")
        db.execute("SELECT webhooks.revoke_api_key(%s)", revoked["id"])
        db.memories(owner_column="owner_id", soft_delete_column="deleted_at", exclude_columns=["embedding"])
        db.execute("CREATE TABLE notes (id int, year int, content text, PRIMARY KEY (id, year)) PARTITION BY LIST (year)")
        db.execute("CREATE TABLE notes_2024 PARTITION OF notes FOR VALUES IN (2024)")
        db.attach("notes", object="note")
        db.execute("SELECT webhooks.register_event_type('invoice.paid', 'an invoice was paid')")
        self.webhooks = {
            name: db.create_webhook(receiver.url(f"/{name}"), **arguments)
            for name, arguments in {
                "plain": {"events": ["memory.*", "note.*", "invoice.paid"], "secret": "kept"},
                "filtered": {"events": ["memory.*"], "filters": {"content": "special"}},
                "owned": {"events": ["memory.*"], "owner": "alice"},
                "paused": {"events": ["memory.*", "user.activity"]},
                "resumed": {"events": ["user.activity"]},
                "retried": {"events": ["search.performed"], "retry_policy": PATIENT},
                "ended": {"events": ["search.performed"], "retry_policy": {"max_attempts": 1}},
                "gone": {"events": ["search.performed"]},
            }.items()
        }
        db.one("SELECT webhooks.rotate_secret(%s)", self.webhooks["plain"]["id"])
        for name, answer in {"retried": 500, "ended": 500, "gone": 410}.items():
            receiver.answer(f"/{name}", answer)
        # History.
        db.execute("INSERT INTO memories (content, owner_id) VALUES ('special', 'alice'), ('b', 'bob')")
        db.execute("INSERT INTO notes VALUES (1, 2024, 'a')")
        db.emit("search.performed")
        db.wait_until("SELECT backlog FROM webhooks.status", 1)  # what is retried
        db.wait_until("SELECT attempts >= 1 FROM webhooks.deliveries WHERE state = 'pending'")
        db.wait_until("SELECT webhooks.get_webhook(%s) -> 'active'", False, params=[self.webhooks["gone"]["id"]])
        # What a pause holds, of one that goes on in it and of one that ends it before anybody looks.
        db.stop_worker()
        db.emit("user.activity", {"object": "activity", "n": 1})
        for name in ("paused", "resumed"):
            db.update_webhook(self.webhooks[name], active=False)
        db.start_worker()
        db.wait_until("SELECT count(*) FROM webhooks.queue WHERE due IS NULL", 2)
        db.stop_worker()
        db.update_webhook(self.webhooks["resumed"], active=True)
        # What nobody has looked at.
        db.execute("INSERT INTO memories (content, owner_id) VALUES ('special', 'alice'), ('d', 'bob')")
        db.execute("INSERT INTO notes VALUES (2, 2024, 'b')")
        db.emit("invoice.paid", {"object": "invoice", "id": "1"})
        self.tables = {table: self._rows(db, f"SELECT * FROM webhooks.{table}") for table in TABLES}
        self.figures = figures(db)
        self.events = self._rows(db, WAITING_EVENTS)
        self.types = self._rows(db, "SELECT name, description FROM webhooks.event_type")
        self.attached = self._rows(db, "SELECT * FROM webhooks.attached")
        self.waiting = db.rows("SELECT id, event_id, webhook_id, attempts FROM webhooks.deliveries WHERE state = 'pending'")
        self.history = self._rows(db, "SELECT * FROM webhooks.deliveries WHERE state <> 'pending'")
        self.received = len(receiver.to())
        receiver.answer("/retried", 200)

    @staticmethod
    def _rows(db, query):
        return sorted(map(str, db.rows(query)))

    def waiting_for(self, name):
        """Ids of the deliveries that wait for a webhook."""
        return {it["id"] for it in self.waiting if it["webhook_id"] == self.webhooks[name]["id"]}

    def assert_is_there(self, db):
        """Everything that is configured, as it was. The worker may be at work already, on what waits."""
        for table in ("webhook", "disabled", "creation", "api_key", "set_aside"):
            assert self._rows(db, f"SELECT * FROM webhooks.{table}") == self.tables[table], table
        assert self._rows(db, "SELECT name, description FROM webhooks.event_type") == self.types
        assert self._rows(db, "SELECT * FROM webhooks.attached") == self.attached
        for role, right in (("app", "api"), ("watcher", "read")):
            assert db.one("SELECT has_type_privilege(%s, %s, 'USAGE')", role, f"webhooks.{right}_access") is True

    def assert_is_delivered(self, db, timeout=20):
        """What waited is sent, with the ids it had, each to whom it waited for, and nothing of what had ended.
        Its requests."""
        sent_to = {name: self.waiting_for(name) for name in self.webhooks if name != "paused"}
        assert {name: len(ids) for name, ids in sent_to.items() if ids} == {
            "plain": 4,
            "filtered": 1,
            "owned": 1,
            "resumed": 1,
            "retried": 1,
        }
        for name, ids in sent_to.items():
            self.receiver.wait(self._before(name) + len(ids), f"/{name}", timeout)
        db.wait_until("SELECT count(*) FROM webhooks.deliveries WHERE state = 'pending'", 1)
        db.wait_until("SELECT in_flight FROM webhooks.status", 0)
        events = {it["id"]: it["event_id"] for it in self.waiting}
        for name, ids in sent_to.items():
            requests = self._after(f"/{name}")
            assert sorted(it.header("X-Lanonasis-Delivery") for it in requests) == sorted(ids), name
            assert all(it.header("webhook-id") == events[it.header("X-Lanonasis-Delivery")] for it in requests)
        assert self._after("/retried")[0].json["attempt"] >= 2
        assert len(self._after("/plain")[0].all("X-Lanonasis-Signature-Previous")) == 1
        return self.receiver.to()[self.received :]

    def assert_goes_on(self, db):
        """New events are captured and sent; a pause is still one, and what it holds is sent after it."""
        taken = len(self.receiver.to())
        db.execute("INSERT INTO memories (content, owner_id) VALUES ('e', 'bob')")
        db.execute("INSERT INTO notes VALUES (3, 2024, 'c')")
        db.emit("user.activity", {"object": "activity", "n": 2})
        self.receiver.wait(taken + 3)
        db.wait_until("SELECT count(*) FROM webhooks.outbox", 0)
        assert sorted(it.path for it in self.receiver.to()[taken:]) == ["/plain", "/plain", "/resumed"]
        assert {it["id"] for it in db.deliveries(self.webhooks["paused"], "pending")} == self.waiting_for("paused")
        db.update_webhook(self.webhooks["paused"], active=True)
        db.wait_for_states(self.webhooks["paused"], pending=0)
        (request,) = self._after("/paused")
        assert request.data["n"] == 1

    def _before(self, name):
        return sum(it.path == f"/{name}" for it in self.receiver.to()[: self.received])

    def _after(self, path):
        return [it for it in self.receiver.to()[self.received :] if it.path == path]
