//! Plain claims, without the HTTP library.
//!
//! In the hottest second nearly every request is a claim without a body. To read one takes a parser and a glance at each
//! header, and to answer it, a few hundred bytes; the library's state machines, header maps, tasks and encoders cost
//! as much again as the whole decision. So the stream beneath the library looks at what arrives first: a plain claim is
//! answered here and the library never hears of it. Everything else, down to the smallest oddity (a body, a second
//! header of a name, `Expect`), goes to the library, and means there what it always meant.
//!
//! All ways lead into the same functions (`claims::admit`, `claims::decide`, `claims::answer_to`), so an answer does not
//! depend on the way; `tests/it/http_express.rs` compares them.
//!
//! # Layout
//! - [`http1`]: a claim that is alone on its connection
//! - [`http2`]: frames between a client and the library, and the claims among them
//! - [`frame`]: HTTP/2's frames as bytes
//! - [`hpack`]: HTTP/2's header compression

pub mod frame;
pub mod hpack;
pub mod http1;
pub mod http2;

use std::cell::RefCell;
use std::future::Future;
use std::io::Write;
use std::net::IpAddr;
use std::sync::Arc;

use hyper::Method;

use super::entrance::{Entrance, Visit};
use super::handlers::claims;
use super::problem::Problem;
use super::respond::Answer;
use crate::admission::client::Headers;
use crate::admission::throttle::begin_request;
use crate::clock::now_ms;
use crate::domain::ids::TemplateId;
use crate::domain::window::utc;
use crate::gateway::Granted;

/// What a plain claim says.
#[derive(Debug)]
struct Head<'a> {
    path: &'a str,
    template: TemplateId,
    headers: Headers<'a>,
}

/// What a claim came to.
struct Decided {
    visit: Visit,
    result: Result<Granted, Problem>,
}

/// A claim that was begun.
enum Begun<F> {
    UnderWay(F),
    /// By its head alone.
    Refused(Box<Decided>),
}

/// Begins a claim, on the thread that read it.
fn begin(
    entrance: &Arc<Entrance>,
    peer: IpAddr,
    head: &Head<'_>,
) -> Begun<impl Future<Output = Decided> + Send + use<>> {
    begin_request();
    let visit = Visit::begin(entrance, &Method::POST, head.path, &head.headers);
    let admitted = match claims::admit(&entrance.app, &head.headers, peer) {
        Ok(admitted) => admitted,
        Err(problem) => return Begun::Refused(Box::new(Decided { visit, result: Err(problem) })),
    };
    let (entrance, template) = (entrance.clone(), head.template);
    Begun::UnderWay(async move { Decided { visit, result: claims::decide(&entrance, &admitted, template).await } })
}

// === impl Decided ===

impl Decided {
    fn answer(self, entrance: &Entrance) -> Answer {
        let mut answer = claims::answer_to(&entrance.app, self.result, self.visit.request_id());
        self.visit.end(entrance, &mut answer);
        answer
    }
}

/// The `Date` header's text, made once a second.
#[derive(Default)]
struct Date {
    second: i64,
    text: Vec<u8>,
}

thread_local! {
    static DATE: RefCell<Date> = RefCell::default();
}

/// Hands out the `Date` of now: 29 characters.
fn with_date<T>(put: impl FnOnce(&[u8]) -> T) -> T {
    DATE.with_borrow_mut(|date| put(date.now()))
}

// === impl Date ===

impl Date {
    fn now(&mut self) -> &[u8] {
        let second = now_ms() / 1000;
        if self.second != second {
            self.second = second;
            self.text.clear();
            let time = utc(second * 1000);
            let _ = write!(self.text, "{}", time.format("%a, %d %b %Y %H:%M:%S GMT"));
        }
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_has_the_length_that_the_protocol_gives_it() {
        assert_eq!(with_date(<[u8]>::len), "Sun, 06 Nov 1994 08:49:37 GMT".len());
    }
}
