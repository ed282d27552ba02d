//! Values of capability arguments.

/// A limit as the capability `bandwidth` states it (CONVENTIONS.md, "bandwidth").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    /// Bits per second.
    pub rate: u64,
    /// Bits that may pass at once.
    pub burst: u64,
}
