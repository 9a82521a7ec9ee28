//! What headers ask of a request's way, and what they tell of it.

use std::sync::Arc;

use http::{Request, StatusCode};

use super::{CHAT, Server, error, hello, with};
use crate::fairness::Class;
use crate::route::residency::{Purpose, Rules, allow_list};
use crate::upstream::Wishes;

async fn asked(headers: &[(&str, &str)], rules: Option<Rules>) -> Arc<Wishes> {
    let server = Server::saying(hello());
    let mut request = Request::post(CHAT).header("content-type", "application/json");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    if let Some(rules) = rules {
        request = request.extension(rules);
    }
    let body = with(r#""prompt_cache_key":"chat-7""#);
    let response = server.send(request.body(body.into()).unwrap()).await;
    assert_eq!(response.status(), StatusCode::OK);
    Arc::clone(&server.asked()[0].wishes)
}

#[tokio::test]
async fn a_client_chooses_what_is_its_own() {
    let plain = asked(&[], None).await;
    let session = Some("chat-7".into());
    assert_eq!(
        *plain,
        Wishes {
            session,
            ..Wishes::default()
        }
    );
    let all = [
        ("x-hansa-purpose", "pilot"),
        ("x-hansa-experimental", "on"),
        ("x-hansa-resume", "off"),
        ("x-hansa-class", "batch"),
    ];
    let chosen = asked(&all, None).await;
    assert_eq!(chosen.class, Class::Batch);
    assert_eq!(chosen.rules.purpose, Some(Purpose::Pilot));
    assert!(chosen.rules.experimental && !chosen.resume);
}

#[tokio::test]
async fn its_tenant_says_where_it_may_go() {
    let rules = Rules {
        sites: allow_list(&["lumi".to_owned()]),
        purpose: Some(Purpose::Research),
        ..Rules::default()
    };
    // What the tenant may not have is not the client's to choose.
    for switch in ["off", "on"] {
        let asked = asked(&[("x-hansa-experimental", switch)], Some(rules.clone())).await;
        assert_eq!(asked.rules, rules);
    }
    for (headers, experimental) in [(&[][..], true), (&[("x-hansa-experimental", "off")], false)] {
        let rules = Rules {
            experimental: true,
            ..rules.clone()
        };
        let asked = asked(headers, Some(rules)).await;
        assert_eq!(asked.rules.experimental, experimental);
    }
}

#[tokio::test]
async fn a_wish_that_is_not_understood_is_refused() {
    let server = Server::saying(hello());
    for (name, value) in [
        ("x-hansa-purpose", "profit"),
        ("x-hansa-experimental", "true"),
        ("x-hansa-resume", "no"),
        ("x-hansa-class", "urgent"),
    ] {
        let request = Request::post(CHAT)
            .header("content-type", "application/json")
            .header(name, value);
        let request = request.body(with(r#""n":1"#).into()).unwrap();
        let (status, _, param) = error(server.send(request).await).await;
        assert_eq!(
            (status, param.as_deref()),
            (StatusCode::BAD_REQUEST, Some(name))
        );
    }
    assert!(server.asked().is_empty());
}
