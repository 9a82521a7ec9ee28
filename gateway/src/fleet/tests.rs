//! Operators add and remove models, and clients meet them: both routers over simulated models.

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::*;
use crate::admin;
use crate::clock::Clock;
use crate::drain::Drain;
use crate::health::Health;
use crate::layers::authenticate::tests::gate_without_keys;
use crate::openai::{Api, Passed};
use crate::upstream::link::LinkTasks;

/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

struct Server {
    clients: Router,
    operators: Router,
    _drain: Drain,
}

/// A `[[model]]` section of a simulated model.
fn sim(id: &str, more: &Value) -> Value {
    let mut section = json!({ "id": id, "runner": "sim", "kv_bytes_max": "16MiB" });
    if let (Some(section), Some(more)) = (section.as_object_mut(), more.as_object()) {
        section.extend(more.clone());
    }
    section
}

fn embedder(id: &str) -> Value {
    sim(
        id,
        &json!({ "sim": { "embedding_numbers": 8, "context_tokens": 16 } }),
    )
}

impl Server {
    /// A server whose config lists the generating model `first`.
    async fn new() -> Self {
        let (clock, metrics) = (Clock::system(), Metrics::new().unwrap());
        let starter = Starter::new(metrics.clone(), clock.clone());
        let model =
            hansa_config::model_from_json(sim("first", &json!({})).as_object().unwrap().clone());
        let config = hansa_config::Config {
            models: vec![model.unwrap()],
            ..hansa_config::Config::default()
        };
        let prepared = starter.prepare(&config, &LinkTasks::default()).unwrap();
        let (models, loads) = (prepared.models, prepared.loads);
        let (models, drain, tasks) = (Arc::new(models), Drain::new(), TaskTracker::new());
        for load in loads {
            load.await.unwrap();
        }
        let watch = drain.watch();
        let fleet = Fleet::new(
            Arc::clone(&models),
            starter,
            metrics.clone(),
            watch.clone(),
            (tasks, PATIENCE),
        );
        let health = Health {
            models: Arc::clone(&models),
            drain: watch,
        };
        let limits = schema::Limits::default();
        Self {
            clients: Api::new(models, limits, Passed::default(), PATIENCE, clock.clone()).router(),
            operators: admin::router(&metrics, health, fleet, gate_without_keys(&clock)),
            _drain: drain,
        }
    }

    async fn operate(&self, method: &str, path: &str, body: &Value) -> (StatusCode, Value) {
        let request = request(method, path, body);
        read(self.operators.clone().oneshot(request).await.unwrap()).await
    }

    async fn ask(&self, path: &str, body: &Value) -> (StatusCode, Value) {
        let request = request("POST", path, body);
        read(self.clients.clone().oneshot(request).await.unwrap()).await
    }

    async fn listed(&self, id: &str) -> Option<Value> {
        let (_, list) = self.operate("GET", MODELS, &Value::Null).await;
        let models = list["models"].as_array().unwrap();
        models.iter().find(|model| model["id"] == id).cloned()
    }

    /// Adds a model and waits until it has come to `state`.
    async fn add(&self, section: &Value, state: &str) -> Value {
        let (status, told) = self.operate("POST", MODELS, section).await;
        assert_eq!(
            (status, &told["id"]),
            (StatusCode::ACCEPTED, &section["id"]),
            "{told}"
        );
        let id = section["id"].as_str().unwrap();
        let reached = async {
            loop {
                match self.listed(id).await {
                    Some(model) if model["state"] == state => return model,
                    _ => tokio::task::yield_now().await,
                }
            }
        };
        tokio::time::timeout(PATIENCE, reached).await.unwrap()
    }
}

const MODELS: &str = "/admin/v1/models";
const EMBEDDINGS: &str = "/v1/embeddings";
const COMPLETIONS: &str = "/v1/completions";

fn request(method: &str, path: &str, body: &Value) -> Request<Body> {
    Request::builder()
        .method(method)
        .uri(path)
        .header("host", "localhost")
        .header("content-type", "application/json")
        .body(Body::from(body.to_string()))
        .unwrap()
}

async fn read(response: Response) -> (StatusCode, Value) {
    let status = response.status();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&bytes).unwrap_or_default())
}

fn completion(model: &str, max_tokens: u32) -> Value {
    json!({ "model": model, "prompt": "free cities", "max_tokens": max_tokens, "seed": 1 })
}

/// Status and parameter of a refusal.
fn refusal((status, body): &(StatusCode, Value)) -> (u16, &str) {
    (
        status.as_u16(),
        body["error"]["param"].as_str().unwrap_or_default(),
    )
}

