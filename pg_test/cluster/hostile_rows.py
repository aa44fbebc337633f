"""Hostile calls of every function, and what each must get: a SQLSTATE and words of what is said, or, where a call is odd but
right, words of its result.

{hook} is a webhook, {delivery} a delivery of the administrator's, {theirs} and {their_delivery} another tenant's.
"""

import json
from dataclasses import dataclass

INVALID = "22023"
ABSENT = "P0002"
DENIED = "42501"
NO_COLUMN = "42703"
WRONG_OBJECT = "42809"
NOT_NOW = "55000"
# What Postgres itself says before a function of ours is called.
NO_SUCH_CALL = "42883"
SYNTAX = "22P02"
NUL_ESCAPE = "22P05"
TOO_LARGE = "22003"
BAD_TIME = "22008"
FINE = None

BIG = "x" * 1_000_000
HUGE = "x" * 10_000_000
CONTROLS = "a\r\nX-Evil: 1"
# How Rust's serde_json tells its numbers from objects.
PRIVATE = "$serde_json::private::Number"
URL = "http://127.0.0.1:9/hook"


def deep(levels, inner=""):
    return "[" * levels + inner + "]" * levels


@dataclass
class Row:
    call: str
    state: str | None
    says: str
    args: tuple = ()
    tenant: bool = False


def rows(state, says, *calls, tenant=False):
    """Calls that get the same; one with arguments is a tuple."""
    return [
        Row(call[0], state, says, call[1:], tenant) if isinstance(call, tuple) else Row(call, state, says, (), tenant)
        for call in calls
    ]


def both(key, state, says, *values):
    """The same values through SQL and through JSON."""
    made = []
    for value in values:
        if key == "url":
            made.append(Row("create_webhook(%s, '{*}')", state, says, (value,)))
        elif key == "events":
            made.append(Row(f"create_webhook('{URL}', %s::text[])", state, says, (value,)))
        elif key == "secret":
            made.append(Row(f"create_webhook('{URL}', '{{*}}', secret => %s)", state, says, (value,)))
        else:
            made.append(Row(f"create_webhook('{URL}', '{{*}}', {key} => %s)", state, says, (value,)))
            made.append(Row("update_webhook('{hook}', %s)", state, says, (f'{{"{key}": {value}}}',)))
            continue
        made.append(Row("update_webhook('{hook}', %s)", state, says, (json.dumps({key: value}),)))
    return made


URLS = [
    *both("url", INVALID, "too long", f"http://{HUGE}/", f"http://a.example/{HUGE}", "http://a.example/" + "é" * 2048),
    *both("url", INVALID, "invalid URL: the URL has no scheme", "\ufeffhttp://a.example/", "//a.example/", "a.example/hook"),
    *both("url", INVALID, "begin with http", "gopher://a.example/", "data:text/html,x", "unix:/tmp/socket",
          "blob:http://a.example/x",
          "http:/127.0.0.1/", "http:127.0.0.1", "http:\\\\127.0.0.1\\"),
    *both("url", INVALID, "no host", "http:///", "http://\u00ad/", "http://?"),
    *both("url", INVALID, "port", "http://a.example:-1/", "http://a.example:9x/", "http://a.example:65536/",
          "http://a.example:0/"),
    *both("url", INVALID, "invalid (IPv6|IPv4|URL|international|host)", "http://[::1", "http://]/", "http://[fe80::1%25eth0]/",
          "http://%00/", "http://a%20b/", "http://xn--a/", "http://exa{mple}.com/", "http://*/", "http://1.2.3.4.5/"),
    *both("url", INVALID, "spaces or control", "http://a b/", " http://a.example/", "http://a.example/\r\nX-Evil: 1",
          "http://a.example/\x7f",
          "http://a.example/\x85", "http://a.example\t/", "\u2003http://a.example/"),
    *both("url", INVALID, "user name or password", "http://user:p%40ss@a.example/", "http://a.example@127.0.0.1/",
          "http://:@a.example/"),
    *both("url", INVALID, "fragment", "http://a.example#@127.0.0.1/", "http://a.example/#"),
    *both("url", INVALID, "address refused", "http://10.0.0.1/", "http://0xa9fea9fe/latest/meta-data/",
          "http://[::ffff:10.0.0.1]/",
          "http://168.63.129.16/", "http://192.168.1/", "http://[64:ff9b::a00:1]/", "http://１０.0.0.1/", "http://0/"),
]  # fmt: skip

