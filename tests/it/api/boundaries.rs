//! Every operation of the OpenAPI document, called by nobody, by somebody who may do everything but this, and with the
//! ids of another company's things.
//!
//! The document says what there is, so a new route is walked without a word here. What the walk cannot know by
//! itself stands in `table.rs`, and it fails by name over what is missing there.

mod table;

use serde_json::{Value, json};
use sqlx::Row;
use uuid::Uuid;

use self::table::Things;
use crate::support::{
    api::{Answer, Client},
    app::App,
};

/// Every scope there is.
fn scopes() -> Vec<&'static str> {
    xtwebhooks::api::access::Scope::ALL.iter().map(|scope| scope.as_str()).collect()
}

/// An operation as the document has it.
#[derive(Debug)]
struct Operation {
    id: String,
    method: String,
    path: String,
    /// The names in its path.
    names: Vec<String>,
    /// The names behind its `?`, and whether each must be there.
    query: Vec<(String, bool)>,
    takes_body: bool,
    /// Any of which it needs.
    scopes: Vec<String>,
}

impl Operation {
    fn all() -> Vec<Self> {
        let document = json!(xtwebhooks::api::document());
        let mut found = Vec::new();
        for (path, item) in document["paths"].as_object().expect("paths") {
            for (method, operation) in item.as_object().expect("operations") {
                if ["get", "put", "post", "delete", "patch"].contains(&method.as_str()) {
                    found.push(Self::read(path, method, operation));
                }
            }
        }
        found
    }

    fn read(path: &str, method: &str, operation: &Value) -> Self {
        let texts = |value: &Value| {
            let list = value.as_array().into_iter().flatten();
            list.filter_map(|text| text.as_str().map(ToOwned::to_owned)).collect::<Vec<_>>()
        };
        let parameters = operation["parameters"].as_array().into_iter().flatten();
        let query = parameters.filter(|parameter| parameter["in"] == "query").map(|parameter| {
            let name = parameter["name"].as_str().expect("a name").to_owned();
            (name, parameter["required"] == json!(true))
        });
        Self {
            id: operation["operationId"]
                .as_str()
                .unwrap_or_else(|| panic!("{method} {path} has no id"))
                .to_owned(),
            method: method.to_uppercase(),
            path: path.to_owned(),
            names: path
                .split('{')
                .skip(1)
                .filter_map(|rest| Some(rest.split_once('}')?.0.to_owned()))
                .collect(),
            query: query.collect(),
            takes_body: operation["requestBody"]["required"] == json!(true),
            scopes: texts(&operation["security"][0]["bearer"]),
        }
    }

    /// Calls it with the ids of these things, and what else its table says; `narrowed_by` is one more parameter.
    async fn call(&self, client: &Client, things: &Things, narrowed_by: Option<&str>) -> Answer {
        let mut path = self.path.clone();
        for name in &self.names {
            path = path.replace(&format!("{{{name}}}"), &things.id(name, &self.id));
        }
        let needed = self.query.iter().filter(|(_, is_needed)| *is_needed).map(|(name, _)| name.as_str());
        let pairs: Vec<String> =
            needed.chain(narrowed_by).map(|name| format!("{name}={}", things.id(name, &self.id))).collect();
        if !pairs.is_empty() {
            path = format!("{path}?{}", pairs.join("&"));
        }
        let body = table::body(&self.id, things);
        assert!(
            body.is_some() || !self.takes_body,
            "{self:?} takes a body: say in tests/it/api/boundaries/table.rs what it may be"
        );
        // One id for all, so that answers can be compared byte by byte.
        client.and("x-request-id", "of-the-walk").send(&self.method, &path, body).await
    }
}

/// All that a caller can see of an answer.
fn seen(answer: &Answer) -> (u16, Vec<(String, String)>, String) {
    let headers = answer.headers.iter().filter(|(name, _)| *name != "date");
    let mut headers: Vec<_> = headers.map(|(name, value)| (name.to_string(), format!("{value:?}"))).collect();
    headers.sort_unstable();
    (answer.status, headers, answer.text.clone())
}

/// Everything that a company has, to see that nothing of it was touched.
async fn belongings(app: &App, company: Uuid) -> Vec<(String, String)> {
    let tables = sqlx::query(
        "select c.relname::text as name
         from pg_class as c
         join pg_attribute as a on a.attrelid = c.oid and a.attname = 'company_id' and not a.attisdropped
         where c.relkind in ('r', 'p') and not c.relispartition
         order by 1",
    );
    let mut found = Vec::new();
    for table in tables.fetch_all(&app.pool).await.expect("there are tables") {
        let name: String = table.get("name");
        let sql = format!(
            "select coalesce(string_agg(t::text, chr(10) order by t::text), '') from {name} as t where company_id = $1"
        );
        let rows = sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).bind(company);
        found.push((name, rows.fetch_one(&app.pool).await.expect("they can be read")));
    }
    found
}

