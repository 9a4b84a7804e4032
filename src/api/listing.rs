//! What lists of the history have in common: their parameters and their responses.

use std::{collections::BTreeMap, fmt::Display, marker::PhantomData, str::FromStr};

use axum::{
    extract::FromRequestParts,
    http::{Uri, request::Parts as Head},
    response::{IntoResponse, Response},
};
use chrono::{DateTime, NaiveDate, Utc};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use utoipa::{
    IntoParams, IntoResponses, ToSchema,
    openapi::{
        ArrayBuilder, Content, HeaderBuilder, KnownFormat, Object, ObjectBuilder, Ref, RefOr,
        ResponseBuilder, Schema, SchemaFormat, Type, response::Response as Described,
    },
};

use super::{
    extract::Query,
    pagination::{self, CountMode, PageLinks, TOTAL_COUNT},
    problem::{FieldError, Problem},
};
use crate::{model::CompanyId, store};

/// The parameters of a page.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Paging {
    /// The maximum number of items on the page.
    #[param(minimum = 1, maximum = 500, default = 50)]
    pub limit: Option<u32>,
    /// Where the page begins: the cursor from the `Link` of the page before.
    pub cursor: Option<String>,
    /// `capped` adds the header `X-Total-Count` with the number of items, or `10000+`. The header is omitted if
    /// counting takes longer than a second.
    #[param(inline)]
    pub count: Option<CountMode>,
}

/// A request for a page of a list.
#[derive(Debug)]
pub(super) struct PageRequest {
    uri: Uri,
    paging: Paging,
}

impl<S: Send + Sync> FromRequestParts<S> for PageRequest {
    type Rejection = Problem;

    async fn from_request_parts(head: &mut Head, state: &S) -> Result<Self, Problem> {
        let Query(paging) = Query::from_request_parts(head, state).await?;
        Ok(Self { uri: head.uri.clone(), paging })
    }
}

impl PageRequest {
    /// The requested page of a list; `company` is none if the list is for all companies.
    pub(super) fn of<K: DeserializeOwned>(
        &self,
        company: Option<CompanyId>,
    ) -> Result<RequestedPage<K>, Problem> {
        let list = PageLinks::of(&self.uri, company);
        let rows = pagination::limit(self.paging.limit)?;
        let after = list.key(self.paging.cursor.as_deref())?;
        Ok(RequestedPage { list, rows, after, is_counted: self.paging.count.is_some() })
    }
}

#[derive(Debug)]
pub(super) struct RequestedPage<K> {
    list: PageLinks,
    rows: u32,
    /// The key of the last row of the page before; none for the first.
    pub after: Option<K>,
    is_counted: bool,
}

impl<K: Serialize> RequestedPage<K> {
    /// The maximum number of rows.
    pub(super) const fn rows(&self) -> u32 {
        self.rows
    }

    /// The number of rows of the whole list, if requested.
    pub(super) async fn counted(
        &self,
        count: impl Future<Output = store::Result<Option<i64>>>,
    ) -> Result<Option<i64>, Problem> {
        if self.is_counted { Ok(count.await?) } else { Ok(None) }
    }

    /// The response: the rows of the page, where the next page begins, and the total number of rows if it is known.
    pub(super) fn answer<T: Serialize>(&self, rows: &[T], next: Option<K>, count: Option<i64>) -> Response {
        let mut headers = self.list.next(self.rows, next);
        if let Some(count) = count {
            headers.insert(TOTAL_COUNT, pagination::counted(count));
        }
        (headers, axum::Json(rows)).into_response()
    }
}

/// The items of a list, as the document describes them.
pub(super) trait Listed: ToSchema {
    /// All of them.
    const ALL: &'static str;
}

/// How the document describes the response of a list.
pub(super) struct PageOf<T>(PhantomData<T>);

impl<T: Listed> IntoResponses for PageOf<T> {
    fn responses() -> BTreeMap<String, RefOr<Described>> {
        let rows = ArrayBuilder::new().items(Ref::from_schema_name(T::name()));
        let text = |description: &str| {
            HeaderBuilder::new()
                .schema(Some(Object::with_type(Type::String)))
                .description(Some(description))
                .build()
        };
        let page = ResponseBuilder::new()
            .description(T::ALL)
            .header("link", text("The next page: `<address>; rel=\"next\"`; absent on the last page"))
            .header("x-total-count", text("With `count=capped`: the number of items, or `10000+`"))
            .content("application/json", Content::new(Some(RefOr::T(Schema::from(rows.build())))));
        BTreeMap::from([("200".to_owned(), page.build().into())])
    }
}

/// The maximum number of items in a parameter: every row that a page searches is compared with all of them.
pub const LIST_ITEMS_MAX: usize = 100;

/// Reads parameters and collects the invalid ones.
#[derive(Debug, Default)]
pub(super) struct Reader {
    errors: Vec<FieldError>,
}

