//! A Python that has what `tests/interop/requirements.txt` names.

use tokio::{process::Command, sync::OnceCell};

/// The path of its executable: what `make test` names in `XT_PYTHON`, else what `scripts/venv` makes.
pub async fn python() -> &'static str {
    static PYTHON: OnceCell<String> = OnceCell::const_new();
    PYTHON
        .get_or_init(|| async {
            if let Ok(given) = std::env::var("XT_PYTHON") {
                return given;
            }
            let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/venv");
            let made = Command::new(script).output().await.expect("scripts/venv starts");
            assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
            String::from_utf8(made.stdout).expect("UTF-8").trim().to_owned()
        })
        .await
}
