//! Tokens, good and hostile, against an issuer of the test's own.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures::future::join_all;
use hansa_config::schema::issuer::Claim;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::*;
use crate::limits::{KEYS_FRESH, KEYS_RETRY, KEYS_STALE};

const NOW_S: i64 = 1_700_000_000;

/// A key of an issuer.
struct Signer {
    kid: &'static str,
    pair: EcdsaKeyPair,
}

impl Signer {
    fn new(kid: &'static str) -> Self {
        let (random, how) = (SystemRandom::new(), &ECDSA_P256_SHA256_FIXED_SIGNING);
        let made = EcdsaKeyPair::generate_pkcs8(how, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(how, made.as_ref(), &random).unwrap();
        Self { kid, pair }
    }

    fn jwk(&self) -> Value {
        let point = self.pair.public_key().as_ref();
        let (x, y) = (encode(&point[1..33]), encode(&point[33..65]));
        json!({"kty": "EC", "crv": "P-256", "kid": self.kid, "use": "sig", "alg": "ES256", "x": x, "y": y})
    }

    fn token(&self, claims: &Value) -> String {
        self.sign(
            &json!({"alg": "ES256", "typ": "JWT", "kid": self.kid}),
            claims,
        )
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        let text = format!("{}.{}", part(header), part(claims));
        let signature = self
            .pair
            .sign(&SystemRandom::new(), text.as_bytes())
            .unwrap();
        format!("{text}.{}", encode(signature.as_ref()))
    }
}

fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn part(value: &Value) -> String {
    encode(value.to_string().as_bytes())
}

/// An issuer that answers what the test says.
struct Mock {
    url: String,
    shared: Arc<Shared>,
    _serving: JoinSet<()>,
}

struct Shared {
    discovery: Mutex<String>,
    keys: Mutex<String>,
    fetches: AtomicUsize,
    away: AtomicBool,
}

impl Mock {
    async fn start(signers: &[&Signer]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let shared = Arc::new(Shared {
            discovery: Mutex::new(
                json!({"issuer": url, "jwks_uri": format!("{url}/keys")}).to_string(),
            ),
            keys: Mutex::default(),
            fetches: AtomicUsize::new(0),
            away: AtomicBool::new(false),
        });
        let mut serving = JoinSet::new();
        let of_server = Arc::clone(&shared);
        serving.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                of_server.answer(stream).await;
            }
        });
        let mock = Self {
            url,
            shared,
            _serving: serving,
        };
        mock.publish(signers);
        mock
    }

    fn publish(&self, signers: &[&Signer]) {
        let keys: Vec<Value> = signers.iter().map(|signer| signer.jwk()).collect();
        self.say_keys(&json!({ "keys": keys }));
    }

    fn say_keys(&self, document: &Value) {
        *self.shared.keys.lock().unwrap() = document.to_string();
    }

    fn fetches(&self) -> usize {
        self.shared.fetches.load(Ordering::SeqCst)
    }

    /// The issuers of a server that trusts this one.
    fn issuers(&self) -> Issuers {
        let config = Config {
            issuers: vec![Issuer {
                id: "i".to_owned(),
                url: self.url.clone(),
                audiences: vec!["hansa".to_owned()],
                ..Issuer::default()
            }],
            claims: vec![Claim {
                issuer: "i".to_owned(),
                claim: "groups".to_owned(),
                value: "physics".to_owned(),
                tenant: "uni/physics".to_owned(),
                ..Claim::default()
            }],
            ..Config::default()
        };
        Issuers::open(&config).unwrap()
    }

    fn claims(&self) -> Value {
        json!({"iss": self.url, "sub": "alice", "aud": "hansa", "exp": NOW_S + 600, "groups": ["physics"]})
    }

    fn claims_with(&self, name: &str, value: Value) -> Value {
        let mut claims = self.claims();
        claims[name] = value;
        claims
    }

    fn claims_without(&self, name: &str) -> Value {
        let mut claims = self.claims();
        claims.as_object_mut().unwrap().remove(name);
        claims
    }
}

