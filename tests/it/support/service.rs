//! A process of the service, as a test sees it: by its probes, its log, its end.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::Value;
use tokio::process::{Child, Command};

use super::{app::eventually, soon};

/// A running process of the service. Killed when dropped.
pub struct Service {
    pub(super) child: Child,
    pub(super) address: String,
    pub(super) log: Arc<Mutex<Vec<Value>>>,
}

impl Service {
    /// Waits until every check holds.
    pub async fn ready(&self) {
        eventually("the service is ready", async || match self.get("/health/ready").await {
            Some((200, _)) => Some(()),
            _ => None,
        })
        .await;
    }

    /// Asks health or metrics; nothing if nobody answers.
    pub async fn get(&self, path: &str) -> Option<(u16, String)> {
        soon("an answer of its probes", self.ask(path)).await
    }

    async fn ask(&self, path: &str) -> Option<(u16, String)> {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = tokio::net::TcpStream::connect(&self.address).await.ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: probes\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    }

    /// One sample of the metrics, by its whole name with labels: `xtwebhooks_schedule_rescued_total`.
    pub async fn metric(&self, sample: &str) -> f64 {
        let (_, text) = self.get("/metrics").await.expect("metrics answer");
        let line = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no sample {sample} in\n{text}"))
    }

    /// Where its API answers: `http://127.0.0.1:40123`.
    pub async fn api(&self) -> String {
        let address = eventually("the API answers", async || {
            let log = self.log.lock().expect("not poisoned");
            let line = log.iter().find(|entry| entry["message"] == "api")?;
            line["address"].as_str().map(ToOwned::to_owned)
        });
        format!("http://{}", address.await)
    }

    /// What it has logged so far.
    pub fn log(&self) -> Vec<Value> {
        self.log.lock().expect("not poisoned").clone()
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    /// Ends it as a crash would.
    pub async fn kill(mut self) {
        self.child.start_kill().expect("it runs");
        self.child.wait().await.expect("it ends");
    }

    /// Asks it to stop, and waits; gives its exit code.
    pub async fn stop(mut self) -> Option<i32> {
        self.signal("TERM").await;
        let ended = tokio::time::timeout(Duration::from_secs(60), self.child.wait()).await;
        ended.expect("it stops").expect("it was running").code()
    }

    /// Sends a signal by its name.
    pub async fn signal(&self, name: &str) {
        let pid = self.pid().to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).status().await.expect("kill runs");
        assert!(sent.success());
    }
}
