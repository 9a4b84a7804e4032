//! Pages of lists: `limit`, and an opaque cursor in the header `Link` (RFC 8288).
//!
//! A cursor is the key of the last row shown, so the next page is found along an index whatever was added or removed since.
//! It also contains a mark of its list: company, path and filters. A cursor of another list is refused.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue, header};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};

use super::problem::Problem;
use crate::model::CompanyId;

/// The maximum number of rows on a page.
pub const PAGE_MAX: u32 = 500;
/// The default number of rows on a page, from the guide.
pub const PAGE_DEFAULT: u32 = 50;
/// Up to how many rows are counted for `count=capped`; more are reported as `10000+`.
pub const COUNT_MAX: i64 = 10_000;
/// How long counting may take; after that the number is omitted.
pub const COUNT_TIMEOUT: Duration = Duration::from_secs(1);
/// The header with the number of rows.
pub const TOTAL_COUNT: &str = "x-total-count";

/// The list that cursors belong to: its company, path and filters.
#[derive(Clone, Debug)]
pub struct PageLinks {
    path: String,
    /// The query parameters as received, without limit and cursor.
    query: Vec<(String, String)>,
    mark: u64,
}

#[derive(Serialize, Deserialize)]
struct SealedCursor<K> {
    /// The mark of the list.
    l: u64,
    /// The key of the last row.
    k: K,
}

impl PageLinks {
    /// The list of a request; `company` is none if it is for all companies.
    ///
    /// # Panics
    /// Never: texts always make JSON.
    #[must_use]
    pub fn of(uri: &axum::http::Uri, company: Option<CompanyId>) -> Self {
        let mut query: Vec<(String, String)> =
            url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()).into_owned().collect();
        query.retain(|(name, _)| name != "limit" && name != "cursor");
        let mut narrowing = query.clone();
        narrowing.retain(|(name, _)| name != "count");
        narrowing.sort_unstable();
        let named = serde_json::to_vec(&(company.map(|company| company.0), uri.path(), &narrowing))
            .expect("texts always make JSON");
        let digest = Sha256::digest(&named);
        let mark = u64::from_be_bytes(digest[..8].try_into().expect("eight of thirty-two bytes"));
        Self { path: uri.path().to_owned(), query, mark }
    }

    /// The key in a cursor.
    ///
    /// # Errors
    /// If it is not a cursor, or one of another list.
    pub fn key<K: DeserializeOwned>(&self, cursor: Option<&str>) -> Result<Option<K>, Problem> {
        let Some(cursor) = cursor else { return Ok(None) };
        let wrong = || {
            Problem::field(
                "cursor",
                "does not belong to this list or its filters; start again without a cursor",
            )
        };
        let bytes = URL_SAFE_NO_PAD.decode(cursor).map_err(|_| wrong())?;
        let sealed: SealedCursor<K> = serde_json::from_slice(&bytes).map_err(|_| wrong())?;
        if sealed.l == self.mark { Ok(Some(sealed.k)) } else { Err(wrong()) }
    }

    /// The headers with the next page; empty after the last.
    ///
    /// # Panics
    /// Never: keys are numbers, times and texts, and those always make JSON.
    #[must_use]
    pub fn next<K: Serialize>(&self, limit: u32, last: Option<K>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let Some(key) = last else { return headers };
        let sealed =
            serde_json::to_vec(&SealedCursor { l: self.mark, k: key }).expect("keys always make JSON");
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(&self.query);
        query.append_pair("limit", &limit.to_string());
        query.append_pair("cursor", &URL_SAFE_NO_PAD.encode(sealed));
        let link = format!("<{}?{}>; rel=\"next\"", self.path, query.finish());
        if let Ok(link) = HeaderValue::from_str(&link) {
            headers.insert(header::LINK, link);
        }
        headers
    }
}

/// The number of rows of a page: the requested number, from 1 to [`PAGE_MAX`].
///
/// # Errors
/// If it is out of range: a caller that gets fewer rows than requested would take the page for the last.
pub fn limit(requested: Option<u32>) -> Result<u32, Problem> {
    match requested {
        None => Ok(PAGE_DEFAULT),
        Some(n) if (1..=PAGE_MAX).contains(&n) => Ok(n),
        Some(n) => Err(Problem::field("limit", format!("is {n}; must be from 1 to {PAGE_MAX}"))),
    }
}

/// Removes the extra row read beyond the page, and returns the key of the last row shown if there is a next page.
pub fn cut<T, K>(rows: &mut Vec<T>, limit: u32, key: impl Fn(&T) -> K) -> Option<K> {
    let limit = limit as usize;
    if rows.len() <= limit {
        return None;
    }
    rows.truncate(limit);
    rows.last().map(key)
}

/// Whether a list is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum CountMode {
    /// Up to 10,000.
    Capped,
}

/// A count for [`TOTAL_COUNT`]: the number, or `10000+`.
///
/// # Panics
/// Never: digits always make a header.
#[must_use]
pub fn counted(rows: i64) -> HeaderValue {
    let text = if rows >= COUNT_MAX { format!("{COUNT_MAX}+") } else { rows.to_string() };
    HeaderValue::from_str(&text).expect("digits make a header")
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn list(company: u128, uri: &str) -> PageLinks {
        PageLinks::of(&uri.parse().unwrap(), Some(CompanyId(Uuid::from_u128(company))))
    }

    fn cursor(headers: &HeaderMap) -> String {
        let link = headers[header::LINK].to_str().unwrap();
        link.split("cursor=").nth(1).unwrap().split('>').next().unwrap().to_owned()
    }

    #[test]
    fn a_cursor_leads_on_in_its_own_list_and_in_no_other() {
        let here = list(1, "/v1/deliveries?status=dead&limit=2");
        let next = cursor(&here.next(2, Some("key")));
        let check = |company: u128, uri: &str, expected: Option<&str>| {
            let key = list(company, uri).key::<String>(Some(&next)).ok().flatten();
            assert_eq!(key.as_deref(), expected, "{company} {uri}");
        };
        check(1, "/v1/deliveries?status=dead&limit=2", Some("key"));
        // How much is shown, and whether it is counted, makes no other list.
        check(1, "/v1/deliveries?limit=9&status=dead&count=capped", Some("key"));
        check(1, "/v1/deliveries?status=held", None);
        check(1, "/v1/events?status=dead", None);
        check(2, "/v1/deliveries?status=dead&limit=2", None);
        for bad in ["", "x", "%%%", "e30"] {
            assert!(here.key::<String>(Some(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_link_keeps_the_filters() {
        let headers = list(1, "/v1/deliveries?status=dead&event_type=a.%2A").next(50, Some(1));
        let link = headers[header::LINK].to_str().unwrap();
        assert!(link.starts_with("</v1/deliveries?status=dead&event_type=a.*&limit=50&cursor="), "{link}");
        assert!(link.ends_with(">; rel=\"next\""), "{link}");
        assert!(list(1, "/v1/deliveries").next::<u8>(50, None).is_empty());
    }

    #[test]
    fn one_row_more_than_the_page_says_that_there_is_another() {
        let mut rows = vec![1, 2, 3];
        assert_eq!(cut(&mut rows, 2, |row| *row), Some(2));
        assert_eq!(rows, [1, 2]);
        assert_eq!(cut(&mut rows, 2, |row| *row), None);
        assert_eq!(limit(Some(500)).ok(), Some(500));
        assert!(limit(Some(0)).is_err() && limit(Some(501)).is_err());
        assert_eq!(counted(9_999), "9999");
        assert_eq!(counted(10_000), "10000+");
    }
}