CREATE = [
    *rows(INVALID, "must not be null", "create_webhook(NULL, '{*}')", f"create_webhook('{URL}', NULL)",
          f"create_webhook('{URL}', '{{NULL,*}}')"),
    *both("events", INVALID, "unknown event type", [BIG], [CONTROLS], ["memory.created "], ["MEMORY.CREATED"],
          ["memory.created\u200b"],
          ["memory"], ["*.*"], ["**"], ["%"], ["memory.created'; DROP TABLE memories; --"], ["../memory.created"]),
    *both("events", INVALID, "cannot be subscribed to", ["webhook.test"]),
    *both("events", INVALID, "more than once", ["*", "*"]),
    *both("events", INVALID, "too many entries", ["memory.created"] * 51, ["x"] * 10_000),
    *both("events", INVALID, "must not be empty", []),
    *both("secret", INVALID, "secret", "", "x" * 257, HUGE, "é" * 129),
    *both("retry_policy", INVALID, "max_attempts must be a number from 1 to 100", '{"max_attempts": 1e308}',
          '{"max_attempts": -0.0}',
          '{"max_attempts": [3]}', '{"max_attempts": {}}', '{"max_attempts": true}', '{"max_attempts": "NaN"}',
          '{"max_attempts": 18446744073709551617}'),
    *both("retry_policy", INVALID, "max_delay must be", '{"max_delay": 4294967297}', '{"max_delay": 0.5}',
          '{"max_delay": "Infinity"}'),
    *both("retry_policy", INVALID, "backoff_multiplier must be", '{"backoff_multiplier": 1e-308}',
          '{"backoff_multiplier": 10.1}'),
    *both("retry_policy", INVALID, "unknown key", '{"": 1}', '{"MAX_ATTEMPTS": 3}', '{"max_attempts ": 3}', '{"__proto__": 1}',
          f'{{"{BIG}": 1}}', f'{{"{PRIVATE}": "1"}}'),
    *both("retry_policy", INVALID, "must be an object", "[]", '"null"', "3", "true", '[{"max_attempts": 3}]'),
    *both("filters", INVALID, "must be a string, number", '{"a": {}}', '{"a": [[]]}', '{"a": [1, {"b": 2}]}',
          f'{{"a": {{"{PRIVATE}": "5"}}}}'),
    *both("filters", INVALID, "too large", f'{{"a": "{"x" * 9000}"}}', f'{{"{"k" * 9000}": 1}}', json.dumps({"a": [1] * 9000})),
    *both("filters", INVALID, "too many keys", json.dumps({f"k{n}": 1 for n in range(51)})),
    *both("filters", INVALID, "must be an object", "[]", '"a"', "0", "false"),
    *both("filters", INVALID, "too deeply", f'{{"a": {deep(200)}}}', deep(900)),
    *rows(INVALID, "too deeply", (f"create_webhook('{URL}', '{{*}}', filters => %s)", f'{{"a": {deep(10_000)}}}'),
          (f"create_webhook('{URL}', '{{*}}', retry_policy => %s)", f'{{"max_attempts": {deep(10_000)}}}')),
    *rows(INVALID, "max_attempts must be", (f"create_webhook('{URL}', '{{*}}', retry_policy => %s)",
          '{"max_attempts": 1e131000}'),
          # the last of equal keys counts
          (f"create_webhook('{URL}', '{{*}}', retry_policy => %s)", '{"max_attempts": 3, "max_attempts": 0}')),
    *rows(INVALID, "owner", (f"create_webhook('{URL}', '{{*}}', owner => %s)", ""),
          (f"create_webhook('{URL}', '{{*}}', owner => %s)", HUGE)),
    *rows(INVALID, "owner", f"create_webhook('{URL}', '{{system.health}}', owner => 'alice')",
          f"create_webhook('{URL}', '{{system.*}}', owner => 'alice')"),
    *rows(NUL_ESCAPE, "unicode", (f"create_webhook('{URL}', '{{*}}', filters => %s)", '{"a": "\\u0000"}')),
    *rows(SYNTAX, "", (f"create_webhook('{URL}', '{{*}}', filters => %s)", '{"a": "\\ud800"}'),
          f"create_webhook('{URL}', '{{memory.created')",
          f"create_webhook('{URL}', '{{*}}', active => 'perhaps')", (f"create_webhook('{URL}', '{{*}}', filters => %s)", "")),
    *rows(NO_SUCH_CALL, "", "create_webhook(5, '{*}')", f"create_webhook('{URL}', ARRAY[1])",
          f"create_webhook('{URL}', '{{*}}', nonsense => 1)"),
    *rows(DENIED, "owner", f"create_webhook('{URL}', '{{*}}', owner => 'alice')", tenant=True),
    *rows(INVALID, "system.health", f"create_webhook('{URL}', '{{system.health}}')", tenant=True),
    *rows(FINE, PRIVATE.replace("$", r"\$"), (f"create_webhook('{URL}', '{{*}}', active => false, filters => %s)",
          f'{{"{PRIVATE}": "no number"}}')),
    *rows(FINE, '"owner": null', f"create_webhook('{URL}', '{{{{*}}}}', active => false)",
          f"create_webhook('{URL}', '{{*}}', active => false, filters => 'null')",
          "create_webhook('http://a.example/%0d%0aX-Evil:%201?%00', '{*}', active => false)"),
]  # fmt: skip

