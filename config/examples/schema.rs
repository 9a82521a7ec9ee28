//! Prints the JSON schema: `cargo run -p hansa-config --example schema > config/schema.json`.

use std::io::Write;

fn main() -> std::io::Result<()> {
    std::io::stdout().write_all(hansa_config::generate::json_schema().as_bytes())
}
