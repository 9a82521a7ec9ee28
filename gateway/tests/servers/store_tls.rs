//! The line to a PostgreSQL that speaks TLS: whose certificate is believed, and what is said where none is.

use hansa_gateway::clock::Clock;
use hansa_gateway::quota::ledger::{Ledger as _, LedgerError};
use hansa_gateway::quota::store::postgres::PostgresLedger;
use hansa_gateway::tls;

use crate::harness::PATIENCE;
use crate::postgres::Postgres;
use crate::tls::pem;

/// Opens the store at `url`, whose certificate the authority `ca` must have signed, or a public one.
async fn open(url: String, ca: Option<&'static str>) -> Result<PostgresLedger, String> {
    let opening = tokio::task::spawn_blocking(move || {
        let tls = tls::trusting(ca.and_then(pem).as_ref()).unwrap();
        PostgresLedger::open(&url, &tls, PATIENCE, Clock::system())
    });
    let opened = opening.await.unwrap();
    opened.map_err(|error| {
        assert!(matches!(error, LedgerError::Away { .. }), "{error}");
        error.to_string()
    })
}

#[tokio::test]
async fn a_store_is_spoken_to_over_tls_and_only_where_it_proves_who_it_is() {
    let store = Postgres::start_with_tls();
    for host in ["localhost", "127.0.0.1"] {
        let ledger = open(store.url_at(host), Some("ca.pem")).await.unwrap();
        assert_eq!(
            ledger.records(None, 1),
            Ok(Vec::new()),
            "on a line of its own"
        );
        let lines = "SELECT bool_and(ssl), count(*) > 0 FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
                     WHERE application_name = 'hansa'";
        assert_eq!(store.query(lines), "t|t");
    }
    let refused = async |url: String, ca| open(url, ca).await.err().unwrap();
    let nobodys = refused(store.url_at("localhost"), None).await;
    let others = refused(store.url_at("localhost"), Some("other.pem")).await;
    // The certificate is that of other names.
    let misnamed = refused(store.url_at("127.0.0.2"), Some("ca.pem")).await;
    for (error, why) in [
        (nobodys, "UnknownIssuer"),
        (others, "UnknownIssuer"),
        (misnamed, "not valid for name"),
    ] {
        assert!(error.contains(why), "{error}");
        assert!(error.contains("quota.store_ca"), "{error}");
    }
    let plain = format!("{}?sslmode=disable", store.url_at("localhost"));
    let plain = refused(plain, Some("ca.pem")).await;
    assert!(plain.contains("no encryption"), "{plain}");
}

#[tokio::test]
async fn plain_text_is_never_spoken_to_a_store_that_has_no_tls_unless_it_is_asked_for() {
    let store = Postgres::start_at_a_port();
    let refused = open(store.url_at("localhost"), None).await.err().unwrap();
    assert!(refused.contains("does not support TLS"), "{refused}");
    assert!(refused.contains("sslmode=disable"), "{refused}");
    let asked = format!("{}?sslmode=disable", store.url_at("localhost"));
    assert!(open(asked, None).await.is_ok());
}
