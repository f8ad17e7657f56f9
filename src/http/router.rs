//! The table of routes: made once, shared by all threads, and the source of the OpenAPI document.

use std::collections::HashMap;

use hyper::Method;

use super::handlers;
use super::route::{Door, Route};

/// Finds routes by listener, path and method.
pub struct Router {
    routes: Vec<Route>,
    public: matchit::Router<usize>,
    internal: matchit::Router<usize>,
    /// What stands at a path: methods and their routes.
    methods: Vec<Vec<(Method, usize)>>,
}

/// What a path and method lead to.
pub enum Found<'a> {
    Route(&'a Route, Vec<String>),
    /// The path exists; these methods do.
    OtherMethods(String),
    Nothing,
}

// === impl Router ===

impl Router {
    /// Every route of this build.
    pub fn new() -> Self {
        Router::of(handlers::routes())
    }

    fn of(routes: Vec<Route>) -> Self {
        let mut router = Router {
            routes: Vec::new(),
            public: matchit::Router::new(),
            internal: matchit::Router::new(),
            methods: Vec::new(),
        };
        let mut places: HashMap<(bool, &'static str), usize> = HashMap::new();
        for (index, route) in routes.iter().enumerate() {
            let is_public = route.door == Door::Public;
            let place = *places.entry((is_public, route.path)).or_insert_with(|| {
                router.methods.push(Vec::new());
                let place = router.methods.len() - 1;
                let tree = if is_public { &mut router.public } else { &mut router.internal };
                tree.insert(route.path, place).expect("paths of the table do not collide");
                place
            });
            router.methods[place].push((route.method.clone(), index));
        }
        router.routes = routes;
        router
    }

    pub fn routes(&self) -> &[Route] {
        &self.routes
    }

    pub fn find(&self, door: Door, method: &Method, path: &str) -> Found<'_> {
        let tree = if door == Door::Public { &self.public } else { &self.internal };
        let Ok(matched) = tree.at(path) else { return Found::Nothing };
        let methods = &self.methods[*matched.value];
        // HEAD is GET without its body, which the server leaves out.
        let wanted = if method == Method::HEAD { &Method::GET } else { method };
        match methods.iter().find(|(known, _)| known == wanted) {
            Some((_, index)) => {
                let params = matched.params.iter().map(|(_, value)| percent_decode(value)).collect();
                Found::Route(&self.routes[*index], params)
            }
            None => {
                Found::OtherMethods(methods.iter().map(|(method, _)| method.as_str()).collect::<Vec<_>>().join(", "))
            }
        }
    }
}

impl Default for Router {
    fn default() -> Self {
        Router::new()
    }
}

/// `%41` to `A`; what is no escape stays. Bytes that are no UTF-8 become U+FFFD.
pub fn percent_decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let hex = |at: usize| tail.get(at).and_then(|byte| (*byte as char).to_digit(16));
        match (first, hex(0), hex(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push((high * 16 + low) as u8);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The pairs of a query string.
pub fn parse_query(query: &str) -> Vec<(String, String)> {
    let decode = |text: &str| percent_decode(&text.replace('+', " "));
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(key, value)| (decode(key), decode(value)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_stands_and_paths_are_found() {
        let router = Router::new();
        assert!(matches!(router.find(Door::Internal, &Method::GET, "/livez"), Found::Route(..)));
        assert!(matches!(router.find(Door::Public, &Method::GET, "/metrics"), Found::Nothing));
        match router.find(Door::Public, &Method::GET, "/v1/templates/7/claims") {
            Found::OtherMethods(methods) => assert_eq!(methods, "POST"),
            _ => panic!("claims take POST alone"),
        }
    }

    #[test]
    fn escapes_are_decoded() {
        assert_eq!(percent_decode("a%2Fb%zz%4"), "a/b%zz%4");
        assert_eq!(
            parse_query("a=1&b=x%20y&c&=d&e=1+2"),
            [("a", "1"), ("b", "x y"), ("c", ""), ("", "d"), ("e", "1 2")].map(|(k, v)| (k.into(), v.into()))
        );
    }
}
