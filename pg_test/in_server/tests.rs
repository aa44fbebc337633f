// Tests inside a server, each in a transaction that is rolled back: what functions say, what triggers
// write. Whatever needs a worker is in `pg_test/cluster`.

use pgrx::JsonB;
use pgrx::prelude::*;
use serde_json::{Value, json};

fn one(sql: &str) -> Value {
    Spi::get_one::<JsonB>(sql)
        .expect("the statement runs")
        .expect("it returns a row")
        .0
}

fn text(sql: &str) -> Option<String> {
    Spi::get_one::<String>(sql).expect("the statement runs")
}

fn count(sql: &str) -> i64 {
    Spi::get_one::<i64>(sql)
        .expect("the statement runs")
        .unwrap_or(-1)
}

/// Runs a statement that must fail; returns its SQLSTATE, message and hint.
fn refused(sql: &str) -> (String, String, String) {
    let block = format!(
        "DO $outer$
         DECLARE state text; message text; hint text;
         BEGIN
             BEGIN
                 EXECUTE $inner${sql}$inner$;
                 PERFORM set_config('test.refused', 'not refused', true);
             EXCEPTION WHEN OTHERS THEN
                 GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, hint = PG_EXCEPTION_HINT;
                 PERFORM set_config('test.refused', state || E'\\x01' || message || E'\\x01' || hint, true);
             END;
         END $outer$"
    );
    Spi::run(&block).expect("the block runs");
    let said = text("SELECT current_setting('test.refused')").unwrap_or_default();
    let mut parts = said.split('\u{1}').map(str::to_owned);
    (
        parts.next().unwrap_or_default(),
        parts.next().unwrap_or_default(),
        parts.next().unwrap_or_default(),
    )
}

fn memories() {
    Spi::run(
        "CREATE TABLE memories (id int PRIMARY KEY, content text, tags text[], metadata jsonb DEFAULT '{}', owner_id text);
         SELECT webhooks.attach('memories', owner_column => 'owner_id');
         SELECT webhooks.create_webhook('https://example.com/hook', '{memory.*}', 'secret')",
    )
    .expect("the setup runs");
}

fn events() -> Vec<(String, Value)> {
    let list = one(
        "SELECT coalesce(jsonb_agg(jsonb_build_array(type, data::jsonb) ORDER BY id), '[]') FROM webhooks.event",
    );
    list.as_array()
        .expect("an array")
        .iter()
        .map(|it| (it[0].as_str().unwrap_or_default().to_owned(), it[1].clone()))
        .collect()
}

#[pg_test]
fn a_new_webhook_has_the_contracts_defaults_and_shows_its_secret_once() {
    let made =
        one("SELECT webhooks.create_webhook('https://example.com/hook', '{memory.created}')");
    assert_eq!(made["active"], json!(true));
    assert_eq!(
        made["retry_policy"],
        json!({"max_attempts": 3, "backoff_multiplier": 2, "max_delay": 300})
    );
    assert_eq!(made["filters"], Value::Null);
    assert_eq!(
        made["delivery_stats"],
        json!({"total_attempts": 0, "successful_deliveries": 0, "failed_deliveries": 0})
    );
    assert!(
        made["secret"]
            .as_str()
            .is_some_and(|secret| secret.starts_with("whsec_") && secret.len() == 50)
    );
    let id = made["id"].as_str().expect("an id").to_owned();
    let got = one(&format!("SELECT webhooks.get_webhook('{id}')"));
    assert!(got.get("secret").is_none());
    assert_eq!(got["created_at"], made["created_at"]);
}

