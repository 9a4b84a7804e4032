//! The settings of the broker, as `--help` shows them.

use std::time::Duration;

use clap::Args;
use secrecy::SecretString;

use crate::model::id::BUCKETS;

/// How long a publish may wait for its confirm, a connection or an unblocked broker included.
pub const CONFIRM_TIMEOUT: Duration = Duration::from_secs(2);

/// The longest `AMQP_PREFIX`; with what is put behind it a queue's name stays below AMQP's 255 bytes.
pub const PREFIX_BYTES_MAX: usize = 100;

/// The longest `EVENTS_EXCHANGE`, as AMQP bounds it.
pub const EXCHANGE_BYTES_MAX: usize = 255;

/// Which version of jobs is published.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobVersion {
    /// With a rendered body; the only version that workers of release 0.3.0 know.
    #[value(name = "1")]
    V1,
    /// With the event's `data`.
    #[value(name = "2")]
    V2,
}

/// How to reach RabbitMQ, and what the queues there may hold.
#[derive(Args, Clone, Debug)]
#[group(skip)]
#[command(next_help_heading = "Broker")]
pub struct Config {
    /// RabbitMQ 3.10 to 4.x: `amqp://user:password@host:port/vhost`, or `amqps` for TLS
    #[arg(
        long,
        env = "AMQP_URL",
        hide_env_values = true,
        hide_default_value = true,
        default_value = "amqp://guest:guest@127.0.0.1:5672/%2f"
    )]
    pub amqp_url: SecretString,

    /// Prefix for the names of the service's exchanges and queues
    #[arg(long, env = "AMQP_PREFIX", default_value = "xtwebhooks", value_parser = prefix)]
    pub amqp_prefix: String,

    /// The topic exchange to which XTSystems publishes its events; declared if it does not exist
    #[arg(long, env = "EVENTS_EXCHANGE", default_value = "xtsystems.events", value_parser = exchange)]
    pub events_exchange: String,

    /// Number of queues over which the jobs are spread; must be the same for every process
    #[arg(long, env = "DELIVERY_SHARDS", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=i64::from(BUCKETS)))]
    pub delivery_shards: u8,

    /// Version of the job format to publish; set it to 2 once every worker runs a release that reads version 2
    #[arg(long, env = "JOB_VERSION", value_enum, default_value_t = JobVersion::V1)]
    pub job_version: JobVersion,

    /// How often RabbitMQ hands out a message before it goes to quarantine, suspected of crashing its workers
    #[arg(long, env = "DELIVERY_LIMIT", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub delivery_limit: u32,

    /// Bytes of events that may wait for ingest; beyond that, publishers get a negative confirm
    #[arg(long, env = "EVENTS_QUEUE_BYTES_MAX", default_value_t = 1 << 30, value_parser = clap::value_parser!(u64).range(1..))]
    pub events_queue_bytes_max: u64,

    /// Jobs that each retry queue may hold; further ones wait in the ledger
    #[arg(long, env = "RETRY_JOBS_MAX", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub retry_jobs_max: u32,

    /// Jobs that may be ready in a deliveries queue; further ones wait in the ledger
    #[arg(long, env = "WINDOW_JOBS", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    pub window_jobs: u32,

    /// Jobs that may be ready in a prompt deliveries queue; further ones go to the ordinary deliveries queue, and with 0
    /// all do
    #[arg(long, env = "PROMPT_JOBS", default_value_t = 500)]
    pub prompt_jobs: u32,
}

fn prefix(text: &str) -> Result<String, String> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    if (1..=PREFIX_BYTES_MAX).contains(&text.len()) && text.bytes().all(allowed) {
        Ok(text.to_owned())
    } else {
        Err(format!("must be 1 to {PREFIX_BYTES_MAX} characters: letters, digits and . _ -"))
    }
}

fn exchange(text: &str) -> Result<String, String> {
    // The default exchange has the empty name: nothing can be bound to it.
    if (1..=EXCHANGE_BYTES_MAX).contains(&text.len()) && !text.starts_with("amq.") {
        Ok(text.to_owned())
    } else {
        Err(format!("must be 1 to {EXCHANGE_BYTES_MAX} bytes and must not start with `amq.`"))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use clap::Parser;

    use super::*;

    /// The settings of somebody who sets nothing.
    pub(in crate::broker) fn defaults() -> Config {
        Config {
            amqp_url: SecretString::from("amqp://127.0.0.1"),
            amqp_prefix: "xtwebhooks".into(),
            events_exchange: "xtsystems.events".into(),
            delivery_shards: 1,
            job_version: JobVersion::V1,
            delivery_limit: 100,
            events_queue_bytes_max: 1 << 30,
            retry_jobs_max: 100_000,
            window_jobs: 1000,
            prompt_jobs: 500,
        }
    }

    #[derive(Parser)]
    struct ConfigCli {
        #[command(flatten)]
        broker: Config,
    }

    #[test]
    fn a_bad_value_is_refused_with_the_name_of_its_flag() {
        let check = |flag: &str, value: &str, expected: bool| {
            let parsed = ConfigCli::try_parse_from(["x".to_owned(), format!("--{flag}={value}")]);
            assert_eq!(parsed.is_ok(), expected, "{flag}={value}");
            if let Err(error) = parsed {
                assert!(error.to_string().contains(flag), "{error}");
            }
        };
        check("amqp-prefix", "xt-webhooks.test_1", true);
        check("amqp-prefix", "", false);
        check("amqp-prefix", "two words", false);
        check("amqp-prefix", &"p".repeat(101), false);
        check("events-exchange", "xtsystems.events", true);
        check("events-exchange", "amq.topic", false);
        check("events-exchange", "", false);
        check("delivery-shards", "64", true);
        check("delivery-shards", "0", false);
        check("delivery-shards", "65", false);
        check("job-version", "1", true);
        check("job-version", "2", true);
        check("job-version", "3", false);
        check("delivery-limit", "0", false);
        check("events-queue-bytes-max", "0", false);
        check("retry-jobs-max", "0", false);
        check("window-jobs", "0", false);
        check("prompt-jobs", "0", true);
    }

    #[test]
    fn without_settings_the_defaults_hold() {
        let ConfigCli { broker } = ConfigCli::try_parse_from(["x"]).expect("defaults");
        // The URL is not compared: it may come from the environment, and nobody may print it.
        let shown = |config: Config| format!("{:?}", Config { amqp_url: SecretString::default(), ..config });
        assert_eq!(shown(broker), shown(defaults()));
    }

    #[test]
    fn the_password_cannot_be_printed() {
        let cli = ConfigCli::try_parse_from(["x", "--amqp-url", "amqp://u:hunter2@h/v"]).expect("a good URL");
        assert!(!format!("{:?}", cli.broker).contains("hunter2"));
    }
}
