"""Sessions as PostgREST has them: who connected, which role it switched to, and what it tells of the request."""

import json

SECRET = "a secret that only the server and the gateway know"


def tell(session, claims=None, headers=None, search_path=None):
    """Sets what PostgREST would set for a request; for the session, so that tests may commit between."""
    for name, value in {
        "request.jwt.claims": claims,
        "request.headers": headers,
        "search_path": search_path,
    }.items():
        if value is not None:
            text = value if isinstance(value, str) else json.dumps(value)
            session.execute("SELECT set_config(%s, %s, false)", [name, text])
    return session


def bearer(token):
    return {"host": "example.com", "authorization": f"Bearer {token}"}


class Gateway:
    """PostgREST's authenticator: a role that has nothing but the right gateway and may become the given ones."""

    def __init__(self, db, *roles):
        self.db = db
        self.role = db.role()
        db.execute(f"ALTER ROLE {self.role} NOINHERIT")
        db.grant(self.role, "gateway")
        for role in roles:
            db.execute(f"GRANT {role} TO {self.role}")

    def request(self, role, **said):
        session = self.db.connect(user=self.role)
        session.execute(f"SET ROLE {role}")
        return tell(session, **said)


class Keys:
    """API keys of a database."""

    def __init__(self, db, role):
        self.db = db
        self.role = role

    def create(self, owner="alice", name="a key", expires_at=None, session=None):
        return self.db.one(
            "SELECT webhooks.create_api_key(%s, %s, %s)", name, owner, expires_at, session=session
        )

    def role_that_logs_in(self):
        """A role that may become the one of the keys, and nothing else."""
        role = self.db.role()
        self.db.execute(f"GRANT {self.role} TO {role}")
        return role

    def revoke(self, key, session=None):
        return self.db.one("SELECT webhooks.revoke_api_key(%s)", key["id"], session=session)