#[pg_test]
fn bad_input_gets_a_sqlstate_a_message_that_names_it_and_a_hint() {
    let long = format!("https://example.com/{}", "a".repeat(2_048));
    let create =
        |url: &str| format!("SELECT webhooks.create_webhook('{url}', '{{memory.created}}')");
    let with =
        |rest: &str| format!("SELECT webhooks.create_webhook('https://example.com/', {rest})");
    for (sql, part) in [
        (create("not a url"), "URL"),
        (create("ftp://example.com/"), "http"),
        (create("https://user:pass@example.com/"), "password"),
        (create("https://example.com/#top"), "fragment"),
        (create(&long), "too long"),
        (create("http://127.0.0.1/"), "address refused"),
        (with("'{}'"), "empty"),
        (with("'{memory.nothing}'"), "memory.nothing"),
        (with("'{memory.created,memory.created}'"), "memory.created"),
        (with("'{memory.created}', ''"), "secret"),
        (with("'{memory.created}', repeat('x', 257)"), "256"),
        (with("'{memory.created}', retry_policy => '[]'"), "object"),
        (
            with("'{memory.created}', retry_policy => '{\"tries\": 1}'"),
            "tries",
        ),
        (
            with("'{memory.created}', retry_policy => '{\"max_attempts\": 0}'"),
            "max_attempts",
        ),
        (
            with("'{memory.created}', retry_policy => '{\"max_attempts\": 2.5}'"),
            "max_attempts",
        ),
        (with("'{memory.created}', filters => '[]'"), "object"),
        (with("'{system.health}', owner => 'alice'"), "owner"),
        (
            "SELECT webhooks.list_webhooks(page_limit => 0)".to_owned(),
            "page_limit",
        ),
        (
            "SELECT webhooks.list_webhooks(page_limit => 1001)".to_owned(),
            "page_limit",
        ),
        (
            "SELECT webhooks.list_webhooks(page_offset => -1)".to_owned(),
            "page_offset",
        ),
        (
            "SELECT webhooks.get_webhook('webhook_12')".to_owned(),
            "webhook_",
        ),
    ] {
        let (state, message, hint) = refused(&sql);
        assert_eq!(state, "22023", "{sql}: {message}");
        let said = format!("{message} {hint}").to_lowercase();
        assert!(said.contains(&part.to_lowercase()), "{sql}: {said}");
        assert!(!hint.is_empty(), "{sql}: {message}");
    }
    let (state, ..) =
        refused("SELECT webhooks.get_webhook('webhook_00000000000070008000000000000000')");
    assert_eq!(state, "P0002");
}

