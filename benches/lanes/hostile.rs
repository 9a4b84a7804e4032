//! Receivers as one meets them: each answers, or does not, in a way of its own, and counts what it costs.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::Result;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Manner {
    /// Never answered.
    Silent,
    /// Answered after ten seconds.
    Slow,
    /// Accepted after 0.9 s.
    Late,
    /// Answered a byte a second.
    Drip,
    /// The connection is reset.
    Reset,
    /// Answered with 500 at once.
    Error,
    /// Accepted at once.
    Well,
}

/// A receiver of that manner, until dropped.
pub struct Hostile {
    port: u16,
    manner: Arc<AtomicU8>,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    open: AtomicUsize,
    open_most: AtomicUsize,
    requests: AtomicUsize,
    accepted: AtomicUsize,
}

impl Hostile {
    pub async fn start(manner: Manner) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let (counts, now) = (Arc::new(Counts::default()), Arc::new(AtomicU8::new(manner as u8)));
        let (counting, manner) = (Arc::clone(&counts), Arc::clone(&now));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (counts, manner) = (Arc::clone(&counting), Arc::clone(&manner));
                let open = counts.open.fetch_add(1, Ordering::Relaxed) + 1;
                counts.open_most.fetch_max(open, Ordering::Relaxed);
                tokio::spawn(async move {
                    // However it ends, it ends here.
                    let _ = serve(stream, &manner, &counts).await;
                    counts.open.fetch_sub(1, Ordering::Relaxed);
                });
            }
        });
        Ok(Self { port, manner: now, counts })
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/0", self.port)
    }

    /// From now on it behaves so.
    pub fn turn(&self, manner: Manner) {
        self.manner.store(manner as u8, Ordering::Relaxed);
    }

    /// The most connections it had at once.
    pub fn open_most(&self) -> usize {
        self.counts.open_most.load(Ordering::Relaxed)
    }

    pub fn requests(&self) -> usize {
        self.counts.requests.load(Ordering::Relaxed)
    }

    pub fn accepted(&self) -> usize {
        self.counts.accepted.load(Ordering::Relaxed)
    }
}

async fn serve(mut stream: TcpStream, manner: &AtomicU8, counts: &Counts) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::new();
    loop {
        if !read_request(&mut stream, &mut buffer).await? {
            return Ok(());
        }
        counts.requests.fetch_add(1, Ordering::Relaxed);
        let manner = manner.load(Ordering::Relaxed);
        let is = |one: Manner| manner == one as u8;
        if is(Manner::Silent) {
            // Until the other end has had enough.
            let mut rest = [0; 1024];
            while stream.read(&mut rest).await? > 0 {}
            return Ok(());
        }
        if is(Manner::Reset) {
            return stream.set_zero_linger();
        }
        if is(Manner::Slow) {
            tokio::time::sleep(Duration::from_secs(10)).await;
        }
        if is(Manner::Late) {
            tokio::time::sleep(Duration::from_millis(900)).await;
        }
        if is(Manner::Drip) {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n").await?;
            let (mut ended, mut rest) = (false, [0; 64]);
            while !ended {
                stream.write_all(b"x").await?;
                let second = tokio::time::timeout(Duration::from_secs(1), stream.read(&mut rest)).await;
                ended = second.is_ok_and(|read| !matches!(read, Ok(1..)));
            }
            return Ok(());
        }
        if is(Manner::Error) {
            stream.write_all(b"HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n").await?;
        } else {
            counts.accepted.fetch_add(1, Ordering::Relaxed);
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await?;
        }
    }
}

/// Reads a request whole; false where there is none any more.
async fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> std::io::Result<bool> {
    loop {
        if let Some(head) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
            let text = String::from_utf8_lossy(&buffer[..head]).to_ascii_lowercase();
            let length = text
                .lines()
                .find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok())
                .unwrap_or(0);
            if buffer.len() >= head + 4 + length {
                buffer.drain(..head + 4 + length);
                return Ok(true);
            }
        }
        let mut part = [0; 4096];
        match stream.read(&mut part).await? {
            0 => return Ok(false),
            n => buffer.extend_from_slice(&part[..n]),
        }
    }
}
