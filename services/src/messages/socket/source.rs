//! What a connection sends, in either mode.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::super::queue::{Flow, Item};
use super::super::stream::{Frame, Frames};
use super::credit::Credit;

/// Where the frames of a connection come from.
pub(in crate::messages) enum Source {
    /// Queue mode.
    Queue(Box<Flow>),
    /// Stream mode.
    Stream(StreamSource),
}

/// A stream that is filled by a future of its own, because a read that is dropped may have taken
/// messages with it.
pub(in crate::messages) struct StreamSource {
    frames: Option<Box<dyn Frames>>,
    filling: Option<BoxFuture<'static, (Box<dyn Frames>, bool)>>,
    is_over: bool,
}

/// What comes next, if it may.
pub(super) enum Out {
    Queue(Item),
    Stream(Frame),
    /// Nothing more will come.
    Over,
}

impl Source {
    /// A source of stream mode.
    pub(in crate::messages) fn stream(frames: Box<dyn Frames>) -> Self {
        Self::Stream(StreamSource { frames: Some(frames), filling: None, is_over: false })
    }

    /// Waits until there may be something to take. May be dropped and called again.
    pub(super) async fn ready(&mut self, credit: Credit) {
        match self {
            Self::Queue(flow) if flow.is_delivery_next() && !credit.allows() => flow.hold().await,
            Self::Queue(flow) => flow.ready(credit.room()).await,
            Self::Stream(stream) => stream.ready(credit).await,
        }
    }

    /// The next thing to send, as far as the credit goes.
    pub(super) fn take(&mut self, credit: Credit) -> Option<Out> {
        match self {
            Self::Queue(flow) if flow.is_delivery_next() && !credit.allows() => None,
            Self::Queue(flow) => flow.take().map(Out::Queue),
            Self::Stream(stream) => stream.take(credit),
        }
    }
}

impl StreamSource {
    async fn ready(&mut self, credit: Credit) {
        if let Some(frames) = self.frames.take() {
            if let Some(next) = frames.peek() {
                let waits = matches!(next, Frame::Message { .. }) && !credit.allows();
                self.frames = Some(frames);
                if waits {
                    std::future::pending::<()>().await;
                }
                return;
            }
            let mut frames = frames;
            let fill = async move {
                let more = frames.fill().await.is_some();
                (frames, more)
            };
            self.filling = Some(fill.boxed());
        }
        let Some(filling) = &mut self.filling else { return };
        let (frames, more) = filling.await;
        (self.frames, self.filling, self.is_over) = (Some(frames), None, !more);
    }

    fn take(&mut self, credit: Credit) -> Option<Out> {
        let frames = self.frames.as_mut()?;
        match frames.peek() {
            Some(Frame::Message { .. }) if !credit.allows() => None,
            Some(_) => frames.take().map(Out::Stream),
            None => self.is_over.then_some(Out::Over),
        }
    }
}
