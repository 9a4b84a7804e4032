//! XTSystems' own tokens. They do not name their companies, so XTSystems is asked, with the token.
//!
//! Its answer is cached for a minute, and a refusal or failure for five seconds, both by the token's SHA-256. So a user who
//! loses a role loses it here at most a minute later. If XTSystems cannot be reached, the response is 503 instead of 401,
//! and cached answers stay valid for their minute.

use std::{sync::Arc, time::Duration};

use moka::{Expiry, future::Cache};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;
use url::Url;

use super::{Grant, Principal, Scopes, jwt};
use crate::{
    api::problem::{Problem, ProblemKind},
    egress::{ASK_TIMEOUT, AskError, OperatorClient},
    model::CompanyId,
};

/// How long an answer is cached.
const KNOWN_FOR: Duration = Duration::from_mins(1);
/// How long a refusal or a failure is cached.
const FAILED_FOR: Duration = Duration::from_secs(5);
/// The maximum number of cached companies over all users; each user counts as one more.
const KEPT_MAX: u64 = 100_000;
/// The maximum number of concurrent questions; further ones wait, and fail after the timeout of a question.
const ASKING_MAX: usize = 32;

/// What XTSystems said of a token.
#[derive(Clone)]
enum UserinfoAnswer {
    /// Whose it is.
    Known(Arc<Principal>),
    /// Nobody's.
    Refused,
    /// Nothing of use.
    Failed,
}

struct Holds;

impl Expiry<[u8; 32], UserinfoAnswer> for Holds {
    fn expire_after_create(
        &self,
        _: &[u8; 32],
        answer: &UserinfoAnswer,
        _: std::time::Instant,
    ) -> Option<Duration> {
        Some(if matches!(answer, UserinfoAnswer::Known(_)) { KNOWN_FOR } else { FAILED_FOR })
    }
}

/// Asks XTSystems which user a token belongs to.
pub(super) struct Userinfo {
    url: Url,
    client: OperatorClient,
    answers: Cache<[u8; 32], UserinfoAnswer>,
    asking: Semaphore,
}

impl Userinfo {
    pub(super) fn new(url: Url, client: OperatorClient) -> Self {
        let weigh = |_: &[u8; 32], answer: &UserinfoAnswer| match answer {
            UserinfoAnswer::Known(principal) => match &principal.grant {
                Grant::Companies(companies) => u32::try_from(companies.len() + 1).unwrap_or(u32::MAX),
                Grant::All(_) => 1,
            },
            UserinfoAnswer::Refused | UserinfoAnswer::Failed => 1,
        };
        let answers = Cache::builder().max_capacity(KEPT_MAX).weigher(weigh).expire_after(Holds).build();
        Self { url, client, answers, asking: Semaphore::new(ASKING_MAX) }
    }

    /// The user of a token. If `instead` is given, XTSystems is not asked again, and this problem is returned.
    pub(super) async fn identify(&self, token: &str, instead: Option<Problem>) -> Result<Principal, Problem> {
        let digest: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let answer = match (self.answers.get(&digest).await, instead) {
            (Some(answer), _) => answer,
            (None, Some(problem)) => return Err(problem),
            // Concurrent requests with the same token share one question.
            (None, None) => self.answers.get_with(digest, self.ask(token)).await,
        };
        match answer {
            UserinfoAnswer::Known(principal) => Ok(principal.as_ref().clone()),
            UserinfoAnswer::Refused => {
                Err(Problem::new(ProblemKind::Unauthenticated, "XTSystems does not accept the token"))
            }
            UserinfoAnswer::Failed => Err(Problem::unavailable(
                "the token cannot be verified: XTSystems is unavailable or gave no usable answer",
            )),
        }
    }

    async fn ask(&self, token: &str) -> UserinfoAnswer {
        let Ok(Ok(_permit)) = tokio::time::timeout(ASK_TIMEOUT, self.asking.acquire()).await else {
            tracing::warn!("too many requests are waiting for AUTH_USERINFO_URL");
            return UserinfoAnswer::Failed;
        };
        let answered = match self.client.get(&self.url, Some(token)).await {
            Ok(body) => read(&body).ok_or_else(|| "its answer names no companies".to_owned()),
            Err(AskError::Status(401 | 403)) => return UserinfoAnswer::Refused,
            Err(error) => Err(error.to_string()),
        };
        match answered {
            Ok(principal) => UserinfoAnswer::Known(Arc::new(principal)),
            Err(reason) => {
                tracing::warn!(reason, "AUTH_USERINFO_URL gave no usable answer about a token");
                UserinfoAnswer::Failed
            }
        }
    }
}

/// The user that an answer describes: `{"id": …, "companies": [{"id": …, "scopes": […]}]}`; other fields are ignored.
fn read(body: &[u8]) -> Option<Principal> {
    let body: Value = serde_json::from_slice(body).ok()?;
    let companies = body.get("companies")?.as_array()?.iter().filter_map(|company| {
        let id = company.get("id")?.as_str()?.parse::<CompanyId>().ok()?;
        let scopes = company.get("scopes").map(jwt::words).unwrap_or_default();
        Some((id, Scopes::of_token(scopes)))
    });
    let user = ["id", "email"].into_iter().find_map(|name| jwt::user(body.get(name)?))?;
    Some(Principal::user(&user, Grant::Companies(companies.collect())))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::access::Scope;

    #[test]
    fn each_company_has_the_scopes_that_xtsystems_gives_there() {
        let id = "7f8a1f5e-0000-4000-8000-000000000001";
        let body = json!({
            "id": "u1", "email": "a@example.com", "tos_accepted_at": null,
            "companies": [
                {"id": id, "company_id": null, "name": "A", "role_id": 2, "primary": true, "scopes": ["webhooks:*", "users:read"]},
                {"id": "none", "scopes": ["*"]},
                {"id": "7f8a1f5e-0000-4000-8000-000000000002", "scopes": null},
            ],
        });
        let principal = read(body.to_string().as_bytes()).unwrap();
        assert_eq!(principal.actor, "user u1");
        let Grant::Companies(companies) = principal.grant else { panic!("not of all companies") };
        assert_eq!(companies.len(), 2);
        assert_eq!(companies[0].0.to_string(), id);
        assert!(companies[0].1.has(Scope::WebhooksDelete) && !companies[0].1.has(Scope::KeysManage));
        assert_eq!(companies[1].1, Scopes::default());
    }

    #[tokio::test]
    async fn no_more_companies_are_kept_than_may_be() {
        let client = OperatorClient::new(&crate::egress::Config::default()).unwrap();
        let userinfo = Userinfo::new("http://127.0.0.1:9/".parse().unwrap(), client);
        let companies = vec![(CompanyId(uuid::Uuid::nil()), Scopes::default()); 1_000];
        let known = Arc::new(Principal::user("u", Grant::Companies(companies)));
        for n in 0..200_u8 {
            userinfo.answers.insert([n; 32], UserinfoAnswer::Known(Arc::clone(&known))).await;
        }
        userinfo.answers.run_pending_tasks().await;
        assert!(
            (1..=KEPT_MAX).contains(&userinfo.answers.weighted_size()),
            "{}",
            userinfo.answers.weighted_size()
        );
    }

    #[test]
    fn garbage_speaks_of_nobody() {
        for bad in ["", "<html>", "[]", "null", "{}", r#"{"companies":[]}"#, r#"{"id":"u","companies":{}}"#] {
            assert!(read(bad.as_bytes()).is_none(), "{bad}");
        }
    }
}
