//! The files that ship with this crate say what the code does.
#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};

use hansa_config::schema::{Device, KvType, Origin, Runner, Sim};
use hansa_config::{Config, generate};

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn text(name: &str) -> String {
    std::fs::read_to_string(file(name)).expect(name)
}

#[test]
fn the_reference_is_the_server_without_a_config() {
    let reference = Config::load(&file("examples/reference.toml"))
        .unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(reference, Config::default());
}

#[test]
fn the_reference_is_as_generated() {
    let hint = "cargo run -p hansa-config --example reference > config/examples/reference.toml";
    assert!(
        text("examples/reference.toml") == generate::reference(),
        "out of date: {hint}"
    );
}

#[test]
fn the_json_schema_is_as_generated() {
    let hint = "cargo run -p hansa-config --example schema > config/schema.json";
    assert!(
        text("schema.json") == generate::json_schema(),
        "out of date: {hint}"
    );
}

/// Every key of the JSON schema that stands in a table, as (section, key, its schema).
fn schema_keys() -> Vec<(&'static str, String, serde_json::Value)> {
    let schema: serde_json::Value = serde_json::from_str(&text("schema.json")).expect("JSON");
    let top = &schema["properties"];
    let model = &top["model"]["items"]["properties"];
    let tables = [
        ("[server]", &top["server"]["properties"]),
        ("[admin]", &top["admin"]["properties"]),
        ("[limits]", &top["limits"]["properties"]),
        ("[route]", &top["route"]["properties"]),
        ("[[model]]", model),
        ("# [model.sim]", &model["sim"]["properties"]),
        ("[peer]", &top["peer"]["properties"]),
        ("# [[node]]", &top["node"]["items"]["properties"]),
        ("# [[site]]", &top["site"]["items"]["properties"]),
        ("# [[tenant]]", &top["tenant"]["items"]["properties"]),
        ("# [[key]]", &top["key"]["items"]["properties"]),
        (
            "# [[allocation]]",
            &top["allocation"]["items"]["properties"],
        ),
        ("# [[price]]", &top["price"]["items"]["properties"]),
        ("# [[rate]]", &top["rate"]["items"]["properties"]),
        ("[quota]", &top["quota"]["properties"]),
        ("[dial]", &top["dial"]["properties"]),
        ("[agent]", &top["agent"]["properties"]),
        ("# [[job]]", &top["job"]["items"]["properties"]),
        ("# [[issuer]]", &top["issuer"]["items"]["properties"]),
        ("# [[claim]]", &top["claim"]["items"]["properties"]),
        ("[energy]", &top["energy"]["properties"]),
    ];
    let keys = |(section, table): (&'static str, &serde_json::Value)| -> Vec<_> {
        let entries = table.as_object().expect(section);
        entries
            .iter()
            .map(|(key, schema)| (section, key.clone(), schema.clone()))
            .collect()
    };
    let all: Vec<_> = tables.into_iter().flat_map(keys).collect();
    all.into_iter().filter(|(_, key, _)| key != "sim").collect()
}

#[test]
fn every_key_stands_in_the_reference_with_a_description_and_bounds_in_the_schema() {
    let reference = text("examples/reference.toml");
    let keys = schema_keys();
    assert_eq!(
        keys.len(),
        106 + 18 + 14 + 11 + 5 + 8 + 7 + 3 + 6 + 12 + 6 + 5 + 9
    );
    for (section, key, schema) in keys {
        let (_, rest) = reference
            .split_once(&format!("\n{section}\n"))
            .expect(section);
        let here = rest.split("\n\n\n").next().unwrap_or_default();
        let stands = here.lines().any(|line| {
            line.trim_start_matches("# ")
                .starts_with(&format!("{key} = "))
        });
        assert!(stands, "{section} {key}");
        assert!(
            schema["description"]
                .as_str()
                .is_some_and(|text| text.ends_with('.')),
            "{key}"
        );
        let bounds = ["maximum", "maxLength", "maxItems", "enum", "anyOf"];
        let two_values = schema["type"] == "boolean";
        assert!(
            two_values || bounds.iter().any(|bound| !schema[*bound].is_null()),
            "{key}"
        );
    }
}

