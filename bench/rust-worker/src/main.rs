//! A worker for bench/table that uses the official Rust SDK. Like bench/loadworker, it serves
//! bench::echo, or calls bench::sink BENCH_N times and exits. If BENCH_RAW is 1, payloads and
//! results remain JSON values.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use iii_sdk::{CallRequest, Error, InitOptions, RegisterFunction, register_worker};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

#[derive(Serialize, Deserialize, JsonSchema)]
struct Order {
    user: String,
    amount: i64,
    note: String,
    tags: Vec<String>,
}

#[derive(Deserialize)]
struct Receipt {
    ok: bool,
}

fn number(name: &str) -> usize {
    std::env::var(name).ok().and_then(|s| s.parse().ok()).unwrap_or_else(|| panic!("{name} is no number"))
}

#[tokio::main]
async fn main() {
    let raw = std::env::var("BENCH_RAW").is_ok_and(|v| v == "1");
    let iii = register_worker(&std::env::var("III_URL").expect("III_URL"), InitOptions::default());
    if std::env::var("BENCH_MODE").is_ok_and(|v| v == "call") {
        let (n, inflight, size) = (number("BENCH_N"), number("BENCH_INFLIGHT"), number("BENCH_SIZE"));
        let next = Arc::new(AtomicUsize::new(0));
        let note = Arc::new("x".repeat(size));
        let mut callers = Vec::new();
        for _ in 0..inflight {
            let (iii, next, note) = (iii.clone(), next.clone(), note.clone());
            callers.push(tokio::spawn(async move {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    if i >= n {
                        return;
                    }
                    let order = Order {
                        user: format!("u-{i}"),
                        amount: i as i64,
                        note: note.to_string(),
                        tags: vec!["a".into(), "b".into()],
                    };
                    let payload = serde_json::to_value(&order).expect("payload");
                    let answer = iii.call(CallRequest::new("bench::sink", payload)).await.expect("call");
                    if raw {
                        assert_eq!(answer["ok"], Value::Bool(true));
                    } else {
                        let receipt: Receipt = serde_json::from_value(answer).expect("receipt");
                        assert!(receipt.ok);
                    }
                }
            }));
        }
        for caller in callers {
            caller.await.expect("caller");
        }
        std::process::exit(0);
    }
    if raw {
        iii.register_function("bench::echo", RegisterFunction::new_async(|v: Value| async move { Ok::<_, Error>(v) }));
    } else {
        iii.register_function("bench::echo", RegisterFunction::new_async(|v: Order| async move { Ok::<_, Error>(v) }));
    }
    let mut signals = (
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).expect("signal"),
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt()).expect("signal"),
    );
    tokio::select! { _ = signals.0.recv() => {}, _ = signals.1.recv() => {} }
    std::process::exit(0);
}
