//! The manifests in `k8s/base`: valid, restricted, and speaking of the same queues and ports as the service.

use std::process::Stdio;

use tokio::process::Command;

use crate::support::python::python;

#[tokio::test]
async fn the_manifests_are_in_order_and_agree_with_the_service() {
    let topology = Command::new(env!("CARGO_BIN_EXE_xtwebhooks"))
        .args(["topology", "--json"])
        .env_clear()
        .output()
        .await
        .expect("it starts");
    assert!(topology.status.success(), "{}", String::from_utf8_lossy(&topology.stderr));
    let file = std::env::temp_dir().join(format!("xt-topology-{}.json", std::process::id()));
    std::fs::write(&file, &topology.stdout).expect("a file can be written");
    let validated = Command::new(python().await)
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/k8s/validate.py"))
        .arg(&file)
        .stdin(Stdio::null())
        .output()
        .await
        .expect("it starts");
    let _ = std::fs::remove_file(&file);
    let said = String::from_utf8_lossy(&validated.stdout);
    assert!(validated.status.success(), "{said}{}", String::from_utf8_lossy(&validated.stderr));
    assert!(said.starts_with("k8s/base: "), "{said}");
}