#[tokio::test]
async fn a_model_comes_serves_and_goes() {
    let server = Server::new().await;
    assert_eq!(server.ask(COMPLETIONS, &completion("late", 3)).await.0, 404);
    let model = server
        .add(&sim("late", &json!({ "queue_max": 9 })), "ready")
        .await;
    assert_eq!(
        (&model["origin"], &model["phase"]),
        (&json!("added"), &json!("serving"))
    );
    assert!(model["kv_blocks"]["total"].as_u64().unwrap() > 0);
    let (status, answer) = server.ask(COMPLETIONS, &completion("late", 3)).await;
    let (_, first) = server.ask(COMPLETIONS, &completion("first", 3)).await;
    assert_eq!(status, 200);
    assert_eq!(answer["choices"][0]["text"], first["choices"][0]["text"]);

    let (status, told) = server
        .operate("DELETE", &format!("{MODELS}/late"), &Value::Null)
        .await;
    assert_eq!((status.as_u16(), &told["deleted"]), (200, &json!(true)));
    assert_eq!(server.ask(COMPLETIONS, &completion("late", 3)).await.0, 404);
    assert_eq!(server.listed("late").await, None);
    let again = server
        .operate("DELETE", &format!("{MODELS}/late"), &Value::Null)
        .await;
    assert_eq!(refusal(&again), (404, "model"));
    server.add(&sim("late", &json!({})), "ready").await;
}

#[tokio::test]
async fn what_a_model_has_begun_it_ends_before_it_goes() {
    let server = Server::new().await;
    let slow = json!({ "sim": { "step_base_us": 2000 } });
    server.add(&sim("slow", &slow), "ready").await;
    let asked = completion("slow", 50);
    let running = server.ask(COMPLETIONS, &asked);
    let removal = async {
        while server.listed("slow").await.unwrap()["running"] != 1 {
            tokio::task::yield_now().await;
        }
        server
            .operate("DELETE", &format!("{MODELS}/slow"), &Value::Null)
            .await
    };
    let (answer, removed) = tokio::join!(running, removal);
    assert_eq!((answer.0, removed.0), (StatusCode::OK, StatusCode::OK));
    assert_eq!(answer.1["usage"]["completion_tokens"], 50);
}

#[tokio::test]
async fn a_section_that_will_not_do_is_refused_with_all_its_problems() {
    let server = Server::new().await;
    let bad = json!({ "runner": "sim", "device": "cpu", "kv_typ": 1, "queue_max": "many" });
    let (status, told) = server.operate("POST", MODELS, &bad).await;
    let message = told["error"]["message"].as_str().unwrap();
    assert_eq!(
        (status.as_u16(), &told["error"]["code"]),
        (400, &json!("invalid_model"))
    );
    for path in ["id:", "device:", "kv_typ:", "queue_max:"] {
        assert!(
            message.lines().any(|line| line.starts_with(path)),
            "{path} in {message}"
        );
    }
    let taken = server
        .operate("POST", MODELS, &sim("first", &json!({})))
        .await;
    assert_eq!(refusal(&taken), (409, "id"));
    assert_eq!(server.operate("POST", MODELS, &json!([1])).await.0, 400);
    assert_eq!(server.operate("PUT", MODELS, &json!({})).await.0, 405);
    let form = Request::post(MODELS)
        .header("host", "localhost")
        .header("content-type", "text/plain")
        .body(Body::from(sim("b", &json!({})).to_string()));
    let refused = server
        .operators
        .clone()
        .oneshot(form.unwrap())
        .await
        .unwrap();
    assert_eq!(refused.status(), 415);
    assert_eq!(server.listed("b").await, None);
}

#[tokio::test]
async fn a_model_that_does_not_load_says_why_and_leaves_the_server_ready() {
    let server = Server::new().await;
    let missing = json!({ "id": "gone", "source": "/nowhere/at/all.gguf" });
    let model = server.add(&missing, "failed").await;
    assert!(!model["reason"].as_str().unwrap().is_empty());
    let (status, ready) = server.operate("GET", "/health/ready", &Value::Null).await;
    assert_eq!((status.as_u16(), &ready["status"]), (200, &json!("ready")));
    assert_eq!(ready["models"][1]["state"], "failed");
    assert_eq!(server.ask(COMPLETIONS, &completion("gone", 3)).await.0, 503);
    let (status, _) = server
        .operate("DELETE", &format!("{MODELS}/gone"), &Value::Null)
        .await;
    assert_eq!(status, 200);
}

