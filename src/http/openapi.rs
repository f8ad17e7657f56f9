//! The router's table as an OpenAPI 3.1 document, and a page that shows it without a network.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::handlers;
use super::problem;
use super::route::{Access, Door, Route};

const SCHEMAS: &str = include_str!("openapi/schemas.json");
const PROBLEM: &str = "application/problem+json";
const PUBLIC: &str = "http://127.0.0.1:8080";
const INTERNAL: &str = "http://127.0.0.1:8081";

/// The document of this build: what is not in the router is not in it.
pub fn document() -> Value {
    let mut paths = Map::new();
    for route in handlers::routes() {
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.method.as_str().to_lowercase()] = operation(&route);
    }
    let mut schemas: Value = serde_json::from_str(SCHEMAS).expect("checked by a test");
    let codes: Vec<&str> = problem::all().map(|(code, ..)| code).collect();
    schemas["Problem"]["properties"]["code"]["enum"] = json!(codes);
    json!({
        "openapi": "3.1.0",
        "info": {"title": "Floodgate", "version": env!("CARGO_PKG_VERSION"), "license": {"name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0"}},
        "servers": [
            {"url": PUBLIC, "description": "public"},
            {"url": INTERNAL, "description": "internal"},
        ],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "headers": headers(),
            "securitySchemes": {
                "shopper": {
                    "type": "http", "scheme": "bearer", "bearerFormat": "JWT",
                    "description": "Facts of the shopper are claims: level, tags, registered_at (RFC 3339), first_order \
                                    (whether what is bought now is their first order).",
                },
                "apiKey": {"type": "http", "scheme": "bearer"},
            },
        },
    })
}

/// The document as a plain page.
pub fn page() -> String {
    let escape = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let mut rows = String::new();
    for route in handlers::routes() {
        let who = match route.access {
            Access::Open => "anyone".to_owned(),
            Access::Shopper => "shopper".to_owned(),
            Access::Roles(roles) => {
                ["admin"].into_iter().chain(roles.iter().map(|role| role.word())).collect::<Vec<_>>().join(", ")
            }
        };
        let door = if route.door == Door::Public { "public" } else { "internal" };
        rows.push_str(&format!(
            "<tr><td>{door}<td><code>{} {}</code><td>{}<td>{who}<td>{}</tr>\n",
            route.method,
            escape(route.path),
            escape(route.summary),
            route.problems.join(", ")
        ));
    }
    format!(
        "<!doctype html><meta charset=utf-8><title>Floodgate</title>\
         <style>body{{font:14px sans-serif;margin:2em}}td,th{{padding:.3em .8em;text-align:left;vertical-align:top;border-bottom:1px solid #ddd}}</style>\
         <h1>Floodgate {}</h1><p>The whole document: <a href=/openapi.json>/openapi.json</a></p>\
         <table><tr><th>listener<th>call<th>does<th>who<th>particular refusals</tr>\n{rows}</table>",
        crate::VERSION
    )
}

fn operation(route: &Route) -> Value {
    let mut operation = json!({
        "summary": route.summary,
        "operationId": operation_id(route),
        "tags": [if route.door == Door::Public { "public" } else { "internal" }],
        "parameters": parameters(route),
        "responses": responses(route),
        "security": match route.access {
            Access::Open => json!([]),
            Access::Shopper => json!([{"shopper": []}]),
            Access::Roles(_) => json!([{"apiKey": []}]),
        },
    });
    if let Access::Roles(roles) = route.access {
        operation["x-roles"] = ["admin"].into_iter().chain(roles.iter().map(|role| role.word())).collect();
    }
    let url = if route.door == Door::Public { PUBLIC } else { INTERNAL };
    operation["servers"] = json!([{"url": url}]);
    if !route.body.is_empty() {
        operation["requestBody"] = json!({
            "required": true,
            "content": {"application/json": {"schema": reference(route.body)}},
        });
    }
    operation
}

fn operation_id(route: &Route) -> String {
    let words = route.path.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    [route.method.as_str().to_lowercase().as_str()].into_iter().chain(words).collect::<Vec<_>>().join("_")
}

