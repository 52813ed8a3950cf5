//! The steps of peer::do.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use iii_helpers::http::HttpInvocationConfig;
use iii_helpers::observability::Logger;
use iii_sdk::helpers::{create_channel, create_stream};
use iii_sdk::runtime::FunctionRef;
use iii_sdk::{CallAction, CallRequest, Error, IIIClient, RegisterFunction};
use serde_json::{Value, json};

use crate::observers::{self, Observers};
use crate::stream::Shelf;
use crate::{count, drain, fill};

/// Peer is the worker and everything that it has registered for the harness.
#[derive(Clone)]
pub struct Peer {
    iii: IIIClient,
    functions: Arc<Mutex<HashMap<String, FunctionRef>>>,
    observers: Observers,
}

impl Peer {
    pub fn new(iii: IIIClient) -> Self {
        Self { iii, functions: Default::default(), observers: Default::default() }
    }

    /// take takes a step and returns its outcome: a value, or the error that this worker received.
    pub async fn take(&self, s: Value) -> Value {
        match self.step(s).await {
            Ok(value) => json!({ "value": value }),
            Err(Error::Remote { code, message, .. }) => json!({ "error": { "code": code, "message": message } }),
            Err(Error::Timeout) => json!({ "error": { "code": "TIMEOUT", "message": Error::Timeout.to_string() } }),
            Err(e) => json!({ "error": { "code": "error", "message": e.to_string() } }),
        }
    }

    async fn step(&self, s: Value) -> Result<Value, Error> {
        let text = |key: &str| s[key].as_str().unwrap_or_default().to_string();
        match text("step").as_str() {
            "call" => return self.call(&s).await,
            "listen" => self.listen(&s),
            "unregister" => {
                if let Some(f) = self.functions.lock().unwrap().remove(&text("function_id")) {
                    f.unregister();
                }
            }
            // This SDK has no triggers, but the engine has functions for them.
            "bind" => {
                let input = json!({
                    "trigger_type": s["type"], "function_id": s["function_id"], "config": s["config"], "metadata": s["metadata"],
                });
                let bound = self.iii.call(CallRequest::new("engine::register_trigger", input)).await?;
                return Ok(bound["id"].clone());
            }
            "unbind" => {
                self.iii.call(CallRequest::new("engine::unregister_trigger", json!({ "id": s["handle"] }))).await?;
            }
            "http-invoked" => {
                let config: HttpInvocationConfig = serde_json::from_value(json!({
                    "url": s["url"], "method": s["method"], "headers": { text("header"): s["value"] },
                    "auth": { "type": "hmac", "secret_key": s["secret"] },
                }))?;
                self.iii.register_function(text("function_id"), RegisterFunction::http(config));
            }
            "channel-in" => {
                let channel = create_channel(&self.iii, None).await?;
                let input = json!({ "writer": channel.writer_ref, "bytes": s["bytes"] });
                let called = self.iii.call(CallRequest::new(text("function_id"), input));
                let (report, called) = tokio::join!(drain(&channel.reader), called);
                called?;
                return report;
            }
            "channel-out" => {
                let channel = create_channel(&self.iii, None).await?;
                let input = json!({ "reader": channel.reader_ref });
                let called = self.iii.call(CallRequest::new(text("function_id"), input));
                let (written, report) = tokio::join!(fill(&channel.writer, s["bytes"].as_u64().unwrap_or(0)), called);
                written?;
                return report;
            }
            "store-stream" => create_stream(&self.iii, text("name"), Shelf::default()),
            "observe" => return self.observers.observe(&self.iii, &s).await,
            "observing" => return Ok(self.observers.observing(&text("handle"))),
            "dispose" => self.observers.dispose(&text("handle")).await?,
            "host" => {
                let f = observers::host(&self.iii, &s);
                self.functions.lock().unwrap().insert(text("function_id"), f);
            }
            "relay" => {
                let f = observers::relay(&self.iii, &s);
                self.functions.lock().unwrap().insert(text("function_id"), f);
            }
            "observers" => {
                let ids: Vec<_> = self.iii.observers(&text("function_id")).iter().map(|o| o.id().to_string()).collect();
                return Ok(json!(ids));
            }
            "length" => {
                let result = self.iii.call(CallRequest::new(text("function_id"), s["payload"].clone())).await?;
                return Ok(json!(result.as_str().unwrap_or_default().len()));
            }
            "log" => {
                let data = Some(s["data"].clone());
                match text("level").as_str() {
                    "debug" => Logger::new().debug(&text("message"), data),
                    "warn" => Logger::new().warn(&text("message"), data),
                    _ => Logger::new().error(&text("message"), data),
                }
            }
            "count" => count(&text("name"), s["by"].as_u64().unwrap_or(0)),
            "guard" => self.guard(&s),
            "shutdown" => {
                let iii = self.iii.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    iii.shutdown_async().await;
                    std::process::exit(0);
                });
            }
            step => return Err(Error::Handler(format!("unknown step {step}"))),
        }
        Ok(Value::Null)
    }

    async fn call(&self, s: &Value) -> Result<Value, Error> {
        let action = match s["action"]["type"].as_str() {
            Some("void") => Some(CallAction::Void),
            Some("enqueue") => Some(CallAction::Enqueue {
                queue: s["action"]["queue"].as_str().unwrap_or_default().to_string(),
            }),
            _ => None,
        };
        let request = CallRequest {
            function_id: s["function_id"].as_str().unwrap_or_default().to_string(),
            payload: s["payload"].clone(),
            action,
            timeout_ms: s["timeout_ms"].as_u64(),
        };
        match (s.get("metadata"), s["namespace"].as_str()) {
            (Some(m), _) => self.iii.call(request.metadata(m.clone())).await,
            (None, Some(ns)) => self.iii.call(request.namespace(ns)).await,
            _ => self.iii.call(request).await,
        }
    }

    /// listen registers a function that reports its calls to go::seen.
    fn listen(&self, s: &Value) {
        let id = s["function_id"].as_str().unwrap_or_default().to_string();
        let reply = s["reply"].clone();
        let left = Arc::new(AtomicI64::new(s["failures"].as_i64().unwrap_or(0)));
        let (iii, function_id) = (self.iii.clone(), id.clone());
        let f = RegisterFunction::new_async(move |payload: Value, metadata: Option<Value>| {
            let (iii, function_id, reply, left) = (iii.clone(), function_id.clone(), reply.clone(), left.clone());
            async move {
                let seen = json!({ "function_id": function_id, "payload": payload, "metadata": metadata });
                iii.call(CallRequest::new("go::seen", seen)).await?;
                if left.fetch_sub(1, Ordering::SeqCst) > 0 {
                    return Err(Error::Handler("not yet".into()));
                }
                Ok(reply)
            }
        });
        let f = self.iii.register_function(id.clone(), f);
        self.functions.lock().unwrap().insert(id, f);
    }

    /// guard registers an auth function that requires a token.
    fn guard(&self, s: &Value) {
        let id = s["function_id"].as_str().unwrap_or_default().to_string();
        let s = s.clone();
        let f = RegisterFunction::new_async(move |input: Value| {
            let s = s.clone();
            async move {
                if input["headers"][s["header"].as_str().unwrap_or_default()] != s["token"] {
                    return Err(Error::Handler("no entry".into()));
                }
                Ok(json!({ "allowed_functions": s["allowed"] }))
            }
        });
        let f = self.iii.register_function(id.clone(), f);
        self.functions.lock().unwrap().insert(id, f);
    }
}
