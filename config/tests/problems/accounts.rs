//! Problems of who may ask: tenants, keys, allocations, rates, issuers and claims.

use super::{check, problems};

/// A file in which little of tenants, keys and allocations fits together.
fn ill_fitting() -> String {
    let digest = "0".repeat(64);
    format!(
        "\
[[model]]
id = \"m\"
[[tenant]]
id = \"a/b/c\"
[[tenant]]
id = \"none/project\"
[[tenant]]
id = \"acme\"
countries = \"DE\"
[[tenant]]
id = \"acme\"
[[key]]
id = \"k\"
tenant = \"nobody\"
sha256 = \"hk-secret\"
expires = \"tomorrow\"
role = \"boss\"
[[key]]
id = \"l\"
tenant = \"acme\"
sha256 = \"{digest}\"
[[key]]
id = \"m\"
tenant = \"acme\"
sha256 = \"{digest}\"
[[allocation]]
id = \"a\"
tenant = \"acme\"
amount = -1
start = 2027-01-01
end = 2026-01-01
[[rate]]
requests_per_minute = 5
"
    )
}

#[test]
fn tenants_keys_and_allocations_must_fit_together() {
    let text = ill_fitting();
    check(
        &text,
        &[
            (4, 6, "tenant[0].id", "is neither", "organisation/project"),
            (6, 6, "tenant[1].id", "has no section", "add [[tenant]]"),
            (9, 13, "tenant[2].countries", "needs an array", "brackets"),
            (11, 6, "tenant[3].id", "that of tenant[2]", "of its own"),
            (
                14,
                10,
                "key[0].tenant",
                "no tenant \"nobody\"",
                "add [[tenant]]",
            ),
            (
                15,
                10,
                "key[0].sha256",
                "no SHA-256",
                "never the key itself",
            ),
            (16, 11, "key[0].expires", "a date", "without quotes"),
            (17, 8, "key[0].role", "boss", "member"),
            (25, 10, "key[2].sha256", "that of key[1]", "of its own"),
            (29, 10, "allocation[0].amount", "out of range", "units"),
            (
                31,
                7,
                "allocation[0].end",
                "not after its start",
                "after it starts",
            ),
            (32, 1, "rate[0]", "neither or both", "a model or a site"),
        ],
    );
    assert!(!problems(&text).to_string().contains("hk-secret"));
}

#[test]
fn issuers_and_claims_are_refused_with_what_would_do() {
    let text = "[[model]]\nid = \"m\"\n\
        [[issuer]]\nid = \"a\"\nurl = \"http://id.example\"\naudiences = []\nalgorithms = [\"HS256\"]\n\
        [[claim]]\nissuer = \"b\"\nclaim = \"groups\"\nvalue = \"x\"\ntenant = \"acme\"\n";
    check(
        text,
        &[
            (5, 7, "issuer[0].url", "not encrypted", "https"),
            (6, 13, "issuer[0].audiences", "empty", "aud"),
            (7, 14, "issuer[0].algorithms", "HS256", "RS256"),
            (9, 10, "claim[0].issuer", "no issuer", "[[issuer]]"),
        ],
    );
    for here in [
        "http://localhost:1",
        "http://127.0.0.1:9",
        "http://[::1]:9/x",
    ] {
        let text = text.replace("http://id.example", here);
        let problems = problems(&text);
        let of_url = problems.list().iter().find(|p| p.path.ends_with(".url"));
        assert_eq!(of_url, None, "{here}");
    }
}
