//! A look at a URL: where it leads and what TLS says, without a request.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{app::App, dns::Dns, receiver::Receiver, tls::Authority};

#[tokio::test]
async fn a_look_at_a_url_tells_addresses_and_certificate_and_sends_nothing() {
    let (app, company) = (App::new().await, Uuid::new_v4());
    let dns = Dns::start(&[
        ("good.test", &["127.0.0.1"]),
        ("inside.test", &["10.1.2.3"]),
        ("mixed.test", &["127.0.0.1", "10.1.2.3"]),
    ])
    .await;
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    app.set("DNS_SERVERS", dns.address()).set("EXTRA_CA_FILE", authority.write(folder.path()).display());
    let service = app.run(&["--role", "api"]).await;
    let admin = app.client(&service, company).await;
    let look = async |url: &str| admin.post("/v1/webhooks/check-url", json!({"url": url})).await.expect(200);

    let good = Receiver::start_tls(authority.server(&["good.test"])).await;
    let seen = look(&good.url_by_name("good.test", "/hook")).await;
    assert_eq!((&seen["ok"], &seen["error"]), (&json!(true), &Value::Null), "{seen}");
    assert_eq!(seen["addresses"], json!([{"address": "127.0.0.1", "allowed": true, "network": null}]));
    let tls = &seen["tls"];
    assert_eq!((&tls["ok"], &tls["error"]), (&json!(true), &Value::Null));
    assert!(tls["issuer"].as_str().is_some_and(|issuer| issuer.contains("authority ")), "{tls}");
    assert!(tls["expires_at"].is_string(), "{tls}");

    let check = |seen: &Value, said: &str, has_tls: bool| {
        assert_eq!(seen["ok"], json!(false), "{seen}");
        assert!(seen["error"].as_str().is_some_and(|error| error.contains(said)), "{said}: {seen}");
        assert_eq!(seen["tls"].is_object(), has_tls, "{seen}");
    };
    let expired = Receiver::start_tls(authority.expired_server(&["good.test"])).await;
    check(&look(&expired.url_by_name("good.test", "/")).await, "has expired", true);
    let other = Receiver::start_tls(authority.server(&["other.test"])).await;
    check(&look(&other.url_by_name("good.test", "/")).await, "for another name", true);
    let stranger = Receiver::start_tls(Authority::new().server(&["good.test"])).await;
    check(&look(&stranger.url_by_name("good.test", "/")).await, "unknown issuer", true);
    check(&look("https://nowhere.test/").await, "no host named nowhere.test", false);
    check(&look("https://good.test:1/").await, "refused the connection", false);

    // Where a name leads inside is nobody's business, and nothing is connected to.
    let before = good.connections();
    for name in ["inside.test", "mixed.test"] {
        let seen = look(&good.url_by_name(name, "/")).await;
        check(&seen, "10.0.0.0/8", false);
        assert!(!seen.to_string().contains("10.1.2.3"), "{seen}");
        let refused = json!({"address": null, "allowed": false, "network": "10.0.0.0/8 (private)"});
        assert!(seen["addresses"].as_array().is_some_and(|all| all.contains(&refused)), "{seen}");
    }
    assert_eq!(good.connections(), before);

    let plain = Receiver::start().await;
    let seen = look(&plain.url("/")).await;
    assert_eq!((&seen["ok"], &seen["tls"]), (&json!(true), &Value::Null), "{seen}");
    assert_eq!(seen["warnings"][0]["field"], "url", "{seen}");
    assert_eq!(plain.connections(), 0, "http is not connected to at all");
    for receiver in [&good, &expired, &other, &stranger] {
        assert_eq!(receiver.count(), 0, "no request was sent");
    }

    for url in [json!("http://10.0.0.1/"), json!("ftp://example.com/"), json!(7), json!(null), json!("x")] {
        let problem = admin.post("/v1/webhooks/check-url", json!({"url": url})).await.expect(422);
        assert_eq!(problem["errors"][0]["field"], "url");
    }
    admin.post("/v1/webhooks/check-url", json!({})).await.expect(422);
    let reader = admin.with(&app.key(Some(company), &["webhooks:read"]).await);
    assert_eq!(reader.post("/v1/webhooks/check-url", json!({"url": "https://good.test/"})).await.status, 403);
}
