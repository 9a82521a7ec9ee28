//! THE layer order: what a request passes through, outermost first, and why each layer stands where it does.

use std::sync::Arc;

/// Id of a request, ours or the client's: in its log line, in `x-request-id`, and in its extensions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestId(pub Arc<str>);
