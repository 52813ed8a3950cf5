//! The peer on the official SDK for Rust. INTEROP_PEER configures it, and calls to peer::do
//! control it. The peer for Go is the reference.
#![allow(deprecated)] // streams, which the scenarios use

mod observers;
mod steps;
mod stream;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use iii_helpers::observability::opentelemetry::global;
use iii_helpers::observability::telemetry::otel_worker_gauges::{
    WorkerGaugesHandle, WorkerGaugesOptions, register_worker_gauges,
};
use iii_helpers::observability::telemetry::worker_metrics::WorkerMetricsCollector;
use iii_helpers::observability::{Logger, OtelConfig, with_span};
use iii_sdk::channel::{ChannelReader, ChannelWriter};
use iii_sdk::helpers::extract_channel_refs;
use iii_sdk::iii::WorkerMetadata;
use iii_sdk::{CallRequest, Error, IIIClient, InitOptions, RegisterFunction, register_worker};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

#[tokio::main]
async fn main() {
    let config: Value = serde_json::from_str(&std::env::var("INTEROP_PEER").expect("INTEROP_PEER")).expect("JSON");
    let text = |key: &str| config[key].as_str().map(str::to_string);
    let name = text("name").expect("name");
    let headers: HashMap<String, String> = serde_json::from_value(config["headers"].clone()).unwrap_or_default();
    let iii = register_worker(
        &text("url").expect("url"),
        InitOptions {
            metadata: Some(WorkerMetadata {
                name: name.clone(),
                description: Some("a peer".into()),
                ..Default::default()
            }),
            headers: Some(headers.clone()),
            otel: Some(OtelConfig {
                service_name: Some(name.clone()),
                engine_ws_headers: Some(headers),
                metrics_export_interval_ms: Some(200),
                ..Default::default()
            }),
            namespace: text("namespace"),
            ..Default::default()
        },
    );
    register(&iii);
    let _gauges = gauges(&iii, name).await;
    let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).expect("signal");
    term.recv().await;
    std::process::exit(0);
}

/// gauges reports metrics of the process under the worker id that the engine assigned.
async fn gauges(iii: &IIIClient, name: String) -> Result<WorkerGaugesHandle, Error> {
    let found = loop {
        let worker = CallRequest::new("engine::workers::info", json!({ "name": name })).namespace("default");
        match iii.call(worker).await {
            // The worker has no name until it is registered.
            Err(Error::Remote { code, .. }) if code == "NOT_FOUND" => tokio::time::sleep(Duration::from_millis(50)).await,
            found => break found?,
        }
    };
    let id = found["worker"]["id"].as_str().unwrap_or_default().to_string();
    let collector = Arc::new(WorkerMetricsCollector::new());
    let options = WorkerGaugesOptions { worker_id: id, worker_name: Some(name) };
    Ok(register_worker_gauges(&global::meter("interop"), collector, options))
}

