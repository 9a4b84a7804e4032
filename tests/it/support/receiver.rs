//! A receiver that answers by script, well or badly, and remembers what it was asked.
//!
//! It is written on bare TCP, for no HTTP library would misbehave as real receivers do: close without an answer,
//! break off in the middle, drip, fall silent, reset.
//!
//! ```ignore
//! let receiver = Receiver::start().await;                             // 200 to everything
//! receiver.answer([Answer::status(500), Answer::ok()]);               // 500 once, then 200 for ever
//! receiver.answer_at("/slow", [Answer::ok().after(Duration::from_millis(300))]);
//! let requests = receiver.wait_for(2).await;                          // panics after 20 s
//! assert_eq!(requests[0].header("webhook-id"), requests[1].header("webhook-id"));
//! ```

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use rustls::ServerConfig;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};
use tokio_rustls::TlsAcceptor;

pub use answer::Answer;

mod answer;
mod wire;

/// How long [`Receiver::wait_for`] waits before the test fails.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Request {
    /// When its last byte was there.
    pub at: Instant,
    /// Which connection brought it, counted from 0.
    pub connection: usize,
    /// Request line and headers as they came, in their order, without the empty line.
    pub head: String,
    pub body: Bytes,
    /// When its answer had been written whole; never, if the answer is none or the other side was gone.
    pub answered: Arc<OnceLock<Instant>>,
}

impl Request {
    pub fn method(&self) -> &str {
        self.head.split(' ').next().unwrap_or_default()
    }

    /// Path and query.
    pub fn path(&self) -> &str {
        self.head.split(' ').nth(1).unwrap_or_default()
    }

    /// Names as written, in the order on the wire.
    pub fn headers(&self) -> Vec<(&str, &str)> {
        self.head
            .lines()
            .skip(1)
            .filter_map(|line| line.split_once(':'))
            .map(|(n, v)| (n, v.trim()))
            .collect()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers().into_iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("the body is JSON")
    }
}

type Script = Arc<dyn Fn(&Request, usize) -> Answer + Send + Sync>;

/// The receiver. Dropped, it closes its port and every connection.
pub struct Receiver {
    address: SocketAddr,
    https: bool,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

struct Shared {
    scripts: Mutex<Scripts>,
    requests: Mutex<Vec<Request>>,
    count: watch::Sender<usize>,
    records: bool,
    accepted: AtomicUsize,
    open: watch::Sender<usize>,
    bytes_sent: AtomicU64,
}

#[derive(Default)]
struct Scripts {
    by_path: HashMap<String, (Script, usize)>,
    everywhere: Option<(Script, usize)>,
}

impl Receiver {
    /// Listens on a free port of 127.0.0.1 and answers 200 until told otherwise.
    pub async fn start() -> Self {
        Self::build("127.0.0.1:0", None, true).await
    }

    /// Listens at this address: to come back where another receiver was.
    pub async fn start_at(address: &str) -> Self {
        Self::build(address, None, true).await
    }

    /// Speaks TLS with what `tls.rs` makes.
    pub async fn start_tls(tls: ServerConfig) -> Self {
        Self::build("127.0.0.1:0", Some(tls), true).await
    }

    /// Counts requests but keeps none: for loads that would fill the memory.
    pub async fn start_counting() -> Self {
        Self::build("127.0.0.1:0", None, false).await
    }

    async fn build(address: &str, tls: Option<ServerConfig>, records: bool) -> Self {
        let listener = TcpListener::bind(address).await.expect("the receiver's address is free");
        let address = listener.local_addr().expect("a bound socket has an address");
        let shared = Arc::new(Shared {
            scripts: Mutex::default(),
            requests: Mutex::default(),
            count: watch::Sender::new(0),
            records,
            accepted: AtomicUsize::new(0),
            open: watch::Sender::new(0),
            bytes_sent: AtomicU64::new(0),
        });
        let https = tls.is_some();
        let acceptor = tls.map(|tls| TlsAcceptor::from(Arc::new(tls)));
        let accepting = tokio::spawn(wire::accept(listener, acceptor, shared.clone()));
        Self { address, https, shared, accepting }
    }

