//! Registers functions whose schemas schemars makes, with examples of their values. The
//! worker connects to the engine at $III_URL, prints "ready" and serves until its standard
//! input ends.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use chrono::{DateTime, NaiveDate, TimeZone, Utc};
use iii_sdk::iii::WorkerMetadata;
use iii_sdk::{Error, IIIClient, InitOptions, RegisterFunction, register_worker};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use uuid::Uuid;

/// Every width of number.
#[derive(Serialize, Deserialize, JsonSchema)]
struct Scalars {
    text: String,
    done: bool,
    letter: char,
    i8: i8,
    u8: u8,
    i16: i16,
    u16: u16,
    i32: i32,
    u32: u32,
    i64: i64,
    u64: u64,
    usize: usize,
    f32: f32,
    f64: f64,
    unit: (),
}

#[derive(Serialize, Deserialize, JsonSchema)]
struct Optionals {
    nullable: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    left_out: Option<u32>,
    #[serde(default)]
    defaulted: u32,
    #[serde(default = "ten")]
    ten: i64,
    nested: Option<Address>,
}

fn ten() -> i64 {
    10
}

/// Where somebody lives.
#[derive(Serialize, Deserialize, JsonSchema, Clone)]
struct Address {
    /// The street and the number.
    street: String,
    city: String,
}

#[derive(Serialize, Deserialize, JsonSchema)]
struct Nested {
    home: Address,
    /// Where somebody works, with a description beside the reference.
    #[serde(default = "nowhere")]
    work: Address,
    boxed: Box<Address>,
}

