//! The layers that [`crate::stack`] puts in order, one concept a file. None knows which others there are.

pub mod authenticate;
pub mod body;
pub mod fence;
pub mod gate;
pub mod host;
pub mod observe;
pub mod peer;
pub mod request_id;
