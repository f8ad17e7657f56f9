//! The router's table as an OpenAPI 3.1 document, and a page that shows it without a network.

use serde_json::{Map, Value, json};

use super::handlers;
use super::problem;
use super::route::{Access, Door, Route};

const SCHEMAS: &str = include_str!("openapi/schemas.json");

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
            {"url": "http://127.0.0.1:8080", "description": "public"},
            {"url": "http://127.0.0.1:8081", "description": "internal"},
        ],
        "paths": paths,
        "components": {
            "schemas": schemas,
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
            let schema =
                if name == "id" { json!({"type": "integer", "minimum": 1}) } else { json!({"type": "string"}) };
            json!({"name": name, "in": "path", "required": true, "schema": schema})
        })
        .collect();
    let mut header = |name: &str, description: &str, max: usize| {
        parameters.push(json!({
            "name": name, "in": "header", "required": false, "description": description,
            "schema": {"type": "string", "minLength": 1, "maxLength": max},
        }));
    };
    if route.idempotent_by_key {
        header(
            "Idempotency-Key",
            "Names the request: the same key gets the same answer.",
            crate::limits::CLAIM_KEY_MAX,
        );
    }
    if route.problems.contains(&"precondition_failed") {
        header("If-Match", "The revision that the caller has seen, as the last ETag.", 64);
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

fn responses(route: &Route) -> Value {
    let mut responses = Map::new();
    for status in route.statuses {
        responses.insert(status.to_string(), success(route));
    }
    let general: &[&str] = match route.access {
        Access::Open => &["timeout", "internal"],
        Access::Shopper => &[
            "unauthenticated",
            "invalid_request",
            "throttled",
            "payload_too_large",
            "request_timeout",
            "unavailable",
            "timeout",
            "internal",
        ],
        Access::Roles(_) => &[
            "unauthenticated",
            "forbidden",
            "invalid_request",
            "payload_too_large",
            "unsupported_media_type",
            "request_timeout",
            "unavailable",
            "timeout",
            "internal",
        ],
    };
    // A claim's key names the claim itself: it has no other request to be mistaken for.
    let by_key: &[&str] =
        if route.idempotent_by_key && route.answer != "ClaimAnswer" { &["idempotency_mismatch"] } else { &[] };
    for code in route.problems.iter().chain(general).chain(by_key) {
        let Some((_, status, _)) = problem::all().find(|(known, ..)| known == code) else { continue };
        let response = responses.entry(status.to_string()).or_insert_with(|| {
            json!({
                "description": "",
                "content": {"application/problem+json": {"schema": reference("Problem")}},
            })
        });
        let described = response["description"].as_str().unwrap_or("").to_owned();
        if !described.split(", ").any(|known| known == *code) {
            let described = if described.is_empty() { (*code).to_owned() } else { format!("{described}, {code}") };
            response["description"] = described.into();
        }
    }
    Value::Object(responses)
}

fn success(route: &Route) -> Value {
    if route.answer.is_empty() {
        return json!({"description": route.summary});
    }
    json!({
        "description": route.summary,
        "content": {"application/json": {"schema": reference(route.answer)}},
    })
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

#[cfg(test)]
mod tests {
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
}
