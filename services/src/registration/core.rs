//! Registering, repeating, deleting and prefilling again: steps in an order in which each is
//! idempotent and a crash leaves nothing that a retry or the dispatcher does not heal.

use bus::{Error, ErrorKind};

use super::fence::{capture_marks, fence_of, remove_incarnation, resume_marks};
use super::request::Request;
use crate::model::{Incarnation, Mark, Marks, Prefill, Realm, Subscription, SubscriptionName};
use crate::store::{Kept, Store, new_secret};
use crate::work::request_prefill;

/// The registration API's core, without HTTP. Cheap to clone; any number may run at once.
#[derive(Clone)]
pub struct Registration {
    pub(super) store: Store,
}

/// A registered subscription.
pub struct Registered {
    /// Its record.
    pub kept: Kept,
    /// The secret, if this call made it: shown once and never again.
    pub secret: Option<String>,
    /// False when the subscription stood there already and is the same.
    pub created: bool,
}

/// Why a registration was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum RegistrationError {
    /// There is a different subscription of this name.
    #[error("subscription {name} exists and differs in {}: delete it first or choose another name", differs.join(", "))]
    Different {
        /// The name.
        name: SubscriptionName,
        /// The fields that differ.
        differs: Vec<&'static str>,
    },
    /// There is no subscription of this name.
    #[error("there is no subscription {0}: register it with POST /v1/subscriptions")]
    Unknown(SubscriptionName),
    /// The record has changed since the client read it.
    #[error("subscription {0} has changed since it was read: read it again")]
    Changed(SubscriptionName),
    /// The bus did not do its part.
    #[error(transparent)]
    Bus(#[from] Error),
}

impl Registration {
    /// A registration API on this store.
    pub fn new(store: Store) -> Self {
        Self { store }
    }

    /// Registers a subscription, or recognises a repeat.
    ///
    /// On return the record exists, and events from the fence on reach the subscription. The
    /// steps: capture the fence, create the record, request the prefill. Nothing else is made on
    /// the bus. A crash before the record leaves nothing; a crash after it leaves a pending
    /// prefill without a task, which the dispatcher requests.
    pub async fn register(&self, request: Request) -> Result<Registered, RegistrationError> {
        if let Some(kept) = self.store.subscription(&request.name).await? {
            return self.repeat(request, kept).await;
        }
        let secret = match &request.secret {
            Some(own) => own.clone(),
            None => new_secret(&self.store.platform.entropy)?,
        };
        let subscription = self.new_subscription(&request, &secret).await?;
        let kept = match self.keep(&subscription, 0).await? {
            Ok(kept) => kept,
            Err(theirs) => return self.repeat(request, theirs).await,
        };
        self.ask_for_prefill(&kept.subscription).await;
        let secret = request.secret.is_none().then_some(secret);
        Ok(Registered { kept, secret, created: true })
    }

    /// The record of a subscription.
    pub async fn get(&self, name: &SubscriptionName) -> Result<Kept, RegistrationError> {
        let kept = self.store.subscription(name).await?;
        kept.ok_or_else(|| RegistrationError::Unknown(name.clone()))
    }

    /// Deletes a subscription with what is kept for it, if it still has `revision` where one is given. The
    /// record goes first, so that nobody repairs what is being removed. A record that cannot be
    /// read is deleted whatever its revision.
    pub async fn delete(
        &self,
        name: &SubscriptionName,
        revision: Option<u64>,
    ) -> Result<(), RegistrationError> {
        let kept = match self.get(name).await {
            // What it left behind has no record then, and the dispatcher removes it.
            Err(RegistrationError::Bus(error)) if error.kind() == ErrorKind::Corrupt => {
                return Ok(self.store.subscriptions.delete(name.as_str(), None).await?);
            }
            read => read?,
        };
        if revision.is_some_and(|read| read != kept.revision) {
            return Err(RegistrationError::Changed(name.clone()));
        }
        match self.store.subscriptions.delete(name.as_str(), Some(kept.revision)).await {
            Err(error) if error.is_conflict() => {
                return Err(RegistrationError::Changed(name.clone()));
            }
            done => done?,
        }
        let gone = &kept.subscription;
        remove_incarnation(&self.store, &gone.incarnation).await;
        if let Err(error) = self.store.leases.delete(name.as_str(), None).await {
            tracing::warn!(%name, %error, "the lease on the queue is left to run out");
        }
        Ok(())
    }

