//! Requests of Hansa: HTTP, OpenAI, tenants, quota, routing, upstreams.
#![forbid(unsafe_code)]

pub mod clock;
pub mod limits;
pub mod openai;
pub mod stack;
pub mod upstream;
