//! What can be asked for: which fields each request has, and which function does it.

use super::Form;
use super::answer::{Done, Failure};
use super::figures;
use crate::access::{self, Caller};
use crate::error::{Error, Faults};
use crate::functions::{deliveries, events, secrets, webhooks};
use crate::seam::clock;
use crate::seam::json::JsonbText;
use pgrx::JsonB;
use pgrx::datum::{Interval, TimestampWithTimeZone};
use serde_json::{Map, Value, json};
use uuid::Uuid;
use webhooks_core::api::{Code, Field, Input, Kind, Problem, body, query};
use webhooks_core::id;

const OK: u16 = 200;
const CREATED: u16 = 201;
const ACCEPTED: u16 = 202;

/// The header that holds the id from a path, and the one that holds a query string.
const ID_HEADER: &str = "x-webhooks-id";
const QUERY_HEADER: &str = "x-webhooks-query";
/// The header that says how many bytes of body were sent.
const LENGTH_HEADER: &str = "content-length";

const WEBHOOK_ID: &str = "webhook_id";
const DELIVERY_ID: &str = "delivery_id";

const CREATE: &[Field] = &[
    Field::required("url", Kind::Text),
    Field::required("events", Kind::Texts),
    Field::optional("secret", Kind::Text),
    Field::optional("active", Kind::Flag),
    Field::optional("retry_policy", Kind::Object),
    Field::optional("filters", Kind::Object),
];
const CHANGES: &[Field] = &[
    Field::change("url", Kind::Text),
    Field::change("events", Kind::Texts),
    Field::change("secret", Kind::Text),
    Field::change("active", Kind::Flag),
    Field::change("retry_policy", Kind::Object),
    Field::change("filters", Kind::Object),
];
/// How a client library gives the changes: in one argument, as in SQL.
const UPDATE_CALL: &[Field] = &[Field::required("changes", Kind::Any)];
const PAGE: [Field; 2] = [
    Field::optional("limit", Kind::Whole(1, 1_000)),
    Field::optional("offset", Kind::Whole(0, i32::MAX as i64)),
];
const LIST_WEBHOOKS: &[Field] = &[
    Field::optional("active", Kind::Flag),
    Field::optional("event", Kind::Text),
    PAGE[0],
    PAGE[1],
];
const LIST_DELIVERIES: &[Field] = &[Field::optional("state", Kind::Text), PAGE[0], PAGE[1]];
const ACTIVITY: &[Field] = &[
    Field::optional("minutes", Kind::Whole(1, 1_440)),
    Field::optional(WEBHOOK_ID, Kind::Text),
];
/// 30 days, as `rotate_secret()` has it.
const ROTATE: &[Field] = &[Field::optional(
    "overlap_seconds",
    Kind::Whole(0, 30 * 86_400),
)];
const REPLAY: &[Field] = &[
    Field::required("since", Kind::Time),
    Field::optional("until", Kind::Time),
    Field::optional("only_failed", Kind::Flag),
];
const EMIT: &[Field] = &[
    Field::required("event_type", Kind::Text),
    Field::required("data", Kind::Object),
    Field::optional("owner", Kind::Text),
];
const SEARCH: &[Field] = &[
    Field::required("query", Kind::Text),
    Field::required("results", Kind::Any),
    Field::optional("user_id", Kind::Text),
    Field::optional("owner", Kind::Text),
];
const USER: &[Field] = &[
    Field::required("user_id", Kind::Text),
    Field::required("activity", Kind::Text),
    Field::optional("details", Kind::Object),
    Field::optional("owner", Kind::Text),
];