UPDATE = [
    *rows(INVALID, "unknown key", *[("update_webhook('{hook}', %s)", json.dumps({key: 1})) for key in
          ("", "Url", "url ", "owner_id", "activation", "previous_secret", "xmin", "__proto__", PRIVATE, BIG, CONTROLS)]),
    *rows(INVALID, "changes must be a JSON object", *[("update_webhook('{hook}', %s)", it) for it in ("[]", "1", '"{}"', "null",
          "true", '[{"active": true}]')]),
    *rows(INVALID, "must be a string", *[("update_webhook('{hook}', %s)", it) for it in
          ('{"url": null}', '{"url": 5}', '{"url": {}}', '{"secret": null}', '{"secret": 5}', '{"secret": ["x"]}')]),
    *rows(INVALID, "array of strings", *[("update_webhook('{hook}', %s)", it) for it in
          ('{"events": null}', '{"events": "*"}', '{"events": [null]}', '{"events": [["*"]]}', '{"events": {"0": "*"}}',
          '{"events": [1]}')]),
    *rows(INVALID, "true or false", *[("update_webhook('{hook}', %s)", it) for it in ('{"active": "true"}', '{"active": 1}',
          '{"active": null}')]),
    *rows(INVALID, "too deeply", *[("update_webhook('{hook}', %s)", it) for it in
          (deep(200), deep(10_000), f'{{"url": {deep(10_000)}}}', f'{{"active": true, "filters": {deep(10_000)}}}',
          f'{{"nonsense": {deep(10_000)}}}')]),
    *rows(INVALID, "must not be null", "update_webhook('{hook}', NULL)", "update_webhook(NULL, '{}')"),
    *rows(NUL_ESCAPE, "unicode", ("update_webhook('{hook}', %s)", '{"secret": "\\u0000"}')),
    # the last of equal keys counts
    *rows(INVALID, "begin with http", ("update_webhook('{hook}', %s)", '{"url": "http://a.example/", "url": "ftp://a.example/"}')),
    *rows(FINE, "webhook_", ("update_webhook('{hook}', %s)",
          '{"id": "event_1", "owner": "mallory", "created_at": 1, "delivery_stats": [], "disabled_reason": null}'),
          ("update_webhook('{hook}', %s)", "{}")),
]  # fmt: skip

