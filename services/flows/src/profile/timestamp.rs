//! When a profile was updated, however that is written.

use std::fmt;
use std::time::SystemTime;

use time::OffsetDateTime;
use time::UtcOffset;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;

/// A moment, to the nanosecond. Moments compare by time, whatever their offsets were.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(OffsetDateTime);

/// Text that is no moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Malformed(String);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(text) = self;
        write!(f, "{text:?} is no time such as 2023-08-14T01:11:45.105211+10:00")
    }
}

impl std::error::Error for Malformed {}

impl Moment {
    /// Now, by this process' clock.
    pub fn now() -> Self {
        Self(OffsetDateTime::from(SystemTime::now()))
    }

    /// Reads RFC 3339, and what programs write that took a layout for a format: an offset behind a
    /// `Z`, as in `2006-01-02T15:00:00.5Z10:00`, which is ten hours ahead of UTC.
    ///
    /// ```
    /// use lockgate_flows::profile::Moment;
    ///
    /// let odd = Moment::read("2006-01-02T15:00:00.500000000Z10:00")?;
    /// assert_eq!(odd, Moment::read("2006-01-02T05:00:00.5Z")?);
    /// assert_eq!(odd.to_string(), "2006-01-02T05:00:00.500000000Z");
    /// # Ok::<(), lockgate_flows::profile::Malformed>(())
    /// ```
    pub fn read(text: &str) -> Result<Self, Malformed> {
        let malformed = || Malformed(text.chars().take(64).collect());
        let normal = match text.split_once(['Z', 'z']) {
            Some((_, "")) | None => text.to_owned(),
            Some((local, offset)) if offset.starts_with(['+', '-']) => format!("{local}{offset}"),
            Some((local, offset)) => format!("{local}+{offset}"),
        };
        let moment = OffsetDateTime::parse(&normal, &Rfc3339).map_err(|_| malformed())?;
        // What leaves the years that can be written by its offset could not be read back.
        let moment = moment.checked_to_offset(UtcOffset::UTC).ok_or_else(malformed)?;
        if !(0..=9999).contains(&moment.year()) {
            return Err(malformed());
        }
        Ok(Self(moment))
    }
}

/// In UTC, with nine digits: as text in the order of time.
impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let format = format_description!(
            "[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:9]Z"
        );
        let utc = self.0.to_offset(UtcOffset::UTC);
        f.write_str(&utc.format(&format).map_err(|_| fmt::Error)?)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn normal(text: &str) -> String {
        Moment::read(text).map_or_else(|malformed| malformed.to_string(), |m| m.to_string())
    }

    #[test]
    fn the_odd_times_of_the_document_are_read() {
        let first = Moment::read("2006-01-02T15:00:00.000000000Z10:00").unwrap();
        let second = Moment::read("2006-01-02T15:00:00.500000000Z10:00").unwrap();
        assert!(first < second);
        assert_eq!(first.to_string(), "2006-01-02T05:00:00.000000000Z");
        assert_eq!(normal("2006-01-02T15:00:00Z-03:30"), "2006-01-02T18:30:00.000000000Z");
        assert_eq!(normal("2006-01-02T15:00:00Z+10:00"), first.to_string());
        assert_eq!(normal("2023-08-14T01:11:45.105211+10:00"), "2023-08-13T15:11:45.105211000Z");
        assert_eq!(normal("2006-01-02t15:00:00z"), "2006-01-02T15:00:00.000000000Z");
    }

    #[test]
    fn what_is_no_time_is_said_so() {
        for text in [
            "",
            "Z",
            "yesterday",
            "2006-01-02",
            "2006-01-02T15:00:00",
            "2006-01-02T15:00:00Z25:00",
            "2006-02-30T15:00:00Z",
            "2006-01-02T15:00:00ZZ",
            "2006-01-02T15:00:00Z10",
            "0000-01-01T00:00:00+10:00",
            "9999-12-31T23:59:59-10:00",
        ] {
            assert!(Moment::read(text).is_err(), "{text:?} is read as {}", normal(text));
        }
        assert!(normal("soon").starts_with("\"soon\" is no time such as "));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_as_the_same_moment(nanos in any::<i64>(), text in "\\PC{0,40}") {
            let moment = Moment(OffsetDateTime::from_unix_timestamp_nanos(nanos.into()).unwrap());
            prop_assert_eq!(Moment::read(&moment.to_string()), Ok(moment));
            // Anything else is an answer too.
            let _ = Moment::read(&text);
        }

        #[test]
        fn text_has_the_order_of_time(a in any::<i64>(), b in any::<i64>()) {
            let of = |nanos: i64| Moment(OffsetDateTime::from_unix_timestamp_nanos(nanos.into()).unwrap());
            prop_assert_eq!(of(a).cmp(&of(b)), of(a).to_string().cmp(&of(b).to_string()));
        }
    }
}
