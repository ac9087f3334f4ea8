//! Filling one prefill queue: rows page by page, then the manifest that closes it.

use bus::{Error, Message, Receipt};
use futures_util::stream::FuturesOrdered;
use futures_util::{FutureExt, StreamExt};
use tokio_util::sync::CancellationToken;

use super::claim::Claim;
use super::source::{Page, Source, SourceError};
use crate::model::{Incarnation, Manifest, Subscription, names};
use crate::store::Store;
use crate::store::prefill::Position;

/// Rows on their way to the bus at once.
const WINDOW: usize = 512;

/// How a try ended.
pub(super) enum Filled {
    /// Every row is written, and the manifest.
    Complete(Manifest),
    /// This process was told to stop; the cursor says how far it came.
    Stopped,
}

/// Why a try failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum FillError {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Bus(#[from] Error),
}

/// Goes on from where the cursor stands. While the rows of one page are on their way to the bus,
/// the next one is read.
pub(super) async fn fill(
    store: &Store,
    subscription: &Subscription,
    source: &mut dyn Source,
    claim: &mut Claim,
    stop: &CancellationToken,
) -> Result<Filled, FillError> {
    let of = &subscription.incarnation;
    if claim.cursor.ended_ms.is_none() {
        let mut page = source.page(claim.cursor.position.as_ref()).await?;
        loop {
            check_progress(claim.cursor.position.as_ref(), &page)?;
            let (written, next) = match &page.next {
                None => (write(store, of, &page).await, None),
                Some(_) if stop.is_cancelled() => (write(store, of, &page).await, None),
                Some(at) => {
                    let (written, next) =
                        tokio::join!(write(store, of, &page), source.page(Some(at)));
                    (written, Some(next))
                }
            };
            written?;
            let mut digest = claim.cursor.digest()?;
            page.rows.iter().for_each(|row| digest.add(&row.topic.realm, row.sequence));
            claim.advance(&page, digest).await?;
            store.platform.metrics.prefill_rows(page.rows.len());
            match next {
                Some(next) => page = next?,
                None if page.next.is_some() => return Ok(Filled::Stopped),
                None => break,
            }
        }
    }
    let manifest = Manifest {
        generation: of.generation,
        fence: subscription.fence.clone(),
        rows: claim.cursor.rows,
        digest: claim.cursor.digest.clone(),
    };
    let closing = Message::json(names::manifest_subject(of)?, &manifest)?.expect_last(0);
    already_there_is_fine(store.prefill.publish(closing).await)?;
    Ok(Filled::Complete(manifest))
}

/// A source that goes back would be read for ever.
fn check_progress(before: Option<&Position>, page: &Page) -> Result<(), SourceError> {
    match (before, &page.next) {
        (Some(before), Some(next)) if next <= before => Err(SourceError::Impossible(format!(
            "source-stuck: after {} {} it goes on at {} {}",
            before.realm, before.sequence, next.realm, next.sequence
        ))),
        _ => Ok(()),
    }
}

/// Writes every row of a page that is not there yet; on return all of them are durable.
async fn write(store: &Store, of: &Incarnation, page: &Page) -> Result<(), Error> {
    let mut receipts = FuturesOrdered::new();
    for row in &page.rows {
        while receipts.len() >= WINDOW
            && let Some(written) = receipts.next().await
        {
            already_there_is_fine(written)?;
        }
        // What is known already is taken out: the window is of those under way.
        while let Some(Some(written)) = receipts.next().now_or_never() {
            already_there_is_fine(written)?;
        }
        receipts.push_back(store.prefill.submit(row.of_prefill(of)?).await?);
    }
    while let Some(written) = receipts.next().await {
        already_there_is_fine(written)?;
    }
    Ok(())
}

/// A row or manifest whose subject has a message already was written before by this prefill, from
/// the same fence, and so is the same.
fn already_there_is_fine(written: Result<Receipt, Error>) -> Result<(), Error> {
    match written {
        Err(error) if error.is_conflict() => Ok(()),
        other => other.map(drop),
    }
}
