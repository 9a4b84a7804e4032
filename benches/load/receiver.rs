//! A receiver that answers at once and notes when each event arrived.

use std::{
    collections::HashSet,
    convert::Infallible,
    sync::{Arc, Mutex},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Result, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// An arrival: where, which event, how long after its publish, when.
#[derive(Clone, Copy)]
struct Arrival {
    webhook: u64,
    event: u64,
    latency_us: u64,
    at: Instant,
}

/// What arrived.
pub struct Summary {
    pub count: usize,
    pub unique: usize,
    pub rate: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
}

/// Listens on loopback until dropped.
pub struct Receiver {
    port: u16,
    arrivals: Arc<Mutex<Vec<Arrival>>>,
}

impl Receiver {
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let arrivals = Arc::new(Mutex::new(Vec::with_capacity(1 << 17)));
        let seen = Arc::clone(&arrivals);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                let seen = Arc::clone(&seen);
                tokio::spawn(async move {
                    let service = service_fn(move |request| answer(Arc::clone(&seen), request));
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Ok(Self { port, arrivals })
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn reset(&self) {
        self.arrivals.lock().expect("not poisoned").clear();
    }

    pub async fn wait_for(&self, count: usize, patience: Duration) -> Result<()> {
        let end = Instant::now() + patience;
        loop {
            let here = self.arrivals.lock().expect("not poisoned").len();
            if here >= count {
                return Ok(());
            }
            ensure!(Instant::now() < end, "{here} of {count} arrived within {patience:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Which events arrived, and when.
    pub fn times(&self) -> Vec<(u64, Instant)> {
        self.arrivals.lock().expect("not poisoned").iter().map(|a| (a.event, a.at)).collect()
    }

    pub fn summary(&self, began: Instant) -> Summary {
        let arrivals = self.arrivals.lock().expect("not poisoned").clone();
        let mut latencies: Vec<u64> = arrivals.iter().map(|a| a.latency_us).collect();
        latencies.sort_unstable();
        let quantile = |q: f64| {
            let rank = (latencies.len() as f64 * q).ceil() as usize;
            latencies.get(rank.saturating_sub(1)).copied().unwrap_or(0) as f64 / 1000.0
        };
        let first = arrivals.iter().map(|a| a.at).min().unwrap_or(began);
        let last = arrivals.iter().map(|a| a.at).max().unwrap_or(began);
        Summary {
            count: arrivals.len(),
            unique: arrivals.iter().map(|a| (a.webhook, a.event)).collect::<HashSet<_>>().len(),
            rate: arrivals.len() as f64 / (last - first).as_secs_f64().max(0.001),
            p50_ms: quantile(0.5),
            p99_ms: quantile(0.99),
        }
    }
}

/// The wall clock in microseconds: publisher and receiver share it.
pub fn now_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as u64
}

async fn answer(
    seen: Arc<Mutex<Vec<Arrival>>>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let webhook = request.uri().path().trim_start_matches('/').parse().unwrap_or(0);
    if let Ok(body) = request.into_body().collect().await {
        let (body, now) = (body.to_bytes(), now_us());
        let event = number_after(&body, b"\"bench_id\":");
        let latency_us = now.saturating_sub(number_after(&body, b"\"sent_at_us\":"));
        seen.lock().expect("not poisoned").push(Arrival { webhook, event, latency_us, at: Instant::now() });
    }
    Ok(Response::new(Full::new(Bytes::from_static(b"ok"))))
}

fn number_after(body: &[u8], key: &[u8]) -> u64 {
    let Some(at) = body.windows(key.len()).position(|window| window == key) else { return 0 };
    body[at + key.len()..]
        .iter()
        .take_while(|b| b.is_ascii_digit())
        .fold(0, |n, b| n * 10 + u64::from(b - b'0'))
}
