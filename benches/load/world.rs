//! A database, queues and a running service for one case.

use std::{process::Stdio, time::Duration};

use anyhow::{Context, Result, ensure};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    process::{Child, Command},
};
use url::Url;
use uuid::Uuid;

use crate::machine;

pub struct World {
    pub amqp_url: String,
    pub exchange: String,
    prefix: String,
    database: String,
    admin_url: String,
    database_url: String,
}

impl World {
    pub async fn new() -> Result<Self> {
        let set =
            |name: &str| std::env::var(name).with_context(|| format!("{name} is not set; call: make bench"));
        let (admin_url, amqp_url) = (set("DATABASE_URL")?, set("AMQP_URL")?);
        let prefix = format!("bench{}", &Uuid::new_v4().simple().to_string()[..8]);
        let mut admin = PgConnection::connect(&admin_url).await?;
        admin.execute(AssertSqlSafe(format!("create database {prefix}"))).await?;
        let mut url = Url::parse(&admin_url)?;
        url.set_path(&format!("/{prefix}"));
        let world = Self {
            amqp_url,
            exchange: format!("{prefix}.exchange"),
            database: prefix.clone(),
            prefix,
            admin_url,
            database_url: url.into(),
        };
        ensure!(world.command("migrate").status().await?.success(), "the database cannot be migrated");
        Ok(world)
    }

