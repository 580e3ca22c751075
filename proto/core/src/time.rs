//! Time as a value. Nobody in this crate can ask what time it is.

/// Wall-clock time: seconds since 1970 (negative before) and nanoseconds below one billion.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    /// Seconds since 1970-01-01T00:00:00Z.
    pub secs: i64,
    /// 0 to 999,999,999.
    pub nanos: u32,
}

impl Timestamp {
    /// From nanoseconds since 1970.
    pub fn from_nanos(nanos: u64) -> Timestamp {
        Timestamp { secs: (nanos / 1_000_000_000) as i64, nanos: (nanos % 1_000_000_000) as u32 }
    }

    /// So much later.
    pub fn after(self, later: std::time::Duration) -> Timestamp {
        let nanos = u64::from(self.nanos) + u64::from(later.subsec_nanos());
        let secs = i64::try_from(later.as_secs()).unwrap_or(i64::MAX);
        let carry = (nanos / 1_000_000_000) as i64;
        Timestamp { secs: self.secs.saturating_add(secs).saturating_add(carry), nanos: (nanos % 1_000_000_000) as u32 }
    }
}
