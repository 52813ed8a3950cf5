//! Runs test cases of observer filters on the reference implementation. It reads one JSON
//! object per line and writes one result per line, in the same order.

use std::io::{self, BufRead, BufWriter, Write};

use iii_filter::{Doc, Filter, FilterError, FilterIndex};
use serde_json::{json, Value};

fn refusal(e: FilterError) -> Value {
    json!({"code": e.code.as_str(), "message": e.message})
}

fn describe(f: Filter) -> Value {
    let r = f.roots();
    let roots: Vec<&str> = [(r.input, "input"), (r.output, "output"), (r.error, "error"), (r.caller, "caller"), (r.metadata, "metadata")]
        .into_iter()
        .filter_map(|(used, name)| used.then_some(name))
        .collect();
    json!({"normal": f.normalized().to_string(), "roots": roots, "match_all": f.is_match_all(), "indexable": f.is_indexable()})
}

fn index(case: &Value) -> Result<Value, FilterError> {
    let mut index = FilterIndex::new();
    for entry in case["entries"].as_array().unwrap() {
        let key = entry["key"].as_str().unwrap().to_string();
        if entry["filter"].is_null() {
            index.remove(&key);
        } else {
            index.insert(key.clone(), &Filter::parse(&entry["filter"])?, key);
        }
    }
    let mut matches = Vec::new();
    let mut candidates = Vec::new();
    for doc in case["docs"].as_array().unwrap() {
        let doc = Doc::from_value(doc);
        candidates.push(index.candidates(&doc));
        matches.push(index.matches(&doc).map(|(key, _)| key.clone()).collect::<Vec<String>>());
    }
    Ok(json!({"candidates": candidates, "matches": matches}))
}

fn answer(case: &Value) -> Result<Value, FilterError> {
    let filter = &case["filter"];
    Ok(match case["kind"].as_str().unwrap() {
        "parse" => describe(Filter::parse(filter)?),
        "from_normalized" => describe(Filter::from_normalized(filter)?),
        "match" => json!({"match": Filter::parse(filter)?.matches(&Doc::from_value(&case["doc"]))}),
        "schema" => {
            let formats = (case.get("request_format"), case.get("response_format"));
            json!({"warnings": Filter::parse(filter)?.check_schema_paths(formats.0, formats.1)?})
        }
        "index" => index(case)?,
        kind => panic!("kind {kind}"),
    })
}

fn main() -> io::Result<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    for line in io::stdin().lock().lines() {
        let case: Value = serde_json::from_str(&line?)?;
        writeln!(out, "{}", answer(&case).unwrap_or_else(refusal))?;
    }
    out.flush()
}