#[test]
fn commented_keys_of_the_reference_can_be_switched_on() {
    let reference = text("examples/reference.toml");
    let on = reference
        .replace("# source =", "source =")
        .replace("# context_max =", "context_max =")
        .replace("# default_max_tokens =", "default_max_tokens =")
        .replace("# threads =", "threads =");
    let config =
        Config::parse(&on, Path::new("on")).unwrap_or_else(|problems| panic!("{problems}"));
    let model = &config.models[0];
    assert_eq!(model.source, "hf:owner/repository/file.gguf");
    assert_eq!(
        (model.context_max, model.default_max_tokens, model.threads),
        (Some(2048), Some(512), Some(8))
    );

    let (_, sim) = reference
        .split_once("# [model.sim]\n")
        .expect("the section");
    let sim = sim.split("\n\n\n").next().unwrap_or_default();
    let keys: Vec<&str> = sim
        .lines()
        .filter_map(|line| line.strip_prefix("# "))
        .filter(|line| line.contains(" = "))
        .collect();
    let on = format!(
        "[[model]]\nid = \"s\"\nrunner = \"sim\"\n[model.sim]\n{}\n",
        keys.join("\n")
    );
    let config =
        Config::parse(&on, Path::new("on")).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!((keys.len(), config.models[0].sim), (5, Sim::default()));
}

#[test]
fn the_examples_of_nodes_and_sites_load_and_are_drawn() {
    let node = Config::load(&file("examples/node.toml")).unwrap_or_else(|p| panic!("{p}"));
    assert_eq!(node.models.len(), 1);
    assert!(node.peer.can_authenticate());
    let site = Config::load(&file("examples/site.toml")).unwrap_or_else(|p| panic!("{p}"));
    let text = site.describe(&Origin::File("site.toml".into()));
    for line in [
        "topology: federation gateway",
        "  |-- node node-1 (hansa, http://127.0.0.1:8081): sim",
        "  |-- node gpu (openai, http://127.0.0.1:8000, instances by dns): \
         qwen3-8b (there Qwen/Qwen3-8B)",
        "  `-- site lumi (hansa, https://lumi.example, FI, 40 ms away, experimental): sim",
    ] {
        assert!(
            text.lines().any(|drawn| drawn == line),
            "no {line} in\n{text}"
        );
    }
}

#[test]
fn the_example_of_a_federation_draws_all_factories() {
    let federation =
        Config::load(&file("examples/federation.toml")).unwrap_or_else(|p| panic!("{p}"));
    assert_eq!(federation.sites.len(), 19);
    // Data stays where the example says that it does.
    let listed = &federation.route.allow_countries;
    for site in &federation.sites {
        let country = site.country.as_ref().expect("a country");
        assert!(listed.contains(country), "{}", site.name);
        assert!(site.rtt_ms.is_some(), "{}", site.name);
    }
    let text = federation.describe(&Origin::File("federation.toml".into()));
    let first = "  |-- site lumi (hansa, https://lumi.example, FI, 31 ms away, experimental): \
                 llama-3.1-8b-instruct";
    let last = "  `-- site 1health (hansa, https://1health.example, ES, 24 ms away, experimental): \
                llama-3.1-8b-instruct";
    for line in ["topology: federation gateway", first, last] {
        assert!(
            text.lines().any(|drawn| drawn == line),
            "no {line} in\n{text}"
        );
    }
}

