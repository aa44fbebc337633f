"""A dump of a database, restored into another one. Any error fails the test."""

FORMS = ["plain", "custom"]


def restore_into(db, other, form="plain"):
    """Dumps db with pg_dump, as SQL or with -Fc, and restores it into a database that is empty."""
    if form == "plain":
        text = db.server.client("pg_dump", db.name)
        other.server.client("psql", "-qX", "-v", "ON_ERROR_STOP=1", "-d", other.name, input=text)
    else:
        archive = db.server.dir / f"{db.name}.dump"
        db.server.client("pg_dump", "-Fc", "-f", archive, db.name)
        other.server.client("pg_restore", "--exit-on-error", "--dbname", other.name, archive)


def restored_copy(db, make_database, form="plain"):
    """A database of the same server with the same contents. The worker of the dumped one is stopped."""
    db.stop_worker()
    other = make_database(extension=False, server=db.server)
    restore_into(db, other, form)
    other.wait_for_worker()
    return other
