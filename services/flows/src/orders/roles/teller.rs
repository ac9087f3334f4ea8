//! Mobile and e-mail: two consumers of the same facts, each in a group of its own, so that both
//! hear of each.

use std::future::Future;
use std::sync::Arc;

use bus::{HandlerError, Outcome};

use super::Setup;
use crate::flow::Failure;
use crate::orders::crew::Crew;
use crate::orders::event::{Event, now};
use crate::orders::follow::follow;
use crate::orders::notice::{Channel, Notice, Notices};
use crate::orders::sinks::{Sink, Told, Unsent};
use crate::orders::stage::Stage;
use crate::orders::topic::Topic;
use crate::orders::topology::Bucket;

/// Texts the customer at each stage, in the group `mobile`. Any number of processes may run it at
/// once.
pub async fn mobile(setup: Setup) -> Result<(), Failure> {
    let sink = setup.sinks.texts.clone();
    tell(&setup, "mobile", Channel::Text, sink).await
}

/// Mails the customer at each stage, in the group `email`. Any number of processes may run it at
/// once.
pub async fn email(setup: Setup) -> Result<(), Failure> {
    let sink = setup.sinks.mails.clone();
    tell(&setup, "email", Channel::Mail, sink).await
}

async fn tell(
    setup: &Setup,
    group: &'static str,
    channel: Channel,
    sink: Arc<dyn Sink>,
) -> Result<(), Failure> {
    let notices = Notices::new(Bucket::Notices.open(&setup.context.state).await?);
    for_each_stage(setup, group, move |notice| {
        let (notices, sink) = (notices.clone(), sink.clone());
        async move { send(&notices, sink.as_ref(), channel, notice).await }
    })
    .await
}

/// Sends a notice that did not go out yet, then records that it did. A crash between the two sends
/// it once more, under the same id: a notice may come twice, and never not at all.
async fn send(
    notices: &Notices,
    sink: &dyn Sink,
    channel: Channel,
    notice: Notice,
) -> Result<Outcome, HandlerError> {
    if notices.was_told(&notice, channel).await? {
        return Ok(Outcome::Ack);
    }
    let customer = &notice.customer;
    let to = match channel {
        Channel::Text => customer.phone.clone(),
        Channel::Mail => customer.email.clone(),
    };
    let told =
        Told { id: notice.id.clone(), name: customer.name.clone(), to, text: notice.text.clone() };
    match sink.send(&told).await {
        Ok(()) => notices.record(&notice, channel, &now()).await?,
        Err(Unsent::Never(why)) => return Ok(Outcome::Reject(format!("refused: {why}"))),
        Err(later) => return Err(later.into()),
    }
    Ok(Outcome::Ack)
}

/// Gives the notice of each fact about an order to `handler`, once for each group.
pub(super) async fn for_each_stage<H, F>(
    setup: &Setup,
    group: &'static str,
    handler: H,
) -> Result<(), Failure>
where
    H: Fn(Notice) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Outcome, HandlerError>> + Send + 'static,
{
    let mut crew = Crew::new(&setup.context.shutdown);
    for stage in Stage::ALL {
        let (context, handler) = (setup.context.clone(), handler.clone());
        let handle = move |event: Event| {
            let handler = handler.clone();
            async move {
                match Notice::of(&event) {
                    Some(notice) => handler(notice).await,
                    None => Ok(Outcome::Reject(String::from("it does not say whom to tell what"))),
                }
            }
        };
        let topic = (Topic::of_stage(stage), group);
        crew.add(follow(context, topic, setup.settings.ack_wait, crew.stop(), handle));
    }
    crew.join().await
}
