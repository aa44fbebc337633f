//! Answers as servers really send them: each case of untidy/answers.txt, and nginx.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "untidy/cases.rs"]
mod cases;
mod common;

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::io::{ErrorKind, Read};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use cases::{Case, cases};
use common::*;
use webhooks_delivery::{Limits, Outcome, Pool};

/// Longer than any case pauses between two pieces, and far below the limit of a request.
const SOON: Duration = Duration::from_secs(10);

/// The connections on which each case was asked for.
type Connections = Arc<Mutex<HashMap<usize, HashSet<usize>>>>;

/// A server that gives the answer of the case whose number is in the path.
fn server(cases: &[Case]) -> (Server, Connections) {
    let connections = Connections::default();
    let (seen, cases) = (Arc::clone(&connections), cases.to_vec());
    let server = Server::start(move |connection| {
        connection.stream.get_ref().set_nodelay(true).unwrap();
        while let Some((head, _)) = connection.request() {
            let path = head.split(' ').nth(1).unwrap();
            let number: usize = path[1..].parse().unwrap();
            let case = &cases[number];
            seen.lock()
                .unwrap()
                .entry(number)
                .or_default()
                .insert(connection.number);
            if !answer(connection, case) {
                return;
            }
        }
    });
    (server, connections)
}

/// Whether the connection can carry another request.
fn answer(connection: &mut Connection, case: &Case) -> bool {
    for (number, piece) in case.pieces.iter().enumerate() {
        let pause = match number {
            0 => 0,
            _ if case.is_by_byte => 1,
            _ => 20,
        };
        thread::sleep(Duration::from_millis(pause));
        if !connection.answer(piece) {
            return false;
        }
    }
    if case.closes {
        let _ = connection.stream.get_ref().shutdown(Shutdown::Write);
        connection.until_closed();
    }
    !case.closes
}

fn told(outcome: &Outcome) -> String {
    match &outcome.result {
        Ok(answer) => match answer.retry_after.as_deref() {
            None => answer.status.to_string(),
            Some("") => format!("{} after nothing", answer.status),
            Some(after) => format!("{} after {after}", answer.status),
        },
        Err(failure) => failure.to_string(),
    }
}

/// All cases at once, in the order of their numbers.
fn ask(pool: &Pool, cases: &[Case], url: impl Fn(usize) -> String) -> Vec<Outcome> {
    for number in 0..cases.len() {
        pool.submit(job(u64::try_from(number).unwrap(), &url(number)));
    }
    let mut outcomes = collect(pool, cases.len());
    outcomes.sort_by_key(|outcome| outcome.token);
    outcomes
}

/// Those of one thread share their connections.
fn one_thread(at_once: usize) -> Pool {
    let limits = Limits {
        at_once,
        kept: at_once,
        threads: 1,
        ..Limits::default()
    };
    let (lookup, _) = fake(|_| Some(vec![ip("127.0.0.1")]));
    Pool::start_with(limits, network(), Arc::new(lookup)).unwrap()
}

