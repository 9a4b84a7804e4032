//! What README tells its readers to write works, against a request that was really sent.

use std::{process::Stdio, time::Duration};

use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, process::Command};
use uuid::Uuid;

use crate::support::{
    app::App,
    python::python,
    receiver::{Receiver, Request},
};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn file(name: &str) -> String {
    std::fs::read_to_string(format!("{ROOT}/{name}")).unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[test]
fn what_the_readme_quotes_is_what_the_examples_say() {
    let readme = file("README.md");
    let mut quotes = 0;
    // <!-- examples/verify.py --> stands before the block that quotes it.
    for part in readme.split("<!-- examples/").skip(1) {
        let (name, rest) = part.split_once(" -->").expect("a name");
        let block = rest.split("```").nth(1).expect("a block");
        let (_language, quoted) = block.split_once('\n').expect("lines");
        assert!(file(&format!("examples/{name}")).contains(quoted), "examples/{name} does not say\n{quoted}");
        quotes += 1;
    }
    assert_eq!(quotes, 4, "publish.py, and verify in three languages");
}

/// Requests as they were received, signed with a secret of either form.
async fn received() -> Vec<(&'static str, Request)> {
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    let _service = app.run(&[]).await;
    let secrets =
        [("/made", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"), ("/given", "your_secure_webhook_secret")];
    for (path, secret) in secrets {
        app.webhook(company, &receiver.url(path), json!({"name": path, "secret": secret})).await;
    }
    app.publish(company, "ticket.created", json!({"title": "Größe 🖨️ \u{0}", "n": 1.0})).await;
    let requests = receiver.wait_for(2).await;
    requests
        .into_iter()
        .map(|request| {
            let (_, secret) = secrets.iter().find(|(path, _)| *path == request.path()).expect("its webhook");
            (*secret, request)
        })
        .collect()
}

/// Asks the example in Python whether a request is genuine.
async fn verified_by_python(secret: &str, request: &Request, body: &[u8]) -> bool {
    let program = "import json, sys; sys.path.insert(0, sys.argv[1]); from verify import verify\n\
                   asked = json.load(sys.stdin)\n\
                   print(verify(asked['secret'], asked['headers'], bytes(asked['body'])))";
    let headers: serde_json::Map<String, Value> =
        request.headers().into_iter().map(|(name, value)| (name.to_lowercase(), json!(value))).collect();
    let asked = json!({"secret": secret, "headers": headers, "body": body});
    let mut child = Command::new(python().await)
        .args(["-B", "-c", program, &format!("{ROOT}/examples")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("Python starts");
    child.stdin.take().expect("piped").write_all(asked.to_string().as_bytes()).await.expect("written");
    let output = tokio::time::timeout(Duration::from_secs(30), child.wait_with_output())
        .await
        .expect("it ends")
        .expect("it ran");
    match String::from_utf8_lossy(&output.stdout).trim() {
        "True" => true,
        "False" => false,
        other => panic!("`{other}` is no answer"),
    }
}

#[tokio::test]
async fn the_example_in_python_takes_what_is_genuine_and_nothing_else() {
    for (secret, request) in received().await {
        assert!(verified_by_python(secret, &request, &request.body).await, "{}", request.head);
        assert!(!verified_by_python("another secret", &request, &request.body).await);
        let mut changed = request.body.to_vec();
        changed[20] ^= 1;
        assert!(!verified_by_python(secret, &request, &changed).await);
        let mut late = request.clone();
        late.head = request.head.replace("x-xtsystems-timestamp: 1", "x-xtsystems-timestamp: 2");
        assert_ne!(late.head, request.head);
        assert!(!verified_by_python(secret, &late, &request.body).await);
    }
}