# Every function that takes an id.
BY_ID = {
    "get_webhook": ("webhook", "get_webhook(%s)"),
    "update_webhook": ("webhook", "update_webhook(%s, '{}')"),
    "delete_webhook": ("webhook", "delete_webhook(%s)"),
    "list_deliveries": ("webhook", "list_deliveries(%s)"),
    "send_test": ("webhook", "send_test(%s)"),
    "replay": ("webhook", "replay(%s, 'epoch')"),
    "get_delivery": ("delivery", "get_delivery(%s)"),
    "retry_delivery": ("delivery", "retry_delivery(%s)"),
    "rotate_secret": ("webhook", "rotate_secret(%s)"),
    "revoke_api_key": ("key", "revoke_api_key(%s)"),
}


def ids(function):
    kind, call = BY_ID[function]
    other = "delivery" if kind == "webhook" else "webhook"
    bad = ["", f"{kind}_", f"{kind}_{'0' * 31}", f"{kind}_{'0' * 33}", f"{kind}_{'G' * 32}", f"{kind}_{'A' * 32}",
          f"{other}_{'0' * 32}",
           f"{kind}_{'0' * 31}\u0660", f" {kind}_{'0' * 32}", f"{kind}_{'0' * 32}\n", f"{kind}_' OR true --", "%s" * 100,
           BIG]  # fmt: skip
    theirs = {"webhook": ["'{theirs}'"], "delivery": ["'{their_delivery}'"], "key": []}[kind]
    return [
        *rows(INVALID, f"invalid {kind} id", *[(call, it) for it in bad]),
        *rows(INVALID, "must not be null", call % "NULL"),
        *rows(ABSENT, "does not exist", call % f"'{kind}_{'0' * 32}'", call % f"'{kind}_{'f' * 32}'"),
        *rows(ABSENT, "does not exist", *[call % it for it in theirs], tenant=True),
        *rows(NO_SUCH_CALL, "", call % "5"),
    ]


LISTS = [
    *rows(INVALID, "page_limit", *[(f"list_webhooks(page_limit => {it})") for it in (0, -1, 1001, 2147483647, -2147483648)]),
    *rows(INVALID, "page_offset", "list_webhooks(page_offset => -1)", "list_webhooks(page_offset => -2147483648)"),
    *rows(NO_SUCH_CALL, "", "list_webhooks(page_limit => 2147483648)", "list_webhooks(page_limit => 1.5)",
          "list_webhooks(1, 2, 3, 4, 5)"),
    *rows(SYNTAX, "", "list_webhooks(page_limit => 'x')", "list_webhooks(active => 'maybe')"),
    *rows(FINE, '"has_more": false', "list_webhooks(page_offset => 2147483647)",
          ("list_webhooks(event => %s, page_offset => 1000)", BIG),
          ("list_webhooks(event => %s, page_offset => 1000)", CONTROLS)),
    *rows(FINE, '"webhooks": ', "list_webhooks(NULL, NULL, NULL, NULL)"),
]  # fmt: skip

DELIVERIES = [
    *rows(INVALID, "unknown state", *[("list_deliveries('{hook}', %s)", it) for it in ("", "PENDING", "pending ", CONTROLS, BIG,
          "*", "failed' OR true --")]),
    *rows(INVALID, "page_limit", "list_deliveries('{hook}', NULL, 0)", "list_deliveries('{hook}', NULL, 2147483647)"),
    *rows(INVALID, "page_offset", "list_deliveries('{hook}', NULL, 20, -1)"),
    *rows(NO_SUCH_CALL, "", "list_deliveries('{hook}', 5)", "list_deliveries('{hook}', NULL, 99999999999)"),
]  # fmt: skip

REPLAY = [
    *rows(INVALID, "after until", "replay('{hook}', 'infinity')", "replay('{hook}', 'infinity', '-infinity')",
          "replay('{hook}', '294276-12-31', 'epoch')"),
    *rows(INVALID, "since must not be null", "replay('{hook}', NULL)"),
    *rows(BAD_TIME, "out of range", "replay('{hook}', '294277-01-01')", "replay('{hook}', '4714-01-01 BC')"),
    *rows("22007", "", "replay('{hook}', 'whenever')", "replay('{hook}', '')"),
    *rows(SYNTAX, "", "replay('{hook}', 'epoch', only_failed => 'perhaps')"),
    *rows(FINE, "0", "replay('{hook}', '-infinity', '4713-01-01 BC')", "replay('{hook}', 'infinity', 'infinity', NULL)",
          "replay('{hook}', '-infinity', 'epoch')"),
]  # fmt: skip

