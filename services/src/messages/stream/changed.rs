//! What becomes of a client whose log is not the one that it has read.
//!
//! With prefill the state can be sent anew: the registration API is told, and begins another
//! generation, which everyone who reads the subscription follows. Without prefill nothing can
//! bring back what is gone, so the client is told and goes on in the log that there is now, with
//! everything that is newer than what it has read.

use bus::Error;
use serde_json::json;

use super::connection::{Connection, Next, Stage};
use crate::model::{History, Life, Mark, Realm};
use crate::store::Completeness;
use crate::work::Report;

impl Connection {
    /// A realm's log was deleted, lost its end or was put back from a backup.
    pub(super) async fn history_changed(&mut self, realm: Realm, why: &str) -> Result<Next, Error> {
        let reason = format!("the log of {realm} is not the one that was read: {why}");
        let subscription = self.kept.subscription.clone();
        let fence = subscription.mark(&realm);
        let resumes = !subscription.wants_prefill()
            && self.store.check_mark(&realm, &fence).await? == History::Same;
        if !resumes {
            return Ok(self.begin_again(realm, &reason));
        }
        let at = self.position.of(&realm).unwrap_or(fence);
        let behind = self.store.resume_mark(&realm, &at, subscription.created_ms).await?;
        let behind = if behind.sequence < fence.sequence { fence } else { behind };
        Ok(self.go_on(&realm, behind, &reason))
    }

    /// What comes next in a realm's log was removed from its beginning.
    pub(super) async fn history_purged(
        &mut self,
        realm: Realm,
        first_sequence: u64,
    ) -> Result<Next, Error> {
        let reason = format!(
            "the log of {realm} begins at {first_sequence} now, and what comes before it was not \
             read"
        );
        let log = self.store.log_info(&realm).await?;
        if !self.kept.subscription.wants_prefill() {
            let before = Mark::bare(first_sequence - 1).in_life(Life::of(&log));
            return Ok(self.go_on(&realm, before, &reason));
        }
        if self.store.completeness(&realm, &log).await? != Completeness::Incomplete {
            return Ok(self.begin_again(realm, &reason));
        }
        // Another prefill would fail, and take the subscription from those who are up to date.
        let reason = format!(
            "{reason}: publish every key anew, run lockgate realms accept-history {realm} and \
             request another prefill"
        );
        self.control("expired", &json!({ "reason": reason }));
        self.stage = Stage::Lost(None);
        Ok(Next::More)
    }

    /// Has the registration API begin another generation.
    fn begin_again(&mut self, realm: Realm, reason: &str) -> Next {
        self.control("expired", &json!({ "reason": reason }));
        let (of, why) = (self.kept.subscription.incarnation.clone(), reason.to_owned());
        self.stage =
            Stage::Lost(Some(Box::new(Report::HistoryChanged { of, realm, why, mark: None })));
        Next::More
    }

    /// Goes on behind another place of the log that there is now.
    fn go_on(&mut self, realm: &Realm, behind: Mark, reason: &str) -> Next {
        self.position.replace(realm, behind);
        self.control_with_id("expired", &json!({ "reason": reason }));
        self.stage = self.live();
        Next::More
    }
}
