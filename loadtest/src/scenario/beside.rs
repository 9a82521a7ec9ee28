//! What goes on beside the load: `[metrics]` of the server, and `[probe_requests]` that feel the load.

use std::time::Duration;

use super::read::Section;
use crate::drive::target::Target;
use crate::limits::MAX_PROBE_RATE;
use crate::scrape;

/// `[metrics]`.
pub(super) fn metrics(root: &Section<'_, '_>) -> Option<scrape::Plan> {
    let section = root.section("metrics");
    let (url, every) = (section.text("url"), section.duration("every"));
    if section.is_given() && !section.peek("url") {
        section.fault("needs the url of a metrics page");
    }
    let target = url.and_then(|url| {
        Target::page(&url)
            .map_err(|error| section.fault_of("url", error))
            .ok()
    });
    section.finish();
    Some(scrape::Plan {
        target: target?,
        every: every.unwrap_or(Duration::from_secs(1)),
    })
}

/// `[probe_requests]`: how many per second.
pub(super) fn probe_rate(root: &Section<'_, '_>) -> Option<f64> {
    let section = root.section("probe_requests");
    let rate = section.number("rate", 0.001..=MAX_PROBE_RATE);
    if section.is_given() && !section.peek("rate") {
        section.fault("needs a rate");
    }
    section.finish();
    rate
}
