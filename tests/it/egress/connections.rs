//! Connections: used again, repeated once, closed in time, timed.

use super::*;

#[tokio::test]
async fn a_connection_is_used_again_after_every_whole_answer() {
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n";
    let rows = [
        ("no body", Answer::ok(), true),
        ("204", Answer::status(204), true),
        ("a short body", Answer::ok().body("thanks"), true),
        ("a body longer than is kept", Answer::ok().body(vec![b'x'; 4000]), true),
        ("an error's", Answer::status(500).body("oh"), true),
        ("announced closing", Answer::ok().closing(), false),
        ("chunks, then closed", Answer::raw(chunked), false),
        ("more than the length says", Answer::raw("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nxyz"), false),
        ("endless", Answer::flooding(200), false),
    ];
    for (row, answer, reused) in rows {
        let receiver = Receiver::start().await;
        let client = client(&local());
        receiver.answer([answer]);
        for _ in 0..3 {
            let exchange = post(&client, &receiver.url("/"), AMPLE).await;
            assert!(!exchange.repeated, "{row}");
        }
        assert_eq!(receiver.connections(), if reused { 1 } else { 3 }, "{row}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_finds_the_connections_of_the_burst_before() {
    const BURST: usize = 100;
    let receiver = Receiver::start_counting().await;
    let client = client(&local());
    // Nobody is answered before all have come, so that each needs a connection.
    let gate = std::sync::Arc::new(tokio::sync::Barrier::new(BURST));
    receiver.answer([Answer::ok().after(SHORT)]);
    for _ in 0..2 {
        let mut burst = tokio::task::JoinSet::new();
        for _ in 0..BURST {
            let (client, url, gate) = (client.clone(), receiver.url("/"), gate.clone());
            burst.spawn(async move {
                gate.wait().await;
                post(&client, &url, AMPLE).await
            });
        }
        for exchange in burst.join_all().await {
            check("burst", &exchange, &Expected::Outcome(Outcome::Accepted { status: 200 }));
        }
    }
    assert_eq!(receiver.count(), 2 * BURST);
    assert_eq!(receiver.connections(), BURST);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_connections_are_kept_for_a_receiver_than_there_may_be() {
    const KEPT: usize = 256;
    let receiver = Receiver::start_counting().await;
    let client = client(&local());
    receiver.answer([Answer::ok().after(Duration::from_secs(1))]);
    let mut burst = tokio::task::JoinSet::new();
    for _ in 0..KEPT + 50 {
        let (client, url) = (client.clone(), receiver.url("/"));
        burst.spawn(async move { post(&client, &url, AMPLE).await });
    }
    burst.join_all().await;
    assert!(receiver.connections() > KEPT, "the requests did not overlap");
    receiver.wait_for_open(KEPT).await;
}

#[tokio::test]
async fn a_reset_on_a_reused_connection_is_repeated_once_and_noted() {
    let receiver = Receiver::start().await;
    let client = client(&local());
    let accepted = || Expected::Outcome(Outcome::Accepted { status: 200 });
    let reset = || Expected::Unreachable(Unreachable::Reset, "");
    let url = receiver.url("/");
    // (second answer, third answer, what comes of the second request, whether it was repeated, requests in all)
    let rows = [
        ("reset, then well", Answer::reset(), Answer::ok(), accepted(), true, 3),
        ("closed, then well", Answer::close(), Answer::ok(), accepted(), true, 3),
        ("reset twice", Answer::reset(), Answer::reset(), reset(), true, 3),
        ("half an answer", Answer::half(), Answer::ok(), Expected::Cut(200, "middle"), false, 2),
        (
            "half a head",
            Answer::raw("HTTP/1.1 200 OK\r\nx"),
            Answer::ok(),
            Expected::Cut(200, "middle"),
            false,
            2,
        ),
        ("silence", Answer::silence(), Answer::ok(), Expected::TimedOut(AwaitedPhase::Answer), false, 2),
        ("no HTTP", Answer::raw("what?\r\n\r\n"), Answer::ok(), Expected::Cut(0, "not HTTP"), false, 2),
    ];
    for (row, second, third, expected, repeated, requests) in rows {
        let before = receiver.count();
        receiver.answer([Answer::ok(), second, third]);
        check(row, &post(&client, &url, SHORT).await, &accepted());
        let exchange = post(&client, &url, SHORT).await;
        check(row, &exchange, &expected);
        assert_eq!(exchange.repeated, repeated, "{row}");
        assert_eq!(receiver.count() - before, requests, "{row}");
        // The next row begins with a connection of its own.
        receiver.answer([Answer::ok().closing()]);
        post(&client, &url, SHORT).await;
    }
}

#[tokio::test]
async fn a_receiver_that_resets_every_reused_connection_still_gets_everything() {
    let receiver = Receiver::start().await;
    receiver.answer([Answer::ok().resetting_reused()]);
    let client = client(&local());
    for n in 0..4 {
        let exchange = post(&client, &receiver.url("/"), AMPLE).await;
        check("always", &exchange, &Expected::Outcome(Outcome::Accepted { status: 200 }));
        assert_eq!(exchange.repeated, n > 0);
        assert_eq!(exchange.address, Some(receiver.address()));
    }
}

#[tokio::test]
async fn a_connection_that_was_closed_while_idle_is_not_used() {
    let receiver = Receiver::start().await;
    let client = client(&local());
    post(&client, &receiver.url("/"), AMPLE).await;
    let address = receiver.address().to_string();
    receiver.stop().await;
    let receiver = Receiver::start_at(&address).await;
    // A whole exchange on another connection, so that the end of the first has been seen by the runtime.
    post(&super::client(&local()), &receiver.url("/"), AMPLE).await;
    let exchange = post(&client, &receiver.url("/"), AMPLE).await;
    check("back", &exchange, &Expected::Outcome(Outcome::Accepted { status: 200 }));
    assert!(!exchange.repeated);
    assert_eq!((receiver.count(), receiver.connections()), (2, 2));
}

#[tokio::test]
async fn idle_connections_are_closed_before_receivers_close_theirs() {
    let receiver = Receiver::start().await;
    let client = client(&local());
    post(&client, &receiver.url("/"), AMPLE).await;
    let idle_since = Instant::now();
    assert_eq!(receiver.open_connections(), 1);
    receiver.wait_for_open(0).await;
    let idle = idle_since.elapsed();
    assert!(idle > Duration::from_secs(3) && idle < Duration::from_secs(10), "{idle:?}");
    drop(client);
}

#[tokio::test]
async fn a_request_that_is_given_up_closes_its_connection() {
    let receiver = Receiver::start().await;
    receiver.answer([Answer::silence()]);
    let client = client(&local());
    let url = receiver.url("/");
    tokio::select! {
        exchange = post(&client, &url, AMPLE) => panic!("{exchange:?}"),
        _ = receiver.wait_for(1) => {}
    }
    receiver.wait_for_open(0).await;
}

#[tokio::test]
async fn the_phases_of_a_request_are_told() {
    let dns = Dns::start(&[("timed.test", &["127.0.0.1"])]).await;
    let authority = Authority::new();
    let folder = tempfile::tempdir().unwrap();
    let config = Config { extra_ca_file: Some(authority.write(folder.path())), ..asking(&dns, local()) };
    let receiver = Receiver::start_tls(authority.server(&["timed.test"])).await;
    receiver.answer([Answer::ok().after(SHORT)]);
    let client = client(&config);
    let url = receiver.url_by_name("timed.test", "/");

    let fresh = post(&client, &url, AMPLE).await.phases;
    let before = [fresh.dns, fresh.connect, fresh.tls].map(|phase| phase.expect("a fresh connection has it"));
    let first_byte = fresh.first_byte.expect("an answer has one");
    assert!(before.iter().sum::<Duration>() + SHORT <= first_byte, "{fresh:?}");
    assert!(first_byte <= fresh.total, "{fresh:?}");

    let reused = post(&client, &url, AMPLE).await.phases;
    assert_eq!((reused.dns, reused.connect, reused.tls), (None, None, None));
    assert!(reused.first_byte.is_some_and(|first| first >= SHORT && first <= reused.total), "{reused:?}");
    assert_eq!(receiver.connections(), 1);
}
