//! Requests as code that is not ours sees them.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use super::receiver::Request;

/// A request for `tests/interop/verify.py`: with these secrets the guide's header was made, with those the trio.
pub fn to_verify(
    name: &str,
    request: &Request,
    guide: &[&str],
    standard: &[&str],
    neither: &[&str],
) -> Value {
    let headers: BTreeMap<_, _> = request.headers().into_iter().collect();
    json!({"name": name, "headers": headers, "body": STANDARD.encode(&request.body),
        "guide": guide, "standard": standard, "neither": neither})
}

/// Whether code that is not ours finds everything as it is said to be; and its words.
pub async fn verify(requests: &[Value]) -> (bool, String) {
    let python = std::env::var("XT_PYTHON")
        .expect("XT_PYTHON names a Python with tests/interop/requirements.txt: run the tests by `make test`");
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/interop/verify.py");
    let mut child = tokio::process::Command::new(python)
        .args(["-B", program])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("Python starts");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(json!(requests).to_string().as_bytes()).await.expect("it reads");
    drop(stdin);
    let output = child.wait_with_output().await.expect("it ends");
    (output.status.success(), String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