fn parameters(route: &Route) -> Vec<Value> {
    let mut parameters: Vec<Value> = route
        .path
        .split('{')
        .skip(1)
        .filter_map(|rest| rest.split_once('}'))
        .map(|(name, _)| {
            let schema = match name {
                "id" => json!({"type": "integer", "minimum": 1}),
                _ => json!({"type": "string", "minLength": 1}),
            };
            json!({"name": name, "in": "path", "required": true, "schema": schema})
        })
        .collect();
    if let Some(required) = names_revision(route) {
        parameters.push(json!({
            "name": "If-Match", "in": "header", "required": required,
            "description": "The revision that the caller has seen, as the last ETag. What is no revision matches none.",
            "schema": {"type": "string", "minLength": 1},
        }));
    }
    let mut header = |name: &str, description: &str, max: usize| {
        parameters.push(json!({
            "name": name, "in": "header", "required": false, "description": description,
            "schema": {"type": "string", "minLength": 1, "maxLength": max, "pattern": "^[!-~]*$"},
        }));
    };
    if route.idempotent_by_key {
        header(
            "Idempotency-Key",
            "Names the request: the same key gets the same answer.",
            crate::limits::CLAIM_KEY_MAX,
        );
    }
    if matches!(route.access, Access::Shopper) {
        header("X-Device-Id", "The shopper's device.", crate::limits::DEVICE_ID_MAX);
        header("X-Channel", "Where the shopper comes from.", crate::limits::CHANNEL_MAX);
    }
    for (name, schema) in route.query {
        let schema: Value = serde_json::from_str(schema).expect("checked by a test");
        parameters.push(json!({"name": name, "in": "query", "required": false, "schema": schema}));
    }
    parameters
}

/// Whether `If-Match` must be sent, where the call takes it.
fn names_revision(route: &Route) -> Option<bool> {
    let refuses = |code| route.problems.contains(&code);
    refuses("precondition_failed").then(|| refuses("precondition_required"))
}

fn responses(route: &Route) -> Value {
    let mut responses = Map::new();
    for status in route.statuses {
        responses.insert(status.to_string(), success(route));
    }
    let codes: Vec<&str> = route.problems.iter().copied().chain(general(route)).collect();
    let mut refusals: BTreeMap<u16, Vec<(&str, bool)>> = BTreeMap::new();
    for (code, status, retryable) in problem::all().filter(|(code, ..)| codes.contains(code)) {
        refusals.entry(status).or_default().push((code, retryable));
    }
    for (status, refusals) in refusals {
        let refused = refusal(status, &refusals);
        match responses.get_mut(&status.to_string()) {
            // A call may answer with a refusal's status by itself, as /readyz does.
            Some(answer) => answer["content"][PROBLEM] = refused["content"][PROBLEM].clone(),
            None => {
                responses.insert(status.to_string(), refused);
            }
        }
    }
    Value::Object(responses)
}

/// The codes that the entrance answers with, before and around the handler.
fn general(route: &Route) -> Vec<&'static str> {
    let mut codes =
        vec!["invalid_request", "payload_too_large", "request_timeout", "overloaded", "timeout", "internal"];
    match route.access {
        Access::Open => {}
        Access::Shopper => codes.extend(["unauthenticated", "throttled", "unavailable"]),
        Access::Roles(_) => codes.extend(["unauthenticated", "forbidden", "unavailable"]),
    }
    if !route.body.is_empty() {
        codes.push("unsupported_media_type");
    }
    // A claim's key names the claim itself: it has no other request to be mistaken for.
    if route.idempotent_by_key && route.answer != "ClaimAnswer" {
        codes.push("idempotency_mismatch");
    }
    codes
}

/// A status of refusals, with the codes that it may have.
fn refusal(status: u16, refusals: &[(&str, bool)]) -> Value {
    let codes: Vec<&str> = refusals.iter().map(|(code, _)| *code).collect();
    let mut headers = json!({"X-Request-Id": header("RequestId")});
    match status {
        401 => headers["WWW-Authenticate"] = header("Challenge"),
        // Every one of them knows when to come back.
        429 | 503 => headers["Retry-After"] = header("RetryAfter"),
        _ if refusals.iter().any(|(_, retryable)| *retryable) => {
            headers["Retry-After"] = header("RetryAfterIfKnown");
        }
        _ => {}
    }
    let schema = json!({"allOf": [reference("Problem"), {"properties": {"code": {"enum": codes}}}]});
    json!({
        "description": codes.join(", "),
        "headers": headers,
        "content": {PROBLEM: {"schema": schema}},
    })
}

fn success(route: &Route) -> Value {
    let mut response = json!({"description": route.summary, "headers": {"X-Request-Id": header("RequestId")}});
    if route.tagged {
        response["headers"]["ETag"] = header("Revision");
    }
    if !route.answer.is_empty() {
        response["content"] = json!({"application/json": {"schema": reference(route.answer)}});
    } else if !route.media.is_empty() {
        response["content"] = json!({route.media: {}});
    }
    response
}