/// register registers the functions that every peer provides.
fn register(iii: &IIIClient) {
    let add = |id: &str, f: RegisterFunction| {
        iii.register_function(id, f);
    };
    let peer = steps::Peer::new(iii.clone());
    add("peer::do", RegisterFunction::new_async(move |s: Value| {
        let peer = peer.clone();
        async move { Ok::<_, Error>(peer.take(s).await) }
    }));
    add("peer::echo", RegisterFunction::new_async(|v: Value| async move { Ok::<_, Error>(v) }));
    add("peer::text", RegisterFunction::new_async(|v: Value| async move {
        Ok::<_, Error>("x".repeat(v["bytes"].as_u64().unwrap_or(0) as usize))
    }));
    add("peer::inspect", RegisterFunction::new_async(|mut v: Value, metadata: Option<Value>| async move {
        if let Some(m) = v.as_object_mut() {
            m.remove("_caller_worker_id");
        }
        Ok::<_, Error>(json!({ "payload": v, "metadata": metadata }))
    }));
    add("peer::crash", RegisterFunction::new_async(|_: Value| async move {
        Err::<Value, _>(Error::Handler("it broke".into()))
    }));
    add("peer::fail", RegisterFunction::new_async(|v: Value| async move {
        let text = |key: &str| v[key].as_str().unwrap_or_default().to_string();
        Err::<Value, _>(Error::Remote { code: text("code"), message: text("message"), stacktrace: None })
    }));
    add("peer::slow", RegisterFunction::new_async(|v: Value| async move {
        tokio::time::sleep(Duration::from_millis(v["ms"].as_u64().unwrap_or(0))).await;
        Ok::<_, Error>(json!("late"))
    }));
    add("peer::http", RegisterFunction::new_async(|r: Value| async move {
        Ok::<_, Error>(json!({
            "status_code": 201,
            "headers": { "x-answer": "given" },
            "body": {
                "method": r["method"], "path_params": r["path_params"], "query_params": r["query_params"],
                "body": r["body"], "header": r["headers"]["x-test"],
            },
        }))
    }));
    let url = iii.address().to_string();
    add("peer::http-stream", RegisterFunction::new_async(move |r: Value| {
        let url = url.clone();
        async move {
            let body = reader(&url, &r, "request_body")?.read_all().await?;
            let response = writer(&url, &r, "response")?;
            response.send_message(&json!({ "type": "set_status", "status_code": 202 }).to_string()).await?;
            let headers = json!({ "type": "set_headers", "headers": { "content-type": "text/x-upper" } });
            response.send_message(&headers.to_string()).await?;
            response.write(&body.to_ascii_uppercase()).await?;
            response.close().await?;
            Ok::<_, Error>(Value::Null)
        }
    }));
    let url = iii.address().to_string();
    add("peer::sink", RegisterFunction::new_async(move |v: Value| {
        let url = url.clone();
        async move { drain(&reader(&url, &v, "reader")?).await }
    }));
    let url = iii.address().to_string();
    add("peer::source", RegisterFunction::new_async(move |v: Value| {
        let url = url.clone();
        async move {
            fill(&writer(&url, &v, "writer")?, v["bytes"].as_u64().unwrap_or(0)).await?;
            Ok::<_, Error>(json!(true))
        }
    }));
    let client = iii.clone();
    add("peer::traced", RegisterFunction::new_async(move |v: Value| {
        let client = client.clone();
        async move {
            with_span("peer work", None, None, || async {
                Logger::new().info("working", Some(v["data"].clone()));
                let id = v["function_id"].as_str().unwrap_or_default();
                Ok(client.call(CallRequest::new(id, json!({}))).await?)
            })
            .await
            .map_err(|e| Error::Handler(e.to_string()))
        }
    }));
}

/// reader opens the channel reader under the given name in a payload.
fn reader(url: &str, payload: &Value, name: &str) -> Result<ChannelReader, Error> {
    for (path, end) in extract_channel_refs(payload) {
        if path == name {
            return Ok(ChannelReader::new(url, &end));
        }
    }
    Err(Error::Handler(format!("no channel {name}")))
}

/// writer opens the channel writer under the given name in a payload.
fn writer(url: &str, payload: &Value, name: &str) -> Result<ChannelWriter, Error> {
    for (path, end) in extract_channel_refs(payload) {
        if path == name {
            return Ok(ChannelWriter::new(url, &end));
        }
    }
    Err(Error::Handler(format!("no channel {name}")))
}

/// drain reads a channel to its end: text messages, then bytes.
async fn drain(reader: &ChannelReader) -> Result<Value, Error> {
    let texts = Arc::new(Mutex::new(Vec::<Value>::new()));
    let kept = texts.clone();
    reader
        .on_message(move |m| kept.lock().unwrap().push(serde_json::from_str(&m).unwrap_or_default()))
        .await;
    let bytes = reader.read_all().await?;
    let sum: String = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
    let texts = texts.lock().unwrap().clone();
    Ok(json!({ "texts": texts, "bytes": bytes.len(), "sha256": sum }))
}

/// fill writes a text message and n bytes to a channel.
async fn fill(writer: &ChannelWriter, n: u64) -> Result<(), Error> {
    writer.send_message(&json!({ "hello": "channel" }).to_string()).await?;
    let bytes: Vec<u8> = (0..n).map(|i| (i * 31 + (i >> 8) * 7) as u8).collect();
    writer.write(&bytes).await?;
    writer.close().await
}

/// count adds to a counter.
fn count(name: &str, by: u64) {
    global::meter("interop").u64_counter(name.to_string()).build().add(by, &[]);
}
