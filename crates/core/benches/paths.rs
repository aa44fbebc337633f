//! What every delivery pays in this crate: `make bench-paths`.

use criterion::{Criterion, Throughput};
use std::collections::HashMap;
use std::error::Error;
use std::hint::black_box;
use uuid::Uuid;
use webhooks_core::filter::{Filter, Index};
use webhooks_core::json;
use webhooks_core::rate::Window;
use webhooks_core::request::{self, Event, Target};
use webhooks_core::secret::{LiveSecret, Secret};
use webhooks_core::sign;

/// A row as the emit trigger renders it, before it is canonical: 300 bytes or so.
const ROW: &str = r#"{"object":"memory","id":"12345","content":"The quick brown fox jumps over the lazy dog, and then over the fence.","tags":["food", "travel"],"metadata":{"source": "chat", "2": 1.50, "confidence": 1e-1, "lang":"d\u0065"},"created_at":"2026-11-25T03:22:06.123Z","shard":17}"#;

fn signing(c: &mut Criterion) {
    let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo=";
    let mut group = c.benchmark_group("signing");
    for size in [350, 65_536] {
        let body = vec![b'x'; size];
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(format!("hex_hmac of {size} bytes"), |b| {
            b.iter(|| sign::hex_hmac(secret, black_box(&body)));
        });
        group.bench_function(format!("standard of {size} bytes"), |b| {
            b.iter(|| sign::standard(secret, "event_0", 1_700_000_000, black_box(&body)));
        });
    }
    group.finish();
}

fn canonical_json(c: &mut Criterion) -> Result<(), Box<dyn Error>> {
    let large = format!("[{}]", vec![ROW; 200].join(", "));
    let mut group = c.benchmark_group("canonical JSON");
    for text in [ROW, &large] {
        let mut out = String::with_capacity(text.len());
        json::canonicalize(text, &mut out)?;
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function(format!("canonicalize {} bytes", text.len()), |b| {
            b.iter(|| {
                out.clear();
                json::canonicalize(black_box(text), &mut out).is_ok()
            });
        });
    }
    group.finish();
    Ok(())
}

fn whole_request(c: &mut Criterion) -> Result<(), Box<dyn Error>> {
    let mut data = String::new();
    json::canonicalize(ROW, &mut data)?;
    let event = Event {
        id: Uuid::from_u128(1),
        event_type: "memory.created".to_owned(),
        created_ms: 1_700_000_000_000,
        data,
    };
    let target = Target {
        webhook: Uuid::from_u128(2),
        secrets: vec![LiveSecret {
            secret: Secret::generate([7; 32]),
            until_ms: None,
        }],
        header_prefix: "X-Lanonasis".to_owned(),
        user_agent: "Lanonasis-Webhooks/1.0".to_owned(),
        livemode: true,
        max_payload: 1 << 20,
    };
    c.bench_function("request: envelope, headers, signatures", |b| {
        b.iter(|| {
            request::build(
                black_box(&event),
                &target,
                Uuid::from_u128(3),
                1,
                1_700_000_000_000,
            )
        });
    });
    Ok(())
}

fn filters(c: &mut Criterion) -> Result<(), Box<dyn Error>> {
    let row = json::parse(ROW)?;
    let one = Filter::parse(&json::parse(
        r#"{"tags":["travel","work"],"source":"chat"}"#,
    )?)?;
    let mut group = c.benchmark_group("filters");
    group.bench_function("one filter on a parsed row", |b| {
        b.iter(|| one.matches(black_box(&row)));
    });
    for count in [10_u32, 10_000] {
        let mut all = HashMap::new();
        for shard in 0..count {
            let text = format!(r#"{{"shard":{shard}}}"#);
            all.insert(shard, Filter::parse(&json::parse(&text)?)?);
        }
        let index = Index::of(all.iter().map(|(&shard, filter)| (shard, filter)));
        let mut found = Vec::new();
        group.bench_function(
            format!("which of {count} filters, from the row's text"),
            |b| {
                b.iter(|| {
                    found.clear();
                    if let Ok(row) = json::parse_members(black_box(ROW), index.wanted()) {
                        index.candidates(&row, &mut found);
                        found.retain(|shard| all.get(shard).is_some_and(|it| it.matches(&row)));
                    }
                    found.len()
                });
            },
        );
    }
    group.finish();
    Ok(())
}

fn rate_window(c: &mut Criterion) {
    c.bench_function("rate window of 1000: may start, ended", |b| {
        let (mut window, mut now_ms) = (Window::new(), 0);
        b.iter(|| {
            now_ms += 60;
            let may = window.may_start(black_box(now_ms), 0, 1_000).is_ok();
            if may {
                window.ended(now_ms);
            }
            may
        });
    });
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut c = Criterion::default().configure_from_args();
    signing(&mut c);
    canonical_json(&mut c)?;
    whole_request(&mut c)?;
    filters(&mut c)?;
    rate_window(&mut c);
    c.final_summary();
    Ok(())
}