fn headers() -> Value {
    let one = |description: &str, required: bool, schema: Value| json!({"description": description, "required": required, "schema": schema});
    let seconds = || json!({"type": "integer", "minimum": 1});
    json!({
        "RequestId": one("Names the request: the caller's X-Request-Id, or a new one.", true, json!({"type": "string"})),
        "Revision": one("The revision in quotes, for If-Match.", true, json!({"type": "string", "pattern": "^\"[0-9]+\"$"})),
        "Challenge": one("Bearer: an Authorization header of that scheme is wanted.", true, json!({"type": "string"})),
        "RetryAfter": one("Seconds until a retry may help.", true, seconds()),
        "RetryAfterIfKnown": one("Seconds until a retry may help, where that is known.", false, seconds()),
    })
}

fn header(name: &str) -> Value {
    json!({"$ref": format!("#/components/headers/{name}")})
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_schema_that_is_named_exists_and_every_one_that_exists_is_named() {
        let document = document();
        let text = document.to_string();
        let schemas = document["components"]["schemas"].as_object().unwrap();
        for part in text.split("\"#/components/schemas/").skip(1) {
            let name = part.split('"').next().unwrap();
            assert!(schemas.contains_key(name), "{name} is no schema");
        }
        for name in schemas.keys() {
            assert!(text.contains(&format!("#/components/schemas/{name}\"")), "{name} is not used");
        }
    }

    #[test]
    fn the_document_holds_the_router_and_nothing_else() {
        let document = document();
        let paths = document["paths"].as_object().unwrap();
        let routes = handlers::routes();
        let operations: usize = paths.values().map(|path| path.as_object().unwrap().len()).sum();
        assert_eq!(operations, routes.len());
        for route in &routes {
            let operation = &paths[route.path][route.method.as_str().to_lowercase()];
            assert!(
                operation["responses"].as_object().unwrap().keys().any(|status| status.starts_with('2')),
                "{}",
                route.path
            );
            for code in route.problems {
                assert!(problem::all().any(|(known, ..)| known == *code), "{code} of {} is in no table", route.path);
            }
        }
        assert_eq!(operation_id(&routes[0]), "post_v1_templates_id_claims");
    }

    #[test]
    fn refusals_stand_with_their_codes_and_with_when_to_come_back() {
        let document = document();
        let claim = &document["paths"]["/v1/templates/{id}/claims"]["post"]["responses"];
        let codes =
            |status: &str| &claim[status]["content"][PROBLEM]["schema"]["allOf"][1]["properties"]["code"]["enum"];
        assert_eq!(codes("429"), &json!(["throttled", "quota_exceeded"]));
        assert_eq!(codes("410"), &json!(["ended", "sold_out"]));
        let header = |status: &str| claim[status]["headers"]["Retry-After"]["$ref"].as_str().unwrap_or("");
        assert!(header("429").ends_with("/RetryAfter") && header("409").ends_with("/RetryAfterIfKnown"));
        assert_eq!(header("410"), "");
        let ready = &document["paths"]["/readyz"]["get"]["responses"]["503"]["content"];
        assert_eq!(ready.as_object().unwrap().len(), 2, "not ready, or overloaded: {ready}");
        let patch = &document["paths"]["/v1/admin/templates/{id}"]["patch"];
        assert!(patch["responses"]["200"]["headers"]["ETag"].is_object());
        let tag = patch["parameters"].as_array().unwrap().iter().find(|one| one["name"] == "If-Match");
        assert_eq!(tag.unwrap()["required"], true);
    }

    #[test]
    fn every_field_that_may_be_absent_may_be_null() {
        let document = document();
        let schemas = &document["components"]["schemas"];
        let bodies = handlers::routes().into_iter().map(|route| route.body).filter(|body| !body.is_empty());
        let mut waiting: Vec<(String, &Value)> = bodies.map(|body| (body.to_owned(), &schemas[body])).collect();
        let mut seen = BTreeSet::new();
        while let Some((at, schema)) = waiting.pop() {
            if schema.is_null() || !seen.insert(at.clone()) {
                continue;
            }
            let required = schema["required"].as_array();
            for (name, field) in schema["properties"].as_object().into_iter().flatten() {
                let is_required = required.is_some_and(|required| required.iter().any(|one| one == name));
                let text = field["type"].to_string() + &field["enum"].to_string();
                assert!(is_required || text.contains("null"), "{at}.{name} takes null as if it were absent");
                waiting.push((format!("{at}.{name}"), field));
            }
            waiting.push((format!("{at}[]"), &schema["items"]));
            for name in schema["$ref"].as_str().into_iter().filter_map(|path| path.rsplit('/').next()) {
                waiting.push((name.to_owned(), &schemas[name]));
            }
            for (one, alternative) in schema["oneOf"].as_array().into_iter().flatten().enumerate() {
                waiting.push((format!("{at}|{one}"), alternative));
            }
        }
        assert!(seen.contains("Order.lines[].streamer_id"), "{seen:?}");
    }
}