    /// Starts over with a new generation: a new fence, and a new prefill where one was asked for. The consumer is told and replaces what it has built.
    pub async fn prefill_again(&self, kept: Kept) -> Result<Kept, RegistrationError> {
        let marks = capture_marks(&self.store, &kept.subscription.topics).await?;
        self.renew(kept, marks).await
    }

    /// Starts over because a log is not what it was: with the state as it is now, or, where no
    /// prefill was asked for, with what came after the fence, or after what its consumer has `read`
    /// of the realm, where that is known.
    pub(super) async fn history_changed(
        &self,
        kept: Kept,
        realm: &Realm,
        read: Option<&Mark>,
    ) -> Result<Kept, RegistrationError> {
        if kept.subscription.wants_prefill() {
            return self.prefill_again(kept).await;
        }
        let marks = resume_marks(&self.store, &kept.subscription, realm, read).await?;
        self.renew(kept, marks).await
    }

    /// Writes a new generation that begins at these places.
    async fn renew(&self, kept: Kept, marks: Marks) -> Result<Kept, RegistrationError> {
        let old = kept.subscription;
        let incarnation = Incarnation {
            name: old.name().clone(),
            uid: self.store.platform.entropy.uid()?,
            generation: old.incarnation.generation + 1,
        };
        let prefill = if old.wants_prefill() { Prefill::Pending } else { Prefill::None };
        let fence = fence_of(&marks);
        let renewed = Subscription { incarnation, fence, marks, prefill, ..old.clone() };
        let Ok(kept) = self.keep(&renewed, kept.revision).await? else {
            return Err(RegistrationError::Changed(old.name().clone()));
        };
        self.ask_for_prefill(&kept.subscription).await;
        remove_incarnation(&self.store, &old.incarnation).await;
        Ok(kept)
    }

    async fn new_subscription(
        &self,
        request: &Request,
        secret: &str,
    ) -> Result<Subscription, Error> {
        let platform = &self.store.platform;
        let marks = capture_marks(&self.store, &request.topics).await?;
        Ok(Subscription {
            incarnation: Incarnation {
                name: request.name.clone(),
                uid: platform.entropy.uid()?,
                generation: 1,
            },
            topics: request.topics.clone(),
            prefill: if request.prefill { Prefill::Pending } else { Prefill::None },
            fence: fence_of(&marks),
            marks,
            ack_wait: request.ack_wait,
            max_attempts: request.max_attempts,
            dead_letters: request.dead_letters,
            created_ms: platform.clock.now_ms(),
            secret_hash: self.store.signer.hash_secret(secret),
        })
    }

    /// Writes the record. `Ok(Err(theirs))` when someone else's stands there instead. A lost
    /// answer is settled by reading the record back.
    async fn keep(&self, ours: &Subscription, revision: u64) -> Result<Result<Kept, Kept>, Error> {
        let failed = match self.store.keep_subscription(ours, revision).await {
            Ok(revision) => return Ok(Ok(Kept { subscription: ours.clone(), revision })),
            Err(failed) => failed,
        };
        let standing = self.store.subscription(ours.name()).await?;
        match standing {
            Some(kept) if kept.subscription.incarnation == ours.incarnation => Ok(Ok(kept)),
            Some(kept) if failed.is_conflict() => Ok(Err(kept)),
            _ => Err(failed),
        }
    }

    async fn repeat(&self, request: Request, kept: Kept) -> Result<Registered, RegistrationError> {
        let differs = request.differences(&kept.subscription, &self.store.signer);
        if !differs.is_empty() {
            return Err(RegistrationError::Different { name: request.name, differs });
        }
        self.ask_for_prefill(&kept.subscription).await;
        Ok(Registered { kept, secret: None, created: false })
    }

    /// Requests the prefill of a subscription that waits for one. The record stands already, so a
    /// failure is not the client's: the dispatcher asks again.
    async fn ask_for_prefill(&self, subscription: &Subscription) {
        if subscription.prefill != Prefill::Pending {
            return;
        }
        if let Err(error) = request_prefill(&self.store, &subscription.incarnation).await {
            let name = subscription.name();
            tracing::warn!(%name, %error, "prefill not requested, the dispatcher will");
        }
    }
}