impl Shared {
    async fn answer(&self, mut stream: TcpStream) {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => request.push(byte),
                Err(_) => return,
            }
        }
        let request = String::from_utf8(request).unwrap();
        let body = if request.starts_with("GET /keys ") {
            self.fetches.fetch_add(1, Ordering::SeqCst);
            self.keys.lock().unwrap().clone()
        } else {
            assert!(
                request.starts_with("GET /.well-known/openid-configuration "),
                "{request}"
            );
            self.discovery.lock().unwrap().clone()
        };
        let status = match self.away.load(Ordering::SeqCst) {
            true => "503 Service Unavailable",
            false => "200 OK",
        };
        let head = format!(
            "HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        let _ = stream.write_all(head.as_bytes()).await;
        let _ = stream.write_all(body.as_bytes()).await;
    }
}

fn at(now: Duration) -> Moment {
    let unix_s = NOW_S + i64::try_from(now.as_secs()).unwrap();
    Moment { now, unix_s }
}

const BEGINNING: Duration = Duration::ZERO;

#[tokio::test]
async fn a_good_token_names_its_bearer_and_is_checked_once_a_minute() {
    let signer = Signer::new("one");
    let mock = Mock::start(&[&signer]).await;
    let issuers = mock.issuers();
    let token = signer.token(&mock.claims());
    let person = issuers.identify(&token, at(BEGINNING)).await.unwrap();
    assert_eq!(&*person.id, "i:alice");
    assert_eq!(person.roles, [("uni/physics".into(), Role::Member)]);
    // With an audience of several, one of them ours, and times with fractions.
    let mut other = mock.claims_with("aud", json!(["elsewhere", "hansa"]));
    other["exp"] = json!(NOW_S as f64 + 600.5);
    other["nbf"] = json!(NOW_S + 20);
    let other = signer.token(&other);
    assert!(issuers.identify(&other, at(BEGINNING)).await.is_ok());
    assert_eq!(mock.fetches(), 1);
    // Ten minutes and the leeway later both are over, remembered or not.
    let late = at(Duration::from_secs(631));
    assert_eq!(issuers.identify(&token, late).await, Err(Refused::Expired));
    let late = at(Duration::from_secs(629));
    assert!(issuers.identify(&token, late).await.is_ok());
    let remembered = at(Duration::from_secs(630));
    assert_eq!(
        issuers.identify(&token, remembered).await,
        Err(Refused::Expired)
    );
}

#[tokio::test]
async fn forged_tokens_open_nothing() {
    let (signer, stranger) = (Signer::new("one"), Signer::new("one"));
    let mock = Mock::start(&[&signer]).await;
    let issuers = mock.issuers();
    let good = signer.token(&mock.claims());
    let (text, signature) = good.rsplit_once('.').unwrap();
    let (header, _) = text.split_once('.').unwrap();
    let unsigned = |alg: &str| part(&json!({"alg": alg, "kid": "one"}));
    let claims = part(&mock.claims());
    let named = |alg: &str| format!("{}.{claims}.{signature}", unsigned(alg));
    let told = |claims: &str| format!("{header}.{claims}.{signature}");
    let secret = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, signer.pair.public_key().as_ref());
    let hs256 = format!("{}.{claims}", unsigned("HS256"));
    let hs256 = format!(
        "{hs256}.{}",
        encode(ring::hmac::sign(&secret, hs256.as_bytes()).as_ref())
    );
    let critical = json!({"alg": "ES256", "kid": "one", "crit": ["exp"]});
    let deep = format!("{{\"iss\":{}", "[".repeat(5_000));
    let root = part(&mock.claims_with("sub", json!("root")));
    for (what, token) in [
        ("alg none", format!("{}.{claims}.", unsigned("none"))),
        ("alg None", named("None")),
        ("a public key as a secret", hs256),
        ("an algorithm that is not taken", named("ES384")),
        ("an algorithm of another kind of key", named("RS256")),
        ("a stranger's signature", stranger.token(&mock.claims())),
        ("another's claims", told(&root)),
        ("no signature", format!("{text}.")),
        ("half a signature", format!("{text}.{}", &signature[..40])),
        (
            "what must be understood",
            signer.sign(&critical, &mock.claims()),
        ),
        ("no JSON", told(&encode(b"{"))),
        ("deep JSON", told(&encode(deep.as_bytes()))),
        ("no base64", format!("ey!.{claims}.{signature}")),
        ("nothing", "..".to_owned()),
        ("one part", "eyJ".to_owned()),
        ("a megabyte", told(&"A".repeat(1 << 20))),
    ] {
        let refused = issuers.identify(&token, at(BEGINNING)).await;
        assert_eq!(refused, Err(Refused::Wrong), "{what}");
    }
    assert!(issuers.identify(&good, at(BEGINNING)).await.is_ok());
}

