//! One connection to the store: made, migrated, and what it is told by the server unasked.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::time::Duration;

use futures::future::BoxFuture;
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::types::Type;
use tokio_postgres::{AsyncMessage, Client, Config, Connection, Error, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_util::task::TaskTracker;

use crate::limits::{STORE_ANSWER_MAX, STORE_NOTES_MAX};
use crate::quota::ledger::LedgerError;

/// Migrations in their order; the schema's version is how many of them were made.
const MIGRATIONS: [&str; 2] = [
    include_str!("migration_1.sql"),
    include_str!("migration_2.sql"),
];

/// Somebody changed what operators set.
pub(super) const SETTING: &str = "hansa_setting";
/// A gateway needs what others have on lease; its id comes with it.
pub(super) const LEASE: &str = "hansa_lease";

/// The protocol's name in TLS (RFC 7301); later servers refuse others.
const ALPN: &[u8] = b"postgresql";

/// Serialises migrations of gateways that start at once: any number that others do not use.
const MIGRATION_LOCK: i64 = 0x0068_616e_7361;

/// Where the store is.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) config: Config,
    pub(super) tls: ClientConfig,
    /// For messages: without user and password.
    pub(super) name: String,
}

impl fmt::Debug for Place {
    /// Its name alone: the rest holds a password and keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Place").field(&self.name).finish()
    }
}

/// A connection.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) client: Client,
    /// What the server says unasked; closed with the connection.
    pub(super) notes: mpsc::Receiver<Note>,
}

/// What the server says unasked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) channel: String,
    pub(super) payload: String,
}

impl Place {
    /// What `url` names.
    pub(super) fn parse(url: &str, tls: &ClientConfig) -> Result<Self, LedgerError> {
        let parsed: Result<Config, Error> = url.parse();
        // The text of the error may repeat the password.
        let mut config = parsed.map_err(|_| LedgerError::Url)?;
        let hosts = config.get_hosts().iter().map(|host| match host {
            Host::Tcp(host) => host.clone(),
            Host::Unix(path) => path.display().to_string(),
        });
        let hosts: Vec<String> = hosts.collect();
        if hosts.is_empty() {
            return Err(LedgerError::Url);
        }
        let is_local = config
            .get_hosts()
            .iter()
            .all(|host| matches!(host, Host::Unix(_)));
        config.ssl_mode(match config.get_ssl_mode() {
            // A socket of this machine has none; everywhere else plain text must be asked for.
            _ if is_local => SslMode::Disable,
            SslMode::Prefer => SslMode::Require,
            asked => asked,
        });
        let database = config
            .get_dbname()
            .or(config.get_user())
            .unwrap_or_default();
        let name = format!("PostgreSQL database '{database}' at {}", hosts.join(", "));
        config
            .application_name("hansa")
            .connect_timeout(STORE_ANSWER_MAX)
            .tcp_user_timeout(STORE_ANSWER_MAX)
            .keepalives_idle(STORE_ANSWER_MAX);
        let mut tls = tls.clone();
        tls.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Self { config, tls, name })
    }

    /// Connects; what carries the connection runs in `tasks`.
    pub(super) async fn connect(&self, tasks: &TaskTracker) -> Result<Session, StoreError> {
        let (send, notes) = mpsc::channel(STORE_NOTES_MAX);
        let tls = MakeRustlsConnect::new(self.tls.clone());
        let connecting = async {
            if self.config.get_ssl_mode() == SslMode::Disable {
                let (client, connection) = self.config.connect(NoTls).await?;
                tasks.spawn(drive(connection, send));
                Ok(client)
            } else {
                let (client, connection) = self.config.connect(tls).await?;
                tasks.spawn(drive(connection, send));
                Ok(client)
            }
        };
        let client = within(STORE_ANSWER_MAX, connecting).await?;
        // A transaction of a gateway that was cut off must not keep the others waiting; and settled means on the disk.
        let set = "SET idle_in_transaction_session_timeout = '3s'; SET lock_timeout = '1500ms'; \
                   SELECT set_config('synchronous_commit', 'on', false) \
                   WHERE current_setting('synchronous_commit') = 'off'";
        within(STORE_ANSWER_MAX, client.batch_execute(set)).await?;
        Ok(Session { client, notes })
    }
}