    fn command(&self, verb: &str) -> Command {
        // Another release, to be compared with this one.
        let binary = std::env::var_os("XT_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_xtwebhooks").into());
        let mut command = Command::new(binary);
        command
            .arg(verb)
            .env("DATABASE_URL", &self.database_url)
            .env("AMQP_URL", &self.amqp_url)
            .env("AMQP_PREFIX", &self.prefix)
            .env("EVENTS_EXCHANGE", &self.exchange)
            .env("ALLOWED_NETWORKS", "127.0.0.0/8")
            .env("PROBES_ADDRESS", "127.0.0.1:0")
            .env("API_ADDRESS", "127.0.0.1:0")
            .env("LOG_FORMAT", "json")
            .stdout(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// Registers webhooks of a new company at the receiver, each at a path of its own.
    pub async fn webhooks(&self, count: usize, port: u16) -> Result<Uuid> {
        let company = Uuid::new_v4();
        let mut database = PgConnection::connect(&self.database_url).await?;
        sqlx::query(
            "insert into webhooks (company_id, name, url, events, secret)
             select $1, 'webhook ' || n, 'http://127.0.0.1:' || $2 || '/' || n, array['ticket.*'], 'whsec_' || repeat('A', 32)
             from generate_series(1, $3) as n",
        )
        .bind(company)
        .bind(i32::from(port))
        .bind(i32::try_from(count)?)
        .execute(&mut database)
        .await?;
        Ok(company)
    }

    /// Registers one webhook, with these columns beside the usual ones.
    pub async fn webhook(&self, company: Uuid, name: &str, url: &str, more: &[(&str, &str)]) -> Result<Uuid> {
        let mut database = self.database().await?;
        let (mut columns, mut values) = (String::new(), String::new());
        for (column, value) in more {
            columns += ", ";
            columns += column;
            values += ", ";
            values += value;
        }
        let id = sqlx::query_scalar(AssertSqlSafe(format!(
            "insert into webhooks (company_id, name, url, events, secret{columns})
             values ($1, $2, $3, array['ticket.*'], 'whsec_' || repeat('A', 32){values}) returning id"
        )))
        .bind(company)
        .bind(name)
        .bind(url)
        .fetch_one(&mut database)
        .await?;
        Ok(id)
    }

    /// A connection to the ledger.
    pub async fn database(&self) -> Result<PgConnection> {
        Ok(PgConnection::connect(&self.database_url).await?)
    }

    /// The queues' prefix.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Starts the service with its defaults, logging as it would, and waits until it is ready.
    pub async fn service(&self) -> Result<Service> {
        self.service_with(&[]).await
    }

    /// The same with other settings.
    pub async fn service_with(&self, settings: &[(&str, &str)]) -> Result<Service> {
        let mut child = self.command("run").envs(settings.iter().copied()).stderr(Stdio::piped()).spawn()?;
        let mut log = BufReader::new(child.stderr.take().context("piped")?).lines();
        let mut address = None;
        while address.is_none() {
            let line = log.next_line().await?.context("the service has ended")?;
            let line: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
            address = line["address"].as_str().map(ToOwned::to_owned);
        }
        // Somebody reads the log, as somebody would.
        let mut rest = log.into_inner();
        tokio::spawn(async move { tokio::io::copy(&mut rest, &mut tokio::io::sink()).await });
        let service = Service { child, address: address.context("an address")? };
        for _ in 0..300 {
            if service.is_ready().await {
                return Ok(service);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        anyhow::bail!("the service is not ready after 30 s")
    }

    /// Starts the API alone.
    pub async fn api(&self) -> Result<Api> {
        let mut command = self.command("run");
        let mut child = command.args(["--role", "api"]).stderr(Stdio::piped()).spawn()?;
        let mut log = BufReader::new(child.stderr.take().context("piped")?).lines();
        let api = loop {
            let line = log.next_line().await?.context("the service has ended")?;
            let line: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
            if line["message"] == "api" {
                break format!("http://{}", line["address"].as_str().context("an address")?);
            }
        };
        let mut rest = log.into_inner();
        tokio::spawn(async move { tokio::io::copy(&mut rest, &mut tokio::io::sink()).await });
        Ok(Api { api, service: Service { child, address: String::new() } })
    }

    /// Removes the database and the queues.
    pub async fn remove(self) -> Result<()> {
        let mut admin = PgConnection::connect(&self.admin_url).await?;
        admin.execute(AssertSqlSafe(format!("drop database {} with (force)", self.database))).await?;
        let connection = lapin::Connection::connect(&self.amqp_url, Default::default()).await?;
        let channel = connection.create_channel().await?;
        let topology = self.command("topology").arg("--json").stdout(Stdio::piped()).output().await?;
        let topology: serde_json::Value = serde_json::from_slice(&topology.stdout).unwrap_or_default();
        for queue in topology["queues"].as_array().into_iter().flatten() {
            channel
                .queue_delete(queue["name"].as_str().unwrap_or_default().into(), Default::default())
                .await?;
        }
        for exchange in topology["exchanges"].as_array().into_iter().flatten() {
            channel
                .exchange_delete(exchange["name"].as_str().unwrap_or_default().into(), Default::default())
                .await?;
        }
        Ok(connection.close(200, "done".into()).await?)
    }
}

/// A process that answers the API and nothing else.
pub struct Api {
    /// Where it answers.
    pub api: String,
    service: Service,
}

impl Api {
    pub async fn stop(self) -> Result<()> {
        self.service.stop().await
    }
}

pub struct Service {
    child: Child,
    address: String,
}

impl Service {
    pub fn pid(&self) -> u32 {
        self.child.id().unwrap_or_default()
    }

    /// The sum of a metric over its labels.
    pub async fn metric(&self, name: &str) -> Result<f64> {
        let text = self.get("/metrics").await?;
        let of = |line: &str| {
            let (key, value) = line.rsplit_once(' ')?;
            // With its labels only where they are asked for.
            let key = if name.contains('{') { key } else { key.split('{').next()? };
            (key == name).then(|| value.parse::<f64>().ok())?
        };
        Ok(text.lines().filter_map(of).sum())
    }

    pub fn resident_mib(&self) -> f64 {
        machine::resident_mib(self.pid())
    }

    pub fn peak_mib(&self) -> f64 {
        machine::peak_mib(self.pid())
    }

    async fn is_ready(&self) -> bool {
        self.get("/health/ready").await.is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
    }

    async fn get(&self, path: &str) -> Result<String> {
        let mut stream = TcpStream::connect(&self.address).await?;
        let ask = format!("GET {path} HTTP/1.1\r\nhost: probes\r\nconnection: close\r\n\r\n");
        stream.write_all(ask.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    }

    /// Ends it as a crash would.
    pub async fn kill(mut self) -> Result<()> {
        Ok(self.child.kill().await?)
    }

    pub async fn stop(mut self) -> Result<()> {
        Command::new("kill").arg(self.pid().to_string()).status().await?;
        tokio::time::timeout(Duration::from_mins(1), self.child.wait()).await??;
        Ok(())
    }
}
