//! The filters and tests that templates can use: those that spell and cut values. Jinja's many others sort and group lists, which a token's text has no
//! need of; each would make the component larger and every call slower, for a call starts from nothing.

use std::borrow::Cow;
use std::sync::Arc;

use minijinja::value::Kwargs;
use minijinja::{Environment, Error, ErrorKind, Value, filters, tests};

/// Makes them known.
pub(crate) fn add_to(environment: &mut Environment<'_>) {
    environment.add_filter("b64encode", |text: Cow<'_, str>| {
        evertoken_plugin::base64(text.as_bytes())
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

/// Some filters would take an unknown name for an empty value.
fn defined(value: &Value) -> Result<&Value, Error> {
    if value.is_undefined() {
        Err(ErrorKind::UndefinedError.into())
    } else {
        Ok(value)
    }
}
