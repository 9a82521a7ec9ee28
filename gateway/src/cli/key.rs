//! `hansa key`: makes keys for a config, and manages those of a running server through its admin API.

use std::fmt::Write as _;
use std::net::SocketAddr;

use bytes::Bytes;
use clap::{Args, Subcommand, ValueEnum};
use http::{Method, Request, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::runtime::Builder;

use super::{Failure, print_line};
use crate::limits::{ADMIN_ANSWER_BYTES_MAX, ADMIN_ANSWER_TIME_MAX};
use crate::tenant::secret::Secret;

/// What to do with keys.
#[derive(Debug, Subcommand)]
pub(super) enum KeyCommand {
    /// Make a key and show it, once. Without --admin: with its section for a config file
    New(NewArgs),
    /// List the keys of a running server, without their secrets
    List(AdminArgs),
    /// Take a key of a running server back; it stops working at once
    Revoke {
        /// Its id
        id: String,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Make a key with the same rights and let the old one end after a while
    Rotate {
        /// Id of the old one
        id: String,
        /// Seconds for which both work
        #[arg(long, default_value_t = crate::limits::KEY_OVERLAP_S)]
        overlap_s: u32,
        #[command(flatten)]
        admin: AdminArgs,
    },
}

/// What the new key is.
#[derive(Debug, Args)]
pub(super) struct NewArgs {
    /// Its name in records and messages
    #[arg(long)]
    id: String,
    /// Whose it is: `organisation` or `organisation/project`
    #[arg(long)]
    tenant: String,
    /// What it may do
    #[arg(long, value_enum, default_value_t = RoleArg::Member)]
    role: RoleArg,
    /// Address of a running server's admin listener, to which the key is added. HANSA_ADMIN_KEY holds an operator's key
    #[arg(long, value_name = "ADDR")]
    admin: Option<SocketAddr>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum RoleArg {
    /// Use models
    Member,
    /// And read its tenant's records
    Manager,
    /// And use the admin API
    Operator,
}

impl RoleArg {
    const fn name(self) -> &'static str {
        match self {
            Self::Member => "member",
            Self::Manager => "manager",
            Self::Operator => "operator",
        }
    }
}

/// Which server. HANSA_ADMIN_KEY holds an operator's key.
#[derive(Debug, Args)]
pub(super) struct AdminArgs {
    /// Address of its admin listener
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9900")]
    admin: SocketAddr,
}

/// Does what the user asked for.
pub(super) fn run(command: KeyCommand) -> Result<(), Failure> {
    match command {
        KeyCommand::New(args) => new(&args),
        KeyCommand::List(AdminArgs { admin }) => {
            let keys = call(admin, Method::GET, "/admin/v1/keys", None)?;
            let keys = keys["data"].as_array().cloned().unwrap_or_default();
            keys.iter().try_for_each(|key| print_line(&line(key)))
        }
        KeyCommand::Revoke { id, admin } => {
            let path = format!("/admin/v1/keys/{}/revoke", escaped(&id));
            let key = call(admin.admin, Method::POST, &path, Some(&json!({})))?;
            print_line(&line(&key))
        }
        KeyCommand::Rotate {
            id,
            overlap_s,
            admin,
        } => {
            let path = format!("/admin/v1/keys/{}/rotate", escaped(&id));
            let body = json!({ "overlap_s": overlap_s });
            show(&call(admin.admin, Method::POST, &path, Some(&body))?)
        }
    }
}

fn new(args: &NewArgs) -> Result<(), Failure> {
    let role = args.role.name();
    if let Some(admin) = args.admin {
        let body = json!({"id": args.id, "tenant": args.tenant, "role": role});
        return show(&call(admin, Method::POST, "/admin/v1/keys", Some(&body))?);
    }
    let secret = Secret::new();
    let mut text = format!("{}\n\n", secret.reveal());
    text.push_str(
        "# The line above is the key; it is not shown again. For the config file:\n[[key]]\n",
    );
    for (name, value) in [
        ("id", args.id.as_str()),
        ("tenant", &args.tenant),
        ("sha256", &secret.digest().to_string()),
        ("role", role),
    ] {
        // Quoted as in Rust: a subset of what TOML reads.
        let _ = writeln!(text, "{name} = {value:?}");
    }
    print_line(text.trim_end())
}

/// The new key, and what it is.
fn show(key: &Value) -> Result<(), Failure> {
    let secret = key["key"].as_str().unwrap_or_default();
    print_line(&format!(
        "{secret}\n\n# The line above is the key; it is not shown again.\n{}",
        line(key)
    ))
}

fn line(key: &Value) -> String {
    let text = |name: &str| key[name].as_str().unwrap_or_default().to_owned();
    let state = match (key["revoked"].as_bool(), key["expires_s"].as_i64()) {
        (Some(true), _) => "revoked".to_owned(),
        (_, Some(end_s)) => format!("until {end_s} (seconds since 1970)"),
        (_, None) => "valid".to_owned(),
    };
    format!(
        "{}  {}  {}  {state}",
        text("id"),
        text("tenant"),
        text("role")
    )
}

/// An id as part of a path.
fn escaped(id: &str) -> String {
    let mut path = String::new();
    for byte in id.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            path.push(byte.into());
        } else {
            let _ = write!(path, "%{byte:02X}");
        }
    }
    path
}

/// Asks the admin API and gives its answer's body.
fn call(
    admin: SocketAddr,
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> Result<Value, Failure> {
    let key = std::env::var("HANSA_ADMIN_KEY")
        .map_err(|_| Failure::usage("HANSA_ADMIN_KEY must hold the key of an operator"))?;
    let body = body.map_or_else(Bytes::new, |body| body.to_string().into());
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, admin.to_string())
        .header(header::AUTHORIZATION, format!("Bearer {key}"))
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(body))
        .map_err(|_| Failure::usage("HANSA_ADMIN_KEY is no key"))?;
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(Failure::failed)?;
    // Inside the runtime, which the timer needs.
    let asked = async { tokio::time::timeout(ADMIN_ANSWER_TIME_MAX, ask(admin, request)).await };
    let asked = runtime.block_on(asked);
    let unreachable = |why: &dyn std::fmt::Display| {
        Failure::failed(format!("the admin listener {admin} does not answer: {why}"))
    };
    match asked {
        Ok(Ok((true, answer))) => Ok(answer),
        Ok(Ok((false, answer))) => {
            let message = answer["error"]["message"].as_str();
            Err(Failure::failed(
                message.unwrap_or("refused without a reason"),
            ))
        }
        Ok(Err(error)) => Err(unreachable(&error)),
        Err(_) => Err(unreachable(&"it takes too long")),
    }
}

/// One request on one connection: whether it went well, and what came back.
async fn ask(
    admin: SocketAddr,
    request: Request<Full<Bytes>>,
) -> Result<(bool, Value), Box<dyn std::error::Error + Send + Sync>> {
    let stream = TcpStream::connect(admin).await?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let exchange = async move {
        // Dropped when the answer is here, which ends the connection.
        let mut sender = sender;
        let response = sender.send_request(request).await?;
        let well = response.status().is_success();
        let body = Limited::new(response.into_body(), ADMIN_ANSWER_BYTES_MAX);
        let body = body.collect().await?.to_bytes();
        Ok((well, serde_json::from_slice(&body).unwrap_or_default()))
    };
    // A connection that breaks fails the exchange as well, which says why.
    let (answered, _) = futures::join!(exchange, connection);
    answered
}
