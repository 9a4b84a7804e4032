//! Where requests may go: names, addresses, certificates.

use super::*;

#[tokio::test]
async fn a_certificate_is_judged_by_the_systems_authorities_and_the_extra_ones() {
    let dns = Dns::start(&[("good.test", &["127.0.0.1"])]).await;
    let (ours, stranger) = (Authority::new(), Authority::new());
    let folder = tempfile::tempdir().unwrap();
    let config = Config { extra_ca_file: Some(ours.write(folder.path())), ..asking(&dns, local()) };
    let client = client(&config);
    let tls = |text| Expected::Unreachable(Unreachable::Tls, text);
    let accepted = || Expected::Outcome(Outcome::Accepted { status: 200 });
    let rows = [
        ("valid", ours.server(&["good.test"]), "good.test", accepted()),
        ("valid, the name with a dot", ours.server(&["good.test"]), "good.test.", accepted()),
        ("valid for the address", ours.server(&["127.0.0.1"]), "127.0.0.1", accepted()),
        ("expired", ours.expired_server(&["good.test"]), "good.test", tls("has expired")),
        ("wrong name", ours.server(&["other.test"]), "good.test", tls("is for another name")),
        (
            "a certificate of ours is wanted",
            ours.server_for_known_clients(&["good.test"]),
            "good.test",
            tls("certificate required"),
        ),
        ("unknown issuer", stranger.server(&["good.test"]), "good.test", tls("unknown issuer")),
    ];
    for (row, server, host, expected) in rows {
        let receiver = Receiver::start_tls(server).await;
        let exchange = post(&client, &receiver.url_by_name(host, "/"), AMPLE).await;
        check(row, &exchange, &expected);
        assert_eq!(exchange.address, Some(receiver.address()), "{row}");
        let reached = matches!(exchange.outcome, Outcome::Accepted { .. });
        assert_eq!(receiver.count(), usize::from(reached), "{row}: nothing is sent before the check");
    }
}

#[tokio::test]
async fn a_server_that_speaks_no_tls_is_told_apart() {
    let client = client(&Config { connect_timeout: SHORT, ..local() });
    let https = |receiver: &Receiver| receiver.url("/").replace("http:", "https:");
    // It waits for the end of a head that never comes.
    let silent = Receiver::start().await;
    let exchange = post(&client, &https(&silent), AMPLE).await;
    check("silence", &exchange, &Expected::Unreachable(Unreachable::Tls, "did not finish within 300ms"));

    let greeting = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/", greeting.local_addr().unwrap());
    let greets = tokio::spawn(async move {
        let (mut stream, _) = greeting.accept().await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, b"220 mail.test ESMTP\r\n").await.unwrap();
        stream
    });
    let exchange = post(&client, &url, AMPLE).await;
    check("a greeting", &exchange, &Expected::Unreachable(Unreachable::Tls, "does not speak TLS"));
    drop(greets);
}

#[tokio::test]
async fn a_name_without_an_address_and_a_closed_port_are_unreachable() {
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    let dns = Dns::start(&[("empty.test", &[]), ("two.test", &["127.0.0.1", "::1"])]).await;
    let client = client(&asking(&dns, local()));
    let port = closed.port();
    let rows = [
        ("no such name", "http://none.test/".to_owned(), Unreachable::Dns, "no host named none.test"),
        ("no address", "http://empty.test/".to_owned(), Unreachable::Dns, "empty.test has no address"),
        ("a label too long", format!("http://{}.test/", "x".repeat(64)), Unreachable::Dns, "looked up"),
        ("refused", format!("http://127.0.0.1:{port}/"), Unreachable::Connect, "refused the connection"),
        ("refused by all", format!("http://two.test:{port}/"), Unreachable::Connect, "[::1]:"),
    ];
    for (row, url, how, text) in rows {
        let exchange = post(&client, &url, AMPLE).await;
        check(row, &exchange, &Expected::Unreachable(how, text));
        assert_eq!(exchange.address, None, "{row}");
    }
    let exchange = post(&client, &format!("http://{closed}/"), AMPLE).await;
    let Outcome::Unreachable { address, .. } = exchange.outcome else { panic!("{exchange:?}") };
    assert_eq!(address, Some(closed));
}

#[tokio::test]
async fn another_address_of_the_name_is_tried_when_one_fails() {
    let receiver = Receiver::start().await;
    let dns = Dns::start(&[("two.test", &["127.0.0.9", "127.0.0.1"])]).await;
    let client = client(&asking(&dns, local()));
    let exchange = post(&client, &receiver.url_by_name("two.test", "/"), AMPLE).await;
    check("two", &exchange, &Expected::Outcome(Outcome::Accepted { status: 200 }));
    assert_eq!(exchange.address, Some(receiver.address()));
}

