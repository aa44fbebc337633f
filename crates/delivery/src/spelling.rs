//! Header names as they are to be spelled. To hyper all names are lower-case; it spells those of a request as those of an
//! answer that it read before, if it is given what it noted of them. So it is given an answer to read.

use http::{Extensions, Request};
use hyper::client::conn::http1::Builder;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::wire::Sent;

/// Names that are spelled the same whatever the settings.
const ALWAYS: [&str; 6] = [
    "Accept",
    "Content-Length",
    "Content-Type",
    "Host",
    "User-Agent",
    "webhook-id",
];

/// What a request carries so that hyper spells these names, and those of [`ALWAYS`], as they are given here. Empty if they
/// are no names: then hyper spells them in lower case.
pub(crate) async fn of<'a>(names: impl Iterator<Item = &'a str>) -> Extensions {
    let mut answer = String::from("HTTP/1.1 204 No Content\r\n");
    for name in ALWAYS.into_iter().chain(names) {
        answer.push_str(name);
        answer.push_str(": 1\r\n");
    }
    answer.push_str("\r\n");
    read(answer.into_bytes()).await.unwrap_or_default()
}

async fn read(answer: Vec<u8>) -> Option<Extensions> {
    let (ours, mut theirs) = tokio::io::duplex(answer.len().max(1024));
    let (mut sender, connection) = Builder::new()
        .preserve_header_case(true)
        .handshake::<_, Sent>(TokioIo::new(ours))
        .await
        .ok()?;
    let request = Request::new(Sent::default());
    let exchange = async {
        let answered = sender.send_request(request);
        let peer = async {
            let mut scratch = [0; 256];
            let _ = theirs.read(&mut scratch).await;
            let _ = theirs.write_all(&answer).await;
            // Kept open until the answer has been read.
            std::future::pending::<()>().await;
        };
        tokio::select! {
            answered = answered => answered.ok(),
            _ = connection => None,
            () = peer => None,
        }
    };
    let (parts, _) = exchange.await?.into_parts();
    Some(parts.extensions)
}