#[tokio::test]
async fn tokens_for_others_or_another_time_open_nothing() {
    let signer = Signer::new("one");
    let mock = Mock::start(&[&signer]).await;
    let issuers = mock.issuers();
    let with = |name, value| signer.token(&mock.claims_with(name, value));
    let without = |name| signer.token(&mock.claims_without(name));
    for (what, token) in [
        ("another audience", with("aud", json!("another"))),
        ("other audiences", with("aud", json!(["a", "b"]))),
        ("no audience", without("aud")),
        ("another issuer", with("iss", json!("http://127.0.0.1:1"))),
        ("no issuer", without("iss")),
        ("no end", without("exp")),
        ("an end in words", with("exp", json!("tomorrow"))),
        ("no subject", without("sub")),
        ("an empty subject", with("sub", json!(""))),
        ("a beginning to come", with("nbf", json!(NOW_S + 31))),
    ] {
        let refused = issuers.identify(&token, at(BEGINNING)).await;
        assert_eq!(refused, Err(Refused::Wrong), "{what}");
    }
    let over = with("exp", json!(NOW_S - 31));
    let refused = issuers.identify(&over, at(BEGINNING)).await;
    assert_eq!(refused, Err(Refused::Expired));
}

#[tokio::test]
async fn a_flood_of_unknown_keys_costs_one_fetch_at_a_time() {
    let signer = Signer::new("one");
    let mock = Mock::start(&[&signer]).await;
    let issuers = mock.issuers();
    let flood = async |now: Duration| {
        let tokens: Vec<String> = (0..200)
            .map(|kid| json!({"alg": "ES256", "kid": format!("no-{kid}-{now:?}")}))
            .map(|header| signer.sign(&header, &mock.claims()))
            .collect();
        let refused = join_all(tokens.iter().map(|token| issuers.identify(token, at(now)))).await;
        assert!(
            refused
                .iter()
                .all(|refused| *refused == Err(Refused::Wrong))
        );
    };
    flood(BEGINNING).await;
    assert_eq!(mock.fetches(), 1);
    flood(KEYS_RETRY / 2).await;
    assert_eq!(mock.fetches(), 1);
    flood(KEYS_RETRY).await;
    assert_eq!(mock.fetches(), 2);
    // Those whose key is known do not wait for any of it.
    let good = signer.token(&mock.claims());
    assert!(issuers.identify(&good, at(KEYS_RETRY)).await.is_ok());
    assert_eq!(mock.fetches(), 2);
}

#[tokio::test]
async fn keys_come_and_go() {
    let (old, new) = (Signer::new("old"), Signer::new("new"));
    let mock = Mock::start(&[&old]).await;
    let issuers = mock.issuers();
    let of_old = old.token(&mock.claims());
    assert!(issuers.identify(&of_old, at(BEGINNING)).await.is_ok());
    mock.publish(&[&new]);
    let of_new = new.token(&mock.claims());
    assert!(issuers.identify(&of_new, at(KEYS_RETRY)).await.is_ok());
    // The old one is remembered for a minute, and then is no key any more.
    assert!(issuers.identify(&of_old, at(KEYS_RETRY)).await.is_ok());
    let later = KEYS_RETRY + TOKEN_REMEMBERED;
    assert_eq!(
        issuers.identify(&of_old, at(later)).await,
        Err(Refused::Wrong)
    );
}

