//! A small directory of people and groups that keeps changing.

use serde_json::{Value, json};

use crate::model::Realm;
use crate::platform::Entropy;

const PEOPLE: u64 = 400;
const GROUPS: u64 = 40;
const NAMES: [&str; 12] = [
    "anna", "bela", "cleo", "dora", "emil", "finn", "gita", "hugo", "ines", "jona", "kaja", "liam",
];

/// Makes changes: mostly updates, some deletions, the same ones for the same seed.
pub(super) struct Directory {
    dice: Entropy,
    run: String,
    realm: Realm,
    made: u64,
}

impl Directory {
    /// A directory whose changes a seed decides. `run` keeps the ids of two runs apart.
    pub(super) fn new(seed: u64, run: String, realm: Realm) -> Self {
        Self { dice: Entropy::seeded(seed), run, realm, made: 0 }
    }

    /// The next change, as a structured CloudEvent.
    pub(super) fn change(&mut self) -> Result<Value, bus::Error> {
        self.made += 1;
        let (topic, key) = match self.roll(8)? {
            0 => ("group", format!("team-{}", self.roll(GROUPS)?)),
            _ => ("user", self.person()?),
        };
        let mut event = json!({
            "specversion": "1.0",
            "id": format!("{}-{}", self.run, self.made),
            "source": "/lockgate/demo",
            "type": format!("{}.{topic}", self.realm),
            "subject": key,
        });
        if self.roll(10)? > 0 {
            event["data"] = match topic {
                "group" => json!({"members": self.roll(50)?, "version": self.made}),
                _ => json!({"mail": format!("{key}@example.org"), "version": self.made}),
            };
        }
        Ok(event)
    }

    fn person(&self) -> Result<String, bus::Error> {
        let number = self.roll(PEOPLE)?;
        let name = NAMES.get((number % NAMES.len() as u64) as usize).unwrap_or(&"anna");
        Ok(format!("{name}.{}", number / NAMES.len() as u64))
    }

    fn roll(&self, sides: u64) -> Result<u64, bus::Error> {
        Ok(u64::from_le_bytes(self.dice.bytes()?) % sides)
    }
}
