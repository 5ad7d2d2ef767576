//! Connections, made by reqwest with its resolver, proxies and TLS, and taken out of it before HTTP begins: an HTTP library that
//! rejects an answer discards the bytes it has read, and those may be the only copy of a successor.

use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};

use futures_core::future::BoxFuture;
use http::Method;
use hyper::rt::{Read, Write};
use hyper_util::rt::TokioIo;
use reqwest::{Client, Request};
use tokio::io::{AsyncRead, AsyncWrite};
use tower_layer::Layer;
use tower_service::Service;

use super::error;
use super::transport::Route;
use crate::model::failure::{Failure, FailureKind, HostCode};

/// A connection to a server, through its proxy and inside TLS where configured.
pub(super) type Connection = Pin<Box<dyn ByteStream>>;

/// A stream to read from and write to.
pub(super) trait ByteStream: AsyncRead + AsyncWrite + Send {}
impl<T: AsyncRead + AsyncWrite + Send> ByteStream for T {}

type BoxError = Box<dyn Error + Send + Sync>;

/// Connects to a request's target, with a client that has [`TakeOut`] around its connector.
///
/// # Errors
/// `http.connect`, `http.dns`, `http.tls`, `http.address-denied`; nothing was sent.
pub(super) async fn connect(client: &Client, way: &Route) -> Result<Connection, Failure> {
    let mut origin = way.target.url.clone();
    origin.set_path("");
    origin.set_query(None);
    let outcome = client.execute(Request::new(Method::GET, origin)).await;
    let made = outcome
        .as_ref()
        .err()
        .and_then(|error| error::find::<Made>(error));
    match (made.and_then(Made::take), outcome) {
        (Some(connection), _) => Ok(connection),
        (None, Err(error)) => Err(error::not_connected(
            &way.target,
            way.through.as_deref(),
            &error.without_url(),
        )),
        (None, Ok(_)) => Err(Failure::new(
            FailureKind::Internal,
            HostCode::HttpClient,
            "a bug in evertoken: the HTTP client kept a connection to itself; please report it",
        )),
    }
}

/// A layer around reqwest's connector that returns the connection in place of an error.
#[derive(Clone)]
pub(super) struct TakeOut;

impl<S> Layer<S> for TakeOut {
    type Service = TakingOut<S>;

    fn layer(&self, connector: S) -> TakingOut<S> {
        TakingOut(connector)
    }
}

/// See [`TakeOut`].
#[derive(Clone)]
pub(super) struct TakingOut<S>(S);

impl<S, R> Service<R> for TakingOut<S>
where
    S: Service<R, Error = BoxError>,
    S::Response: Read + Write + Send + 'static,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<S::Response, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, destination: R) -> Self::Future {
        let connecting = self.0.call(destination);
        Box::pin(async move {
            let connection: Connection = Box::pin(TokioIo::new(connecting.await?));
            Err(Made(Mutex::new(Some(connection))).into())
        })
    }
}

/// A connection to be taken out.
struct Made(Mutex<Option<Connection>>);

impl Made {
    fn take(&self) -> Option<Connection> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl fmt::Debug for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Made")
    }
}

impl fmt::Display for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the connection was taken out")
    }
}

impl Error for Made {}
