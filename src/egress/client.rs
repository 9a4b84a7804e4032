//! One request to a receiver, from its URL to its outcome.

use std::{pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri, header};
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use url::{Position, Url};

use super::{
    Config, Error, answer,
    connect::{Connector, reset},
    connection::ReceiverConnection,
    error_text,
    guard::{Guard, Target},
    pool::Pool,
    rate_limit,
    resolver::Resolver,
    timing::{Deadline, Timeline},
    tls,
};
use crate::{
    clock::SystemClock,
    model::{AwaitedPhase, Exchange, Outcome, Unreachable},
};

/// Headers that frame a message or belong to a connection. We set them; a webhook's own could split requests on a
/// connection that others use after it.
const NOT_THEIRS: [header::HeaderName; 8] = [
    header::HOST,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::CONNECTION,
    header::TE,
    header::TRAILER,
    header::UPGRADE,
    header::EXPECT,
];

/// Sends requests to receivers. Clones share connections, cached addresses and TLS sessions.
#[derive(Clone)]
pub struct ReceiverClient {
    inner: Arc<ClientInner>,
}

struct ClientInner {
    connector: Connector,
    pool: Arc<Pool>,
    timeout_max: Duration,
}

impl ReceiverClient {
    /// A client that follows these settings.
    ///
    /// # Errors
    /// When a setting cannot be followed: [`Error`] says which.
    pub fn new(config: &Config) -> Result<Self, Error> {
        let guard = Guard { allowed: config.allowed_networks.clone(), require_https: config.require_https };
        let connector = Connector {
            guard,
            resolver: Resolver::new(config)?,
            tls: tls::config(config)?,
            timeout: config.connect_timeout,
        };
        let inner = ClientInner { connector, pool: Arc::default(), timeout_max: config.timeout_max };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// What opens its connections.
    pub(super) fn connector(&self) -> &Connector {
        &self.inner.connector
    }

    /// Posts `body` and reports what came of it; never fails otherwise.
    ///
    /// The whole takes no longer than `timeout`, nor than `TIMEOUT_MAX`. Headers that frame the message are
    /// replaced. A request whose kept connection broke before the first byte of an answer is sent once more on
    /// a fresh one. Dropping the future closes the connection.
    pub async fn post(&self, url: &Url, headers: HeaderMap, body: Bytes, timeout: Duration) -> Exchange {
        let mut course = Timeline::begin();
        let timeout = timeout.min(self.inner.timeout_max);
        let sleep = pin!(tokio::time::sleep(timeout));
        let mut deadline = Deadline::new(timeout, sleep);
        let outcome = match self.inner.post(url, headers, body, &mut deadline, &mut course).await {
            Ok(outcome) | Err(outcome) => outcome,
        };
        course.end(outcome)
    }
}

impl ClientInner {
    /// The steps of an attempt. An outcome comes out as an error where the steps that follow are left out.
    async fn post(
        &self,
        url: &Url,
        headers: HeaderMap,
        body: Bytes,
        deadline: &mut Deadline<'_>,
        course: &mut Timeline,
    ) -> Result<Outcome, Outcome> {
        let target = self.connector.guard.admit(url)?;
        let request = request(url, headers, body)?;
        let origin = &url[..Position::BeforePath];
        if let Some(mut kept) = self.pool.take(origin).await {
            course.address = Some(kept.address);
            match send(&mut kept, request.clone(), deadline, course).await? {
                Ok(head) => return self.answered(origin, kept, head, deadline, course).await,
                Err(Broken { answered: false, error }) if is_of_connection(&error) => course.repeated = true,
                Err(broken) => return Err(broken.outcome(&kept)),
            }
        }
        let mut fresh = self.open(&target, deadline, course).await?;
        match send(&mut fresh, request, deadline, course).await? {
            Ok(head) => self.answered(origin, fresh, head, deadline, course).await,
            Err(broken) => Err(broken.outcome(&fresh)),
        }
    }

    async fn open(
        &self,
        target: &Target<'_>,
        deadline: &mut Deadline<'_>,
        course: &mut Timeline,
    ) -> Result<Box<ReceiverConnection>, Outcome> {
        course.address = None;
        deadline.within(AwaitedPhase::Connection, self.connector.open(target, course)).await?
    }