REGISTER = [
    *rows(INVALID, "invalid event type", *[("register_event_type(%s, 'x')", it) for it in
          ("", "a", "a.", ".a", "a..b", "A.b", "ä.b", "a.b c", "a.*", "*", "1a.b", "a-b.c", CONTROLS, "a\u200b.b",
          "a.b'; DROP SCHEMA webhooks CASCADE; --", "x" * 99 + ".b", BIG)]),
    *rows(INVALID, "must not be null", "register_event_type(NULL, 'x')", "register_event_type('a.b', NULL)"),
    *rows(DENIED, "register_event_type", "register_event_type('a.b', 'x')", tenant=True),
    *rows(FINE, "", ("register_event_type('hostile.registered', %s)", HUGE), "register_event_type('memory.created', 'hijacked')"),
]  # fmt: skip

EMIT = [
    *rows(INVALID, "unknown event type", *[("emit(%s, '{}')", it) for it in ("", "nope.nope", "*", "user.*", CONTROLS,
          "USER.ACTIVITY", BIG, "webhook.test")]),
    *rows(INVALID, "must be a JSON object", *[("emit('user.activity', %s)", it) for it in ("[]", "1", "null", '"{}"', "false",
          deep(10_000))]),
    *rows(INVALID, "must not be null", "emit(NULL, '{}')", "emit('user.activity', NULL)"),
    *rows(NUL_ESCAPE, "unicode", ("emit('user.activity', %s)", '{"a": "\\u0000"}'), ("emit('user.activity', %s)",
          '{"\\u0000": 1}')),
    *rows(SYNTAX, "", *[("emit('user.activity', %s)", it) for it in ('{"a": "\\ud800"}', '{"a": NaN}', "{", "", "{'a': 1}",
          '{"a": 01}')]),
    *rows(TOO_LARGE, "overflow", ("emit('user.activity', %s)", '{"a": 1e999999}')),
    *rows(NO_SUCH_CALL, "", "emit('user.activity', 5)", "emit('user.activity', '{}'::json)"),
    *rows(DENIED, "emit", "emit('user.activity', '{}')", "emit('user.activity', '{}', 'alice')", tenant=True),
    *rows(FINE, "event_", *[("emit('user.activity', %s)", it) for it in
          ('{"a": 1e400}', '{"a": 1e131071}', '{"a": 1, "a": 2}', '{"object": {}, "id": []}', f'{{"{PRIVATE}": "no number"}}',
          f'{{"a": {deep(10_000)}, "id": 7}}',
           f'{{"a": {{"{PRIVATE}": {{}}}}}}', '{"\\r\\nX-Evil": "\\r\\n", "": 1}', json.dumps({"a": HUGE}))]),
    *rows(FINE, "event_", ("emit('user.activity', '{}', %s)", BIG), ("emit('user.activity', '{}', %s)", CONTROLS)),
]  # fmt: skip

SEARCH = [
    *rows(INVALID, "must be a JSON array or object", *[("search_performed('q', %s)", it) for it in ("1", '"x"', "true")]),
    *rows(INVALID, "query must not be null", "search_performed(NULL, '[]')"),
    *rows(SYNTAX, "", ("search_performed('q', %s)", "["), ("search_performed('q', %s)", "")),
    *rows(DENIED, "search_performed", "search_performed('q', '[]', NULL, 'alice')", tenant=True),
    *rows(FINE, "event_", *[("search_performed('q', %s)", it) for it in
          ("null", "{}", '[1, null, [], {}, "x", 1e400]', '{"ids": 5, "scores": {}, "count": -1}', '{"results": 5}',
          '{"ids": [1], "count": 1e400}',
           '{"count": 18446744073709551616, "ids": [{}], "scores": ["x"]}', f'[{{"id": 1, "x": {deep(10_000)}}}, {deep(10_000)}]',
           f'{{"{PRIVATE}": []}}', f'[{{"id": {{"{PRIVATE}": "x"}}}}]', json.dumps(list(range(100_000))))]),
    *rows(FINE, "event_", ("search_performed(%s, '[]')", HUGE), ("search_performed(%s, '[]', '', '')", ""),
          ("search_performed(%s, NULL)", CONTROLS)),
]  # fmt: skip