/// Does what a request wants.
pub(super) fn run(operation: &str, form: Form<'_>) -> Result<Done, Failure> {
    let done = |status, data: Result<JsonB, Error>| {
        Ok(Done {
            status,
            data: data?.0,
        })
    };
    // Who is calling comes first: what is wrong with a request is nobody's business who may not make it.
    match operation {
        "emit" | "search_performed" | "user_activity" => {
            // Of these types, whoever may emit anything may emit this one.
            admitted(access::emitter(
                "events",
                webhooks_core::event_type::USER_ACTIVITY,
            ))?;
            return emitted(operation, form);
        }
        _ => {}
    }
    let caller = admitted(access::caller())?;
    match operation {
        "create_webhook" => {
            let (input, faults) = Request::read(form, None)?.examined(CREATE, &[])?;
            done(
                CREATED,
                webhooks::create(
                    input.text("url"),
                    input
                        .texts("events")
                        .map(|events| events.into_iter().map(Some).collect()),
                    input.text("secret"),
                    input.flag("active"),
                    json_of(&input, "retry_policy"),
                    json_of(&input, "filters"),
                    None,
                    faults,
                ),
            )
        }
        "list_webhooks" => {
            let input = Request::read(form, None)?.judged(LIST_WEBHOOKS, &[])?;
            let (limit, offset) = page(&input);
            done(
                OK,
                webhooks::list(input.flag("active"), input.text("event"), limit, offset),
            )
        }
        "get_webhook" => {
            let request = Request::read(form, Some(WEBHOOK_ID))?;
            done(OK, webhooks::get(Some(request.webhook()?)))
        }
        "update_webhook" => {
            let mut request = Request::read(form, Some(WEBHOOK_ID))?;
            let webhook = request.webhook()?.to_owned();
            if let Form::Call(_) = form {
                let input = request.judged(UPDATE_CALL, &[])?;
                request = Request::of_changes(input)?;
            }
            let (changes, faults) = request.examined(CHANGES, webhooks::READ_ONLY)?;
            let changes = Value::Object(changes.into_object()).to_string();
            done(
                OK,
                webhooks::update(Some(&webhook), Some(JsonbText(changes)), faults),
            )
        }
        "delete_webhook" => {
            let request = Request::read(form, Some(WEBHOOK_ID))?;
            done(OK, webhooks::delete(Some(request.webhook()?)))
        }
        "rotate_secret" => {
            let request = Request::read(form, Some(WEBHOOK_ID))?;
            let webhook = request.webhook()?.to_owned();
            let input = request.judged(ROTATE, &[])?;
            let seconds = input.whole("overlap_seconds").unwrap_or(86_400);
            let overlap = Interval::from_seconds(seconds as f64);
            done(OK, secrets::rotate(Some(&webhook), Some(overlap)))
        }
        "send_test" => {
            let request = Request::read(form, Some(WEBHOOK_ID))?;
            let event = events::test(Some(request.webhook()?))?;
            Ok(Done {
                status: ACCEPTED,
                data: json!({ "event_id": event }),
            })
        }
        "replay" => {
            let request = Request::read(form, Some(WEBHOOK_ID))?;
            let webhook = request.webhook()?.to_owned();
            let input = request.judged(REPLAY, &[])?;
            let queued = deliveries::replay_period(
                Some(&webhook),
                time_of(&input, "since"),
                time_of(&input, "until"),
                input.flag("only_failed"),
            )?;
            Ok(Done {
                status: ACCEPTED,
                data: json!({ "queued": queued }),
            })
        }
        "list_deliveries" => {
            let request = Request::read(form, Some(WEBHOOK_ID))?;
            let webhook = request.webhook()?.to_owned();
            let input = request.judged(LIST_DELIVERIES, &[])?;
            let (limit, offset) = page(&input);
            done(
                OK,
                deliveries::list(Some(&webhook), input.text("state"), limit, offset),
            )
        }
        "get_delivery" => {
            let request = Request::read(form, Some(DELIVERY_ID))?;
            done(OK, deliveries::get(Some(request.delivery()?)))
        }
        "retry_delivery" => {
            let request = Request::read(form, Some(DELIVERY_ID))?;
            done(ACCEPTED, deliveries::retry(Some(request.delivery()?)))
        }
        _ => figure(operation, form, &caller),
    }
}

/// Whoever is calling; who is refused without having said who he is, is asked that first.
fn admitted<T>(judged: Result<T, Error>) -> Result<T, Failure> {
    match judged {
        Err(Error::Denied { .. }) if !access::serves_request()? => {
            Err(Problem::plain(Code::Unauthorized).into())
        }
        judged => Ok(judged?),
    }
}

/// What is read only, and in no function of schema `webhooks`.
fn figure(operation: &str, form: Form<'_>, caller: &Caller) -> Result<Done, Failure> {
    let data = match operation {
        "status" => figures::status(caller)?,
        "activity" => {
            let input = Request::read(form, None)?.judged(ACTIVITY, &[])?;
            let minutes = input.whole("minutes").unwrap_or(60);
            let webhook = input.text(WEBHOOK_ID).map(webhook_id).transpose()?;
            figures::activity(caller, i32::try_from(minutes).unwrap_or(60), webhook)?
        }
        "event_types" => figures::event_types(caller)?,
        _ => return Err(Problem::plain(Code::NotFound).into()),
    };
    Ok(Done { status: OK, data })
}

/// The emit functions.
fn emitted(operation: &str, form: Form<'_>) -> Result<Done, Failure> {
    let request = Request::read(form, None)?;
    let event = match operation {
        "emit" => {
            let input = request.judged(EMIT, &[])?;
            events::emit_event(
                input.text("event_type"),
                json_of(&input, "data"),
                input.text("owner"),
            )?
        }
        "search_performed" => {
            let input = request.judged(SEARCH, &[])?;
            events::emit_search(
                input.text("query"),
                json_of(&input, "results"),
                input.text("user_id"),
                input.text("owner"),
            )?
        }
        _ => {
            let input = request.judged(USER, &[])?;
            events::emit_activity(
                input.text("user_id"),
                input.text("activity"),
                json_of(&input, "details"),
                input.text("owner"),
            )?
        }
    };
    Ok(Done {
        status: ACCEPTED,
        data: json!({ "event_id": event }),
    })
}