impl Reader {
    /// The items of a list separated by commas; none if it is empty.
    pub(super) fn list<T>(&mut self, field: &'static str, text: Option<&str>) -> Option<Vec<T>>
    where
        T: FromStr<Err: Display>,
    {
        let items = self.items(field, text)?;
        let read = items.iter().filter_map(|item| match item.parse() {
            Ok(read) => Some(read),
            Err(error) => {
                self.errors.push(FieldError::new(field, error));
                None
            }
        });
        Some(read.collect())
    }

    /// The words of a list separated by commas, each of which must be known.
    pub(super) fn words(
        &mut self,
        field: &'static str,
        text: Option<&str>,
        known: &[&str],
    ) -> Option<Vec<String>> {
        let items = self.items(field, text)?;
        for unknown in items.iter().filter(|item| !known.contains(item)) {
            let message = format!("`{unknown}` is not one of {}", known.join(", "));
            self.errors.push(FieldError::new(field, message));
        }
        Some(items.into_iter().map(ToOwned::to_owned).collect())
    }

    /// Any strings of a list separated by commas. One with a NUL matches no row, and PostgreSQL would refuse it.
    pub(super) fn texts(&mut self, field: &'static str, text: Option<&str>) -> Option<Vec<String>> {
        let items = self.items(field, text)?;
        Some(items.into_iter().filter(|item| !item.contains('\0')).map(ToOwned::to_owned).collect())
    }

    fn items<'t>(&mut self, field: &'static str, text: Option<&'t str>) -> Option<Vec<&'t str>> {
        let items: Vec<_> = text?.split(',').map(str::trim).filter(|item| !item.is_empty()).collect();
        if items.len() > LIST_ITEMS_MAX {
            let message = format!("has {} items; at most {LIST_ITEMS_MAX} are allowed", items.len());
            self.errors.push(FieldError::new(field, message));
            return None;
        }
        (!items.is_empty()).then_some(items)
    }

    /// Records an invalid field.
    pub(super) fn wrong(&mut self, error: FieldError) {
        self.errors.push(error);
    }

    /// Fails with every invalid field.
    pub(super) fn done(self) -> Result<(), Problem> {
        if self.errors.is_empty() { Ok(()) } else { Err(Problem::invalid(self.errors)) }
    }
}

/// A time within the range of the ledger; a time beyond it is before or after every row.
pub(super) fn within_reach(time: Option<DateTime<Utc>>) -> Option<DateTime<Utc>> {
    let edge =
        |year: i32| NaiveDate::from_yo_opt(year, 1).map(|day| day.and_time(chrono::NaiveTime::MIN).and_utc());
    let (first, last) = (edge(1)?, edge(10_000)?);
    time.map(|time| time.clamp(first, last))
}

/// The schema of a list of words separated by commas.
pub(super) fn words_schema(words: &[&'static str]) -> Schema {
    let word =
        ObjectBuilder::new().schema_type(Type::String).enum_values(Some(words.iter().copied())).build();
    ArrayBuilder::new().items(word).build().into()
}

/// The schema of a list of any texts separated by commas.
pub(super) fn texts_schema() -> Schema {
    ArrayBuilder::new().items(ObjectBuilder::new().schema_type(Type::String)).build().into()
}

/// The schema of a list of ids separated by commas.
pub(super) fn ids_schema() -> Schema {
    let id = ObjectBuilder::new()
        .schema_type(Type::String)
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::Uuid)));
    ArrayBuilder::new().items(id).build().into()
}

/// The schema of a list of statuses of answers separated by commas.
pub(super) fn answers_schema() -> Schema {
    let status = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(100)).maximum(Some(599));
    ArrayBuilder::new().items(status).build().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_item_by_item_and_every_wrong_one_is_named() {
        let mut reader = Reader::default();
        assert_eq!(reader.list::<i32>("n", Some("1, 2,,3")), Some(vec![1, 2, 3]));
        assert_eq!(reader.list::<i32>("n", Some(" , ")), None);
        assert_eq!(reader.list::<i32>("n", None), None);
        assert_eq!(reader.words("w", Some("b"), &["a", "b"]), Some(vec!["b".to_owned()]));
        assert!(reader.errors.is_empty());
        reader.list::<i32>("n", Some("x,1,y"));
        reader.words("w", Some("a,c"), &["a", "b"]);
        let fields: Vec<_> = reader.errors.iter().map(|error| error.field.as_ref()).collect();
        assert_eq!(fields, ["n", "n", "w"]);
        assert_eq!(reader.errors[2].message, "`c` is not one of a, b");
    }

    #[test]
    fn a_text_that_can_be_in_no_row_matches_nothing() {
        let mut reader = Reader::default();
        assert_eq!(reader.texts("t", Some("a\0b")), Some(vec![]));
        assert_eq!(reader.texts("t", Some("a,b\0")), Some(vec!["a".to_owned()]));
    }

    #[test]
    fn a_list_too_long_is_refused() {
        let mut reader = Reader::default();
        let list = |items: usize| vec!["a"; items].join(",");
        assert_eq!(
            reader.texts("t", Some(&list(LIST_ITEMS_MAX))).map(|read| read.len()),
            Some(LIST_ITEMS_MAX)
        );
        assert_eq!(reader.texts("t", Some(&list(LIST_ITEMS_MAX + 1))), None);
        assert!(reader.done().is_err());
    }

    #[test]
    fn a_time_beyond_all_is_the_end_of_all() {
        let far = within_reach(Some(DateTime::<Utc>::MAX_UTC)).unwrap();
        assert_eq!(far.to_rfc3339(), "+10000-01-01T00:00:00+00:00");
        assert_eq!(within_reach(None), None);
    }
}
