//! Renders one template, with errors in the user's terms.

use evertoken_plugin::Failure;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::ValueKind;
use minijinja::{
    AutoEscape, Environment, Error, ErrorKind, Output, State, UndefinedBehavior, Value,
};

use crate::context::Context;
use crate::words;

/// The variable of CERN's oauth2-refresh-controller, in its own notation; its templates work here unchanged.
const ACCESS_TOKEN: &str = "$(ACCESS_TOKEN)";

/// The code of a mistake that does not depend on the tokens; `evertoken check` depends on it.
const CONFIG_TEMPLATE: &str = "config.template";

/// The claims of a token that is a JWT.
const CLAIMS: &str = "claims";

/// A message lists at most this many names: enough for a few tokens, and short enough for a status line.
const MAX_NAMES_SHOWN: usize = 30;

/// Renders the template at `place` in the configuration.
///
/// # Errors
///
/// `invalid-config`: "config.template" for a mistake that does not depend on the tokens, with the line; "template.undefined" for
/// a name that these tokens do not have, with those that they have; "template.failed" for the rest.
pub(crate) fn render(place: &str, source: &str, context: &Context) -> Result<String, Failure> {
    let source = source.replace(ACCESS_TOKEN, "{{ token }}");
    let syntax = |error: Error| explain(place, &error, CONFIG_TEMPLATE);
    let environment = environment().map_err(syntax)?;
    let template = environment.template_from_str(&source).map_err(syntax)?;
    template
        .render(&context.values)
        .map_err(|error| match error.kind() {
            ErrorKind::UndefinedError => {
                let mut used: Vec<_> = template.undeclared_variables(true).into_iter().collect();
                used.sort();
                undefined(place, &error, &used, context)
            }
            ErrorKind::UnknownFilter
            | ErrorKind::UnknownTest
            | ErrorKind::UnknownFunction
            | ErrorKind::MissingArgument
            | ErrorKind::TooManyArguments => syntax(error),
            _ => explain(place, &error, "template.failed"),
        })
}

pub(crate) fn invalid(message: impl Into<String>) -> Failure {
    Failure::invalid_config(message).with_code("config.invalid")
}

fn environment() -> Result<Environment<'static>, Error> {
    let mut environment = Environment::empty();
    environment.set_syntax(
        SyntaxConfig::builder()
            .keep_trailing_newline(true)
            .build()?,
    );
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_formatter(write_out);
    words::add_to(&mut environment);
    Ok(environment)
}

/// Writes a value. The engine would write a list or a mapping as Python does, which no consumer parses.
fn write_out(
    output: &mut Output<'_>,
    state: &mut State<'_, '_>,
    value: &Value,
) -> Result<(), Error> {
    let what = match value.kind() {
        ValueKind::Map => "a mapping",
        ValueKind::Seq | ValueKind::Iterable => "a list",
        _ => return minijinja::escape_formatter(output, state, value),
    };
    Err(Error::new(
        ErrorKind::InvalidOperation,
        format!("{what} is no text; name one of its members, or spell it with tojson or join"),
    ))
}

fn explain(place: &str, error: &Error, code: &str) -> Failure {
    let detail = error
        .detail()
        .map(|detail| format!(": {detail}"))
        .unwrap_or_default();
    let message = format!("{place}{}: {}{detail}", line(error), error.kind());
    Failure::invalid_config(message).with_code(code)
}

/// Finds the unknown name in the template's text; a computed name does not appear there.
fn undefined(place: &str, error: &Error, used: &[String], context: &Context) -> Failure {
    let unknown: Vec<_> = used
        .iter()
        .filter(|name| !is_known(name, &context.values))
        .map(String::as_str)
        .collect();
    let what = match unknown.as_slice() {
        [] => "a name".to_owned(),
        names => names.join(", "),
    };
    let known = match context.names.get(..MAX_NAMES_SHOWN) {
        Some(first) => format!("{}, …", first.join(", ")),
        None => context.names.join(", "),
    };
    let of_claims = |name: &str| name.split('.').any(|part| part == CLAIMS);
    let has_claims = context.names.iter().any(|name| of_claims(name));
    let why = match unknown.iter().any(|name| of_claims(name)) && !has_claims {
        true => " (the token is no JWT, so it has no claims)",
        false => "",
    };
    let message = format!(
        "{place}{}: {what} is not known here{why}; known are: {known}",
        line(error)
    );
    let code = if unknown.iter().all(|name| context.may_have(name)) {
        "template.undefined"
    } else {
        CONFIG_TEMPLATE
    };
    Failure::invalid_config(message).with_code(code)
}

fn is_known(dotted: &str, values: &Value) -> bool {
    let found = dotted
        .split('.')
        .try_fold(values.clone(), |value, name| value.get_attr(name).ok());
    found.is_some_and(|value| !value.is_undefined())
}

fn line(error: &Error) -> String {
    error
        .line()
        .map(|line| format!(" line {line}"))
        .unwrap_or_default()
}