#[test]
fn the_sections_of_tenants_can_be_switched_on_as_they_stand() {
    let reference = text("examples/reference.toml");
    let (_, tenancy) = reference.split_once("# [[tenant]]\n").expect("the section");
    let (tenancy, _) = tenancy.split_once("\n[dial]\n").expect("the section");
    let on = tenancy.lines().map(|line| match line.strip_prefix("# ") {
        Some(key) if key.starts_with("[[") || key.contains(" = ") => key,
        _ => line,
    });
    let on = on.collect::<Vec<_>>().join("\n");
    let on = on
        .replacen("id = \"\"", "id = \"acme\"", 1)
        .replace("id = \"\"", "id = \"x\"")
        .replace("tenant = \"\"", "tenant = \"acme\"")
        .replace("model = \"\"", "model = \"m\"")
        .replace("issuer = \"\"", "issuer = \"x\"")
        .replace("claim = \"\"", "claim = \"groups\"")
        .replace("value = \"\"", "value = \"urn:example:project:research\"")
        // Records are kept in a file or in a store.
        .replace("\nstore = ", "\n# store = ")
        .replace("\nstore_ca = ", "\n# store_ca = ");
    let (before, rate) = on.split_once("[[rate]]").expect("the section");
    let rate = rate.replacen("site = ", "#", 1);
    let config = format!("[[model]]\nid = \"m\"\n[[tenant]]\n{before}[[rate]]\n{rate}");
    let config =
        Config::parse(&config, Path::new("on")).unwrap_or_else(|problems| panic!("{problems}"));
    let key = &config.keys[0];
    assert!(key.sha256.starts_with("e3b0c442"));
    assert_eq!(key.expires_s, Some(1_798_761_600));
    assert_eq!(config.tenants[0].countries, ["DE", "FI"]);
    assert_eq!(config.tenants[0].rates.concurrent_max, Some(64));
    assert_eq!(config.allocations[0].soft_percent, 80);
    assert_eq!(config.prices[0].cached, Some(25_000));
    assert_eq!(config.rates[0].rates.tokens_per_minute, Some(1_000_000));
    assert_eq!(config.issuers[0].algorithms, ["RS256", "ES256"]);
    assert_eq!(config.claims[0].value, "urn:example:project:research");
    assert_eq!(config.tenants[0].retention_days, Some(365));
    assert_eq!(
        config.quota.ledger.as_deref(),
        Some(Path::new("/var/lib/hansa/ledger.redb"))
    );
}

#[test]
fn the_simulated_example_loads() {
    let config =
        Config::load(&file("examples/sim.toml")).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(config.models[0].runner, Runner::Sim);
    assert_eq!(config.models[0].kv_bytes_max, Some(64 << 20));
}

#[test]
fn the_example_with_tenants_loads() {
    let config = Config::load(&file("examples/tenants.toml"))
        .unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!((config.tenants.len(), config.keys.len()), (2, 1));
    let text = config.describe(&Origin::Defaults);
    assert!(text.contains("(with keys)"), "{text}");
    assert!(
        text.contains("tenants: 2, keys: 1, allocations: 2"),
        "{text}"
    );
}

#[test]
fn values_arrive_where_they_belong() {
    let text = "\
admin.listen = \"none\"
[server]
listen = \"[::1]:0\"
connections_max = 1_000
[[model]]
id = \"owner/name-7b\"
source = \"/models/a.gguf\"
device = \"cuda:1\"
kv_type = \"f32\"
kv_bytes_max = 0x10000000
[[model]]
id = \"smollm2-135m-instruct\"
";
    let config =
        Config::parse(text, Path::new("f")).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(config.admin.listen, None);
    assert_eq!(config.server.listen.to_string(), "[::1]:0");
    assert_eq!(config.server.connections_max, 1_000);
    let model = &config.models[0];
    assert_eq!(
        (model.device, model.kv_type, model.kv_bytes_max),
        (Device::Cuda(1), KvType::F32, Some(256 << 20))
    );
    assert_eq!(
        (model.id.as_str(), model.source.as_str()),
        ("owner/name-7b", "/models/a.gguf")
    );
    // Without a source, the id is looked up in the catalogue.
    assert_eq!(config.models[1].source, "smollm2-135m-instruct");
}

#[test]
fn a_description_says_what_the_process_will_be() {
    let defaults = Config::default().describe(&Origin::Defaults);
    assert_eq!(
        defaults,
        "config: none (the defaults)\n\
         clients: http://127.0.0.1:8080, at most 4096 connections\n\
         operators: http://127.0.0.1:9900\n\
         models: 1\n  \
         smollm2-135m-instruct: candle on cpu, weights from smollm2-135m-instruct, \
         KV cache of 256MiB in f16; \
         64 sequences at once, 256 in line, the model's own context"
    );
    let open = "server.listen = \"0.0.0.0:0\"\nadmin.listen = \"none\"\n\
                [[model]]\nid = \"s\"\nrunner = \"sim\"\n";
    let config =
        Config::parse(open, Path::new("f")).unwrap_or_else(|problems| panic!("{problems}"));
    let text = config.describe(&Origin::File("f".into()));
    assert!(text.contains("config: f\n"), "{text}");
    assert!(
        text.contains("(any free port) (open to other machines, without keys)"),
        "{text}"
    );
    assert!(text.contains("operators: none\n"), "{text}");
    assert!(
        text.contains("s: simulated, KV cache of 256MiB; 64 sequences at once"),
        "{text}"
    );
}
