//! Authentication and authorization.
//!
//! ```text
//! Authorization: Bearer … ─▶ who (API key, JWT, XTSystems' token) ─▶ within the rate? ─▶ which company? ─▶ has the scope?
//!                            │
//!                            └─▶ unknown: 401, and 429 to an address that fails too often (limits.rs)
//! ```
//!
//! The scope that a request needs is declared only in the OpenAPI document, with its operation. [`Operations`] reads it
//! from there, and an operation without a scope cannot be called. The result is a [`Caller`]; a handler for one company
//! takes a [`Tenant`].

mod address;
mod api_key;
mod concurrency;
mod jwt;
mod limits;
mod operations;
mod scope;
mod userinfo;

use std::{net::IpAddr, path::PathBuf, sync::Arc};

use axum::{
    extract::{FromRequestParts, Request, State},
    http::{HeaderMap, Method, header, request::Parts as Head},
    middleware::Next,
    response::{IntoResponse, Response},
};

pub use api_key::ApiKey;
pub(crate) use api_key::{KEY_PREFIX, Keys};
pub(crate) use concurrency::READINGS_MAX;
pub(crate) use operations::Operations;
pub use scope::Scope;
pub(crate) use scope::{BEARER, Scopes};
use url::Url;

use self::{
    concurrency::ReadingLimits,
    jwt::{Judged, Jwt},
    limits::RateLimits,
    operations::Needs,
    userinfo::Userinfo,
};
use super::problem::{Problem, ProblemKind};
use crate::{
    egress::{self, OperatorClient},
    model::{CompanyId, address::Networks},
};

/// The header in which a caller names a company.
pub(crate) const COMPANY: &str = "x-company-id";

/// The settings for access.
#[derive(clap::Args, Clone, Debug)]
#[group(skip)]
pub(crate) struct Config {
    /// Proxies whose `X-Forwarded-For` header is trusted: `10.0.0.0/8`
    #[arg(
        long,
        env = "TRUSTED_PROXIES",
        value_name = "NETWORKS",
        default_value = "",
        hide_default_value = true
    )]
    pub trusted_proxies: Networks,
    /// The rate limits.
    #[command(flatten)]
    pub limits: limits::Config,
    /// Which JWTs are accepted.
    #[command(flatten)]
    pub jwt: jwt::Config,
    /// XTSystems' endpoint that tells which user a token belongs to: `https://xtsystems.example.com/v1/user?light=true&include_scopes=true`
    #[arg(long, env = "AUTH_USERINFO_URL", value_name = "URL")]
    pub auth_userinfo_url: Option<String>,
}

/// Why the settings for access cannot be applied.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The file with the public key cannot be used.
    #[error("JWT_PUBLIC_KEY_FILE {path}: {reason}")]
    PublicKey {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Two settings name the public key.
    #[error(
        "JWT_PUBLIC_KEY_FILE and JWT_JWKS_URL are both set; set only the one that has the keys of your tokens"
    )]
    TwoPublicKeys,
    /// An address of a service is none.
    #[error("{setting} `{text}` is not a URL; write https://… or http://…")]
    Url {
        setting: &'static str,
        /// What it says.
        text: String,
    },
    /// The client for other services cannot be created.
    #[error(transparent)]
    Egress(#[from] egress::Error),
}

/// The URL of one of the operator's own services.
fn service_url(setting: &'static str, text: &str) -> Result<Url, Error> {
    let url = Url::parse(text).ok().filter(|url| ["http", "https"].contains(&url.scheme()));
    url.ok_or_else(|| Error::Url { setting, text: text.to_owned() })
}

/// Authenticates and authorizes callers.
pub(crate) struct Access {
    trusted_proxies: Networks,
    keys: Keys,
    jwt: Jwt,
    userinfo: Option<Userinfo>,
    limits: RateLimits,
    reading_limits: ReadingLimits,
}

impl Access {
    /// From these settings.
    ///
    /// # Errors
    /// If they cannot be applied.
    pub fn new(config: &Config, receivers: &egress::Config, keys: Keys) -> Result<Self, Error> {
        let client = OperatorClient::new(receivers)?;
        let url = config.auth_userinfo_url.as_deref().filter(|url| !url.is_empty());
        let url = url.map(|url| service_url("AUTH_USERINFO_URL", url)).transpose()?;
        Ok(Self {
            trusted_proxies: config.trusted_proxies.clone(),
            keys,
            jwt: Jwt::new(&config.jwt, &client)?,
            userinfo: url.map(|url| Userinfo::new(url, client)),
            limits: RateLimits::new(&config.limits),
            reading_limits: ReadingLimits::new(),
        })
    }