#[tokio::test]
async fn a_connection_that_does_not_come_about_is_given_up_before_the_request_is() {
    // A listener that accepts nothing: when its queue is full, the system answers no more.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut queued = Vec::new();
    while let Ok(connected) = tokio::time::timeout(SHORT, TcpStream::connect(address)).await {
        queued.push(connected.unwrap());
        assert!(queued.len() < 4096, "the queue has no end");
    }
    let client = client(&Config { connect_timeout: SHORT, ..local() });
    let exchange = post(&client, &format!("http://{address}/"), AMPLE).await;
    check("full", &exchange, &Expected::Unreachable(Unreachable::Connect, "within 300ms"));
    let exchange = post(&client, &format!("http://{address}/"), SHORT / 2).await;
    check("sooner", &exchange, &Expected::TimedOut(AwaitedPhase::Connection));
}

#[tokio::test]
async fn localhost_needs_no_name_server() {
    let receiver = Receiver::start().await;
    let url = receiver.url_by_name("localhost", "/");
    let exchange = post(&client(&local()), &url, AMPLE).await;
    check("localhost", &exchange, &Expected::Outcome(Outcome::Accepted { status: 200 }));
    let exchange = post(&client(&Config::default()), &url, AMPLE).await;
    assert_eq!(exchange.outcome.class(), OutcomeClass::Blocked);
    assert_eq!(receiver.count(), 1);
}

#[tokio::test]
async fn no_connection_is_opened_to_a_forbidden_address_however_it_is_spelled() {
    let receiver = Receiver::start().await;
    let port = receiver.address().port();
    let names: [(&str, &[&str]); 10] = [
        ("loopback.test", &["127.0.0.1"]),
        ("loopback6.test", &["::1"]),
        ("mapped.test", &["::ffff:10.0.0.1"]),
        ("mapped-loopback.test", &["::ffff:127.0.0.1"]),
        ("nat64.test", &["64:ff9b::a00:1"]),
        ("6to4.test", &["2002:a00:1::1"]),
        ("metadata.test", &["169.254.169.254"]),
        ("unspecified.test", &["0.0.0.0"]),
        // One public address does not help.
        ("mixed.test", &["93.184.215.14", "127.0.0.1"]),
        ("mixed6.test", &["93.184.215.14", "fd00::1"]),
    ];
    let dns = Dns::start(&names).await;
    let client = client(&asking(&dns, Config::default()));
    let literals = [
        ("127.0.0.1", "127.0.0.0/8"),
        ("2130706433", "127.0.0.0/8"),
        ("0x7f.1", "127.0.0.0/8"),
        ("[::1]", "::1/128"),
        ("[::ffff:10.0.0.1]", "10.0.0.0/8"),
        ("[::ffff:127.0.0.1]", "127.0.0.0/8"),
        ("[64:ff9b::10.0.0.1]", "10.0.0.0/8"),
        ("[2002:0a00:0001::]", "10.0.0.0/8"),
        ("169.254.169.254", "metadata"),
        ("0.0.0.0", "0.0.0.0/8"),
    ];
    let by_name = [
        ("loopback.test", "127.0.0.0/8"),
        ("loopback6.test", "::1/128"),
        ("mapped.test", "10.0.0.0/8"),
        ("mapped-loopback.test", "127.0.0.0/8"),
        ("nat64.test", "10.0.0.0/8"),
        ("6to4.test", "10.0.0.0/8"),
        ("metadata.test", "metadata"),
        ("unspecified.test", "0.0.0.0/8"),
        ("mixed.test", "127.0.0.0/8"),
        ("mixed6.test", "fc00::/7"),
    ];
    for (host, network) in literals.into_iter().chain(by_name) {
        for scheme in ["http", "https"] {
            let exchange = post(&client, &format!("{scheme}://{host}:{port}/"), AMPLE).await;
            check(host, &exchange, &Expected::Blocked(network));
            assert_eq!(exchange.address, None, "{host}");
        }
    }
    assert_eq!(receiver.connections(), 0);
}

#[tokio::test]
async fn a_name_is_looked_up_once_so_that_the_address_judged_is_the_one_connected_to() {
    let receiver = Receiver::start().await;
    let dns = Dns::start(&[("once.test", &["127.0.0.1"])]).await;
    let client = client(&asking(&dns, local()));
    receiver.answer([Answer::ok().closing()]);
    for _ in 0..3 {
        let exchange = post(&client, &receiver.url_by_name("once.test", "/"), AMPLE).await;
        check("once", &exchange, &Expected::Outcome(Outcome::Accepted { status: 200 }));
    }
    assert_eq!(receiver.connections(), 3);
    assert_eq!(dns.questions("once.test"), 2, "once for either family, then from the cache");
}