#[test]
fn every_answer_is_told_as_it_is_written() {
    let cases = cases();
    assert!(cases.len() >= 100);
    let (server, connections) = server(&cases);
    let pool = one_thread(cases.len());
    // Each at a host of its own, so that no case is asked on the connection of another.
    let url = |number| format!("http://c{number}.test:{}/{number}", server.address.port());
    let mut wrong = Vec::new();
    for _ in 0..2 {
        for (case, outcome) in cases.iter().zip(ask(&pool, &cases, url)) {
            let told = told(&outcome);
            if told != case.expected {
                wrong.push(format!("{}: {told}, not {}", case.name, case.expected));
            }
            if outcome.duration > SOON {
                wrong.push(format!("{}: took {:?}", case.name, outcome.duration));
            }
            let excerpt = outcome.result.map(|answer| answer.excerpt);
            if case.is_read_again && excerpt.as_deref() != Ok("") {
                wrong.push(format!("{}: the body has been read", case.name));
            }
        }
    }
    let connections = connections.lock().unwrap();
    for (number, case) in cases.iter().enumerate() {
        let is_kept = connections[&number].len() == 1;
        if is_kept != case.is_kept {
            wrong.push(format!("{}: kept: {is_kept}", case.name));
        }
        if case.is_kept && case.is_read_again {
            wrong.push(format!("{}: such a connection is never kept", case.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_answer_becomes_that_of_another_request() {
    let cases = cases();
    let (server, _) = server(&cases);
    let pool = one_thread(8);
    for _ in 0..3 {
        let outcomes = ask(&pool, &cases, |number| {
            format!("http://a.test:{}/{number}", server.address.port())
        });
        for (case, outcome) in cases.iter().zip(outcomes) {
            assert_eq!(told(&outcome), case.expected, "{}", case.name);
        }
    }
    assert!(server.connections() < server.requests(), "some are kept");
}

#[test]
fn it_does_not_matter_how_an_answer_is_cut_into_pieces() {
    let mut cases = cases();
    cases.retain(|case| !case.is_at_once && case.pieces.concat().len() <= 500);
    for case in &mut cases {
        let bytes = case.pieces.concat();
        case.pieces = bytes.into_iter().map(|byte| vec![byte]).collect();
        case.is_by_byte = true;
    }
    assert!(cases.len() >= 100);
    let (server, _) = server(&cases);
    let pool = one_thread(cases.len());
    let url = |number| format!("http://c{number}.test:{}/{number}", server.address.port());
    let mut wrong = Vec::new();
    for (case, outcome) in cases.iter().zip(ask(&pool, &cases, url)) {
        let told = told(&outcome);
        if told != case.expected || outcome.duration > SOON {
            wrong.push(format!("{}: {told} in {:?}", case.name, outcome.duration));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_success_without_length_is_told_at_once() {
    for (answer, excerpt) in [
        ("HTTP/1.1 200 OK\r\n\r\n", ""),
        ("HTTP/1.1 202 Accepted\r\nserver: x\r\n\r\nbegin", "begin"),
        (
            "HTTP/1.0 200 OK\r\ntransfer-encoding : identity\r\n\r\n",
            "",
        ),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: identity\r\n\r\nbegin",
            "begin",
        ),
        ("HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n", ""),
    ] {
        let server = Server::start(move |connection| {
            connection.request();
            connection.answer(answer.as_bytes());
            connection.until_closed();
        });
        let outcome = send(&pool(), job(1, &server.url()));
        assert!(outcome.duration < SOON / 2, "{:?}", outcome.duration);
        let told = outcome.result.unwrap();
        assert!((200..300).contains(&told.status), "{answer:?}");
        assert_eq!(told.excerpt, excerpt, "{answer:?}");
        eventually("the connection is dropped", || server.closed() == 1);
    }
}

#[test]
fn the_rest_of_a_head_is_awaited_on_an_open_connection() {
    // Some servers break off what they are sending when their client has shut down its side.
    let server = Server::start(|connection| {
        connection.request();
        connection.answer(format!("HTTP/1.1 200 OK\r\n{}", "x: y\r\n".repeat(200)).as_bytes());
        let stream = connection.stream.get_mut();
        let moment = Some(Duration::from_millis(100));
        stream.set_read_timeout(moment).unwrap();
        if stream
            .read(&mut [0])
            .is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
        {
            connection.answer(b"content-length: 0\r\n\r\n");
        }
    });
    assert_eq!(told(&send(&pool(), job(1, &server.url()))), "200");
}

/// nginx, whose `add_header` takes values of several lines.
struct Nginx {
    process: Child,
    place: PathBuf,
    port: u16,
}

impl Nginx {
    fn start() -> Nginx {
        let place = std::env::temp_dir().join(format!("webhooks-{}-nginx", std::process::id()));
        std::fs::create_dir_all(&place).unwrap();
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let mut kinds = String::new();
        for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
            writeln!(kinds, "{kind}_temp_path {kind};").unwrap();
        }
        let configuration = format!(
            r#"
            daemon off;
            master_process off;
            pid pid;
            events {{}}
            http {{
                access_log off;
                {kinds}
                server {{
                    listen 127.0.0.1:{port};
                    add_header Content-Security-Policy "default-src 'self';
                        script-src 'none';
                        img-src *" always;
                    add_header Retry-After "
                        7" always;
                    location /ok {{ return 200 ok; }}
                    location /gone {{ return 410; }}
                    location /busy {{ return 503; }}
                }}
            }}
            "#
        );
        std::fs::write(place.join("nginx.conf"), configuration).unwrap();
        let process = Command::new("nginx")
            .args(["-e", "log", "-c", "nginx.conf", "-p"])
            .arg(&place)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("nginx, which scripts/setup installs");
        eventually("nginx listens", || {
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        Nginx {
            process,
            place,
            port,
        }
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.place);
    }
}

#[test]
fn folded_fields_of_nginx_are_read() {
    let nginx = Nginx::start();
    let pool = pool();
    for (path, expected) in [
        ("ok", "200 after 7"),
        ("gone", "410 after 7"),
        ("busy", "503 after 7"),
    ] {
        let outcome = send(
            &pool,
            job(1, &format!("http://127.0.0.1:{}/{path}", nginx.port)),
        );
        assert_eq!(told(&outcome), expected);
    }
}

#[test]
fn the_document_says_what_is_tested() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/answers.md");
    let document = std::fs::read_to_string(path).unwrap();
    let rows: Vec<Vec<&str>> = document
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"))
        .map(|line| line.split(" | ").collect::<Vec<_>>())
        .filter(|row| row.len() == 5 && row[0] != "case")
        .collect();
    let cases = cases();
    assert_eq!(rows.len(), cases.len(), "compare.py has not been run");
    for (row, case) in rows.iter().zip(&cases) {
        let kept = if case.is_kept { " kept" } else { "" };
        assert_eq!(
            row[..2],
            [case.name.clone(), format!("{}{kept}", case.expected)]
        );
        let answered = |cell: &str| cell.starts_with(|char: char| char.is_ascii_digit());
        if answered(row[1]) != answered(row[2]) {
            assert!(
                case.has_reason,
                "{}: why is that other than with curl",
                case.name
            );
        }
    }
    assert!(!document.contains("NO REASON"));
}
