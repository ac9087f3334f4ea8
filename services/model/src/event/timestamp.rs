//! Times as CloudEvents write them: RFC 3339, to the letter.

use time::format_description::well_known::Rfc3339;
use time::{Month, OffsetDateTime, UtcOffset};

/// True for a `date-time` of RFC 3339, section 5.6: `T` or `t` between date and time, a zone as
/// `Z`, `z` or `+hh:mm`, every number in its range, any number of fractional digits.
///
/// The second 60 is taken where a leap second can be: at 23:59:60 UTC on the last of June or
/// December (section 5.7), from 1972 on.
pub(super) fn is_rfc3339(text: &str) -> bool {
    // The parser takes any character there.
    if !matches!(text.as_bytes().get(10), Some(b'T' | b't')) {
        return false;
    }
    let Ok(time) = OffsetDateTime::parse(text, &Rfc3339) else { return false };
    if text.get(17..19) != Some("60") {
        return true;
    }
    // It is read as the last moment of the second before.
    let Some(utc) = time.checked_to_offset(UtcOffset::UTC) else { return false };
    utc.year() >= 1972
        && (utc.hour(), utc.minute()) == (23, 59)
        && matches!((utc.month(), utc.day()), (Month::June, 30) | (Month::December, 31))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_follow_rfc_3339_to_the_letter() {
        for good in [
            "2026-01-31T12:00:00Z",
            "2026-01-31t12:00:00z",
            "2026-01-31T12:00:00.5+01:00",
            "2026-01-31T12:00:00.123456789012345Z",
            "2026-01-31T23:59:59-00:00",
            "2024-02-29T00:00:00Z",
            "0000-01-01T00:00:00Z",
            "9999-12-31T23:59:59Z",
            "1990-12-31T23:59:60Z",
            "1990-12-31T15:59:60-08:00",
            "2015-07-01T08:59:60.25+09:00",
            "2026-01-31T12:00:00+23:59",
        ] {
            assert!(is_rfc3339(good), "{good}");
        }
        for bad in [
            "",
            "2026-01-31",
            "2026-01-31 12:00:00Z",
            "2026-01-31_12:00:00Z",
            "2026-01-31T12:00:00",
            "2026-01-31T12:00Z",
            "2026-01-31T12:00:00 Z",
            "2026-01-31T12:00:00+0100",
            "2026-01-31T12:00:00+01",
            "2026-01-31T12:00:00+24:00",
            "2026-01-31T12:00:00+01:60",
            "2026-01-31T24:00:00Z",
            "2026-01-31T12:60:00Z",
            "2026-01-31T12:00:61Z",
            "2026-01-31T12:00:60Z",
            "2026-01-31T23:59:60Z",
            "2026-03-31T23:59:60Z",
            "2026-12-31T23:59:60+01:00",
            "1971-12-31T23:59:60Z",
            "2026-02-29T12:00:00Z",
            "2026-13-01T12:00:00Z",
            "2026-00-01T12:00:00Z",
            "2026-01-00T12:00:00Z",
            "2026-1-31T12:00:00Z",
            "+2026-01-31T12:00:00Z",
            "-2026-01-31T12:00:00Z",
            "20260131T120000Z",
            "2026-01-31T12:00:00.Z",
            "2026-01-31T12:00:00,5Z",
            "2026-01-31T12:00:00Zx",
            " 2026-01-31T12:00:00Z",
            "2026-01-31T12:00:00Z ",
            "２026-01-31T12:00:00Z",
            "2026-W05-6T12:00:00Z",
        ] {
            assert!(!is_rfc3339(bad), "{bad}");
        }
    }
}
