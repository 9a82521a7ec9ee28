//! Every bound of this crate, each with its unit and reason.
