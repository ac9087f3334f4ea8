//! What can be set of a flow: declared by the flow, read by its roles, an option and an environment
//! name for whoever starts it.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::flow::Failure;

/// Something that can be set.
#[derive(Debug)]
pub struct Setting {
    /// As it is typed, without its dashes: `every`.
    pub name: &'static str,
    /// The environment name that gives it too: `LOCKGATE_MEDICINE_EVERY`.
    pub env: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// What it is when it is not given; empty for nothing.
    pub default: &'static str,
    /// What it does, in a line.
    pub about: &'static str,
}

/// Declares settings: what their environment names begin with, then of each its name, the rest of the
/// environment name, kind, default, and what it does.
macro_rules! settings {
    ($prefix:literal; $($setting:ident, $name:literal, $env:literal, $kind:ident, $default:literal,
        $about:literal;)+) => {
        $(
            #[doc = $about]
            pub(crate) static $setting: $crate::settings::Setting = $crate::settings::Setting {
                name: $name,
                env: concat!($prefix, $env),
                kind: $crate::settings::Kind::$kind,
                default: $default,
                about: $about,
            };
        )+

        /// What can be set.
        pub(crate) const SETTINGS: &[&$crate::settings::Setting] = &[$(&$setting),+];
    };
}
pub(crate) use settings;

/// What a [`Setting`] takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A number from 0.
    Count,
    /// Numbers from 1, as `1,3,10`.
    Counts,
    /// A time, as `500ms` or `2m`.
    Time,
    /// Any text that is not empty: a file, a URL.
    Text,
}

impl Kind {
    /// What stands for the value in a usage line.
    pub fn value_name(self) -> &'static str {
        match self {
            Self::Count => "N",
            Self::Counts => "N,N...",
            Self::Time => "TIME",
            Self::Text => "TEXT",
        }
    }

    /// Says what is wrong with a value, if anything is.
    pub fn check(self, value: &str) -> Result<(), String> {
        match self {
            Self::Count => count(value).map(|_| ()),
            Self::Counts => counts(value).map(|_| ()),
            Self::Time => time(value).map(|_| ()),
            Self::Text if value.is_empty() => Err(String::from("it is empty")),
            Self::Text => Ok(()),
        }
    }
}

/// The settings that were given. What was not is its default.
#[derive(Debug, Clone, Default)]
pub struct Settings(BTreeMap<&'static str, String>);

impl Settings {
    /// Sets one; a value that its kind does not take is an error that names it.
    pub fn set(
        &mut self,
        setting: &'static Setting,
        value: impl Into<String>,
    ) -> Result<(), Failure> {
        let value = value.into();
        setting.kind.check(&value).map_err(|why| wrong(setting, &value, &why))?;
        self.0.insert(setting.name, value);
        Ok(())
    }

    /// As it was given, or its default; `None` where that is nothing.
    pub fn text(&self, setting: &Setting) -> Option<&str> {
        let given = self.0.get(setting.name).map_or(setting.default, String::as_str);
        (!given.is_empty()).then_some(given)
    }

    /// A number; 0 where there is none.
    pub fn count(&self, setting: &Setting) -> Result<u64, Failure> {
        self.read(setting, count)
    }

    /// A number that is small enough for its purpose; 0 where there is none.
    pub fn number<T: TryFrom<u64>>(&self, setting: &Setting) -> Result<T, Failure> {
        let count = self.count(setting)?;
        T::try_from(count).map_err(|_| wrong(setting, &count.to_string(), "it is too large"))
    }

    /// Numbers; none where there are none.
    pub fn counts(&self, setting: &Setting) -> Result<Vec<u64>, Failure> {
        self.read(setting, counts)
    }

    /// A time; zero where there is none.
    pub fn time(&self, setting: &Setting) -> Result<Duration, Failure> {
        self.read(setting, time)
    }

    /// A time that is longer than nothing.
    pub fn some_time(&self, setting: &Setting) -> Result<Duration, Failure> {
        match self.time(setting)? {
            Duration::ZERO => {
                Err(wrong(setting, self.text(setting).unwrap_or_default(), "it has to be longer"))
            }
            time => Ok(time),
        }
    }

    fn read<T: Default>(
        &self,
        setting: &Setting,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<T, Failure> {
        let Some(text) = self.text(setting) else { return Ok(T::default()) };
        parse(text).map_err(|why| wrong(setting, text, &why))
    }
}

fn wrong(setting: &Setting, value: &str, why: &str) -> Failure {
    format!("--{} {value:?}: {why}", setting.name).into()
}

fn count(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| String::from("a number is asked for, for example 3"))
}

fn counts(text: &str) -> Result<Vec<u64>, String> {
    let way_out = || String::from("numbers from 1 are asked for, for example 1,3,10");
    let one = |part: &str| match part.trim().parse() {
        Ok(0) | Err(_) => Err(way_out()),
        Ok(number) => Ok(number),
    };
    text.split(',').map(one).collect()
}

fn time(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|_| String::from("a time is asked for, for example 500ms, 20s or 2m"))
}

#[cfg(test)]
mod tests {
    use super::*;

    static EVERY: Setting = Setting {
        name: "every",
        env: "LOCKGATE_TEST_EVERY",
        kind: Kind::Time,
        default: "1s",
        about: "how often",
    };
    static LEVELS: Setting = Setting {
        name: "levels",
        env: "LOCKGATE_TEST_LEVELS",
        kind: Kind::Counts,
        default: "",
        about: "how many",
    };

    #[test]
    fn what_is_not_given_is_its_default() {
        let mut settings = Settings::default();
        assert_eq!(settings.time(&EVERY).unwrap(), Duration::from_secs(1));
        assert_eq!(settings.counts(&LEVELS).unwrap(), [0; 0]);
        settings.set(&EVERY, "20ms").unwrap();
        settings.set(&LEVELS, "1, 3,10").unwrap();
        assert_eq!(settings.time(&EVERY).unwrap(), Duration::from_millis(20));
        assert_eq!(settings.counts(&LEVELS).unwrap(), [1, 3, 10]);
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        let mut settings = Settings::default();
        let refused = settings.set(&EVERY, "often").unwrap_err().to_string();
        assert_eq!(refused, "--every \"often\": a time is asked for, for example 500ms, 20s or 2m");
        for wrong in ["", "0", "1,,2", "one", "1,-2"] {
            assert!(settings.set(&LEVELS, wrong).is_err(), "{wrong:?}");
        }
        assert!(Kind::Count.check("-1").is_err() && Kind::Text.check("").is_err());
    }
}
