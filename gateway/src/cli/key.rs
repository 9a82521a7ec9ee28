//! `hansa key`: makes keys for a config, and manages those of a running server through its admin API.

use std::fmt::Write as _;
use std::net::SocketAddr;

use clap::{Args, Subcommand, ValueEnum};
use http::Method;
use serde_json::{Value, json};

use super::admin::{AdminArgs, call, escaped};
use super::{Failure, print_line};
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

/// Does what the user asked for.
pub(super) fn run(command: KeyCommand) -> Result<(), Failure> {
    match command {
        KeyCommand::New(args) => new(&args),
        KeyCommand::List(admin) => {
            let keys = admin.list("/admin/v1/keys")?;
            keys.iter().try_for_each(|key| print_line(&line(key)))
        }
        KeyCommand::Revoke { id, admin } => {
            let path = format!("/admin/v1/keys/{}/revoke", escaped(&id));
            let key = admin.post(&path, &json!({}))?;
            print_line(&line(&key))
        }
        KeyCommand::Rotate {
            id,
            overlap_s,
            admin,
        } => {
            let path = format!("/admin/v1/keys/{}/rotate", escaped(&id));
            let body = json!({ "overlap_s": overlap_s });
            show(&admin.post(&path, &body)?)
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
