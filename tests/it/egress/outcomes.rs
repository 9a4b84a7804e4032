//! Requests and answers: what goes out, and what every answer is.

use super::*;

#[tokio::test]
async fn every_status_is_an_outcome() {
    let receiver = Receiver::start().await;
    let client = client(&local());
    let seconds = |n| Some(Duration::from_secs(n));
    let redirected = |status, to: &str| Outcome::Redirected { status, location: Some(to.to_owned()) };
    let rows = [
        ("200 after 300 ms", Answer::ok().after(SHORT), Outcome::Accepted { status: 200 }),
        ("201", Answer::status(201).body("made"), Outcome::Accepted { status: 201 }),
        ("204", Answer::status(204), Outcome::Accepted { status: 204 }),
        ("301", Answer::status(301).header("Location", "/new"), redirected(301, "/new")),
        ("307", Answer::status(307).header("location", "http://a.test/"), redirected(307, "http://a.test/")),
        ("304 without a place", Answer::status(304), Outcome::Redirected { status: 304, location: None }),
        ("404", Answer::status(404), Outcome::Refused { status: 404 }),
        ("410", Answer::status(410), Outcome::Gone),
        (
            "429 with seconds",
            Answer::status(429).header("Retry-After", "17"),
            Outcome::Throttled { retry_after: seconds(17) },
        ),
        ("429 without", Answer::status(429), Outcome::Throttled { retry_after: None }),
        ("500", Answer::status(500).body("oh"), Outcome::ServerError { status: 500, retry_after: None }),
        (
            "503 with a date",
            Answer::status(503)
                .header("Date", "Mon, 23 Nov 2026 12:00:00 GMT")
                .header("Retry-After", "Mon, 23 Nov 2026 12:01:30 GMT"),
            Outcome::ServerError { status: 503, retry_after: seconds(90) },
        ),
        ("999", Answer::status(999), Outcome::ServerError { status: 999, retry_after: None }),
        ("200 and close", Answer::ok().closing(), Outcome::Accepted { status: 200 }),
        (
            "HTTP/1.0, its body ended by the connection",
            Answer::raw("HTTP/1.0 200 OK\r\n\r\nthat is all"),
            Outcome::Accepted { status: 200 },
        ),
        (
            "an informational answer before the real one",
            Answer::raw("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 202 X\r\ncontent-length: 0\r\n\r\n"),
            Outcome::Accepted { status: 202 },
        ),
    ];
    for (row, answer, outcome) in rows {
        receiver.answer([answer]);
        let exchange = post(&client, &receiver.url("/"), AMPLE).await;
        check(row, &exchange, &Expected::Outcome(outcome));
        assert!(exchange.response.is_some(), "{row}");
        assert_eq!(exchange.address, Some(receiver.address()), "{row}");
    }
}

