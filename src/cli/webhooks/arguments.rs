//! The arguments that make or change a webhook, under the names of the API's fields.

use clap::ArgAction;

use super::{
    super::{
        args::{Actor, Company, Ledger},
        failure::Failure,
    },
    One, check,
};
use crate::{
    model::{Networks, Secret},
    store::webhooks::{Change, New},
};

/// Which URLs are taken, as the deliveries will be judged.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct UrlRules {
    /// Networks that receivers may lie in although they are private, loopback or reserved: `10.0.0.0/8,fd00::/8`
    #[arg(
        long,
        env = "ALLOWED_NETWORKS",
        default_value = "",
        hide_default_value = true,
        value_name = "NETWORKS"
    )]
    pub(super) allowed_networks: Networks,
    /// Refuse receivers without TLS
    #[arg(
        long, env = "REQUIRE_HTTPS", default_value_t = false, default_missing_value = "true", num_args = 0..=1,
        require_equals = true, action = ArgAction::Set, value_name = "BOOL"
    )]
    pub(super) require_https: bool,
}

/// A new webhook.
#[derive(clap::Args, Debug)]
pub(in crate::cli) struct Create {
    #[command(flatten)]
    ledger: Ledger,
    #[command(flatten)]
    company: Company,
    #[command(flatten)]
    rules: UrlRules,
    /// A name, unique in the company
    #[arg(long, value_name = "TEXT")]
    name: String,
    /// Where to post
    #[arg(long)]
    url: String,
    /// Event types wanted: `ticket.created,asset.*`, or `*` for all
    #[arg(long, value_name = "TYPES", required = true, value_delimiter = ',')]
    events: Vec<String>,
    /// Signs every request [default: one is made, of the form `whsec_…`]
    #[arg(long, env = "WEBHOOK_SECRET", value_name = "TEXT", hide_env_values = true)]
    secret: Option<String>,
    /// A header of its own, as `Name: value`; may be repeated
    #[arg(long, value_name = "HEADER")]
    headers: Vec<String>,
    /// Whether events are matched with it
    #[arg(long, value_name = "BOOL", default_value_t = true, action = ArgAction::Set)]
    active: bool,
    /// Attempts in all, 1 to 20, with waits of 1, 2, 4 … 64 s between them
    #[arg(long, value_name = "N", default_value_t = 3)]
    retry_count: i32,
    /// Waits instead of a count: `5s,5m,2h`, or `patient` for three days
    #[arg(long, value_name = "WAITS")]
    retry_schedule: Option<String>,
    /// The whole time an attempt may take, 1 to 60 s
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    timeout_seconds: i32,
    /// Requests at once from each worker [default: LANE_IN_FLIGHT_MAX]
    #[arg(long, value_name = "N")]
    max_in_flight: Option<i32>,
    /// Requests a second over all workers [default: as many as there are]
    #[arg(long, value_name = "PER_SECOND")]
    rate_limit: Option<f64>,
    /// After an outage, send again what was given up in it
    #[arg(long, value_name = "BOOL", default_value_t = false, default_missing_value = "true", num_args = 0..=1, require_equals = true, action = ArgAction::Set)]
    auto_recover: bool,
    /// A note for people
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    #[command(flatten)]
    actor: Actor,
}

impl Create {
    /// What is to be written, and where.
    pub(super) fn checked(self) -> Result<(Ledger, New), Failure> {
        check::url(&self.url, &self.rules)?;
        let new = New {
            company: self.company.company,
            name: self.name,
            description: self.description,
            url: self.url,
            events: check::events(self.events)?,
            active: self.active,
            secret: self.secret.map_or_else(|| Ok(Secret::generate()), |text| check::secret(&text))?,
            headers: check::headers(&self.headers)?,
            retry_count: self.retry_count,
            retry_schedule: self.retry_schedule.as_deref().map(check::schedule).transpose()?.flatten(),
            timeout_seconds: self.timeout_seconds,
            max_in_flight: self.max_in_flight,
            rate_limit: self.rate_limit,
            auto_recover: self.auto_recover,
            created_by: Some(self.actor.by),
        };
        Ok((self.ledger, new))
    }
}

/// A change: what is not named stays.
#[derive(clap::Args, Debug)]
pub(in crate::cli) struct Update {
    #[command(flatten)]
    one: One,
    #[command(flatten)]
    rules: UrlRules,
    /// A name, unique in the company
    #[arg(long, value_name = "TEXT")]
    name: Option<String>,
    /// Where to post
    #[arg(long)]
    url: Option<String>,
    /// Event types wanted: `ticket.created,asset.*`, or `*` for all
    #[arg(long, value_name = "TYPES", value_delimiter = ',')]
    events: Option<Vec<String>>,
    /// Another secret, at once; `rotate-secret` gives receivers time
    #[arg(long, value_name = "TEXT")]
    secret: Option<String>,
    /// The headers of its own, all of them, each as `Name: value`; `none` for none
    #[arg(long, value_name = "HEADER")]
    headers: Option<Vec<String>>,
    /// Whether events are matched with it; what is pending of an inactive one is cancelled
    #[arg(long, value_name = "BOOL")]
    active: Option<bool>,
    /// Attempts in all, 1 to 20; counts where there is no schedule
    #[arg(long, value_name = "N")]
    retry_count: Option<i32>,
    /// Waits instead of a count: `5s,5m,2h`, `patient`, or `none`
    #[arg(long, value_name = "WAITS")]
    retry_schedule: Option<String>,
    /// The whole time an attempt may take, 1 to 60 s
    #[arg(long, value_name = "SECONDS")]
    timeout_seconds: Option<i32>,
    /// Requests at once from each worker, or `none` for the service's default
    #[arg(long, value_name = "N", value_parser = or_none::<i32>)]
    max_in_flight: Option<OrNone<i32>>,
    /// Requests a second over all workers, or `none` for as many as there are
    #[arg(long, value_name = "PER_SECOND", value_parser = or_none::<f64>)]
    rate_limit: Option<OrNone<f64>>,
    /// After an outage, send again what was given up in it
    #[arg(long, value_name = "BOOL", default_missing_value = "true", num_args = 0..=1, require_equals = true)]
    auto_recover: Option<bool>,
    /// A note for people, or `none`
    #[arg(long, value_name = "TEXT", value_parser = or_none::<String>)]
    description: Option<OrNone<String>>,
}