#[tokio::test]
async fn an_issuer_that_is_away_takes_nobodys_role_for_a_day() {
    let signer = Signer::new("one");
    let mock = Mock::start(&[&signer]).await;
    let issuers = mock.issuers();
    mock.shared.away.store(true, Ordering::SeqCst);
    let mut claims = mock.claims();
    claims["exp"] = json!(NOW_S + 1_000_000);
    let token = signer.token(&claims);
    assert_eq!(
        issuers.identify(&token, at(BEGINNING)).await,
        Err(Refused::Away)
    );
    mock.shared.away.store(false, Ordering::SeqCst);
    assert!(issuers.identify(&token, at(KEYS_RETRY)).await.is_ok());
    mock.shared.away.store(true, Ordering::SeqCst);
    for after in [KEYS_FRESH * 2, KEYS_STALE - Duration::from_secs(1)] {
        assert!(
            issuers
                .identify(&token, at(KEYS_RETRY + after))
                .await
                .is_ok()
        );
    }
    let stale = KEYS_RETRY + KEYS_STALE + TOKEN_REMEMBERED;
    assert_eq!(
        issuers.identify(&token, at(stale)).await,
        Err(Refused::Away)
    );
}

#[tokio::test]
async fn hostile_documents_are_no_keys() {
    let signer = Signer::new("one");
    let with = |name: &str, value: Value| {
        let mut jwk = signer.jwk();
        jwk[name] = value;
        json!({ "keys": [jwk] })
    };
    let many = json!({"keys": vec![signer.jwk(); 65]});
    let long = json!({"keys": [signer.jwk()], "x": "x".repeat(600 << 10)});
    let secret = json!({"keys": [{"kty": "oct", "kid": "one", "k": "AAAA"}]});
    for (what, document, refused) in [
        ("many", many, Refused::Away),
        ("long", long, Refused::Away),
        ("no list", json!({"keys": {}}), Refused::Away),
        ("none", json!({"keys": []}), Refused::Wrong),
        ("a secret", secret, Refused::Wrong),
        ("for encryption", with("use", json!("enc")), Refused::Wrong),
        (
            "another algorithm",
            with("alg", json!("ES384")),
            Refused::Wrong,
        ),
        (
            "an unknown algorithm",
            with("alg", json!("XX")),
            Refused::Wrong,
        ),
        ("no point", with("x", json!("AAAA")), Refused::Wrong),
        (
            "two of a name",
            json!({"keys": [signer.jwk(), signer.jwk()]}),
            Refused::Wrong,
        ),
        (
            "nonsense",
            json!({"keys": [1, null, {}, {"kty": 7}]}),
            Refused::Wrong,
        ),
    ] {
        let mock = Mock::start(&[]).await;
        mock.say_keys(&document);
        let token = signer.token(&mock.claims());
        let found = mock.issuers().identify(&token, at(BEGINNING)).await;
        assert_eq!(found, Err(refused), "{what}");
    }
    for discovery in [
        json!({"issuer": "https://another.example", "jwks_uri": "https://another.example/keys"}),
        json!({"jwks_uri": "x"}),
        json!("no object"),
    ] {
        let mock = Mock::start(&[&signer]).await;
        *mock.shared.discovery.lock().unwrap() = discovery.to_string();
        let token = signer.token(&mock.claims());
        let found = mock.issuers().identify(&token, at(BEGINNING)).await;
        assert_eq!(found, Err(Refused::Away), "{discovery}");
        assert_eq!(mock.fetches(), 0);
    }
    // Keys that anyone on the way could change.
    let mock = Mock::start(&[&signer]).await;
    let plain = json!({"issuer": mock.url, "jwks_uri": "http://keys.example/keys"});
    *mock.shared.discovery.lock().unwrap() = plain.to_string();
    let token = signer.token(&mock.claims());
    let found = mock.issuers().identify(&token, at(BEGINNING)).await;
    assert_eq!(found, Err(Refused::Away));
}

#[test]
fn a_subject_is_a_name_or_its_digest() {
    assert_eq!(&*person_id("i", "alice@example.org"), "i:alice@example.org");
    for subject in ["a b", "ä", "x\n", &"x".repeat(200)] {
        let id = person_id("i", subject);
        assert!(id.starts_with("i:sha256-") && id.len() == 41, "{id}");
    }
}
