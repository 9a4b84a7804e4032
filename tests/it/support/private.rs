//! Servers of a test's own, to be stopped, restarted and starved without harm to anybody else's.

use std::{path::PathBuf, process::Output};

use serde_json::Value;
use tokio::process::Command;

use super::app::App;

/// A PostgreSQL and a RabbitMQ, ended when dropped, and by a watchdog should this process be killed.
pub struct Private {
    folder: tempfile::TempDir,
    database_url: String,
    amqp_url: String,
}

impl Private {
    /// Starts both.
    pub async fn up() -> Self {
        let folder = tempfile::Builder::new().prefix("xt-private-").tempdir().expect("a temporary folder");
        let owner = std::process::id().to_string();
        let place = folder.path().join("servers");
        let told = services(&["up", &place.to_string_lossy(), "--owner", &owner]).await;
        let told: Value = serde_json::from_slice(&told.stdout).expect("JSON");
        let url = |name: &str| told[name].as_str().expect("a URL").to_owned();
        Self { folder, database_url: url("database_url"), amqp_url: url("amqp_url") }
    }

    /// A world on these servers, migrated.
    pub async fn app(&self) -> App {
        let app = App::at(self.database_url.clone(), self.amqp_url.clone()).await;
        let (code, _, error) = app.try_cli(&["migrate"]).await;
        assert_eq!(code, 0, "{error}");
        app
    }

    /// Stops `postgres` or `rabbitmq` as a crash would.
    pub async fn stop(&self, server: &str) {
        self.change("stop", server).await;
    }

    /// Starts it again, on the same port and data.
    pub async fn start(&self, server: &str) {
        self.change("start", server).await;
    }

    /// Both at once.
    pub async fn restart(&self, server: &str) {
        self.change("restart", server).await;
    }

    async fn change(&self, verb: &str, server: &str) {
        services(&[verb, &self.servers().to_string_lossy(), server]).await;
    }

    /// Evaluates an expression within RabbitMQ, over its management of the command line.
    pub async fn rabbitmqctl(&self, args: &[&str]) -> String {
        let state = std::fs::read_to_string(self.servers().join("state.json")).expect("their state");
        let state: Value = serde_json::from_str(&state).expect("JSON");
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        let home = PathBuf::from(text(&state["data"])).join("rabbitmq");
        let output = Command::new(PathBuf::from(text(&state["rabbitmq"]["scripts"])).join("rabbitmqctl"))
            .env_remove("RABBITMQ_NODENAME")
            .env("ERL_EPMD_PORT", state["rabbitmq"]["mapper_port"].to_string())
            .env("HOME", home)
            .args(["-n", &text(&state["rabbitmq"]["node"])])
            .args(args)
            .output()
            .await
            .expect("rabbitmqctl starts");
        succeeded(args, output)
    }

    fn servers(&self) -> PathBuf {
        self.folder.path().join("servers")
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        let _ = std::process::Command::new(script())
            .args(["private", "down"])
            .arg(self.servers())
            .stderr(std::process::Stdio::null())
            .status();
    }
}

fn script() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("scripts/services")
}

async fn services(args: &[&str]) -> Output {
    let output =
        Command::new(script()).arg("private").args(args).output().await.expect("scripts/services runs");
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

fn succeeded(args: &[&str], output: Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{args:?}: {} {}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}