fn nowhere() -> Address {
    Address { street: "none".into(), city: "none".into() }
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Color {
    Red,
    Green,
    NavyBlue,
}

#[derive(Serialize, Deserialize, JsonSchema)]
enum Documented {
    /// Nothing was done.
    New,
    /// All was done.
    #[serde(rename = "finished!")]
    Finished,
    Failed,
}

#[derive(Serialize, Deserialize, JsonSchema)]
struct Enums {
    color: Color,
    documented: Documented,
    maybe: Option<Color>,
    all: Vec<Color>,
}

#[derive(Serialize, Deserialize, JsonSchema)]
enum External {
    Unit,
    Other,
    Newtype(u32),
    Tuple(String, i64),
    Struct { id: String, count: Option<u8> },
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Internal {
    Created { id: String },
    Moved { from: Address, to: Address },
    Deleted,
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(tag = "t", content = "c")]
enum Adjacent {
    Number(i32),
    Text { text: String },
    Nothing,
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
enum Untagged {
    Number(i64),
    Text(String),
    Many(Vec<String>),
    Place(Address),
}

#[derive(Serialize, Deserialize, JsonSchema)]
struct Events {
    events: Vec<Internal>,
    last: Option<External>,
    untagged: HashMap<String, Untagged>,
}

#[derive(Serialize, Deserialize, JsonSchema)]
struct Collections {
    list: Vec<String>,
    matrix: Vec<Vec<f64>>,
    set: BTreeSet<u32>,
    fixed: [u8; 3],
    pair: (String, i32),
    nested: Option<Vec<Option<String>>>,
}

#[derive(Serialize, Deserialize, JsonSchema)]
struct Maps {
    counts: HashMap<String, u64>,
    places: BTreeMap<String, Address>,
    numbered: BTreeMap<u32, String>,
    maybe: HashMap<String, Option<i32>>,
    anything: HashMap<String, Value>,
}

#[derive(Serialize, Deserialize, JsonSchema)]
struct Tree {
    value: i32,
    children: Vec<Tree>,
}

#[derive(Serialize, Deserialize, JsonSchema)]
struct List {
    value: i32,
    next: Option<Box<List>>,
}

#[derive(Serialize, Deserialize, JsonSchema)]
enum Expression {
    Literal(f64),
    Add(Box<Expression>, Box<Expression>),
    Negate(Box<Expression>),
}

#[derive(Serialize, Deserialize, JsonSchema)]
struct Flattened {
    id: String,
    #[serde(flatten)]
    address: Address,
}

#[derive(Serialize, Deserialize, JsonSchema)]
struct FlattenedEnum {
    id: String,
    #[serde(flatten)]
    event: Internal,
}

#[derive(Serialize, Deserialize, JsonSchema)]
struct FlattenedMap {
    id: String,
    #[serde(flatten)]
    rest: HashMap<String, i32>,
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Closed {
    id: String,
}

#[derive(Serialize, Deserialize, JsonSchema)]
struct Formats {
    at: DateTime<Utc>,
    day: NaiveDate,
    id: Uuid,
    took: std::time::Duration,
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Renamed {
    user_id: String,
    #[serde(rename = "type")]
    kind: String,
    #[serde(rename = "x-dash")]
    dashed: bool,
    r#match: i32,
}

#[derive(Serialize, Deserialize, JsonSchema)]
struct Page<T> {
    items: Vec<T>,
    next: Option<String>,
}

#[derive(Serialize, Deserialize, JsonSchema)]
struct Pages {
    addresses: Page<Address>,
    numbers: Page<u8>,
}

#[derive(Serialize, Deserialize, JsonSchema)]
struct Newtype(String);

#[derive(Serialize, Deserialize, JsonSchema)]
struct Ids {
    id: Newtype,
    others: Vec<Newtype>,
}

#[derive(Serialize, Deserialize, JsonSchema)]
struct Unit;

#[derive(Serialize, Deserialize, JsonSchema)]
struct Anything {
    value: Value,
    optional: Option<Value>,
}

#[derive(Serialize, Deserialize, JsonSchema)]
struct Constrained {
    #[schemars(length(min = 1, max = 10), regex(pattern = r"^[a-z]+$"))]
    name: String,
    #[schemars(range(min = 0, max = 100))]
    percent: i32,
    #[schemars(length(min = 1))]
    tags: Vec<String>,
    #[schemars(email)]
    mail: String,
}

#[derive(Serialize, Deserialize, JsonSchema)]
struct Empty {}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(default)]
struct AllDefaults {
    host: String,
    port: u16,
    verbose: bool,
}

impl Default for AllDefaults {
    fn default() -> Self {
        Self { host: "localhost".into(), port: 8080, verbose: true }
    }
}

fn register<T>(iii: &IIIClient, name: &str, construct: &str, examples: Vec<T>)
where
    T: Serialize + DeserializeOwned + JsonSchema + Send + 'static,
{
    let metadata = json!({ "construct": construct, "examples": examples });
    let function = RegisterFunction::new_async(|v: T| async move { Ok::<T, Error>(v) })
        .description(construct)
        .metadata(metadata);
    iii.register_function(format!("schemars::{name}").as_str(), function);
}

#[tokio::main]
async fn main() {
    let iii = register_worker(
        &std::env::var("III_URL").expect("III_URL"),
        InitOptions {
            metadata: Some(WorkerMetadata { name: "schemars".into(), ..Default::default() }),
            ..Default::default()
        },
    );
    let home = || Address { street: "Main St".into(), city: "Springfield".into() };
    let add = &iii;
    register(add, "scalars", "numbers of every width", vec![Scalars { text: "a".into(), done: true, letter: 'x', i8: -128, u8: 255, i16: -1, u16: 65535, i32: -1, u32: u32::MAX, i64: i64::MIN, u64: u64::MAX, usize: 7, f32: 0.5, f64: 0.25, unit: () }]);
    register(add, "optionals", "type with null, anyOf with null, defaults", vec![Optionals { nullable: None, left_out: None, defaulted: 0, ten: 10, nested: None }, Optionals { nullable: Some("".into()), left_out: Some(0), defaulted: 1, ten: -1, nested: Some(home()) }]);
    register(add, "nested", "$ref, allOf of one $ref with a default", vec![Nested { home: home(), work: nowhere(), boxed: Box::new(home()) }]);
    register(add, "enums", "enums, oneOf of documented constants", vec![Enums { color: Color::NavyBlue, documented: Documented::Finished, maybe: None, all: vec![Color::Red, Color::Green] }, Enums { color: Color::Red, documented: Documented::New, maybe: Some(Color::Green), all: vec![] }, Enums { color: Color::Red, documented: Documented::Failed, maybe: None, all: vec![] }]);
    register(add, "external", "oneOf, externally tagged", vec![External::Unit, External::Other, External::Newtype(3), External::Tuple("a".into(), 1), External::Struct { id: "x".into(), count: None }]);
    register(add, "internal", "oneOf with a tag", vec![Internal::Created { id: "a".into() }, Internal::Moved { from: home(), to: home() }, Internal::Deleted]);
    register(add, "adjacent", "oneOf with a tag and content", vec![Adjacent::Number(1), Adjacent::Text { text: "t".into() }, Adjacent::Nothing]);
    register(add, "untagged", "anyOf without a tag", vec![Untagged::Number(1), Untagged::Text("t".into()), Untagged::Many(vec!["m".into()]), Untagged::Place(home())]);
    register(add, "events", "unions in lists, options and maps", vec![Events { events: vec![Internal::Deleted, Internal::Created { id: "a".into() }], last: Some(External::Unit), untagged: HashMap::from([("a".into(), Untagged::Number(1))]) }, Events { events: vec![], last: None, untagged: HashMap::new() }]);
    register(add, "collections", "arrays, sets, tuples", vec![Collections { list: vec![], matrix: vec![vec![1.0, 2.5]], set: BTreeSet::from([1]), fixed: [1, 2, 3], pair: ("a".into(), 1), nested: Some(vec![None, Some("x".into())]) }]);
    register(add, "maps", "additionalProperties of a type", vec![Maps { counts: HashMap::from([("a".into(), u64::MAX)]), places: BTreeMap::from([("h".into(), home())]), numbered: BTreeMap::from([(7, "seven".into())]), maybe: HashMap::from([("n".into(), None)]), anything: HashMap::from([("x".into(), json!([1, null]))]) }]);
    register(add, "tree", "recursive type by \"#\"", vec![Tree { value: 1, children: vec![Tree { value: 2, children: vec![] }] }]);
    register(add, "list", "recursive type, nullable", vec![List { value: 1, next: Some(Box::new(List { value: 2, next: None })) }]);
    register(add, "expression", "recursive union", vec![Expression::Add(Box::new(Expression::Literal(1.5)), Box::new(Expression::Negate(Box::new(Expression::Literal(2.5)))))]);
    register(add, "flattened", "allOf or merged properties", vec![Flattened { id: "a".into(), address: home() }]);
    register(add, "flattenedenum", "properties beside oneOf", vec![FlattenedEnum { id: "a".into(), event: Internal::Deleted }, FlattenedEnum { id: "a".into(), event: Internal::Moved { from: home(), to: home() } }]);
    register(add, "flattenedmap", "flattened map, of which the schema says nothing", vec![FlattenedMap { id: "a".into(), rest: HashMap::new() }]);
    register(add, "closed", "additionalProperties: false", vec![Closed { id: "a".into() }]);
    register(add, "formats", "date-time, date, uuid", vec![Formats { at: Utc.with_ymd_and_hms(2026, 5, 4, 12, 30, 0).unwrap(), day: NaiveDate::from_ymd_opt(2026, 5, 4).unwrap(), id: Uuid::nil(), took: std::time::Duration::from_millis(1500) }]);
    register(add, "renamed", "names that are no Go identifiers", vec![Renamed { user_id: "u".into(), kind: "k".into(), dashed: true, r#match: 1 }]);
    register(add, "pages", "generic types", vec![Pages { addresses: Page { items: vec![home()], next: None }, numbers: Page { items: vec![1], next: Some("n".into()) } }]);
    register(add, "newtype", "scalar at the root", vec![Newtype("x".into())]);
    register(add, "ids", "$ref to a scalar", vec![Ids { id: Newtype("x".into()), others: vec![Newtype("y".into())] }]);
    register(add, "unit", "null at the root", vec![Unit]);
    register(add, "anything", "schemas without a type", vec![Anything { value: json!({ "a": [1] }), optional: None }, Anything { value: json!(null), optional: Some(json!("x")) }]);
    register(add, "constrained", "bounds, lengths, patterns", vec![Constrained { name: "ann".into(), percent: 50, tags: vec!["t".into()], mail: "a@example.com".into() }]);
    register(add, "empty", "object without properties", vec![Empty {}]);
    register(add, "defaults", "all properties with defaults", vec![AllDefaults::default(), AllDefaults { host: "".into(), port: 0, verbose: false }]);
    register(add, "vector", "array at the root", vec![vec![home()], vec![]]);
    register(add, "option", "nullable object at the root", vec![Some(home()), None]);
    register(add, "value", "any value", vec![json!({ "a": 1 }), json!(null)]);
    let untyped = RegisterFunction::new(|v: Value| Ok::<Value, Error>(v)).description("no type");
    iii.register_function("schemars::untyped", untyped);
    println!("ready");
    let mut rest = Vec::new();
    let _ = tokio::io::stdin().read_to_end(&mut rest).await;
    std::process::exit(0);
}
