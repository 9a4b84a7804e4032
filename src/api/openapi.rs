//! The OpenAPI 3.1 document: collected from the handlers, completed here, served at `/v1/openapi.json` with a page to
//! read and try it at `/v1/docs`, and committed as `openapi.json`.
//!
//! It is more than a description: `access` checks each request against the scope in the document.

use axum::{
    Router,
    body::Bytes,
    extract::Path,
    http::{HeaderValue, header as names},
    response::{Html, IntoResponse, Response},
    routing::get,
};
use tower_http::set_header::SetResponseHeaderLayer;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        ComponentsBuilder, ContactBuilder, Content, HeaderBuilder, InfoBuilder, KnownFormat, LicenseBuilder,
        Object, ObjectBuilder, OpenApi, OpenApiBuilder, Ref, RefOr, Required, Response as Described,
        ResponseBuilder, Schema, SchemaFormat, Type,
        path::{Operation, Parameter, ParameterBuilder, ParameterIn, PathItem},
        security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};

use super::access::BEARER;
use super::problem::{CONTENT_TYPE, FieldError, PROBLEMS_PATH, Problem, ProblemBody, ProblemKind};

/// Where the document is.
pub const DOCUMENT_PATH: &str = "/v1/openapi.json";
/// Where the page is that shows it.
pub const PAGE_PATH: &str = "/v1/docs";

/// The head of the document.
pub(super) fn head() -> OpenApi {
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some(
        "An API key of this service (`xtwh_…`), a JWT, or a token of XTSystems. Every operation lists the scope that it \
         requires. If the credentials are valid for several companies, name one in the header `X-Company-Id`.",
    ));
    let components = ComponentsBuilder::new()
        .security_scheme(BEARER, SecurityScheme::Http(bearer.build()))
        .schema(ProblemBody::name(), ProblemBody::schema())
        .schema(FieldError::name(), FieldError::schema())
        .build();
    let info = InfoBuilder::new()
        .title("XTSystems webhooks")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(include_str!("openapi.md")))
        .license(Some(LicenseBuilder::new().name("Apache-2.0").identifier(Some("Apache-2.0")).build()))
        .contact(Some(ContactBuilder::new().name(Some("XTSystems")).build()))
        .build();
    OpenApiBuilder::new().info(info).components(Some(components)).build()
}

/// Adds the common responses to every operation: the problems, and the header with the request's id.
pub(super) fn finish(mut document: OpenApi) -> OpenApi {
    for item in document.paths.paths.values_mut() {
        for operation in operations(item) {
            complete(operation);
        }
    }
    if let Some(components) = &mut document.components {
        for schema in components.schemas.values_mut() {
            if let Some(one) = as_one(schema) {
                *schema = Schema::Object(one).into();
            }
        }
    }
    document
}

/// The single object that a schema describes, if it is one or is composed of objects. Shapes share fields that way, which
/// callers need not know.
fn as_one(schema: &RefOr<Schema>) -> Option<Object> {
    match schema {
        RefOr::T(Schema::Object(object)) => Some(object.clone()),
        RefOr::T(Schema::AllOf(all)) => {
            let mut one = Object::new();
            one.description.clone_from(&all.description);
            // A shape's own fields come last there.
            for part in all.items.iter().rev() {
                let part = as_one(part)?;
                one.required.extend(part.required);
                one.properties.extend(part.properties);
            }
            Some(one)
        }
        _ => None,
    }
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [&mut item.get, &mut item.put, &mut item.post, &mut item.delete, &mut item.patch, &mut item.head]
        .into_iter()
        .filter_map(Option::as_mut)
}