ACTIVITY = [
    *rows(INVALID, "must not be null", "user_activity(NULL, 'login')", "user_activity('u', NULL)"),
    *rows(SYNTAX, "", ("user_activity('u', 'login', %s)", "{"), ("user_activity('u', 'login', %s)", "")),
    *rows(NO_SUCH_CALL, "", "user_activity(5, 'login')"),
    *rows(DENIED, "user_activity", "user_activity('u', 'login', '{}', 'alice')", tenant=True),
    *rows(FINE, "event_", *[("user_activity('u', 'login', %s)", it) for it in ("1", "[]", "null", '"x"', deep(10_000),
          f'{{"{PRIVATE}": "x"}}')]),
    *rows(FINE, "event_", ("user_activity(%s, 'login')", HUGE), ("user_activity('', %s)", CONTROLS),
          "user_activity('u', 'login', NULL)"),
]  # fmt: skip

ATTACH = [
    *rows(INVALID, "table_name must not be null", "attach(NULL)"),
    *rows("42P01", "does not exist", "attach('nope')"),
    *rows("42602", "invalid name", "attach('')", "attach('target; DROP TABLE target')"),
    *rows(ABSENT, "does not exist", "attach(0)", "attach(999999999)"),
    *rows(WRONG_OBJECT, "cannot attach", *[f"attach('{it}')" for it in
          ("a_view", "a_matview", "a_sequence", "an_index", "a_type", "a_foreign_table", "pg_temp.temporary", "pg_class",
          "information_schema.sql_features",
           "webhooks.webhook", "webhooks.event", "webhooks.deliveries")]),
    *rows(INVALID, "invalid object", *[("attach('target', %s)", it) for it in
          ("", "A", "a.b", "1a", "é", " a", CONTROLS, "a" * 93, BIG, "a'); DROP TABLE target; --")]),
    *rows(INVALID, "is reserved", *[f"attach('target', '{it}')" for it in ("webhook", "delivery", "system", "analytics")]),
    *rows(NO_COLUMN, "does not exist", *[("attach('target', 'note', %s)", it) for it in ("", "nope", "ID", "ctid", "tableoid",
          "id ", "id\n", "x" * 1000, "........pg.dropped.3........", "gone")]),
    *rows(NO_COLUMN, "does not exist", ("attach('target', 'note', owner_column => %s)", ""),
          ("attach('target', 'note', soft_delete_column => %s)", "xmin"),
          ("attach('target', 'note', exclude_columns => %s::text[])", [BIG]),
          ("attach('target', 'note', exclude_columns => %s::text[])", ["odd'name", ""])),
    *rows(INVALID, "cannot be excluded", "attach('target', 'note', exclude_columns => '{id}')"),
    *rows(DENIED, "owner of table", "attach('target')", "attach('pg_class')", "attach('webhooks.webhook')", tenant=True),
    *rows(FINE, "", ("attach('target', 'note', exclude_columns => %s::text[])", ["odd'name\\", None] * 100),
          "attach('target', NULL, NULL, NULL, NULL, NULL)"),
]  # fmt: skip

DETACH = [
    *rows(INVALID, "table_name must not be null", "detach(NULL)"),
    *rows("42P01", "does not exist", "detach('nope')"),
    *rows("42602", "invalid name", "detach('')"),
    *rows(ABSENT, "does not exist", "detach(0)", "detach(999999999)"),
    *rows(DENIED, "owner of table", "detach('target')", "detach('pg_class')", tenant=True),
    *rows(FINE, "", "detach('target')", "detach('a_view')"),
]  # fmt: skip

