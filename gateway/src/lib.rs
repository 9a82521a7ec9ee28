//! Requests of Hansa: HTTP, OpenAI, tenants, quota, routing, upstreams.
#![forbid(unsafe_code)]

pub mod admin;
pub mod agent;
pub mod cli;
pub mod clock;
mod collect;
mod connection;
pub mod drain;
pub mod energy;
pub mod fairness;
pub mod federation;
pub mod fleet;
pub mod health;
pub mod layers;
pub mod limits;
pub mod listener;
mod map;
pub mod openai;
mod preface;
pub mod quota;
pub mod route;
pub mod serve;
pub mod signals;
mod socket;
pub mod stack;
pub mod start;
pub mod telemetry;
pub mod tenant;
pub mod tls;
mod unread;
pub mod upstream;
pub mod walltime;
