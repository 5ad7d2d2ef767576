//! The filters and tests that templates can use: those that encode, cut and parse values. Jinja's many others sort and group
//! lists, which tokens do not need; each would make the component larger and every call slower, since each call starts a fresh
//! instance.

use std::borrow::Cow;
use std::sync::Arc;

use evertoken_plugin::jwt;
use minijinja::value::{Kwargs, Serde};
use minijinja::{Environment, Error, ErrorKind, Value, filters, tests};

/// The largest text that is parsed. Its parsed form takes many times the memory; tokens have a tenth of it.
const MAX_OPENED_BYTES: usize = 256 * 1024;

/// Registers them.
pub(crate) fn add_to(environment: &mut Environment<'_>) {
    environment.add_filter("b64encode", |text: Cow<'_, str>| {
        evertoken_plugin::base64(text.as_bytes())
    });
    environment.add_filter("b64decode", |text: Cow<'_, str>| {
        let bytes = evertoken_plugin::base64_decode(bounded(&text)?);
        bytes
            .and_then(|bytes| String::from_utf8(bytes).ok())
            .ok_or_else(|| unfit("the value is no text in base64"))
    });
    environment.add_filter("json", |text: Cow<'_, str>| {
        let json: Result<Value, _> = serde_json::from_str(bounded(&text)?);
        // The parser's own message may quote the value.
        json.map_err(|_| unfit("the value is no JSON"))
    });
    environment.add_filter("claims", |text: Cow<'_, str>| {
        claims(&text).ok_or_else(|| unfit("the value is no JWT, so it has no claims"))
    });
    environment.add_filter("urlencode", |text: Cow<'_, str>| {
        filters::urlencode(&Value::from(text.as_ref()))
    });
    environment.add_filter("tojson", |value: &Value, args: Kwargs| {
        filters::tojson(defined(value)?, None, args)
    });
    environment.add_filter("default", filters::default);
    environment.add_filter("first", |list: &Value| filters::first(defined(list)?));
    environment.add_filter("items", |map: &Value| filters::items(defined(map)?));
    environment.add_filter("join", filters::join);
    environment.add_filter("last", |list: Value| filters::last(defined(&list)?.clone()));
    environment.add_filter("length", |value: &Value| filters::length(defined(value)?));
    environment.add_filter("lower", filters::lower);
    environment.add_filter("replace", filters::replace);
    environment.add_filter(
        "split",
        |text: &Value, separator: Option<Arc<str>>, limit: Option<i64>| {
            filters::split(defined(text)?, separator, limit)
        },
    );
    environment.add_filter("trim", filters::trim);
    environment.add_filter("upper", filters::upper);
    environment.add_test("defined", tests::is_defined);
    environment.add_test("undefined", tests::is_undefined);
}

/// The claims of a JWT, by their names; nothing for other texts, or if it is too large.
pub(crate) fn claims(token: &str) -> Option<Value> {
    let token = bounded(token).ok()?;
    jwt::claims(token).map(|claims| Serde(claims).into())
}

fn bounded(text: &str) -> Result<&str, Error> {
    if text.len() <= MAX_OPENED_BYTES {
        Ok(text)
    } else {
        Err(unfit("the value has more than 256 KiB"))
    }
}

fn unfit(why: &'static str) -> Error {
    Error::new(ErrorKind::InvalidOperation, why)
}

/// Some filters would treat an unknown name as an empty value.
fn defined(value: &Value) -> Result<&Value, Error> {
    if value.is_undefined() {
        Err(ErrorKind::UndefinedError.into())
    } else {
        Ok(value)
    }
}
