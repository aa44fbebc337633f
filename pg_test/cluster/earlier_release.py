"""Tables that release 0.2 attached: triggers with the arguments that its attach() wrote."""

from psycopg import sql

TRANSITION_TABLES = {
    "INSERT": "NEW TABLE AS webhooks_new",
    "UPDATE": "OLD TABLE AS webhooks_old NEW TABLE AS webhooks_new",
    "DELETE": "OLD TABLE AS webhooks_old",
}


def attach_as_0_2(
    db,
    table,
    object="memory",
    id_column="id",
    owner_column=None,
    exclude_columns=(),
    soft_delete_column=None,
    session=None,
):
    """Makes the triggers by hand: row triggers on a partitioned table, statement triggers on any other."""
    arguments = [object, id_column, owner_column or "", soft_delete_column or "", *exclude_columns]
    partitioned = db.one("SELECT relkind = 'p' FROM pg_class WHERE oid = %s::regclass", table)
    for operation, tables in TRANSITION_TABLES.items():
        level = "FOR EACH ROW" if partitioned else f"REFERENCING {tables} FOR EACH STATEMENT"
        statement = sql.SQL(
            f"CREATE TRIGGER webhooks_emit_{operation.lower()} AFTER {operation} ON {table} {level}"
            " EXECUTE FUNCTION webhooks.emit_changes({})"
        ).format(sql.SQL(", ").join(map(sql.Literal, arguments)))
        db.execute(statement, session=session)