/// The problems that an operation can respond with, derived from its parameters.
fn complete(operation: &mut Operation) {
    let mut kinds = vec![
        ProblemKind::Malformed,
        ProblemKind::Timeout,
        ProblemKind::TooManyRequests,
        ProblemKind::Internal,
        ProblemKind::Unavailable,
    ];
    if operation.security.as_ref().is_some_and(|security| !security.is_empty()) {
        kinds.extend([ProblemKind::Unauthenticated, ProblemKind::Forbidden]);
        operation.parameters.get_or_insert_default().push(company());
    }
    if operation.request_body.is_some() {
        kinds.extend([ProblemKind::TooLarge, ProblemKind::UnsupportedMediaType, ProblemKind::Invalid]);
    }
    for parameter in operation.parameters.iter().flatten() {
        let RefOr::T(parameter) = parameter else { continue };
        kinds.push(match parameter.parameter_in {
            ParameterIn::Path => ProblemKind::NotFound,
            _ => ProblemKind::Invalid,
        });
    }
    let described = &mut operation.responses.responses;
    for kind in kinds {
        described.entry(kind.status().as_str().to_owned()).or_insert_with(|| problem(kind).into());
    }
    for (status, response) in described.iter_mut() {
        if let RefOr::T(response) = response {
            // A refusal that an operation describes itself is a problem too.
            if status.starts_with(['4', '5']) && response.content.is_empty() {
                response.content.insert(CONTENT_TYPE.to_owned(), problem_content().into());
            }
            let id = header("The id of the request", Type::String);
            response.headers.entry("x-request-id".to_owned()).or_insert(id.into());
        }
    }
}

/// The header that names a company; `access` reads it for every operation with a scope.
fn company() -> RefOr<Parameter> {
    let id = ObjectBuilder::new()
        .schema_type(Type::String)
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::Uuid)));
    ParameterBuilder::new()
        .name("X-Company-Id")
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some("The company, if the credentials are valid for several"))
        .schema(Some(id))
        .build()
        .into()
}

/// A problem as a response.
pub(super) fn problem(kind: ProblemKind) -> Described {
    let described = ResponseBuilder::new().description(kind.title()).content(CONTENT_TYPE, problem_content());
    match kind {
        ProblemKind::TooManyRequests | ProblemKind::Unavailable => described
            .header("retry-after", header("The number of seconds to wait before trying again", Type::Integer))
            .build(),
        ProblemKind::Unauthenticated => described
            .header("www-authenticate", header("The authentication scheme: Bearer", Type::String))
            .build(),
        _ => described.build(),
    }
}

fn header(description: &str, of: Type) -> utoipa::openapi::Header {
    HeaderBuilder::new().schema(Some(Object::with_type(of))).description(Some(description)).build()
}

fn problem_content() -> Content {
    Content::new(Some(RefOr::Ref(Ref::from_schema_name(ProblemBody::name()))))
}

/// The document, its page, and the pages that explain problems. They are public, because they contain no data.
pub(super) fn pages(document: &OpenApi) -> Router {
    // Written once, because it is public.
    let text = Bytes::from(serde_json::to_vec(document).expect("the document is JSON"));
    let swagger = utoipa_swagger_ui::SwaggerUi::new(PAGE_PATH).config(
        utoipa_swagger_ui::Config::from(DOCUMENT_PATH)
            .try_it_out_enabled(true)
            .persist_authorization(false)
            .validator_url("none"),
    );
    // The page's own scripts and styles, and nothing from elsewhere.
    let policy = HeaderValue::from_static(
        "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; frame-ancestors 'none'",
    );
    Router::<()>::new()
        .merge(swagger)
        .layer(SetResponseHeaderLayer::overriding(names::CONTENT_SECURITY_POLICY, policy))
        .route(
            DOCUMENT_PATH,
            get(async move || ([(http::header::CONTENT_TYPE, "application/json")], text.clone())),
        )
        .route(&format!("{PROBLEMS_PATH}/{{kind}}"), get(explain))
}

/// `GET /v1/problems/{kind}`: what a kind means, and what to do.
async fn explain(Path(word): Path<String>) -> Response {
    let Some(kind) = ProblemKind::ALL.iter().find(|kind| kind.word() == word) else {
        return Problem::not_found("this kind of problem does not exist").into_response();
    };
    let (title, status, advice) = (kind.title(), kind.status(), kind.advice());
    Html(format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>{title}</title>\
         <h1>{title}</h1><p>Status <strong>{status}</strong>.</p><p>{advice}</p></html>"
    ))
    .into_response()
}
