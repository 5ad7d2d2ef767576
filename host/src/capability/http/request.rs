//! A plugin's request, and its preparation for sending: it is checked, and the secrets are inserted where they may be sent.

use std::collections::BTreeMap;

use http::Method;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use url::Url;
use zeroize::Zeroizing;

use crate::capability::encoding::{Encoding, EncodingError};
use crate::capability::secrets::{Reach, Value};
use crate::model::Origin;
use crate::model::failure::{Failure, FailureKind, HostCode};
use crate::text::Alphabet;

/// Bytes of one request before encoding. Token requests have a few KiB; the largest SAML assertions a hundred.
pub const MAX_REQUEST_BYTES: usize = 1024 * 1024;

/// Bytes of a URL with its query; the library accepts no longer ones.
const MAX_URL_BYTES: usize = 65_000;

/// Header fields of one request; servers commonly accept a hundred.
const MAX_HEADERS: usize = 64;

/// Characters of a plugin's header name that a message repeats.
const NAME_MAX_CHARS: usize = 60;

/// Fields that frame the message, route it or address the next hop: only the host sets them.
const HOST_FIELDS: [&str; 15] = [
    "host",
    "connection",
    "content-length",
    "transfer-encoding",
    "upgrade",
    "te",
    "trailer",
    "keep-alive",
    "expect",
    "http2-settings",
    "alt-used",
    "via",
    // An answer that repeats a secret must be seen complete and unencoded.
    "range",
    "if-range",
    "accept-encoding",
];

/// Methods that open a tunnel or have the request repeated, in any case of letters: RFC 9110 §9.1 distinguishes case, and not
/// every server does.
const REFUSED_METHODS: [&str; 3] = ["CONNECT", "TRACE", "TRACK"];

/// The content of a request.
#[derive(Debug, Clone)]
pub enum Body {
    /// Nothing.
    Empty,
    /// `application/x-www-form-urlencoded`, composed and encoded by the host.
    Form(Vec<(String, Value)>),
    /// Anything else; its `Content-Type` is among the headers.
    Content(Value),
}

/// A request as a plugin composes it.
#[derive(Debug, Clone)]
pub struct Request {
    /// A method of RFC 9110, e.g. `POST`.
    pub method: String,
    /// Absolute.
    pub url: String,
    /// Added to the URL's own query, percent-encoded.
    pub query: Vec<(String, Value)>,
    /// Fields beside those that the host sets.
    pub headers: Vec<(String, Value)>,
    /// The content.
    pub body: Body,
}

impl Request {
    /// All values in it.
    pub(in crate::capability) fn values(&self) -> impl Iterator<Item = &Value> {
        let (fields, content): (&[(String, Value)], _) = match &self.body {
            Body::Empty => (&[], None),
            Body::Form(fields) => (fields, None),
            Body::Content(value) => (&[], Some(value)),
        };
        self.query
            .iter()
            .chain(&self.headers)
            .chain(fields)
            .map(|(_, value)| value)
            .chain(content)
    }

    /// All texts in it outside of secrets, names included.
    pub(in crate::capability) fn texts(&self) -> impl Iterator<Item = &[u8]> {
        let fields: &[(String, Value)] = match &self.body {
            Body::Form(fields) => fields,
            Body::Empty | Body::Content(_) => &[],
        };
        let names = self.query.iter().chain(&self.headers).chain(fields);
        let names = names.map(|(name, _)| name.as_bytes());
        let own = self.values().filter(|value| value.secret().is_none());
        names
            .chain(own.map(Value::expose))
            .chain([self.url.as_bytes()])
    }

    /// The request with other values.
    pub(in crate::capability) fn try_map<E>(
        self,
        map: impl Fn(Value) -> Result<Value, E>,
    ) -> Result<Self, E> {
        let pairs = |pairs: Vec<(String, Value)>| {
            let pairs = pairs.into_iter();
            pairs
                .map(|(name, value)| Ok((name, map(value)?)))
                .collect::<Result<_, E>>()
        };
        Ok(Self {
            query: pairs(self.query)?,
            headers: pairs(self.headers)?,
            body: match self.body {
                Body::Empty => Body::Empty,
                Body::Form(fields) => Body::Form(pairs(fields)?),
                Body::Content(value) => Body::Content(map(value)?),
            },
            ..self
        })
    }

    /// Its origin, if the URL has one.
    pub(in crate::capability) fn origin(&self) -> Option<Origin> {
        RequestTarget::of(self).ok().map(|target| target.origin)
    }
}

/// The target of a request.
#[derive(Debug, Clone)]
pub(in crate::capability) struct RequestTarget {
    /// The method.
    pub method: Method,
    /// The plugin's URL, without secrets.
    pub url: Url,
    /// The URL's origin.
    pub origin: Origin,
}

