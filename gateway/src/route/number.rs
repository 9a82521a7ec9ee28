//! Which of two numbers is larger, in one instruction.
//!
//! `f64::max` and `f64::min` take five to be right for numbers that are none, and a decision asks some twenty times of every
//! candidate.

/// The larger of two, the second one where either is no number.
#[inline]
pub(super) fn larger(one: f64, other: f64) -> f64 {
    if one > other { one } else { other }
}

/// The smaller of two, the second one where either is no number.
#[inline]
pub(super) fn smaller(one: f64, other: f64) -> f64 {
    if one < other { one } else { other }
}