impl Update {
    /// What is to be changed, and where.
    pub(super) fn checked(self) -> Result<(One, Change), Failure> {
        if let Some(url) = &self.url {
            check::url(url, &self.rules)?;
        }
        let change = Change {
            name: self.name,
            description: self.description.map(|value| value.0),
            url: self.url,
            events: self.events.map(check::events).transpose()?,
            active: self.active,
            secret: self.secret.as_deref().map(check::secret).transpose()?,
            headers: self.headers.as_deref().map(check::headers).transpose()?,
            retry_count: self.retry_count,
            retry_schedule: self.retry_schedule.as_deref().map(check::schedule).transpose()?,
            timeout_seconds: self.timeout_seconds,
            max_in_flight: self.max_in_flight.map(|value| value.0),
            rate_limit: self.rate_limit.map(|value| value.0),
            auto_recover: self.auto_recover,
        };
        Ok((self.one, change))
    }
}

/// A value, or the word `none`, which empties the field.
#[derive(Clone, Debug, PartialEq)]
struct OrNone<T>(Option<T>);

fn or_none<T>(text: &str) -> Result<OrNone<T>, T::Err>
where
    T: std::str::FromStr,
{
    if text == check::NONE { Ok(OrNone(None)) } else { text.parse().map(|value| OrNone(Some(value))) }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Create_ {
        #[command(flatten)]
        args: Create,
    }

    #[derive(Parser)]
    struct Update_ {
        #[command(flatten)]
        args: Update,
    }

    const WHERE: &[&str] =
        &["x", "--database-url=postgres://x@h/x", "--company=00000000-0000-0000-0000-000000000007"];

    fn create(more: &[&str]) -> Result<New, Failure> {
        let usual = ["--name=n", "--url=https://example.com/h"];
        Create_::try_parse_from([WHERE, &usual, more].concat()).unwrap().args.checked().map(|(_, new)| new)
    }

    fn update(more: &[&str]) -> Change {
        let id = ["00000000-0000-0000-0000-000000000001"];
        Update_::try_parse_from([WHERE, &id, more].concat()).unwrap().args.checked().unwrap().1
    }

    #[test]
    fn what_the_guide_gives_by_default_is_given() {
        let new = create(&["--events=ticket.created,asset.*"]).unwrap();
        assert_eq!(new.events, ["ticket.created", "asset.*"]);
        assert!(new.active && new.headers.is_empty() && new.retry_schedule.is_none());
        assert_eq!((new.retry_count, new.timeout_seconds), (3, 30));
        assert!(!new.auto_recover);
        assert!(create(&["--events=*", "--auto-recover"]).unwrap().auto_recover);
        assert!(new.secret.expose().starts_with("whsec_"), "one is made");
    }

    #[test]
    fn what_is_not_taken_is_refused_by_its_field() {
        let check = |arguments: &[&str], field: &str| {
            let refusal = create(arguments).expect_err(field);
            assert!(matches!(&refusal, Failure::Refused(why) if why.contains(field)), "{refusal}");
        };
        check(&["--events=tick*t"], "`events`");
        check(&["--events=*", "--secret="], "`secret`");
        check(&["--events=*", "--headers=Host: example.com"], "`headers`");
        check(&["--events=*", "--headers=no colon"], "`headers`");
        check(&["--events=*", "--retry-schedule=soon"], "`retry_schedule`");
    }

    #[test]
    fn a_change_holds_what_is_named_and_nothing_else() {
        let nothing = update(&[]);
        assert!(nothing.name.is_none() && nothing.events.is_none() && nothing.max_in_flight.is_none());
        assert!(nothing.retry_schedule.is_none() && nothing.headers.is_none() && nothing.active.is_none());
        let change = update(&[
            "--active=false",
            "--retry-schedule=none",
            "--max-in-flight=none",
            "--rate-limit=2.5",
            "--headers=none",
        ]);
        assert_eq!(change.active, Some(false));
        assert_eq!(
            (change.retry_schedule, change.max_in_flight, change.rate_limit),
            (Some(None), Some(None), Some(Some(2.5)))
        );
        assert!(change.headers.unwrap().is_empty());
        assert_eq!(change.auto_recover, None);
        assert_eq!(update(&["--auto-recover"]).auto_recover, Some(true));
        assert_eq!(update(&["--auto-recover=false"]).auto_recover, Some(false));
    }
}
