//! What can be done to a request, well and badly.

use std::time::Duration;

use bytes::Bytes;

/// What the receiver does with a request.
#[derive(Clone, Debug)]
pub struct Answer {
    pub(super) delay: Duration,
    pub(super) resets_reused: bool,
    pub(super) act: Act,
}

#[derive(Clone, Debug)]
pub(super) enum Act {
    Reply {
        status: u16,
        headers: Vec<(String, String)>,
        body: Bytes,
        close: bool,
    },
    /// These bytes, then the end of the connection.
    Raw(Bytes),
    /// These bytes, then nothing more.
    RawThenSilent(Bytes),
    /// A head that promises 10 GB, then so many bytes at such intervals.
    Endless {
        status: u16,
        part: usize,
        every: Duration,
    },
    Reset,
}

impl Answer {
    pub fn ok() -> Self {
        Self::status(200)
    }

    pub fn status(status: u16) -> Self {
        Self::act(Act::Reply { status, headers: Vec::new(), body: Bytes::new(), close: false })
    }

    /// Closes the connection without an answer.
    pub fn close() -> Self {
        Self::raw("")
    }

    /// Resets the connection (RST instead of FIN) without an answer.
    pub fn reset() -> Self {
        Self::act(Act::Reset)
    }

    /// Never answers and keeps the connection open.
    pub fn silence() -> Self {
        Self::raw_then_silent("")
    }

    /// Promises 100 bytes, brings a few and closes.
    pub fn half() -> Self {
        Self::raw("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly half of i")
    }

    /// Any bytes, then the end of the connection.
    pub fn raw(bytes: impl Into<Bytes>) -> Self {
        Self::act(Act::Raw(bytes.into()))
    }

    /// Any bytes, then nothing more on an open connection.
    pub fn raw_then_silent(bytes: impl Into<Bytes>) -> Self {
        Self::act(Act::RawThenSilent(bytes.into()))
    }

    /// 10 GB, a byte at a time.
    pub fn dripping(status: u16, every: Duration) -> Self {
        Self::act(Act::Endless { status, part: 1, every })
    }

    /// 10 GB, as fast as they are taken.
    pub fn flooding(status: u16) -> Self {
        Self::act(Act::Endless { status, part: 64 * 1024, every: Duration::ZERO })
    }

    /// The same, later.
    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// The same, but a request that is not the first of its connection meets a reset.
    pub fn resetting_reused(mut self) -> Self {
        self.resets_reused = true;
        self
    }

    /// The same with a header. For plain answers only.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        let Act::Reply { headers, .. } = &mut self.act else { panic!("only a plain answer has headers") };
        headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The same with a body. For plain answers only.
    pub fn body(mut self, bytes: impl Into<Bytes>) -> Self {
        let Act::Reply { body, .. } = &mut self.act else { panic!("only a plain answer has a body") };
        *body = bytes.into();
        self
    }

    /// The same, and the connection is closed afterwards as announced. For plain answers only.
    pub fn closing(mut self) -> Self {
        let Act::Reply { close, .. } = &mut self.act else { panic!("only a plain answer is announced") };
        *close = true;
        self
    }

    fn act(act: Act) -> Self {
        Self { delay: Duration::ZERO, resets_reused: false, act }
    }
}
