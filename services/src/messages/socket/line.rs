//! One WebSocket: what is heard, what is sent, and an orderly end.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::CapacityError;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};

use super::close::Farewell;
use super::frame;
use crate::limits::MAX_FRAME_BYTES;

/// What an idle connection keeps in memory is little more than this.
const READ_BUFFER_BYTES: usize = 1024;
/// How long the end of a connection may take, its client's part included.
const CLOSE_LIMIT: Duration = Duration::from_secs(3);
/// What is read and thrown away at the end, so that the client gets to see why.
const LINGER_BYTES: usize = 4 << 20;

/// A WebSocket of which the handshake is done. Holds one frame of the client, bounded, and no queue.
pub(in crate::messages) struct Line<S> {
    socket: WebSocketStream<S>,
}

/// What was heard.
pub(super) enum Heard {
    Text(Utf8Bytes),
    /// A sign of life.
    Alive,
    /// The client closed, or broke off.
    Closed,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Line<S> {
    pub(in crate::messages) async fn new(io: S) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_BYTES)
            .write_buffer_size(0)
            .max_frame_size(Some(MAX_FRAME_BYTES))
            .max_message_size(Some(MAX_FRAME_BYTES));
        Self { socket: WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await }
    }

    /// The next frame. May be dropped and called again. What breaks the rules of the protocol is
    /// the end of the connection.
    pub(super) async fn next(&mut self) -> Result<Heard, Farewell> {
        match self.socket.next().await {
            None | Some(Ok(Message::Close(_))) => Ok(Heard::Closed),
            Some(Ok(Message::Text(text))) => Ok(Heard::Text(text)),
            Some(Ok(Message::Binary(_))) => Err(Farewell::violation(
                1003,
                "binary frames are not read",
                String::from("the frame is binary: send JSON in text frames"),
            )),
            Some(Ok(_)) => Ok(Heard::Alive),
            Some(Err(error)) => match violation(&error) {
                Some(farewell) => Err(farewell),
                None => {
                    tracing::debug!(%error, "a connection broke off");
                    Ok(Heard::Closed)
                }
            },
        }
    }

    /// Sends a text frame; `text` is JSON. `None`: the connection is broken.
    pub(super) async fn send(&mut self, text: Bytes) -> Option<()> {
        let text = Utf8Bytes::try_from(text).ok()?;
        self.socket.send(Message::Text(text)).await.ok()
    }

    /// Asks for a sign of life.
    pub(super) async fn ping(&mut self) -> Option<()> {
        self.socket.send(Message::Ping(Bytes::new())).await.ok()
    }

    /// Says why the connection ends and waits for the client to have seen it, both for a few
    /// seconds at most.
    pub(in crate::messages) async fn close(mut self, farewell: &Farewell) {
        let said = async {
            if let Some(problem) = farewell.problem() {
                self.send(frame::error(problem)).await?;
            }
            self.socket.send(Message::Close(Some(farewell.frame()))).await.ok()
        };
        if timeout(CLOSE_LIMIT, said).await.ok().flatten().is_some() {
            // In time or not: it is over.
            let _ = timeout(CLOSE_LIMIT, self.linger()).await;
        }
    }

    /// Answers the client's close, which reading does.
    pub(super) async fn closed(mut self) {
        let answered = async { while let Some(Ok(_)) = self.socket.next().await {} };
        // In time or not: it is over.
        let _ = timeout(CLOSE_LIMIT, answered).await;
    }

    /// Reads until the client has closed. Without that, data that was never read would have the
    /// system reset the connection, and the client would lose what it was told last.
    async fn linger(mut self) {
        while let Some(Ok(_)) = self.socket.next().await {}
        let mut io = self.socket.into_inner();
        if io.shutdown().await.is_err() {
            return;
        }
        let (mut bin, mut left) = ([0; 1024], LINGER_BYTES);
        while let Ok(read @ 1..) = io.read(&mut bin).await {
            left = left.saturating_sub(read);
            if left == 0 {
                return;
            }
        }
    }
}

/// What a client did against the protocol; `None` where it is only gone.
fn violation(error: &Error) -> Option<Farewell> {
    let (code, reason, detail) = match error {
        Error::Capacity(CapacityError::MessageTooLong { size, .. }) => (
            1009,
            "the frame is too long",
            format!("the frame has {size} bytes: send at most {MAX_FRAME_BYTES}, in several"),
        ),
        Error::Utf8(_) => {
            (1007, "the text is not UTF-8", String::from("the text is not UTF-8: send JSON"))
        }
        Error::Protocol(fault) if !is_broken_off(fault) => {
            (1002, "not as RFC 6455 has it", format!("the frame breaks RFC 6455: {fault}"))
        }
        _ => return None,
    };
    Some(Farewell::violation(code, reason, detail))
}

fn is_broken_off(fault: &tokio_tungstenite::tungstenite::error::ProtocolError) -> bool {
    use tokio_tungstenite::tungstenite::error::ProtocolError as P;
    matches!(fault, P::ResetWithoutClosingHandshake | P::ReceivedAfterClosing | P::SendAfterClosing)
}