SIGNATURES = [
    *rows(FINE, "None", "sign(NULL, 'x')", "sign('x', NULL)", "verify(NULL, NULL, NULL)"),
    *rows(FINE, "[0-9a-f]{64}", "sign('', '')", ("sign(%s, 'k')", HUGE), ("sign('x', %s)", HUGE)),
    *rows(FINE, "False", *[("verify('x', %s, 'k')", it) for it in ("", "zz", "\n", "0" * 64, "é" * 64, "0" * 63, HUGE)]),
    *rows(FINE, "False", "verify('x', upper(webhooks.sign('x', 'k')), 'k')", "verify('x', webhooks.sign('x', 'k') || ' ', 'k')",
          "verify('x', webhooks.sign('x', 'k'), '')"),
    *rows(NO_SUCH_CALL, "", "sign(5, 'k')", "sign('x'::bytea, 'k')", "verify('x', 'y')"),
]  # fmt: skip

OPERATION = [
    *rows(DENIED, "permission denied", "start_worker()", "stop_worker()", "metrics()", tenant=True),
    *rows(NO_SUCH_CALL, "", "start_worker(1)", "stop_worker('now')", "metrics('x')"),
]

ROTATE = [
    *rows(INVALID, "overlap", "rotate_secret('{hook}', '-1 us')", "rotate_secret('{hook}', '31 days')",
          "rotate_secret('{hook}', NULL)", "rotate_secret('{hook}', '178000000 years')"),
    *rows("22007", "interval", "rotate_secret('{hook}', 'soon')"),
    *rows(ABSENT, "does not exist", "rotate_secret('{theirs}')", tenant=True),
    *rows(FINE, "whsec_", "rotate_secret('{hook}', '0')", "rotate_secret('{hook}', '1 mon -1 us')"),
    *ids("rotate_secret"),
]  # fmt: skip

KEYS = [
    *rows(INVALID, "must not be empty", "create_api_key('', 'a')", "create_api_key('a', ' \n')"),
    *rows(INVALID, "must not be null", "create_api_key(NULL, 'a')", "create_api_key('a', NULL)"),
    *rows(INVALID, "too long", ("create_api_key(%s, 'a')", HUGE), ("create_api_key('a', %s)", "é" * 128)),
    *rows(INVALID, "in the past", "create_api_key('a', 'a', 'epoch')", "create_api_key('a', 'a', '-infinity')"),
    *rows(BAD_TIME, "", "create_api_key('a', 'a', '2024-13-01')"),
    *rows(NOT_NOW, "jwt_secret", "create_api_key('a', 'a')", "create_api_key('a', 'a', 'infinity')"),
    *rows(DENIED, "create_api_key", "create_api_key('a', 'mallory')", tenant=True),
]  # fmt: skip

REVOKE = [
    *rows(DENIED, "revoke_api_key", "revoke_api_key('key_" + "0" * 32 + "')", tenant=True),
    *ids("revoke_api_key"),
]

ACCESS = [
    row
    for function in ("grant_access", "revoke_access")
    for row in [
        *rows(INVALID, "unknown right", *[(f"{function}('postgres', %s)", it) for it in
              ("", "API", "api ", "owner", BIG, "api'; DROP TABLE target; --")]),
        *rows(INVALID, "must not be null", f"{function}(NULL, 'api')", f"{function}('postgres', NULL)"),
        *rows(INVALID, "PUBLIC", f"{function}('public', 'api')", f"{function}('public', 'gateway')"),
        *rows("42704", "does not exist", *[(f"{function}(%s, 'api')", it) for it in
              ("", "nobody", "PUBLIC", "none", "postgres; DROP TABLE target", "x" * 1000, CONTROLS)]),
        *rows(DENIED, function, f"{function}('postgres', 'api')", f"{function}(current_user, 'admin')", tenant=True),
    ]
]  # fmt: skip

