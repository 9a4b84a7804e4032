//! One connection to a receiver, and one request on it.
//!
//! The connection is driven by the task that waits for its answer, not by a task of its own: there is no hop between
//! threads for a request, dropping a request closes the connection, and the stream beneath can say exactly when the
//! first byte came. Nothing drives an idle connection; whether it is still alive is checked when it is used again.

use std::{
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::{Body, Frame, Incoming},
    client::conn::http1::{Builder, Connection, SendRequest},
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::Instant,
};
use tokio_rustls::client::TlsStream;

use super::timing::FirstByteMark;

/// The most bytes that an answer's head may have.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// The most bytes that are buffered of a connection.
const BUFFER_BYTES_MAX: usize = 64 * 1024;

/// How long a connection stays idle at most: less than the 5 s after which common servers close theirs.
const IDLE_MAX: Duration = Duration::from_secs(4);

/// How old a connection gets: a receiver that moves to another address is followed within this.
const AGE_MAX: Duration = Duration::from_mins(5);

/// How much of an answer beyond what is kept is read away so that the connection can be used again.
const DRAIN_BYTES_MAX: usize = 64 * 1024;

/// The HTTP state machine; `None` once the connection has ended.
type Conn = Option<Connection<TokioIo<Wire>, Full<Bytes>>>;

/// A connection, ready for a request or within one.
pub(super) struct ReceiverConnection {
    sender: SendRequest<Full<Bytes>>,
    connection: Conn,
    mark: Arc<FirstByteMark>,
    /// The address connected to.
    pub address: SocketAddr,
    born: Instant,
    idle_since: Instant,
}

impl ReceiverConnection {
    /// Puts HTTP/1.1 on a stream.
    pub async fn open(stream: Stream, address: SocketAddr) -> hyper::Result<Box<Self>> {
        let mark = Arc::new(FirstByteMark::new());
        let io = TokioIo::new(Wire { stream, mark: mark.clone() });
        let (sender, connection) = builder().handshake(io).await?;
        let now = Instant::now();
        let connection = Some(connection);
        Ok(Box::new(Self { sender, connection, mark, address, born: now, idle_since: now }))
    }

    /// Sends a request and waits for the head of its answer.
    pub async fn send(&mut self, request: Request<Full<Bytes>>) -> hyper::Result<Response<Incoming>> {
        self.mark.clear();
        let answer = self.sender.send_request(request);
        drive(&mut self.connection, answer).await
    }

    /// The next part of an answer's body.
    pub async fn frame(&mut self, body: &mut Incoming) -> Option<hyper::Result<Frame<Bytes>>> {
        drive(&mut self.connection, body.frame()).await
    }

    /// When the first byte of the present answer came.
    pub fn first_byte(&self) -> Option<Instant> {
        self.mark.first_byte()
    }

    /// The status the present answer begins with, or 0 where it does not begin like one.
    pub fn status(&self) -> u16 {
        self.mark.status()
    }

    /// Drains the rest of an answer if it is small and has already arrived, and says whether the connection can take
    /// another request. It never waits: a receiver that keeps sending only loses its connection.
    pub async fn finish(&mut self, mut body: Incoming) -> bool {
        let mut drained = 0;
        std::future::poll_fn(|cx| {
            loop {
                let frame = match Pin::new(&mut body).poll_frame(cx) {
                    Poll::Pending => {
                        self.poll_connection(cx);
                        Pin::new(&mut body).poll_frame(cx)
                    }
                    ready @ Poll::Ready(_) => ready,
                };
                match frame {
                    Poll::Ready(Some(Ok(frame))) if drained <= DRAIN_BYTES_MAX => {
                        drained += frame.data_ref().map_or(0, Bytes::len);
                    }
                    Poll::Ready(None) => break,
                    _ => return Poll::Ready(false),
                }
            }
            if !self.sender.is_ready() {
                self.poll_connection(cx);
            }
            self.idle_since = Instant::now();
            Poll::Ready(self.sender.is_ready())
        })
        .await
    }

    /// Whether the connection can still be used: not too old, and not closed by the other side meanwhile.
    pub async fn is_alive(&mut self) -> bool {
        if self.is_stale(Instant::now()) {
            return false;
        }
        std::future::poll_fn(|cx| {
            self.poll_connection(cx);
            Poll::Ready(self.connection.is_some() && self.sender.is_ready())
        })
        .await
    }

    /// Whether it has been idle or has lived for too long.
    pub fn is_stale(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.idle_since) >= IDLE_MAX
            || now.saturating_duration_since(self.born) >= AGE_MAX
    }

    fn poll_connection(&mut self, cx: &mut Context<'_>) {
        poll_connection(&mut self.connection, cx);
    }
}

/// How HTTP/1.1 is spoken. hyper's own bound on the number of headers, 100, is kept: another one would cost an
/// allocation per answer.
fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.max_header_size(HEAD_BYTES_MAX).max_buf_size(BUFFER_BYTES_MAX);
    builder
}

/// Lets the connection work until what is waited for is there.
async fn drive<F: Future>(connection: &mut Conn, step: F) -> F::Output {
    let mut step = pin!(step);
    std::future::poll_fn(|cx| {
        // The step first, because it may have to ask before the connection delivers; then what the connection
        // delivered.
        if let Poll::Ready(done) = step.as_mut().poll(cx) {
            return Poll::Ready(done);
        }
        poll_connection(connection, cx);
        step.as_mut().poll(cx)
    })
    .await
}

fn poll_connection(connection: &mut Conn, cx: &mut Context<'_>) {
    // Its error, if any, reaches the request; dropping it ensures that nothing waits for it in vain.
    if connection.as_mut().is_some_and(|c| Pin::new(c).poll(cx).is_ready()) {
        *connection = None;
    }
}

/// The bytes beneath HTTP.
pub(super) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// A stream that marks the first byte of each answer.
struct Wire {
    stream: Stream,
    mark: Arc<FirstByteMark>,
}

/// Calls a method of whichever stream it is.
macro_rules! either {
    ($stream:expr, $inner:ident => $call:expr) => {
        match $stream {
            Stream::Plain($inner) => $call,
            Stream::Tls($inner) => $call,
        }
    };
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = either!(&mut self.stream, s => Pin::new(s).poll_read(cx, buf));
        ready!(read)?;
        self.mark.arrived(&buf.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        either!(&mut self.stream, s => Pin::new(s).poll_write(cx, buf))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(&mut self.stream, s => Pin::new(s).poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(&mut self.stream, s => Pin::new(s).poll_shutdown(cx))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(&mut self.stream, s => Pin::new(s).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        either!(&self.stream, s => s.is_write_vectored())
    }
}
