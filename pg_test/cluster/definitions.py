"""What an extension consists of, by definition: for comparing a database that was upgraded with one that is new."""

from psycopg.rows import tuple_row

ACL = "(SELECT string_agg(a::text, ',' ORDER BY a::text) FROM unnest({}) a)"
OURS = "IN ('webhooks', 'webhooks_api')"

# Each gives name and definition, in two columns.
QUERIES = {
    "schema": f"""
        SELECT nspname, concat_ws(' ', nspowner::regrole, {ACL.format("nspacl")}) FROM pg_namespace WHERE nspname {OURS}""",
    "relation": f"""
        SELECT c.oid::regclass::text,
               concat_ws(' ', c.relkind, c.relpersistence, am.amname, c.reloptions::text, 'rls', c.relrowsecurity,
                         c.relforcerowsecurity, c.relreplident, c.relowner::regrole, {ACL.format("c.relacl")})
          FROM pg_class c LEFT JOIN pg_am am ON am.oid = c.relam
         WHERE c.relnamespace::regnamespace::text {OURS} AND c.relkind <> 'i'""",
    "column": f"""
        SELECT c.oid::regclass || '.' || a.attname,
               concat_ws(' ', a.attnum, format_type(a.atttypid, a.atttypmod), 'not null', a.attnotnull,
                         'default', pg_get_expr(d.adbin, d.adrelid), a.attidentity, a.attgenerated, a.attstorage,
                         a.attcompression, a.attcollation::regcollation, {ACL.format("a.attacl")})
          FROM pg_attribute a
          JOIN pg_class c ON c.oid = a.attrelid AND c.relkind <> 'i'
          LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
         WHERE c.relnamespace::regnamespace::text {OURS} AND a.attnum > 0 AND NOT a.attisdropped""",
    "view": f"""
        SELECT c.oid::regclass::text, pg_get_viewdef(c.oid) FROM pg_class c
         WHERE c.relnamespace::regnamespace::text {OURS} AND c.relkind = 'v'""",
    "index": f"""
        SELECT i.indexrelid::regclass::text, pg_get_indexdef(i.indexrelid) FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
         WHERE c.relnamespace::regnamespace::text {OURS}""",
    "constraint": f"""
        SELECT concat_ws('.', nullif(conrelid, 0)::regclass, nullif(contypid, 0)::regtype, conname),
               concat_ws(' ', contype, convalidated, pg_get_constraintdef(oid))
          FROM pg_constraint WHERE connamespace::regnamespace::text {OURS}""",
    "trigger": f"""
        SELECT tgrelid::regclass || '.' || tgname, concat_ws(' ', tgenabled, pg_get_triggerdef(t.oid))
          FROM pg_trigger t JOIN pg_class c ON c.oid = tgrelid
         WHERE c.relnamespace::regnamespace::text {OURS} AND NOT tgisinternal""",
    "policy": f"SELECT concat_ws('.', schemaname, tablename, policyname), p::text FROM pg_policies p WHERE schemaname {OURS}",
    "function": f"""
        SELECT oid::regprocedure::text,
               concat_ws(' ', pg_get_functiondef(oid), proowner::regrole, {ACL.format("proacl")})
          FROM pg_proc WHERE pronamespace::regnamespace::text {OURS} AND prokind <> 'a'""",
    "type": f"""
        SELECT oid::regtype::text,
               concat_ws(' ', typtype, typlen, typnotnull, typdefault, nullif(typbasetype, 0)::regtype, typowner::regrole,
                         {ACL.format("typacl")},
                         (SELECT string_agg(enumlabel, ',' ORDER BY enumsortorder) FROM pg_enum WHERE enumtypid = t.oid))
          FROM pg_type t WHERE typnamespace::regnamespace::text {OURS} AND typcategory <> 'A'""",
    "default privilege": f"""
        SELECT concat_ws('.', defaclnamespace::regnamespace, defaclobjtype), {ACL.format("defaclacl")} FROM pg_default_acl
         WHERE defaclnamespace <> 0 AND defaclnamespace::regnamespace::text {OURS}""",
    "comment": f"""
        SELECT concat_ws(' ', i.type, i.identity), d.description
          FROM pg_description d, pg_identify_object(d.classoid, d.objoid, d.objsubid) i
         WHERE i.schema {OURS} OR (i.type = 'schema' AND i.name {OURS}) OR i.identity ~ '^webhooks(_api)?[.]'
            OR (i.type = 'extension' AND i.name = 'webhooks')""",
    "member of the extension": """
        SELECT concat_ws(' ', i.type, i.identity), d.deptype::text
          FROM pg_depend d, pg_identify_object(d.classid, d.objid, d.objsubid) i
         WHERE d.refclassid = 'pg_extension'::regclass
           AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'webhooks') AND d.deptype = 'e'""",
    "initial privilege": f"""
        SELECT concat_ws(' ', i.type, i.identity), {ACL.format("p.initprivs")}
          FROM pg_init_privs p, pg_identify_object(p.classoid, p.objoid, p.objsubid) i
         WHERE p.privtype = 'e' AND (i.schema {OURS} OR i.name {OURS})""",
    "mark for pg_dump": """
        SELECT c.oid::regclass::text, 'dumped ' || c.condition
          FROM pg_extension e, unnest(e.extconfig, e.extcondition) AS c(oid, condition) WHERE e.extname = 'webhooks'""",
    "extension": """
        SELECT extname, concat_ws(' ', extversion, extowner::regrole, extnamespace::regnamespace, extrelocatable)
          FROM pg_extension WHERE extname = 'webhooks'""",
    "event type": "SELECT name, description || ' ' || builtin FROM webhooks.event_type WHERE builtin",
}


def definitions(db):
    """Every object with its definition: {"kind name": "definition"}."""
    found = {}
    with db.connect().cursor(row_factory=tuple_row) as cursor:
        cursor.execute("SET search_path = pg_catalog")
        for kind, query in QUERIES.items():
            for name, definition in cursor.execute(query).fetchall():
                found[f"{kind} {name}"] = definition
    return found


def differences(upgraded, fresh):
    """What an upgrade script lacks, in words: one line an object."""
    lines = [f"missing after the upgrade: {name}" for name in fresh if name not in upgraded]
    lines += [f"left by the upgrade: {name}" for name in upgraded if name not in fresh]
    lines += [
        f"different after the upgrade: {name}\n    upgraded: {upgraded[name]}\n    fresh:    {fresh[name]}"
        for name in fresh
        if name in upgraded and upgraded[name] != fresh[name]
    ]
    return sorted(lines)