#[tokio::test]
async fn a_bad_answer_says_how_it_was_bad() {
    let receiver = Receiver::start().await;
    let client = client(&local());
    let reset = |text| Expected::Unreachable(Unreachable::Reset, text);
    let large = |bytes: usize| {
        let mut head = "HTTP/1.1 200 OK\r\n".to_owned();
        while head.len() < bytes {
            let _ = write!(head, "x-{}: {}\r\n", head.len(), "y".repeat(1000));
        }
        head + "content-length: 0\r\n\r\n"
    };
    let many = format!("HTTP/1.1 200 OK\r\n{}content-length: 0\r\n\r\n", "x: y\r\n".repeat(200));
    let head = |rest: &str| Answer::raw(format!("HTTP/1.1 200 OK\r\n{rest}"));
    let rows = [
        ("close without an answer", Answer::close(), reset("without an answer")),
        ("reset without an answer", Answer::reset(), reset("reset the connection before it answered")),
        ("half an answer", Answer::half(), Expected::Cut(200, "closed in the middle")),
        ("half a chunk", head("transfer-encoding: chunked\r\n\r\nff\r\nx"), Expected::Cut(200, "closed in")),
        ("half a head", head("content-le"), Expected::Cut(200, "closed in the middle")),
        ("half a status line", Answer::raw("HTT"), Expected::Cut(0, "closed in the middle")),
        ("no HTTP", Answer::raw("220 mail.test ESMTP\r\n\r\n"), Expected::Cut(0, "not HTTP/1.1")),
        ("no text", Answer::raw(vec![0xff_u8, 0, 0xfe, b'\r', b'\n']), Expected::Cut(0, "not HTTP/1.1")),
        ("a wrong header", head("no colon here\r\n\r\n"), Expected::Cut(200, "not HTTP/1.1")),
        ("a wrong length", head("content-length: -1\r\n\r\n"), Expected::Cut(200, "not HTTP/1.1")),
        ("a wrong chunk", head("transfer-encoding: chunked\r\n\r\nzz\r\n"), Expected::Cut(200, "broke off")),
        ("64 KiB of headers", Answer::raw(large(64 * 1024)), Expected::Cut(200, "headers are too large")),
        ("10 MiB of headers", Answer::raw(large(10 << 20)), Expected::Cut(200, "headers are too large")),
        ("200 headers", Answer::raw(many), Expected::Cut(200, "headers are too large or too many")),
        (
            "48 KiB of headers",
            Answer::raw(large(48 * 1024)),
            Expected::Outcome(Outcome::Accepted { status: 200 }),
        ),
    ];
    for (row, answer, expected) in rows {
        receiver.answer([answer]);
        let exchange = post(&client, &receiver.url("/"), AMPLE).await;
        check(row, &exchange, &expected);
        assert!(!exchange.repeated, "{row}");
    }
    receiver.wait_for_open(0).await;
}

#[tokio::test]
async fn a_request_that_takes_too_long_says_what_it_waited_for() {
    let receiver = Receiver::start().await;
    let dns = Dns::start(&[]).await;
    let client = client(&asking(&dns, local()));
    let slow = Duration::from_millis(10);
    let rows = [
        ("never an answer", "/", Answer::silence(), AwaitedPhase::Answer),
        ("an answer too late", "/", Answer::ok().after(3 * SHORT), AwaitedPhase::Answer),
        ("10 GB dripping", "/", Answer::dripping(200, slow), AwaitedPhase::Rest),
        ("10 GB dripping of an error", "/", Answer::dripping(500, slow), AwaitedPhase::Rest),
        ("half a head", "/", Answer::raw_then_silent("HTTP/1.1 200 OK\r\nx: "), AwaitedPhase::Rest),
        (
            "half a body",
            "/",
            Answer::raw_then_silent("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nx"),
            AwaitedPhase::Rest,
        ),
    ];
    for (row, path, answer, waiting) in rows {
        receiver.answer([answer]);
        let exchange = post(&client, &receiver.url(path), SHORT).await;
        check(row, &exchange, &Expected::TimedOut(waiting));
        assert!(exchange.phases.total >= SHORT && exchange.phases.total < AMPLE / 2, "{row}");
        assert_eq!(exchange.phases.first_byte.is_some(), waiting == AwaitedPhase::Rest, "{row}");
        receiver.wait_for_open(0).await;
    }
    let exchange = post(&client, &receiver.url_by_name(SILENT, "/"), SHORT).await;
    check("a silent name server", &exchange, &Expected::TimedOut(AwaitedPhase::Connection));
}

#[tokio::test]
async fn no_timeout_is_longer_than_the_services_own() {
    let receiver = Receiver::start().await;
    receiver.answer([Answer::silence()]);
    let client = client(&Config { timeout_max: SHORT, ..local() });
    let exchange = post(&client, &receiver.url("/"), AMPLE).await;
    let expected = Outcome::TimedOut { after: SHORT, waiting: AwaitedPhase::Answer };
    check("TIMEOUT_MAX", &exchange, &Expected::Outcome(expected));
}