#[pg_test]
fn an_update_changes_what_it_names_and_refuses_unknown_keys() {
    let made =
        one("SELECT webhooks.create_webhook('https://example.com/hook', '{memory.created}')");
    let id = made["id"].as_str().expect("an id").to_owned();
    let update = |changes: &str| format!("SELECT webhooks.update_webhook('{id}', '{changes}')");
    let changed = one(&update(
        r#"{"retry_policy": {"max_attempts": 7}, "active": false}"#,
    ));
    assert_eq!(
        changed["retry_policy"],
        json!({"max_attempts": 7, "backoff_multiplier": 2, "max_delay": 300})
    );
    assert_eq!(changed["active"], json!(false));
    assert!(changed.get("secret").is_none());
    let back = one(&update(&changed.to_string()));
    assert_eq!(back["retry_policy"], changed["retry_policy"]);
    assert_eq!(
        one(&update(r#"{"retry_policy": null}"#))["retry_policy"]["max_attempts"],
        json!(3)
    );
    let (state, message, _) = refused(&update(r#"{"colour": "red"}"#));
    assert_eq!(state, "22023");
    assert!(message.contains("colour"));
}

#[pg_test]
fn each_change_of_a_row_is_one_event() {
    memories();
    Spi::run(
        "INSERT INTO memories VALUES (1, 'a', '{x,y}', '{\"k\": 1.50}', 'alice'), (2, 'b', NULL, NULL, NULL);
         UPDATE memories SET content = 'c' WHERE id = 1;
         UPDATE memories SET content = content;
         UPDATE memories SET owner_id = 'bob' WHERE id = 1;
         DELETE FROM memories WHERE id = 2",
    )
    .expect("the changes are made");
    let events = events();
    let types: Vec<&str> = events.iter().map(|it| it.0.as_str()).collect();
    assert_eq!(
        types,
        [
            "memory.created",
            "memory.created",
            "memory.updated",
            "memory.deleted",
            "memory.created",
            "memory.deleted"
        ]
    );
    assert_eq!(
        events[0].1,
        json!({"object": "memory", "id": "1", "content": "a", "tags": ["x", "y"], "metadata": {"k": 1.5}, "owner_id": "alice"})
    );
    assert_eq!(
        events[2].1["changes"],
        json!({"content": {"from": "a", "to": "c"}})
    );
    assert_eq!(events[3].1["metadata"], json!({"k": 1.5}));
    assert!(
        events[3].1.get("content").is_none(),
        "the old owner does not see the row"
    );
    let raw = text("SELECT data FROM webhooks.event ORDER BY id LIMIT 1").unwrap_or_default();
    assert!(raw.contains("{\"k\":1.5}"), "canonical: {raw}");
}

#[pg_test]
fn nobody_subscribed_means_that_nothing_is_stored() {
    Spi::run("CREATE TABLE memories (id int); SELECT webhooks.attach('memories'); INSERT INTO memories VALUES (1)")
        .expect("the setup runs");
    assert_eq!(count("SELECT count(*) FROM webhooks.event"), 0);
    assert_eq!(text("SELECT webhooks.emit('memory.created', '{}')"), None);
    Spi::run("SELECT webhooks.create_webhook('https://example.com/', '{memory.created}')")
        .expect("it is created");
    Spi::run("INSERT INTO memories VALUES (2)").expect("it is inserted");
    assert_eq!(count("SELECT count(*) FROM webhooks.event"), 1);
    assert!(
        text("SELECT webhooks.emit('memory.created', '{}')")
            .is_some_and(|id| id.starts_with("event_"))
    );
}

#[pg_test]
fn a_rolled_back_savepoint_emits_nothing() {
    memories();
    Spi::run(
        "DO $$ BEGIN
             BEGIN
                 INSERT INTO memories VALUES (1);
                 RAISE EXCEPTION 'no';
             EXCEPTION WHEN OTHERS THEN NULL;
             END;
             INSERT INTO memories VALUES (2);
         END $$",
    )
    .expect("the block runs");
    let events = events();
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].1["id"], json!("2"));
}

#[pg_test]
fn what_has_no_json_is_sent_truncated_and_the_insert_succeeds() {
    Spi::run(
        "CREATE TABLE memories (id int PRIMARY KEY, content text, raw json);
         SELECT webhooks.attach('memories');
         SELECT webhooks.create_webhook('https://example.com/hook', '{memory.*}', 'secret')",
    )
    .expect("the setup runs");
    for (id, raw) in [
        (1, "'{\"a\": \"\\u0000\"}'".to_owned()),
        (2, "'{\"a\": \"\\ud800\"}'".to_owned()),
        (
            3,
            "(repeat('[', 3000) || repeat(']', 3000))::json".to_owned(),
        ),
    ] {
        Spi::run(&format!("INSERT INTO memories VALUES ({id}, 'x', {raw})"))
            .expect("it is inserted");
    }
    for (number, (_, data)) in events().into_iter().enumerate() {
        assert_eq!(
            data,
            json!({"object": "memory", "id": (number + 1).to_string(), "truncated": true})
        );
    }
}

#[pg_test]
fn sign_and_verify_are_hmac_sha256_in_hex() {
    assert_eq!(
        text("SELECT webhooks.sign('what do ya want for nothing?', 'Jefe')").as_deref(),
        Some("5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843")
    );
    assert_eq!(
        Spi::get_one::<bool>("SELECT webhooks.verify('b', webhooks.sign('b', 's'), 's')")
            .expect("it runs"),
        Some(true)
    );
    assert_eq!(
        Spi::get_one::<bool>("SELECT webhooks.verify('b', webhooks.sign('b', 's'), 't')")
            .expect("it runs"),
        Some(false)
    );
}

#[pg_test]
fn every_object_of_the_schema_has_a_comment() {
    let bare = one(
        "SELECT coalesce(jsonb_agg(x.what), '[]') FROM (
             SELECT 'table ' || c.relname AS what FROM pg_class c
              WHERE c.relnamespace = 'webhooks'::regnamespace AND c.relkind IN ('r', 'v')
                AND obj_description(c.oid, 'pg_class') IS NULL
             UNION ALL
             SELECT 'column ' || c.relname || '.' || a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
              WHERE c.relnamespace = 'webhooks'::regnamespace AND c.relkind IN ('r', 'v') AND a.attnum > 0 AND NOT a.attisdropped
                AND col_description(c.oid, a.attnum) IS NULL
             UNION ALL
             SELECT 'function ' || p.proname FROM pg_proc p
              WHERE p.pronamespace IN ('webhooks'::regnamespace, 'webhooks_api'::regnamespace)
                AND obj_description(p.oid, 'pg_proc') IS NULL
             UNION ALL
             SELECT 'type ' || t.typname FROM pg_type t
              WHERE t.typnamespace = 'webhooks'::regnamespace AND t.typtype = 'd' AND obj_description(t.oid, 'pg_type') IS NULL) x",
    );
    assert_eq!(bare, json!([]));
}

#[pg_test]
fn public_has_no_right_on_anything() {
    let open = one(
        "SELECT coalesce(jsonb_agg(x.what), '[]') FROM (
             SELECT c.relname::text AS what FROM pg_class c
              WHERE c.relnamespace = 'webhooks'::regnamespace AND c.relkind IN ('r', 'v')
                AND has_table_privilege('public', c.oid, 'SELECT, INSERT, UPDATE, DELETE')
             UNION ALL
             SELECT p.proname::text FROM pg_proc p
              WHERE p.pronamespace IN ('webhooks'::regnamespace, 'webhooks_api'::regnamespace)
                AND has_function_privilege('public', p.oid, 'EXECUTE')
             UNION ALL
             SELECT t.typname::text FROM pg_type t
              WHERE t.typnamespace = 'webhooks'::regnamespace AND t.typtype = 'd' AND has_type_privilege('public', t.oid, 'USAGE')
             UNION ALL
             SELECT n.nspname::text FROM pg_namespace n
              WHERE n.nspname LIKE 'webhooks%' AND has_schema_privilege('public', n.oid, 'USAGE')) x",
    );
    assert_eq!(open, json!([]));
}