#[tokio::test]
async fn vectors_come_in_order_as_numbers_or_as_base64() {
    let server = Server::new().await;
    server.add(&embedder("vec"), "ready").await;
    let ask = |input: Value, format: &str| json!({ "model": "vec", "input": input, "encoding_format": format, "user": "u" });
    let (status, one) = server.ask(EMBEDDINGS, &ask(json!("salt"), "float")).await;
    assert_eq!(
        (status.as_u16(), &one["object"]),
        (200, &json!("list")),
        "{one}"
    );
    assert_eq!(
        one["usage"],
        json!({ "prompt_tokens": 1, "total_tokens": 1 })
    );
    let (_, many) = server
        .ask(
            EMBEDDINGS,
            &ask(json!(["fish", "salt", "salt and fish"]), "float"),
        )
        .await;
    let numbers = |answer: &Value, index: usize| -> Vec<f32> {
        let data = &answer["data"][index];
        assert_eq!(
            (&data["index"], &data["object"]),
            (&json!(index), &json!("embedding"))
        );
        let numbers = data["embedding"].as_array().unwrap().iter();
        numbers.map(|x| x.as_f64().unwrap() as f32).collect()
    };
    assert_eq!(
        numbers(&many, 1),
        numbers(&one, 0),
        "the company does not matter"
    );
    assert_ne!(numbers(&many, 0), numbers(&one, 0));
    assert_eq!(many["usage"]["prompt_tokens"], 1 + 1 + 4);
    let length: f32 = numbers(&one, 0).iter().map(|x| x * x).sum();
    assert!((length - 1.0).abs() < 1e-5);

    let (_, coded) = server.ask(EMBEDDINGS, &ask(json!("salt"), "base64")).await;
    use base64::Engine as _;
    let text = coded["data"][0]["embedding"].as_str().unwrap();
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(text)
        .unwrap();
    let decoded: Vec<f32> = bytes
        .chunks(4)
        .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
        .collect();
    assert_eq!(decoded, numbers(&one, 0));

    let (_, ids) = server
        .ask(EMBEDDINGS, &ask(json!([[7, 8], [9]]), "float"))
        .await;
    let (_, alone) = server.ask(EMBEDDINGS, &ask(json!([7, 8]), "float")).await;
    assert_eq!(numbers(&ids, 0), numbers(&alone, 0));
    assert_eq!(ids["usage"]["prompt_tokens"], 3);
}

#[tokio::test]
async fn bad_requests_for_vectors_are_refused_by_name() {
    let server = Server::new().await;
    server.add(&embedder("vec"), "ready").await;
    let long = "x".repeat(16 * 4 + 1);
    for (body, expected) in [
        (json!({ "input": "a" }), (400, "model")),
        (json!({ "model": "vec" }), (400, "input")),
        (json!({ "model": "vec", "input": "" }), (400, "input")),
        (json!({ "model": "vec", "input": [] }), (400, "input")),
        (
            json!({ "model": "vec", "input": ["a", ""] }),
            (400, "input[1]"),
        ),
        (
            json!({ "model": "vec", "input": ["a", 1] }),
            (400, "input[1]"),
        ),
        (json!({ "model": "vec", "input": [[]] }), (400, "input[0]")),
        (
            json!({ "model": "vec", "input": [[u32::MAX]] }),
            (400, "input"),
        ),
        (
            json!({ "model": "vec", "input": vec!["a"; 2049] }),
            (400, "input"),
        ),
        (
            json!({ "model": "vec", "input": ["a", long] }),
            (400, "input"),
        ),
        (
            json!({ "model": "vec", "input": "a", "dimensions": 4 }),
            (400, "dimensions"),
        ),
        (
            json!({ "model": "vec", "input": "a", "encoding_format": "hex" }),
            (400, "encoding_format"),
        ),
        (
            json!({ "model": "vec", "input": "a", "prompt": "b" }),
            (400, "prompt"),
        ),
        (json!({ "model": "first", "input": "a" }), (400, "model")),
        (json!({ "model": "none", "input": "a" }), (404, "model")),
    ] {
        let answer = server.ask(EMBEDDINGS, &body).await;
        let shown: String = body.to_string().chars().take(80).collect();
        assert_eq!(refusal(&answer), expected, "{shown}: {:?}", answer.1);
    }
    let same = json!({ "model": "vec", "input": "a", "dimensions": 8 });
    assert_eq!(server.ask(EMBEDDINGS, &same).await.0, 200);
    let chat = json!({ "model": "vec", "messages": [{ "role": "user", "content": "Hi" }] });
    let answer = server.ask("/v1/chat/completions", &chat).await;
    assert_eq!(refusal(&answer), (400, "model"));
    assert_eq!(
        refusal(&server.ask(COMPLETIONS, &completion("vec", 3)).await),
        (400, "model")
    );
}