#[tokio::test]
async fn a_request_that_cannot_be_made_is_a_fault() {
    let receiver = Receiver::start().await;
    let client = client(&Config { require_https: true, ..local() });
    let port = receiver.address().port();
    let rows = [
        ("plain HTTP", receiver.url("/"), "https:// only"),
        ("user-info", format!("https://user:secret@127.0.0.1:{port}/"), "contains a user name or password"),
        ("another scheme", "gopher://127.0.0.1/".to_owned(), "neither http:// nor https://"),
        ("too long", format!("https://127.0.0.1:{port}/{}", "x".repeat(70_000)), "path"),
    ];
    for (row, url, text) in rows {
        let exchange = post(&client, &url, AMPLE).await;
        check(row, &exchange, &Expected::Fault(text));
        assert!(!format!("{exchange:?}").contains("secret"), "{row}");
    }
    assert_eq!(receiver.connections(), 0);
}

#[tokio::test]
async fn a_request_goes_out_as_it_was_given() {
    let receiver = Receiver::start().await;
    let client = client(&local());
    let body: Bytes = (0..300_000_u32).map(|n| n.to_le_bytes()[0]).collect::<Vec<_>>().into();
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("content-type", "application/json"),
        ("x-one", "1"),
        ("host", "elsewhere.test"),
        ("content-length", "3"),
        ("transfer-encoding", "chunked"),
        ("connection", "close"),
    ] {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    let url = Url::parse(&receiver.url("/a%20b/ü?c=d&e#fragment")).unwrap();
    client.post(&url, headers, body.clone(), AMPLE).await;
    let request = &receiver.wait_for(1).await[0];
    assert_eq!((request.method(), request.path()), ("POST", "/a%20b/%C3%BC?c=d&e"));
    assert_eq!(request.body, body);
    let mut found = request.headers();
    found.sort_unstable();
    let host = receiver.address().to_string();
    let expected = [
        ("content-length", "300000"),
        ("content-type", "application/json"),
        ("host", host.as_str()),
        ("x-one", "1"),
    ];
    assert_eq!(found, expected);
}

#[tokio::test]
async fn what_is_kept_of_an_answer_is_bounded() {
    let receiver = Receiver::start().await;
    let client = client(&local());
    let check = async |answer: Answer, kept: usize, truncated: bool| {
        let row = format!("{answer:.100?}");
        receiver.answer([answer]);
        let response = post(&client, &receiver.url("/"), AMPLE).await.response.expect("an answer");
        assert_eq!((response.body.len(), response.truncated), (kept, truncated), "{row}");
    };
    let bytes = |n| vec![b'x'; n];
    check(Answer::ok().body(bytes(0)), 0, false).await;
    check(Answer::ok().body(bytes(1024)), 1024, false).await;
    check(Answer::ok().body(bytes(1025)), 1024, true).await;
    check(Answer::status(500).body(bytes(16 * 1024)), 16 * 1024, false).await;
    check(Answer::status(404).body(bytes(16 * 1024 + 1)), 16 * 1024, true).await;
    check(Answer::flooding(200), 1024, true).await;
    check(Answer::flooding(500), 16 * 1024, true).await;
    receiver.wait_for_open(0).await;
    // Of 10 GB the network took what its buffers hold, and nobody waited for more.
    assert!(receiver.bytes_sent() < 64 << 20, "{} bytes were taken", receiver.bytes_sent());
}

#[tokio::test]
async fn the_headers_of_an_answer_are_kept_in_their_order() {
    let receiver = Receiver::start().await;
    receiver.answer([Answer::raw(
        b"HTTP/1.1 200 OK\r\nZulu: 1\r\nAlpha: 2\r\nLatin: caf\xe9\r\nContent-Length: 2\r\n\r\nhi".as_slice(),
    )]);
    let exchange = post(&client(&local()), &receiver.url("/"), AMPLE).await;
    let response = exchange.response.expect("an answer");
    let headers: Vec<_> = response.headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    let expected = [("zulu", "1"), ("alpha", "2"), ("latin", "caf\u{fffd}"), ("content-length", "2")];
    assert_eq!(headers, expected);
    assert_eq!(response.body, b"hi");
}