    async fn judge(
        &self,
        needed: Scopes,
        headers: &HeaderMap,
        peer: Option<&Peer>,
    ) -> Result<Caller, Problem> {
        let peer = peer.map_or(IpAddr::from([0, 0, 0, 0]), |peer| peer.0);
        let address = address::caller(peer, headers, &self.trusted_proxies);
        let token = bearer(headers)?;
        let principal = match self.identify(token, address).await {
            Err(problem) if problem.kind() == ProblemKind::Unauthenticated => {
                return Err(self.limits.failure(address).await.unwrap_or(problem));
            }
            identified => identified?,
        };
        self.limits.call(&principal.limited_by)?;
        let (company, scopes) = company(&principal.grant, headers)?;
        if !scopes.has_any(needed) {
            let words: Vec<_> = needed.iter().map(Scope::as_str).collect();
            let detail = format!("this operation needs the scope {}", words.join(" or "));
            return Err(Problem::new(ProblemKind::Forbidden, detail));
        }
        let all_companies = matches!(principal.grant, Grant::All(_));
        Ok(Caller { actor: principal.actor, company, all_companies, scopes, address })
    }

    /// Identifies the caller by an API key, else by a JWT that one of our keys verifies, else by a token that XTSystems
    /// knows.
    async fn identify(&self, token: &str, address: IpAddr) -> Result<Principal, Problem> {
        // Anything in the form of a key is treated as one and not passed to any other service.
        if token.starts_with(KEY_PREFIX) {
            return self.keys.identify(token).await;
        }
        match (self.jwt.judge(token).await?, &self.userinfo) {
            (Judged::Known(principal), _) | (Judged::WithoutCompany(principal), None) => Ok(principal),
            (Judged::WithoutCompany(_) | Judged::NotOurs, Some(userinfo)) => {
                userinfo.identify(token, self.limits.is_failing(address).await).await
            }
            (Judged::NotOurs, None) => {
                let detail = "the credentials are neither a key of this service nor a token that it accepts";
                Err(Problem::new(ProblemKind::Unauthenticated, detail))
            }
        }
    }
}

/// The address that a connection comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer(pub IpAddr);

/// What credentials are valid for.
#[derive(Clone, Debug)]
pub(crate) enum Grant {
    /// Every company, with the same scopes.
    All(Scopes),
    /// These companies, each with its own scopes.
    Companies(Vec<(CompanyId, Scopes)>),
}

/// An authenticated caller.
#[derive(Clone, Debug)]
pub(crate) struct Principal {
    /// Its name in the audit log: `key xtwh_ab12cd34`, `user <id>`.
    pub actor: String,
    /// Its companies and scopes.
    pub grant: Grant,
    /// The key by which its requests are counted.
    pub limited_by: String,
}

impl Principal {
    /// A user of XTSystems, however it was authenticated.
    fn user(id: &str, grant: Grant) -> Self {
        let actor = format!("user {id}");
        Self { limited_by: actor.clone(), actor, grant }
    }
}

/// An authenticated request.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    /// The name of the caller in the audit log.
    pub actor: String,
    /// The company; none if the credentials are valid for several and the request names none.
    pub company: Option<CompanyId>,
    /// Whether the credentials are valid for every company.
    pub all_companies: bool,
    pub scopes: Scopes,
    /// The address of the caller.
    pub address: IpAddr,
}

impl Caller {
    /// The company whose objects the caller may reach; none means those of all companies.
    ///
    /// # Errors
    /// If the credentials are valid for several companies and the request names none.
    pub fn reach(&self) -> Result<Option<CompanyId>, Problem> {
        if self.company.is_some() || self.all_companies { Ok(self.company) } else { Err(which_company()) }
    }

    /// Whether the caller has this scope.
    #[must_use]
    pub fn may(&self, scope: Scope) -> bool {
        self.scopes.has(scope)
    }
}

