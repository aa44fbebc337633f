//! The REST functions, which `webhooks_api` exposes to PostgREST: they answer every request with an envelope
//! and set the HTTP status, instead of raising errors. What they declare stands in `sql/api.sql`; how requests
//! are judged in `webhooks_core::api`.

mod answer;
mod figures;
mod operations;

use crate::access;
use pgrx::prelude::*;

/// The page for people, which knows of nothing but this API.
const PORTAL: &str = include_str!("../../portal/index.html");

/// How a request says what it wants.
#[derive(Clone, Copy, Debug)]
enum Form<'a> {
    /// A JSON body as the bytes that were sent; the id of what it is about is in a header, which the gateway takes from
    /// the path.
    Body(&'a [u8]),
    /// The same as text, which may not be all that was sent.
    Text(&'a str),
    /// A JSON object that holds the id too: a call by `rpc()` of a client library.
    Call(&'a str),
    /// Parameters: those of the call, or, from the gateway, a query string in a header.
    Query(&'a str),
}

#[pg_extern(sql = false)]
fn answer_bytes(operation: Option<&str>, body: Option<&[u8]>) -> pgrx::Json {
    answer::answer(
        operation.unwrap_or_default(),
        Form::Body(body.unwrap_or_default()),
    )
}

/// For a gateway that sends bodies as text, as that of 0.2 does.
#[pg_extern(sql = false)]
fn answer_body(operation: Option<&str>, body: Option<&str>) -> pgrx::Json {
    answer::answer(
        operation.unwrap_or_default(),
        Form::Text(body.unwrap_or_default()),
    )
}

#[pg_extern(sql = false)]
fn answer_call(operation: Option<&str>, arguments: Option<&str>) -> pgrx::Json {
    answer::answer(
        operation.unwrap_or_default(),
        Form::Call(arguments.unwrap_or_default()),
    )
}

#[pg_extern(sql = false)]
fn answer_query(operation: Option<&str>, parameters: Option<&str>) -> pgrx::Json {
    answer::answer(
        operation.unwrap_or_default(),
        Form::Query(parameters.unwrap_or_default()),
    )
}

#[pg_extern(sql = false)]
fn portal() -> &'static str {
    PORTAL
}

/// The owner whose rows the caller sees; `None`: all of them.
#[pg_extern(sql = false)]
fn visible_owner() -> Option<String> {
    crate::error::reply(access::caller().map(|caller| caller.owner().map(str::to_owned)))
}