impl Session {
    /// Brings the schema up to date, and listens. The version of a later program is refused.
    pub(super) async fn prepare(&mut self, place: &Place) -> Result<(), StoreError> {
        let preparing = async {
            let transaction = self.client.transaction().await?;
            let lock = "SELECT pg_advisory_xact_lock($1)";
            transaction
                .query_typed(lock, &[(&MIGRATION_LOCK, Type::INT8)])
                .await?;
            let found = transaction
                .query_typed("SELECT to_regclass('hansa.schema') IS NOT NULL", &[])
                .await?;
            let is_there = found.first().is_some_and(|row| row.get(0));
            let version: i64 = match is_there {
                true => {
                    let rows = transaction.query_typed("SELECT version FROM hansa.schema", &[]);
                    rows.await?.first().map_or(0, |row| row.get(0))
                }
                false => 0,
            };
            let made = usize::try_from(version).unwrap_or(0);
            if made > MIGRATIONS.len() {
                return Ok(Some(version));
            }
            if made < MIGRATIONS.len() {
                if !is_there {
                    let first = "CREATE SCHEMA IF NOT EXISTS hansa; \
                                 CREATE TABLE hansa.schema (version bigint NOT NULL); \
                                 INSERT INTO hansa.schema VALUES (0)";
                    transaction.batch_execute(first).await?;
                }
                for migration in &MIGRATIONS[made..] {
                    transaction.batch_execute(migration).await?;
                }
                let now = format!("UPDATE hansa.schema SET version = {}", MIGRATIONS.len());
                transaction.batch_execute(&now).await?;
            }
            transaction.commit().await?;
            let listen = format!("LISTEN {SETTING}; LISTEN {LEASE}");
            self.client.batch_execute(&listen).await?;
            Ok(None)
        };
        match within(STORE_ANSWER_MAX * 5, preparing).await? {
            None => Ok(()),
            Some(found) => Err(StoreError::Refused(LedgerError::Newer {
                file: place.name.clone(),
                found: found.unsigned_abs(),
                known: MIGRATIONS.len() as u64,
            })),
        }
    }
}

/// Why the store did not do what it was asked. Whether it did it all the same is not known.
#[derive(Debug, thiserror::Error)]
pub(super) enum StoreError {
    /// It says so.
    #[error("{}", words(.0))]
    Said(#[from] Error),
    /// It says nothing.
    #[error("no answer within {} s", STORE_ANSWER_MAX.as_secs())]
    Silent,
    /// The connection has ended.
    #[error("the connection has ended")]
    Ended,
    /// It must not be used at all.
    #[error(transparent)]
    Refused(#[from] LedgerError),
}

/// The server's words where it has some, with the kind of the trouble where it has none, and the way out where that is known.
fn words(error: &Error) -> String {
    use std::error::Error as _;
    match (error.as_db_error(), error.source()) {
        (Some(said), _) => format!("{} ({})", said.message(), said.code().code()),
        (None, Some(source)) => format!("{error}: {source}{}", way_out(source)),
        (None, None) => error.to_string(),
    }
}

/// What to do about a line that TLS does not come about on.
fn way_out(source: &(dyn std::error::Error + 'static)) -> &'static str {
    let inner = source
        .downcast_ref::<io::Error>()
        .and_then(io::Error::get_ref);
    match inner.and_then(|inner| inner.downcast_ref()) {
        Some(rustls::Error::InvalidCertificate(_)) => {
            " (quota.store_ca must name the authority that signed its certificate, and quota.store the host that it is for)"
        }
        _ if source.to_string() == NO_TLS => {
            " (add ?sslmode=disable to quota.store only where nobody can listen on the way)"
        }
        _ => "",
    }
}

/// What the driver says of a server without TLS; it has no type for that.
const NO_TLS: &str = "server does not support TLS";

/// What `work` comes to, or silence.
pub(super) async fn within<T>(
    time: Duration,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, StoreError> {
    let done = timeout(time, work).await.map_err(|_| StoreError::Silent)?;
    Ok(done?)
}

/// Carries a connection until it ends.
fn drive<S, T>(
    mut connection: Connection<S, T>,
    notes: mpsc::Sender<Note>,
) -> BoxFuture<'static, ()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    Box::pin(async move {
        while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
            if let AsyncMessage::Notification(note) = message {
                let (channel, payload) = (note.channel().to_owned(), note.payload().to_owned());
                // A note that finds no room is no loss: rounds come round by themselves.
                let _ = notes.try_send(Note { channel, payload });
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_must_be_asked_for_and_no_password_is_shown() {
        let tls = crate::tls::trusting(None).unwrap();
        let mode = |url: &str| Place::parse(url, &tls).map(|place| place.config.get_ssl_mode());
        assert_eq!(mode("postgres://u:p@db/x"), Ok(SslMode::Require));
        assert_eq!(
            mode("postgres://u:p@db/x?sslmode=disable"),
            Ok(SslMode::Disable)
        );
        assert_eq!(mode("postgres://u@%2Frun%2Fpg/x"), Ok(SslMode::Disable));
        assert_eq!(mode("http://u:p@db/x"), Err(LedgerError::Url));
        let place = Place::parse("postgres://u:secret@db.example:6432/x", &tls).unwrap();
        assert_eq!(place.name, "PostgreSQL database 'x' at db.example");
        assert!(!format!("{place:?}").contains("secret"));
    }
}