impl RequestTarget {
    /// Reads method and URL.
    ///
    /// # Errors
    /// `http.request`: the method is invalid or one for proxies, or the URL is not an `http` or `https` URL without userinfo.
    pub(in crate::capability) fn of(request: &Request) -> Result<Self, Failure> {
        let method = Method::from_bytes(request.method.as_bytes())
            .ok()
            .filter(|method| {
                !REFUSED_METHODS
                    .iter()
                    .any(|refused| method.as_str().eq_ignore_ascii_case(refused))
            })
            .ok_or_else(|| invalid(format!("`{}` is not a method to send", request.method)))?;
        // The parser drops tabs and line ends inside a URL, so it would accept a URL that the checks have not seen.
        if request.url.chars().any(char::is_control) {
            return Err(invalid("the URL holds a control character".to_owned()));
        }
        let mut url = Url::parse(&request.url)
            .map_err(|error| invalid(format!("the URL does not parse: {error}")))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(invalid(
                "the URL holds a user name or password; credentials go into a header".to_owned(),
            ));
        }
        let origin = Origin::of(&url)
            .ok_or_else(|| invalid("the URL is neither http nor https".to_owned()))?;
        url.set_fragment(None);
        Ok(Self {
            method,
            url,
            origin,
        })
    }
}

/// A request ready to be sent. It contains secrets: no Debug.
pub(in crate::capability) struct PreparedRequest {
    /// The method.
    pub method: Method,
    /// Its query may contain secrets.
    pub url: Url,
    /// Their values may contain secrets.
    pub headers: HeaderMap,
    /// It may contain secrets.
    pub body: Vec<u8>,
    /// The rotating secrets in it, by name, each with the generation of its value.
    pub rotating: BTreeMap<String, u64>,
}

/// Checks the request's parts and inserts the secrets.
///
/// # Errors
/// `http.request` for a part that cannot be sent, `secret.origin-denied` for a secret that may not be sent to the target.
pub(in crate::capability) fn prepare(
    target: &RequestTarget,
    request: &Request,
) -> Result<PreparedRequest, Failure> {
    check_size(request)?;
    for value in request.values() {
        check_reach(value, &target.origin)?;
    }
    let url = with_query(&target.url, &request.query)?;
    let mut headers = headers(&request.headers)?;
    let body = body(&request.body, &mut headers)?;
    let rotating = request
        .values()
        .filter_map(Value::secret)
        .flat_map(|secret| secret.lineage().rotating().clone())
        .collect();
    Ok(PreparedRequest {
        method: target.method.clone(),
        url,
        headers,
        body,
        rotating,
    })
}

fn invalid(message: String) -> Failure {
    Failure::new(
        FailureKind::InvalidConfig,
        HostCode::HttpRequest,
        format!("the plugin's request cannot be sent: {message}"),
    )
}

fn unspellable(place: &str, error: EncodingError) -> Failure {
    invalid(format!("{place}: {error}"))
}

fn check_size(request: &Request) -> Result<(), Failure> {
    let names = |pairs: &[(String, Value)]| pairs.iter().map(|(name, _)| name.len()).sum::<usize>();
    let fields = match &request.body {
        Body::Form(fields) => names(fields),
        Body::Empty | Body::Content(_) => 0,
    };
    let bytes = request
        .values()
        .map(Value::size)
        .chain([
            request.url.len(),
            names(&request.query),
            names(&request.headers),
            fields,
        ])
        .fold(0, usize::saturating_add);
    if bytes > MAX_REQUEST_BYTES {
        return Err(invalid(format!(
            "it has more than {MAX_REQUEST_BYTES} bytes"
        )));
    }
    if request.headers.len() > MAX_HEADERS {
        return Err(invalid(format!("it has more than {MAX_HEADERS} headers")));
    }
    let longest = |len| Encoding::Percent.longest(len);
    let query = request
        .query
        .iter()
        .map(|(name, value)| longest(name.len()) + longest(value.size()) + 2);
    let url_bytes = query.fold(request.url.len(), usize::saturating_add);
    if url_bytes > MAX_URL_BYTES {
        return Err(invalid(format!(
            "the URL may come to more than {MAX_URL_BYTES} bytes, percent-encoded"
        )));
    }
    Ok(())
}