#[tokio::test]
async fn without_credentials_no_operation_is_done() {
    let app = App::new().await;
    let service = app.run(&["--role", "api"]).await;
    let (nobody, things) = (Client::of(&service).await, Things::of_nobody());
    for operation in Operation::all() {
        let answer = operation.call(&nobody, &things, None).await;
        assert_eq!(answer.status, 401, "{operation:?}: {}", answer.text);
        assert_eq!(answer.header("www-authenticate"), "Bearer", "{operation:?}");
    }
}

#[tokio::test]
async fn no_operation_is_done_with_every_scope_but_its_own_and_its_own_is_enough() {
    let (app, company) = (App::new().await, Uuid::new_v4());
    app.set("API_RATE_LIMIT", 0);
    let service = app.run(&["--role", "api"]).await;
    let (nobody, things) = (Client::of(&service).await, Things::of_nobody());
    for operation in Operation::all() {
        assert!(!operation.scopes.is_empty(), "{operation:?} names no scope");
        let others = scopes()
            .into_iter()
            .filter(|scope| *scope != "admin" && !operation.scopes.iter().any(|s| s == scope));
        let others: Vec<_> = others.collect();
        let key = app.key(Some(company), &others).await;
        let answer = operation.call(&nobody.with(&key), &things, None).await;
        assert_eq!(answer.status, 403, "{operation:?} with {others:?}: {}", answer.text);
        let detail = answer.json()["detail"].to_string();
        assert!(operation.scopes.iter().all(|scope| detail.contains(scope)), "{operation:?}: {detail}");
        if table::NEEDS_MORE.iter().any(|(id, _why)| *id == operation.id) {
            continue;
        }
        for scope in &operation.scopes {
            let key = app.key(Some(company), &[scope]).await;
            let answer = operation.call(&nobody.with(&key), &things, None).await;
            assert!(![401, 403].contains(&answer.status), "{operation:?} with {scope}: {}", answer.text);
        }
    }
}

#[tokio::test]
async fn another_companys_id_answers_as_one_that_does_not_exist_and_nothing_of_it_is_touched() {
    let (app, ours, theirs) = (App::new().await, Uuid::new_v4(), Uuid::new_v4());
    app.set("API_RATE_LIMIT", 0);
    let service = app.run(&["--role", "api"]).await;
    let (foreign, absent) = (Things::of(&app, theirs).await, Things::of_nobody());
    let client = app.client(&service, ours).await;
    let before = belongings(&app, theirs).await;
    assert!(before.iter().any(|(_, rows)| !rows.is_empty()));
    for operation in Operation::all() {
        if table::SHARED.iter().any(|(id, _why)| *id == operation.id) {
            continue;
        }
        let there = operation.call(&client, &foreign, None).await;
        let nowhere = operation.call(&client, &absent, None).await;
        if !operation.names.is_empty() {
            assert!([403, 404].contains(&there.status), "{operation:?}: {} {}", there.status, there.text);
        }
        // What an operation makes has an id of its own; those that name nothing of anybody's are not compared.
        if !operation.names.is_empty() || foreign.were_asked() {
            assert_eq!(seen(&there), seen(&nowhere), "{operation:?}");
        }
        if operation.method == "GET" {
            for id in foreign.ids() {
                assert!(!there.text.contains(&id), "{operation:?} shows {id} of another company");
            }
            for (name, _) in operation.query.iter().filter(|(name, _)| Things::knows(name)) {
                let there = operation.call(&client, &foreign, Some(name)).await;
                let nowhere = operation.call(&client, &absent, Some(name)).await;
                assert_eq!(seen(&there), seen(&nowhere), "{operation:?} by {name}");
            }
        }
    }
    assert_eq!(belongings(&app, theirs).await, before);
}

#[tokio::test]
async fn whoever_they_belong_to_finds_the_things_that_the_walk_makes() {
    let (app, company) = (App::new().await, Uuid::new_v4());
    let service = app.run(&["--role", "api"]).await;
    let (things, client) = (Things::of(&app, company).await, app.client(&service, company).await);
    for operation in Operation::all().iter().filter(|operation| operation.method == "GET") {
        if table::NEEDS_MORE.iter().any(|(id, _why)| *id == operation.id) {
            continue;
        }
        let answer = operation.call(&client, &things, None).await;
        assert_eq!(answer.status, 200, "{operation:?}: {}", answer.text);
    }
}
