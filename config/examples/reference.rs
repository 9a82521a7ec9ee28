//! Prints the reference:
//! `cargo run -p hansa-config --example reference > config/examples/reference.toml`.

use std::io::Write;

fn main() -> std::io::Result<()> {
    std::io::stdout().write_all(hansa_config::generate::reference().as_bytes())
}
