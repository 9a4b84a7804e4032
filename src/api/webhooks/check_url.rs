//! Checks a URL without sending a request: what its host resolves to, whether deliveries may go there, and whether TLS works.
//!
//! It connects where a delivery would, under the same rules, and no more often than the rate of a key allows. The number of
//! concurrent checks is limited, and each has a timeout.

use axum::extract::State;

use super::{
    check,
    requests::CheckUrl,
    shape::{CheckedAddress, CheckedTls, CheckedUrl, Warning},
    warnings,
};
use crate::{
    api::{Api, access::Tenant, extract::Object, problem::Problem},
    egress::{Address, Looked},
    model::{fields::Fields, webhook::settings},
};

/// A certificate that expires sooner is warned of.
const EXPIRES_SOON: chrono::TimeDelta = chrono::TimeDelta::days(14);

/// Check a URL without sending anything
///
/// Resolves the host, checks every address by the rules for deliveries, and for https makes a TLS handshake to see
/// whether the certificate is accepted and when it expires.
#[utoipa::path(
    post,
    path = "/v1/webhooks/check-url",
    tag = "Webhooks",
    operation_id = "checkUrl",
    request_body = CheckUrl,
    responses((status = OK, description = "The result of the check", body = CheckedUrl)),
    security(("bearer" = ["webhooks:write"])),
)]
pub(super) async fn check_url(
    State(api): State<Api>,
    _tenant: Tenant,
    body: Object,
) -> Result<axum::Json<CheckedUrl>, Problem> {
    let mut fields = Fields::of(body.fields);
    let url = settings::read_url(&mut fields, &check::receivers(&api.parts.receivers));
    fields.end()?;
    let url = url.and_then(|url| url::Url::parse(&url).ok());
    let url = url.ok_or_else(|| Problem::field("url", "is not valid"))?;
    // The semaphore is never closed.
    let _permit = api.url_checks.acquire().await;
    let Looked { addresses, tls, error } = api.parts.client.look(&url).await;
    let mut warnings = warnings::of_url(&url);
    let tls = tls.map(|tls| match tls {
        Ok(certificate) => {
            if certificate.expires_at.is_some_and(|at| at - api.parts.clock.now() < EXPIRES_SOON) {
                warnings.push(Warning::new("url", "the certificate expires within two weeks"));
            }
            CheckedTls {
                ok: true,
                error: None,
                expires_at: certificate.expires_at,
                issuer: certificate.issuer,
            }
        }
        Err(error) => CheckedTls { ok: false, error: Some(error), expires_at: None, issuer: None },
    });
    let checked = CheckedUrl {
        url: url.to_string(),
        ok: error.is_none(),
        error,
        addresses: addresses.into_iter().map(shown).collect(),
        tls,
        warnings,
    };
    Ok(axum::Json(checked))
}

/// An address that is not allowed and that a host name resolves to is hidden, so that internal addresses stay private.
fn shown(address: Address) -> CheckedAddress {
    let Address { ip, forbidden } = address;
    CheckedAddress {
        address: forbidden.is_none().then(|| ip.to_string()),
        allowed: forbidden.is_none(),
        network: forbidden,
    }
}
