// Creates, lists, filters and deletes webhooks with @supabase/postgrest-js, as supabase-js does too, and prints what it got.
import { PostgrestClient } from "@supabase/postgrest-js";

const { POSTGREST_URL, API_KEY } = process.env;
const client = new PostgrestClient(POSTGREST_URL!, { headers: { Authorization: `Bearer ${API_KEY}` } });
const url = "http://127.0.0.1:9/hook";

const created = await client.rpc("create_webhook", { url, events: ["memory.*"], filters: { tags: ["food"] } });
const webhook_id = created.data.data.id;
const refused = await client.rpc("create_webhook", { url: 7 });
const listed = await client.rpc("list_webhooks", { active: true, page_limit: 5 }, { get: true });
const posted = await client.rpc("list_webhooks", { active: true });
const got = await client.rpc("get_webhook", { webhook_id }, { get: true });
const updated = await client.rpc("update_webhook", { webhook_id, changes: { active: false } });
const rows = await client.from("webhooks").select("id,url,active").eq("active", false).order("created_at").limit(3);
const counted = await client.from("deliveries").select("*", { count: "exact", head: true }).eq("webhook_id", webhook_id);
const deleted = await client.rpc("delete_webhook", { webhook_id });
const gone = await client.rpc("get_webhook", { webhook_id }, { get: true });

const shown = { created, refused, listed, posted, got, updated, rows, counted, deleted, gone };
console.log(JSON.stringify(shown, (key, value) => (key === "statusText" ? undefined : value)));