/// A call for one company.
#[derive(Clone, Debug)]
pub(crate) struct Tenant {
    pub company: CompanyId,
    /// Who calls.
    pub caller: Caller,
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(head: &mut Head, _state: &S) -> Result<Self, Problem> {
        let caller = head.extensions.get::<Self>().cloned();
        // Only a route without a scope in the document gets here without a caller.
        caller.ok_or_else(|| Problem::new(ProblemKind::Unauthenticated, "credentials are required"))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Tenant {
    type Rejection = Problem;

    async fn from_request_parts(head: &mut Head, state: &S) -> Result<Self, Problem> {
        let caller = Caller::from_request_parts(head, state).await?;
        let company = caller.company.ok_or_else(which_company)?;
        Ok(Self { company, caller })
    }
}

fn which_company() -> Problem {
    Problem::new(
        ProblemKind::CompanyRequired,
        "the credentials are valid for several companies; name one in the header X-Company-Id",
    )
}

/// Admits a request, or responds with the problem.
pub(super) async fn admit(
    State((access, operations)): State<(Arc<Access>, Operations)>,
    mut request: Request,
    next: Next,
) -> Response {
    let Needs::AnyOf(scopes) = operations.needs(request.method(), request.extensions().get()) else {
        return next.run(request).await;
    };
    match access.judge(scopes, request.headers(), request.extensions().get::<Peer>()).await {
        Ok(caller) => {
            let reads = [Method::GET, Method::HEAD].contains(request.method());
            let _permit = if reads { access.reading_limits.take(&caller).await } else { None };
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    }
}

/// The token of the header.
fn bearer(headers: &HeaderMap) -> Result<&str, Problem> {
    let missing =
        || Problem::new(ProblemKind::Unauthenticated, "the header `Authorization: Bearer …` is missing");
    let value = headers.get(header::AUTHORIZATION).ok_or_else(missing)?.to_str().map_err(|_| missing())?;
    let (scheme, token) = value.split_once(' ').ok_or_else(missing)?;
    if scheme.eq_ignore_ascii_case("bearer") && !token.trim().is_empty() {
        Ok(token.trim())
    } else {
        Err(missing())
    }
}

/// The company of the request, and the scopes in it.
fn company(grant: &Grant, headers: &HeaderMap) -> Result<(Option<CompanyId>, Scopes), Problem> {
    let named = headers.get(COMPANY).map(|value| {
        let id = value.to_str().ok().and_then(|text| text.trim().parse::<CompanyId>().ok());
        id.ok_or_else(|| Problem::field("X-Company-Id", "is not a UUID"))
    });
    let named = named.transpose()?;
    match (grant, named) {
        (Grant::All(scopes), named) => Ok((named, *scopes)),
        (Grant::Companies(held), Some(named)) => {
            let found = held.iter().find(|(company, _)| *company == named);
            // The same text whether the company exists or not.
            let (company, scopes) = found.ok_or_else(|| {
                Problem::new(
                    ProblemKind::Forbidden,
                    "the credentials are not valid for the company named in X-Company-Id",
                )
            })?;
            Ok((Some(*company), *scopes))
        }
        (Grant::Companies(held), None) => match held.as_slice() {
            [] => Err(Problem::new(ProblemKind::Forbidden, "the credentials are not valid for any company")),
            [(company, scopes)] => Ok((Some(*company), *scopes)),
            several => {
                // The scopes common to all of them; a handler that needs one company asks for it.
                let common = several.iter().fold(Scopes::ALL, |common, (_, scopes)| common.and(*scopes));
                Ok((None, common))
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn one_company_need_not_be_named_and_another_cannot_be() {
        let id = |n: u128| CompanyId(Uuid::from_u128(n));
        let (read, write) = (Scopes::of(Scope::WebhooksRead), Scopes::of(Scope::WebhooksWrite));
        let check = |grant: &Grant,
                     named: Option<&str>,
                     expected: Result<(Option<CompanyId>, Scopes), ProblemKind>| {
            let mut headers = HeaderMap::new();
            if let Some(named) = named {
                headers.insert(COMPANY, named.parse().unwrap());
            }
            let found = company(grant, &headers).map_err(|problem| problem.kind());
            assert_eq!(found, expected, "{grant:?} {named:?}");
        };
        let (one, two) = (id(1).to_string(), id(2).to_string());
        let single = Grant::Companies(vec![(id(1), read)]);
        check(&single, None, Ok((Some(id(1)), read)));
        check(&single, Some(&one), Ok((Some(id(1)), read)));
        check(&single, Some(&two), Err(ProblemKind::Forbidden));
        check(&single, Some("x"), Err(ProblemKind::Invalid));
        let several = Grant::Companies(vec![(id(1), read), (id(2), read.or(write))]);
        check(&several, None, Ok((None, read)));
        check(&several, Some(&two), Ok((Some(id(2)), read.or(write))));
        check(&Grant::All(read), None, Ok((None, read)));
        check(&Grant::All(read), Some(&two), Ok((Some(id(2)), read)));
        check(&Grant::Companies(vec![]), None, Err(ProblemKind::Forbidden));
    }
}
