//! Benchmarks the reference implementation of observer filters with the cases of the Go
//! benchmarks in internal/filter/bench_test.go. Prints a line `name lowest-ns median-ns` per
//! case. An argument selects the cases whose names contain it.

use std::hint::black_box;
use std::time::{Duration, Instant};

use iii_filter::{Doc, Filter, FilterIndex};
use serde_json::{json, Map, Value};

const BATCH: Duration = Duration::from_millis(8);
const BATCHES: usize = 31;

fn measure(name: &str, mut run: impl FnMut()) {
    if let Some(part) = std::env::args().nth(1) {
        if !name.contains(&part) {
            return;
        }
    }
    let mut n: u32 = 1;
    loop {
        let start = Instant::now();
        for _ in 0..n {
            run();
        }
        let took = start.elapsed();
        if took >= BATCH {
            break;
        }
        n = if took < BATCH / 20 { n * 10 } else { n * 2 };
    }
    let mut all: Vec<f64> = (0..BATCHES)
        .map(|_| {
            let start = Instant::now();
            for _ in 0..n {
                run();
            }
            start.elapsed().as_nanos() as f64 / n as f64
        })
        .collect();
    all.sort_by(|a, b| a.total_cmp(b));
    println!("{name} {:.1} {:.1}", all[0], all[all.len() / 2]);
}

fn value(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn parse(v: &Value) -> Filter {
    Filter::parse(v).unwrap()
}

fn main() {
    // Filters arrive as text, so include the decoding.
    let one = r#"{"input.amount":{"$eq":100}}"#.to_string();
    let five = r#"{"input.amount":{"$gte":100,"$lt":500},"$or":[{"input.city":{"$in":["Rome","Oslo"]}},{"caller.worker_name":{"$prefix":"shop-"}}]}"#.to_string();
    let mut clauses = Map::new();
    for i in 0..32 {
        clauses.insert(format!("input.k{i}"), json!({"$gte": i, "$lt": i + 100}));
    }
    let many = Value::Object(clauses).to_string();
    for (name, text) in [("parse/1", &one), ("parse/5", &five), ("parse/64", &many)] {
        let v = value(text);
        measure(name, || {
            black_box(parse(black_box(&v)));
        });
        measure(&format!("{name}-from-text"), || {
            black_box(parse(&value(black_box(text))));
        });
    }
    let normal = parse(&value(&many)).normalized().clone();
    measure("parse/normalized", || {
        black_box(Filter::from_normalized(black_box(&normal)).unwrap());
    });

    let rows: Vec<Value> = (0..50).map(|i| json!({"sku": format!("sku-{i}"), "n": i, "price": 9.5})).collect();
    let words: Vec<String> = (0..256).map(|i| format!("word-{i}")).collect();
    let small = json!({"id": "c-17", "amount": 100, "city": "Rome"});
    for (name, filter, input) in [
        ("match/eq-holds", json!({"input.amount": {"$eq": 100}}), small.clone()),
        ("match/eq-fails", json!({"input.amount": {"$eq": 101}}), small.clone()),
        ("match/four-segments", json!({"input.a.b.1.c": {"$eq": 1}}), json!({"a": {"b": [0, {"c": 1}]}})),
        ("match/any-50-rows", json!({"input.rows": {"$any": {"@.sku": {"$eq": "sku-49"}}}}), json!({"rows": rows})),
        ("match/in-256", json!({"input.city": {"$in": words}}), small.clone()),
    ] {
        let f = parse(&filter);
        let doc = Doc { input: Some(&input), ..Default::default() };
        measure(name, || {
            black_box(f.matches(black_box(&doc)));
        });
        // Documents arrive as text, too.
        let text = input.to_string();
        measure(&format!("{name}-from-text"), || {
            let input = value(black_box(&text));
            black_box(f.matches(&Doc { input: Some(&input), ..Default::default() }));
        });
    }

    let change = json!({"table": "orders", "kind": "update", "rows": rows});
    let ten: Vec<Filter> = [
        json!({"input.table": {"$eq": "users"}}),
        json!({"input.kind": {"$in": ["insert", "delete"]}}),
        json!({"input.table": {"$prefix": "archive_"}}),
        json!({"input.rows": {"$any": {"@.sku": {"$eq": "none"}}}}),
        json!({"input.rows.0.n": {"$gt": 10}}),
        json!({"output.ok": {"$eq": true}}),
        json!({"$not": {"input.kind": {"$eq": "update"}}}),
        json!({"$or": [{"input.a": {"$exists": true}}, {"input.b": {"$exists": true}}]}),
        json!({"caller.worker_name": {"$eq": "shop"}}),
        json!({"metadata.tenant": {"$ne": null}, "input.kind": {"$eq": "none"}}),
    ]
    .iter()
    .map(parse)
    .collect();
    let doc = Doc { input: Some(&change), ..Default::default() };
    measure("ten/scan", || {
        for f in &ten {
            black_box(f.matches(black_box(&doc)));
        }
    });
    let mut index = FilterIndex::new();
    for (i, f) in ten.iter().enumerate() {
        index.insert(format!("o{i:05}"), f, i);
    }
    measure("ten/index", || {
        black_box(index.matches(black_box(&doc)).count());
    });

    for n in [16usize, 1000, 4000] {
        let mut index = FilterIndex::new();
        let filters: Vec<Filter> = (0..n).map(|i| parse(&json!({"input.k": {"$eq": i}}))).collect();
        for (i, f) in filters.iter().enumerate() {
            index.insert(format!("o{i:05}"), f, i);
        }
        let mut i = 0;
        let inputs: Vec<Value> = (0..n).map(|i| json!({"k": i})).collect();
        measure(&format!("index/{n}"), || {
            i = (i + 7) % n;
            let doc = Doc { input: Some(&inputs[i]), ..Default::default() };
            black_box(index.matches(black_box(&doc)).count());
        });
        let none = json!({"k": -1});
        let doc = Doc { input: Some(&none), ..Default::default() };
        measure(&format!("index/{n}-none"), || {
            black_box(index.matches(black_box(&doc)).count());
        });
        let extra = parse(&json!({"input.k": {"$eq": n + 1}}));
        measure(&format!("index/{n}-insert-remove"), || {
            index.insert("p".to_string(), &extra, 0);
            index.remove(&"p".to_string());
        });
        measure(&format!("index/{n}-insert-held"), || {
            let mut next = index.clone();
            next.insert("p".to_string(), &extra, 0);
            black_box(next.len());
        });
    }

    for n in [4usize, 16, 128] {
        let mut index = FilterIndex::new();
        let mut input = Map::new();
        for i in 0..n {
            input.insert(format!("k{i}"), json!(i));
            index.insert(format!("o{i:05}"), &parse(&json!({ format!("input.k{i}"): {"$eq": i} })), i);
        }
        let input = Value::Object(input);
        let doc = Doc { input: Some(&input), ..Default::default() };
        measure(&format!("paths/{n}"), || {
            black_box(index.matches(black_box(&doc)).count());
        });
    }
}