# What users have no reason to call.
INNER = [
    *rows(NOT_NOW, "not called by a trigger", "emit_changes()", "webhook_changed()"),
    *rows(DENIED, "install", "install()", tenant=True),
    *rows(DENIED, "worker", "worker()", tenant=True),
    *rows(FINE, "no row", "undispatched()", tenant=True),
    *rows(FINE, "False", "may_read()", "may_administer()", tenant=True),
    *rows(FINE, "True", "may_read()", "may_administer()"),
    *rows(FINE, "NOT_FOUND", "answer_body('nonsense', '{}')", "answer_call('nonsense', '{}')", "answer_query('nonsense', '{}')",
          "answer_body(NULL, NULL)", "answer_call(NULL, NULL)", "answer_query(NULL, NULL)"),
    *rows(FINE, "VALIDATION_ERROR", "answer_body('create_webhook', NULL)", "answer_body('create_webhook', '{')",
          "answer_call('create_webhook', '[]')", "answer_query('list_webhooks', 'no JSON')",
          ("answer_call('create_webhook', %s)", f'{{"a": {deep(10_000)}}}')),
    *rows(FINE, "", "visible_owner()", tenant=True),
    *rows(FINE, "None", "visible_owner()"),
    *rows(FINE, "None", "format_id(NULL, NULL)", "format_time('infinity')", "delivery_id(NULL, NULL)"),
    *rows(FINE, "False", "wants(NULL, NULL, NULL, NULL, NULL, NULL, NULL)",
          "wants('{NULL}', NULL, NULL, 'a.b', NULL, '{}', NULL)",
          "wants('{*}', NULL, '{\"a\": 1}', 'a.b', NULL, 'no JSON', 'no JSON')",
          ("wants('{*}', NULL, '{\"a\": 1}', 'a.b', NULL, %s, NULL)", f'{{"a": {deep(10_000)}}}')),
    *rows(FINE, "True", "wants('{*}', NULL, '[]', 'a.b', NULL, '{}', NULL)"),
    *rows(FINE, "(url|events) cannot be read", "unreadable(NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)",
          "unreadable('http://a.example/\\', '{{NULL,a},{b,c}}', '', repeat('x', 1000), '\"x\"', -1, 'NaN', -2147483648)"),
    *rows(FINE, "None", "unreadable('http://a.example/', '{*}', 's', NULL, NULL, 1, 1, 1)", "shown_error(NULL)"),
    *rows(FINE, "address refused: x", "shown_error('address refused: x; y')"),
]  # fmt: skip

BY_FUNCTION = {
    "create_webhook": [*URLS, *CREATE],
    "list_webhooks": LISTS,
    "get_webhook": ids("get_webhook"),
    "update_webhook": [*UPDATE, *ids("update_webhook")],
    "delete_webhook": ids("delete_webhook"),
    "list_deliveries": [*DELIVERIES, *ids("list_deliveries")],
    "get_delivery": ids("get_delivery"),
    "retry_delivery": [*rows(FINE, '"state": "pending"', "retry_delivery('{pending}')"), *ids("retry_delivery")],
    "replay": [*REPLAY, *ids("replay")],
    "send_test": ids("send_test"),
    "register_event_type": REGISTER,
    "emit": EMIT,
    "search_performed": SEARCH,
    "user_activity": ACTIVITY,
    "attach": ATTACH,
    "detach": DETACH,
    "sign": [row for row in SIGNATURES if row.call.startswith("sign")],
    "verify": [row for row in SIGNATURES if row.call.startswith("verify")],
    "start_worker": [row for row in OPERATION if row.call.startswith("start")],
    "stop_worker": [row for row in OPERATION if row.call.startswith("stop")],
    "metrics": [row for row in OPERATION if row.call.startswith("metrics")],
    "rotate_secret": ROTATE,
    "create_api_key": KEYS,
    "revoke_api_key": REVOKE,
    "grant_access": [row for row in ACCESS if row.call.startswith("grant")],
    "revoke_access": [row for row in ACCESS if row.call.startswith("revoke")],
    "inner": INNER,
}  # fmt: skip
# The functions of INNER.
INNER_FUNCTIONS = {
    "emit_changes",
    "webhook_changed",
    "install",
    "format_id",
    "format_time",
    "delivery_id",
    "wants",
    "shown_error",
    "unreadable",
    "worker",
    "undispatched",
    "requests_in_flight",
    "restored",
    "answer_body",
    "answer_call",
    "answer_query",
    "visible_owner",
    "may_read",
    "may_administer",
}
