//! A patient's profile, as it is posted and published.

use std::fmt;

use bus::StoredMessage;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use super::timestamp::{Malformed, Moment};

const LONGEST_ID: usize = 64;
const LONGEST_TEXT: usize = 256;

/// A profile. Field names are those of the profile service; its updates are found with the names of
/// the event too (`patientID`, `isPregnant`), and are read either way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Profile {
    /// Whose it is: 1 to 64 characters of `A-Z a-z 0-9 _ -`, or a number.
    #[serde(alias = "patientID", alias = "patientId", deserialize_with = "text_or_number")]
    pub patient_id: String,
    /// The first name.
    #[serde(alias = "firstName")]
    pub first_name: String,
    /// The last name.
    #[serde(alias = "lastName")]
    pub last_name: String,
    /// Written as `"True"` or `"False"`, read as a JSON boolean too.
    #[serde(alias = "isPregnant", serialize_with = "as_word", deserialize_with = "word_or_bool")]
    pub is_pregnant: bool,
    /// As the patient says; updates without it are about a patient who has not said.
    #[serde(default, alias = "sex", skip_serializing_if = "String::is_empty")]
    pub sex: String,
    /// When it became so, as [`Moment`] reads it. What is posted may leave it out.
    #[serde(default, alias = "updatedAt", skip_serializing_if = "String::is_empty")]
    pub updated_at: String,
}

/// Why an update cannot be applied. It never can: it is parked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadUpdate(pub(super) String);

impl fmt::Display for BadUpdate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadUpdate {}

impl From<Malformed> for BadUpdate {
    fn from(malformed: Malformed) -> Self {
        Self(format!("UpdatedAt: {malformed}"))
    }
}

impl Profile {
    /// Reads an update from the stream, and when it became so.
    pub fn read(message: &StoredMessage) -> Result<(Self, Moment), BadUpdate> {
        let Some(body) = message.payload.as_deref() else {
            return Err(BadUpdate(String::from("it has no body: an update is JSON")));
        };
        let profile: Self = serde_json::from_slice(body)
            .map_err(|error| BadUpdate(format!("it is no profile: {error}")))?;
        profile.check()?;
        let moment = Moment::read(&profile.updated_at)?;
        Ok((profile, moment))
    }

    /// Says what is wrong with it, if anything is; its time is read apart.
    pub fn check(&self) -> Result<(), BadUpdate> {
        let Self { patient_id, first_name, last_name, sex, .. } = self;
        let fits = (1..=LONGEST_ID).contains(&patient_id.len());
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
        if !fits || !patient_id.bytes().all(plain) {
            let asked = format!("1 to {LONGEST_ID} characters of A-Z a-z 0-9 _ -");
            return Err(BadUpdate(format!("PatientId {patient_id:?} is not {asked}")));
        }
        for (what, text) in [("FirstName", first_name), ("LastName", last_name), ("Sex", sex)] {
            if text.len() > LONGEST_TEXT {
                let long = text.len();
                return Err(BadUpdate(format!("{what} has {long} bytes: {LONGEST_TEXT} at most")));
            }
        }
        Ok(())
    }
}

fn text_or_number<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    match Value::deserialize(from)? {
        Value::String(text) => Ok(text),
        Value::Number(number) if number.is_u64() => Ok(number.to_string()),
        other => Err(serde::de::Error::custom(format!("patient id {other} is no text or number"))),
    }
}

fn word_or_bool<'de, D: Deserializer<'de>>(from: D) -> Result<bool, D::Error> {
    match Value::deserialize(from)? {
        Value::Bool(is) => Ok(is),
        Value::String(word) if word.eq_ignore_ascii_case("true") => Ok(true),
        Value::String(word) if word.eq_ignore_ascii_case("false") => Ok(false),
        other => Err(serde::de::Error::custom(format!("IsPregnant {other} is not True or False"))),
    }
}

fn as_word<S: Serializer>(is: &bool, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(if *is { "True" } else { "False" })
}

#[cfg(test)]
mod tests {
    use super::*;

    const POSTED: &str = r#"{ "PatientId": "1", "FirstName": "John", "LastName": "Doe",
        "IsPregnant": "False", "Sex": "Female"}"#;
    const EVENT: &str = r#"{"patientID": 1, "firstName": "John", "lastName": "Doe",
        "isPregnant": true, "updatedAt": "2006-01-02T15:00:00.500000000Z10:00"}"#;

    #[test]
    fn both_spellings_of_the_document_are_read() {
        let posted: Profile = serde_json::from_str(POSTED).unwrap();
        assert_eq!((posted.patient_id.as_str(), posted.is_pregnant), ("1", false));
        let event: Profile = serde_json::from_str(EVENT).unwrap();
        assert_eq!((event.patient_id.as_str(), event.is_pregnant), ("1", true));
        assert_eq!(event.sex, "");
        let written = serde_json::to_value(&posted).unwrap();
        assert_eq!(written, serde_json::from_str::<Value>(POSTED).unwrap());
    }

    #[test]
    fn what_is_wrong_is_named() {
        let wrong =
            |from: &str, to: &str| match serde_json::from_str::<Profile>(&POSTED.replace(from, to))
            {
                Ok(profile) => profile.check().unwrap_err().to_string(),
                Err(error) => error.to_string(),
            };
        assert!(
            wrong("\"False\"", "\"maybe\"").contains("IsPregnant \"maybe\" is not True or False")
        );
        assert!(wrong("\"1\"", "\"a.b\"").contains("PatientId \"a.b\" is not"));
        assert!(wrong("\"1\"", "null").contains("patient id null"));
        assert!(wrong("FirstName", "GivenName").contains("missing field `FirstName`"));
        assert!(wrong("Doe", &"x".repeat(300)).contains("LastName has 300 bytes"));
    }
}