/// A request, read but for its fields.
struct Request {
    id: Option<String>,
    fields: Fields,
}

enum Fields {
    Body(Map<String, Value>),
    Query(Vec<(String, String)>),
}

impl Request {
    /// Reads it. `id` names the argument that holds the id of what it is about.
    fn read(form: Form<'_>, id: Option<&str>) -> Result<Self, Failure> {
        let from_path = || access::request_header(ID_HEADER);
        match form {
            Form::Body(bytes) => Ok(Self {
                id: id.and_then(|_| from_path()),
                fields: Fields::Body(body::object(body::text(bytes)?)?),
            }),
            Form::Text(text) => {
                let length = access::request_header(LENGTH_HEADER);
                Ok(Self {
                    id: id.and_then(|_| from_path()),
                    fields: Fields::Body(body::object(body::whole(text, length.as_deref())?)?),
                })
            }
            Form::Call(text) => {
                let mut arguments = body::object(text)?;
                let id = id.and_then(|name| arguments.shift_remove(name));
                Ok(Self {
                    id: id.and_then(|id| id.as_str().map(str::to_owned)),
                    fields: Fields::Body(arguments),
                })
            }
            Form::Query(text) => {
                let mut pairs: Vec<(String, String)> = body::object(text)?
                    .into_iter()
                    .filter_map(|(name, value)| Some((name, value.as_str()?.to_owned())))
                    .collect();
                if pairs.is_empty()
                    && let Some(query) = access::request_header(QUERY_HEADER)
                {
                    pairs = query::pairs(&query)?;
                    pairs.retain(|(name, _)| Some(name.as_str()) != id);
                }
                let given = pairs
                    .iter()
                    .find(|(name, _)| Some(name.as_str()) == id)
                    .map(|(_, value)| value.clone());
                Ok(Self {
                    id: id.and_then(|_| given.or_else(from_path)),
                    fields: Fields::Query(pairs),
                })
            }
        }
    }

    /// What is to be changed, out of the argument that holds it.
    fn of_changes(input: Input) -> Result<Self, Failure> {
        match input.json("changes") {
            Some(Value::Object(changes)) => Ok(Self {
                id: None,
                fields: Fields::Body(changes.clone()),
            }),
            _ => Err(Error::invalid("changes must be a JSON object", None)
                .of("changes")
                .into()),
        }
    }

    /// Its fields, if all of them are as they must be.
    fn judged(self, fields: &[Field], ignored: &[&str]) -> Result<Input, Problem> {
        match self.fields {
            Fields::Body(object) => body::judge(object, fields, ignored),
            Fields::Query(pairs) => query::judge(&pairs, fields),
        }
    }

    /// Its fields as far as they are as they must be, and what is wrong with the others: to be told together with what
    /// the function finds.
    fn examined(self, fields: &[Field], ignored: &[&str]) -> Result<(Input, Faults), Problem> {
        let mut faults = Faults::default();
        let input = match self.fields {
            Fields::Body(object) => {
                let (input, details) = body::examine(object, fields, ignored);
                for detail in details {
                    faults.note_complaint(detail.field, detail.message);
                }
                input
            }
            Fields::Query(pairs) => query::judge(&pairs, fields)?,
        };
        Ok((input, faults))
    }

    fn webhook(&self) -> Result<&str, Problem> {
        self.id(id::Kind::Webhook)
    }

    fn delivery(&self) -> Result<&str, Problem> {
        self.id(id::Kind::Delivery)
    }

    /// The id, if it is one: what no id looks like does not exist either.
    fn id(&self, kind: id::Kind) -> Result<&str, Problem> {
        self.id
            .as_deref()
            .filter(|id| id::parse(kind, id).is_ok())
            .ok_or_else(|| Problem::plain(Code::NotFound))
    }
}

fn webhook_id(text: &str) -> Result<Uuid, Error> {
    id::parse(id::Kind::Webhook, text)
        .map_err(|error| Error::invalid(error.to_string(), error.hint()).of(WEBHOOK_ID))
}

fn page(input: &Input) -> (Option<i32>, Option<i32>) {
    let number = |name| input.whole(name).and_then(|it| i32::try_from(it).ok());
    (number("limit"), number("offset"))
}

fn json_of(input: &Input, name: &str) -> Option<JsonbText> {
    input.json(name).map(|value| JsonbText(value.to_string()))
}

fn time_of(input: &Input, name: &str) -> Option<TimestampWithTimeZone> {
    let at = clock::timestamp_of_us(input.time(name)?);
    TimestampWithTimeZone::try_from(at).ok()
}
