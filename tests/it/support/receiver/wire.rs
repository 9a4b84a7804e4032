//! Bare TCP: what the receiver does on it.

use std::{
    sync::{Arc, OnceLock, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{Request, Shared, answer::Act};

/// What an endless answer promises: more than anybody wants.
const ENDLESS_BYTES: u64 = 10_000_000_000;

/// Takes connections for as long as it is not aborted; then they all end.
pub(super) async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        // A connection's end is of no interest, but its remains must not pile up.
        while connections.try_join_next().is_some() {}
        let number = shared.accepted.fetch_add(1, Relaxed);
        let (tls, shared) = (tls.clone(), shared.clone());
        connections.spawn(async move {
            let _open = Open::new(&shared);
            let _ = stream.set_nodelay(true);
            match tls {
                None => serve(stream, number, &shared).await,
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        serve(stream, number, &shared).await;
                    }
                }
            }
        });
    }
}

/// Counts a connection for as long as it lives.
struct Open<'a>(&'a Shared);

impl<'a> Open<'a> {
    fn new(shared: &'a Shared) -> Self {
        shared.open.send_modify(|open| *open += 1);
        Self(shared)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.open.send_modify(|open| *open -= 1);
    }
}

trait Peer: AsyncRead + AsyncWrite + Unpin + Send {
    fn tcp(&self) -> &TcpStream;
}

impl Peer for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

impl Peer for TlsStream<TcpStream> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().0
    }
}

/// Takes requests until either side has had enough.
async fn serve(mut stream: impl Peer, connection: usize, shared: &Shared) {
    let mut buffer = BytesMut::with_capacity(8 * 1024);
    for nth_of_connection in 0.. {
        let Some((head, body)) = read_request(&mut stream, &mut buffer).await else { return };
        let answered = Arc::new(OnceLock::new());
        let at = Instant::now();
        let request = Request { at, connection, head, body, answered: answered.clone() };
        let mut answer = shared.take(request);
        if answer.resets_reused && nth_of_connection > 0 {
            answer.act = Act::Reset;
        }
        if !answer.delay.is_zero() {
            tokio::time::sleep(answer.delay).await;
        }
        let is_whole = matches!(answer.act, Act::Reply { .. });
        let may_go_on = perform(&mut stream, answer.act, shared).await;
        if is_whole && may_go_on {
            answered.get_or_init(Instant::now);
        }
        if !may_go_on {
            return;
        }
    }
}

/// Does what an answer says; true if another request may follow.
async fn perform(stream: &mut impl Peer, act: Act, shared: &Shared) -> bool {
    match act {
        Act::Reply { status, headers, body, close } => {
            let reply = reply(status, &headers, &body, close);
            stream.write_all(&reply).await.is_ok() && !close
        }
        Act::Raw(bytes) => {
            let _ = stream.write_all(&bytes).await;
            let _ = stream.shutdown().await;
            false
        }
        Act::RawThenSilent(bytes) => {
            let _ = stream.write_all(&bytes).await;
            until_closed(stream).await;
            false
        }
        Act::Endless { status, part, every } => {
            let _ = endless(stream, status, part, every, shared).await;
            false
        }
        Act::Reset => {
            // With no time to linger, closing sends RST.
            let _ = stream.tcp().set_zero_linger();
            false
        }
    }
}

fn reply(status: u16, headers: &[(String, String)], body: &[u8], close: bool) -> Vec<u8> {
    let mut lines = vec![format!("HTTP/1.1 {status} X")];
    lines.extend(headers.iter().map(|(name, value)| format!("{name}: {value}")));
    if close {
        lines.push("connection: close".to_owned());
    }
    // These never have a body, nor its length.
    if status != 204 && status != 304 {
        lines.push(format!("content-length: {}", body.len()));
    }
    let mut bytes = lines.join("\r\n").into_bytes();
    bytes.extend_from_slice(b"\r\n\r\n");
    bytes.extend_from_slice(body);
    bytes
}

async fn endless(
    stream: &mut impl Peer,
    status: u16,
    part: usize,
    every: Duration,
    shared: &Shared,
) -> std::io::Result<()> {
    let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {ENDLESS_BYTES}\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    let part = vec![b'x'; part];
    let mut sent = 0;
    while sent < ENDLESS_BYTES {
        let written = stream.write(&part).await? as u64;
        stream.flush().await?;
        sent += written;
        shared.bytes_sent.fetch_add(written, Relaxed);
        if !every.is_zero() {
            tokio::time::sleep(every).await;
        }
    }
    Ok(())
}

/// Waits until the other side closes.
async fn until_closed(stream: &mut impl Peer) {
    let mut rest = [0; 1024];
    while stream.read(&mut rest).await.is_ok_and(|n| n > 0) {}
}

/// The next request of a connection: its head and its body. Nothing at the end of the connection.
async fn read_request(stream: &mut impl Peer, buffer: &mut BytesMut) -> Option<(String, Bytes)> {
    let head_end = loop {
        if let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
            break end;
        }
        read_more(stream, buffer).await?;
    };
    let head = buffer.split_to(head_end + 4);
    let head = String::from_utf8_lossy(&head[..head_end]).into_owned();
    let length = body_bytes(&head);
    while buffer.len() < length {
        read_more(stream, buffer).await?;
    }
    Some((head, buffer.split_to(length).freeze()))
}

async fn read_more(stream: &mut impl Peer, buffer: &mut BytesMut) -> Option<()> {
    buffer.reserve(4 * 1024);
    let read = stream.read_buf(buffer).await.ok()?;
    (read > 0).then_some(())
}

fn body_bytes(head: &str) -> usize {
    let lengths = head.lines().filter_map(|line| line.split_once(':'));
    let mut lengths = lengths.filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    lengths.next().and_then(|(_, value)| value.trim().parse().ok()).unwrap_or(0)
}