fn check_reach(value: &Value, origin: &Origin) -> Result<(), Failure> {
    let Some(lineage) = value.secret().map(|secret| secret.lineage()) else {
        return Ok(());
    };
    if lineage.reach().allows(origin) {
        return Ok(());
    }
    let names = lineage.names().iter().cloned().collect::<Vec<_>>();
    let (to, wanted) = match lineage.reach() {
        Reach::Only(origins) if !origins.is_empty() => {
            let origins: Vec<_> = origins.iter().map(ToString::to_string).collect();
            let origins = origins.join(", ");
            (format!("only to {origins}"), format!("{origins}, {origin}"))
        }
        Reach::Anywhere | Reach::Only(_) => {
            let why = match names.as_slice() {
                [_] => {
                    "to no other origin either: the plugin's options name no endpoint, and the secret has no `to`"
                }
                _ => "to no origin that all of it shares",
            };
            (why.to_owned(), origin.to_string())
        }
    };
    Err(Failure::new(
        FailureKind::InvalidConfig,
        HostCode::SecretOriginDenied,
        format!(
            "secret `{}` may not be sent to {origin}, {to}; if it must, write `to: [{wanted}]` under `source.secrets.{}`",
            names.join("`, `"),
            names.first().map_or("", String::as_str),
        ),
    ))
}

fn unusable_name(name: &str) -> Failure {
    let shown: String = name.chars().take(NAME_MAX_CHARS).collect();
    invalid(format!(
        "the header name {shown:?} is empty or holds a forbidden character"
    ))
}

/// The URL with the pairs added to its own query, percent-encoded.
fn with_query(url: &Url, pairs: &[(String, Value)]) -> Result<Url, Failure> {
    let mut url = url.clone();
    if pairs.is_empty() {
        return Ok(url);
    }
    let mut query = Zeroizing::new(url.query().unwrap_or_default().as_bytes().to_vec());
    append_pairs(&mut query, pairs, Encoding::Percent)?;
    let text = std::str::from_utf8(&query)
        .map_err(|_| invalid("the query cannot be spelled".to_owned()))?;
    url.set_query(Some(text));
    Ok(url)
}

fn append_pairs(
    to: &mut Zeroizing<Vec<u8>>,
    pairs: &[(String, Value)],
    encoding: Encoding,
) -> Result<(), Failure> {
    for (name, value) in pairs {
        let spell = |bytes: &[u8]| {
            encoding
                .encode(bytes)
                .map_err(|error| unspellable(name, error))
        };
        if !to.is_empty() {
            to.push(b'&');
        }
        to.extend_from_slice(&spell(name.as_bytes())?);
        to.push(b'=');
        to.extend_from_slice(&spell(value.expose())?);
    }
    Ok(())
}

fn headers(fields: &[(String, Value)]) -> Result<HeaderMap, Failure> {
    let mut headers = HeaderMap::with_capacity(fields.len());
    for (name, value) in fields {
        let field = HeaderName::from_bytes(name.as_bytes()).map_err(|_| unusable_name(name))?;
        if HOST_FIELDS.contains(&field.as_str()) || field.as_str().starts_with("proxy-") {
            return Err(invalid(format!(
                "header `{field}` is the host's own; leave it out"
            )));
        }
        if value
            .secret()
            .is_some_and(|secret| secret.lineage().is_computed())
        {
            return Err(invalid(format!(
                "the value of header `{field}` holds a digest, signature or MAC as bytes; spell it in base64 or hex"
            )));
        }
        let mut content = HeaderValue::from_bytes(value.expose())
            .map_err(|_| invalid(format!("the value of header `{field}` has {}", odd(value))))?;
        // A plugin's own text may contain a revealed secret.
        content.set_sensitive(true);
        headers.append(field, content);
    }
    Ok(headers)
}

/// The character that a header's value cannot contain. Its position after a secret would reveal the secret's length, so it is
/// left out there.
fn odd(value: &Value) -> String {
    let odd = Alphabet::OneLine.odd(value.expose());
    match value.secret() {
        Some(_) => {
            let kind = odd.map_or_else(|| "a control character".to_owned(), |odd| odd.kind());
            format!("{kind}; if the secret in it has it, store it without")
        }
        None => odd.map_or_else(|| "a control character".to_owned(), |odd| odd.to_string()),
    }
}

fn body(body: &Body, headers: &mut HeaderMap) -> Result<Vec<u8>, Failure> {
    match body {
        Body::Empty => Ok(Vec::new()),
        Body::Content(value) => Ok(value.expose().to_vec()),
        Body::Form(fields) => {
            let mut form = Zeroizing::new(Vec::new());
            append_pairs(&mut form, fields, Encoding::Form)?;
            headers
                .entry(header::CONTENT_TYPE)
                .or_insert(HeaderValue::from_static(
                    "application/x-www-form-urlencoded",
                ));
            Ok(std::mem::take(&mut *form))
        }
    }
}