    /// Reads the body as far as it is kept, and keeps the connection if it can be used again.
    async fn answered(
        &self,
        origin: &str,
        mut link: Box<ReceiverConnection>,
        head: Response<Incoming>,
        deadline: &mut Deadline<'_>,
        course: &mut Timeline,
    ) -> Result<Outcome, Outcome> {
        let (head, mut body) = head.into_parts();
        let response = course.response.insert(answer::begun(head.status, &head.headers));
        let max = answer::body_bytes_max(head.status);
        let now = || SystemClock::local().into();
        // What the head says counts even if the body never ends.
        course.rate_limited_for =
            rate_limit::requested_wait(head.status, &head.headers, &[], now).rate_limited_for;
        while !body.is_end_stream() {
            let Some(part) = deadline.within(AwaitedPhase::Rest, link.frame(&mut body)).await? else { break };
            let part =
                part.map_err(|e| Outcome::Cut { status: response.status, detail: error_text::cut(&e) })?;
            if part.data_ref().is_some_and(|data| !answer::keep(response, data, max)) {
                break;
            }
        }
        let requested = rate_limit::requested_wait(head.status, &head.headers, &response.body, now);
        course.rate_limited_for = requested.rate_limited_for;
        if link.finish(body).await {
            self.pool.put(origin, link);
        }
        Ok(answer::outcome(head.status, &head.headers, requested.retry_after))
    }
}

/// The request as it is sent, or why it cannot be built.
fn request(url: &Url, mut headers: HeaderMap, body: Bytes) -> Result<Request<Full<Bytes>>, Outcome> {
    let fault =
        |what: &str| Outcome::Fault { reason: format!("the URL's {what} cannot be used in a request") };
    let path = &url[Position::BeforePath..Position::AfterQuery];
    let uri = Uri::try_from(path).map_err(|_| fault("path"))?;
    let host = &url[Position::BeforeHost..Position::AfterPort];
    let host = HeaderValue::from_str(host).map_err(|_| fault("host"))?;
    for name in &NOT_THEIRS {
        headers.remove(name);
    }
    headers.insert(header::HOST, host);
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = uri;
    *request.headers_mut() = headers;
    Ok(request)
}

/// A connection that broke before the head of an answer was complete.
struct Broken {
    error: hyper::Error,
    /// Whether a byte of the answer had come.
    answered: bool,
}

async fn send(
    link: &mut ReceiverConnection,
    request: Request<Full<Bytes>>,
    deadline: &mut Deadline<'_>,
    course: &mut Timeline,
) -> Result<Result<Response<Incoming>, Broken>, Outcome> {
    let sent = deadline.within(AwaitedPhase::Answer, link.send(request)).await;
    let first_byte = link.first_byte();
    course.first_byte(first_byte);
    match sent {
        Ok(sent) => Ok(sent.map_err(|error| Broken { error, answered: first_byte.is_some() })),
        // The head had begun, so the rest did not come.
        Err(Outcome::TimedOut { after, .. }) if first_byte.is_some() => {
            Err(Outcome::TimedOut { after, waiting: AwaitedPhase::Rest })
        }
        Err(timed_out) => Err(timed_out),
    }
}

/// Whether it is the connection that failed, rather than the request, which would fail again.
fn is_of_connection(error: &hyper::Error) -> bool {
    !error.is_user() && !error.is_parse() && error_text::tls(error).is_none()
}

impl Broken {
    fn outcome(self, link: &ReceiverConnection) -> Outcome {
        let Self { error, answered } = self;
        if answered {
            return Outcome::Cut { status: link.status(), detail: error_text::cut(&error) };
        }
        if error.is_user() {
            return Outcome::Fault { reason: format!("the request cannot be written: {error}") };
        }
        let address = Some(link.address);
        match error_text::tls(&error) {
            // With TLS 1.3 a server refuses the client's side only after the handshake.
            Some(detail) => Outcome::Unreachable { how: Unreachable::Tls, address, detail },
            None => reset(address, error_text::broken(&error)),
        }
    }
}