    /// Closes its port and every connection, and returns once they are closed.
    pub async fn stop(mut self) {
        self.accepting.abort();
        let _ = (&mut self.accepting).await;
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its URL, by address.
    pub fn url(&self, path: &str) -> String {
        self.url_by_name(&self.address.ip().to_string(), path)
    }

    /// Its URL by a name that must resolve to its address.
    pub fn url_by_name(&self, name: &str, path: &str) -> String {
        let scheme = if self.https { "https" } else { "http" };
        format!("{scheme}://{name}:{}{path}", self.address.port())
    }

    /// From now on: the nth request to any path without answers of its own gets the nth answer, those after
    /// the last get the last.
    pub fn answer(&self, answers: impl IntoIterator<Item = Answer>) {
        self.scripts().everywhere = Some((in_turn(answers), 0));
    }

    /// The same for one path.
    pub fn answer_at(&self, path: &str, answers: impl IntoIterator<Item = Answer>) {
        self.scripts().by_path.insert(path.to_owned(), (in_turn(answers), 0));
    }

    /// From now on the answer is made from the request and its number (from 0).
    pub fn answer_by(&self, script: impl Fn(&Request, usize) -> Answer + Send + Sync + 'static) {
        self.scripts().everywhere = Some((Arc::new(script), 0));
    }

    /// How many requests have come.
    pub fn count(&self) -> usize {
        *self.shared.count.borrow()
    }

    /// All requests so far, in the order of their arrival.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.requests.lock().expect("no test panics within").clone()
    }

    /// The requests from the `n`th on (from 0): for loads of which all together would be much to copy.
    pub fn requests_from(&self, n: usize) -> Vec<Request> {
        let requests = self.shared.requests.lock().expect("no test panics within");
        requests.get(n..).unwrap_or_default().to_vec()
    }

    /// Waits until `n` requests have come and returns all there are. The test fails after [`PATIENCE`].
    pub async fn wait_for(&self, n: usize) -> Vec<Request> {
        self.wait_within(n, PATIENCE).await
    }

    /// The same with a patience of its own.
    pub async fn wait_within(&self, n: usize, patience: Duration) -> Vec<Request> {
        let mut count = self.shared.count.subscribe();
        let waited = tokio::time::timeout(patience, count.wait_for(|count| *count >= n)).await;
        assert!(waited.is_ok(), "{} of {n} requests came within {patience:?}", self.count());
        self.requests()
    }

    /// How many connections are open.
    pub fn open_connections(&self) -> usize {
        *self.shared.open.borrow()
    }

    /// Waits until so many connections are open.
    pub async fn wait_for_open(&self, n: usize) {
        let mut open = self.shared.open.subscribe();
        let waited = tokio::time::timeout(PATIENCE, open.wait_for(|open| *open == n)).await;
        assert!(waited.is_ok(), "{} connections stayed open, not {n}", self.open_connections());
    }

    /// How many connections there have been.
    pub fn connections(&self) -> usize {
        self.shared.accepted.load(Relaxed)
    }

    /// How many bytes of endless answers the network took.
    pub fn bytes_sent(&self) -> u64 {
        self.shared.bytes_sent.load(Relaxed)
    }

    fn scripts(&self) -> std::sync::MutexGuard<'_, Scripts> {
        self.shared.scripts.lock().expect("no test panics within")
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

fn in_turn(answers: impl IntoIterator<Item = Answer>) -> Script {
    let answers: Vec<_> = answers.into_iter().collect();
    assert!(!answers.is_empty(), "a script has at least one answer");
    Arc::new(move |_, n| answers[n.min(answers.len() - 1)].clone())
}

impl Shared {
    /// Remembers a request and says what to do with it.
    fn take(&self, request: Request) -> Answer {
        let answer = self.scripts.lock().expect("no test panics within").answer(&request);
        if self.records {
            self.requests.lock().expect("no test panics within").push(request);
        }
        self.count.send_modify(|count| *count += 1);
        answer
    }
}

impl Scripts {
    fn answer(&mut self, request: &Request) -> Answer {
        let here = self.by_path.get_mut(request.path()).or(self.everywhere.as_mut());
        let Some((script, count)) = here else { return Answer::ok() };
        *count += 1;
        script(request, *count - 1)
    }
}
