//! Observers registered by this worker, and functions with hooks for observers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use iii_sdk::observe::ObserverHandle;
use iii_sdk::protocol::{Capture, Deliver, On};
use iii_sdk::runtime::FunctionRef;
use iii_sdk::{
    Call, CallRequest, Error, IIIClient, Match, ObserveRejection, Observer, ObserverOptions, RegisterFunction, Source,
};
use serde_json::{Value, json};

/// Observers holds the observers of this worker by id.
#[derive(Clone, Default)]
pub struct Observers(Arc<Mutex<HashMap<String, ObserverHandle>>>);

impl Observers {
    /// observe registers an observer and waits until it is active.
    pub async fn observe(&self, iii: &IIIClient, s: &Value) -> Result<Value, Error> {
        let text = |key: &str| s[key].as_str().unwrap_or_default().to_string();
        let mut source = Source::function(text("function_id"));
        if let Some(args) = s.get("args") {
            source = source.args(args.clone());
        }
        if let Some(filters) = s.get("filters") {
            source = source.filters(filters.clone());
        }
        if s.get("on").is_some() {
            source = source.on(serde_json::from_value::<On>(s["on"].clone())?);
        }
        if s.get("capture").is_some() {
            source = source.capture(serde_json::from_value::<Vec<Capture>>(s["capture"].clone())?);
        }
        if s.get("deliver").is_some() {
            source = source.deliver(serde_json::from_value::<Deliver>(s["deliver"].clone())?);
        }
        let mut options = ObserverOptions::default();
        if s.get("id").is_some() {
            options = options.id(text("id"));
        }
        if let Some(metadata) = s.get("metadata") {
            options = options.metadata(metadata.clone());
        }
        if let Some(n) = s["max_fires"].as_u64() {
            options = options.max_fires(n);
        }
        if let Some(n) = s["max_in_flight"].as_u64() {
            options = options.max_in_flight(n as u32);
        }
        let observer = iii.observe_with(source, text("target"), options);
        let ready = tokio::time::timeout(Duration::from_secs(5), observer.ready()).await.unwrap_or(Err(Error::Timeout));
        if ready.is_err() {
            observer.dispose().await?;
        }
        ready?;
        let id = observer.id().to_string();
        self.0.lock().unwrap().insert(id.clone(), observer);
        Ok(json!(id))
    }

    /// observing returns the state of an observer and, if it has ended, the error code.
    pub fn observing(&self, id: &str) -> Value {
        let observers = self.0.lock().unwrap();
        let Some(o) = observers.get(id) else { return Value::Null };
        match o.reason() {
            Some(reason) => json!({ "state": o.state().as_str(), "code": reason.code }),
            None => json!({ "state": o.state().as_str() }),
        }
    }

    /// dispose removes an observer.
    pub async fn dispose(&self, id: &str) -> Result<(), Error> {
        let observer = self.0.lock().unwrap().remove(id);
        match observer {
            Some(o) => o.dispose().await,
            None => Ok(()),
        }
    }
}

/// host registers a function that returns its payload, with hooks of the requested kind.
pub fn host(iii: &IIIClient, s: &Value) -> FunctionRef {
    let id = s["function_id"].as_str().unwrap_or_default();
    let mut f = RegisterFunction::new_async(|v: Value| async move { Ok::<_, Error>(v) });
    match s["kind"].as_str().unwrap_or_default() {
        "hooks" => {
            let client = iii.clone();
            iii.on_observer_added_for(id, move |o: Observer| {
                let iii = client.clone();
                async move {
                    if o.target() == "go::unwanted" {
                        return Err(ObserveRejection::new("UNWANTED", "not this one"));
                    }
                    tell(&iii, "added", json!({ "id": o.id(), "target": o.target() })).await?;
                    Ok(())
                }
            });
            let client = iii.clone();
            iii.on_observer_removed_for(id, move |o: Observer| {
                let iii = client.clone();
                async move {
                    let _ = tell(&iii, "removed", json!({ "id": o.id() })).await; // if the report is lost, the scenario fails
                }
            });
        }
        "args" => {
            f = f.args_format_value(s["schema"].clone());
            iii.on_observation_match_for(id, Match::predicate(is_of_topic));
        }
        "through" => {
            f = f.args_format_value(s["schema"].clone());
            let client = iii.clone();
            iii.on_observation_deliver_for(id, move |call: Call, observers: Vec<Observer>| {
                let iii = client.clone();
                async move {
                    match observers.iter().find(|o| is_of_topic(o, &call) && o.matches(&call)) {
                        Some(o) => iii.call(CallRequest::observer(o, call.input.clone())).await,
                        None => Ok(Value::Null),
                    }
                }
            });
        }
        "private" => f = f.private(),
        _ => {}
    }
    iii.register_function(id, f)
}

/// relay registers a function that reports each call to go::seen, then calls another function.
pub fn relay(iii: &IIIClient, s: &Value) -> FunctionRef {
    let text = |key: &str| s[key].as_str().unwrap_or_default().to_string();
    let (client, id, target) = (iii.clone(), text("function_id"), text("target"));
    let f = RegisterFunction::new_async(move |payload: Value| {
        let (iii, id, target) = (client.clone(), id.clone(), target.clone());
        async move {
            tell(&iii, &id, payload).await?;
            iii.call(CallRequest::new(target, json!({}))).await
        }
    });
    iii.register_function(text("function_id"), f)
}

fn is_of_topic(o: &Observer, call: &Call) -> bool {
    o.args_value()["topic"] == call.input["topic"]
}

async fn tell(iii: &IIIClient, function_id: &str, payload: Value) -> Result<Value, Error> {
    iii.call(CallRequest::new("go::seen", json!({ "function_id": function_id, "payload": payload }))).await
}
