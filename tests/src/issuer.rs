//! A scripted token endpoint for what no real issuer does on demand: being slow, broken, hostile, or simply fast and countable.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use anyhow::Result;
use rustls::ServerConfig;

use crate::lock;
use crate::server::{Behaviour, Request, Server};

type Responder = Arc<dyn Fn(&Request) -> Behaviour + Send + Sync>;

#[derive(Default)]
struct Route {
    once: VecDeque<Behaviour>,
    always: Option<Responder>,
}

/// The scripted issuer. A path without a script is answered with 404.
#[derive(Debug)]
pub struct Issuer {
    server: Server,
    host: String,
    routes: Arc<Mutex<HashMap<String, Route>>>,
}

impl std::fmt::Debug for Route {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Route")
            .field("once", &self.once)
            .finish_non_exhaustive()
    }
}

impl Issuer {
    /// Starts an issuer that speaks http.
    ///
    /// # Errors
    ///
    /// When no port can be bound.
    pub fn start() -> Result<Self> {
        Self::serve("127.0.0.1", None)
    }

    /// Starts an issuer that speaks https with a set-up of [`crate::pki::server_config`]; its URLs name `host`, which must resolve to
    /// 127.0.0.1 where it is used (`localhost` does).
    ///
    /// # Errors
    ///
    /// When no port can be bound.
    pub fn start_tls(host: &str, config: Arc<ServerConfig>) -> Result<Self> {
        Self::serve(host, Some(config))
    }

    fn serve(host: &str, tls: Option<Arc<ServerConfig>>) -> Result<Self> {
        let routes = Arc::new(Mutex::new(HashMap::<String, Route>::new()));
        let script = Arc::clone(&routes);
        let server = Server::start(tls, Box::new(move |request| answer(&script, request)))?;
        Ok(Self {
            server,
            host: host.to_owned(),
            routes,
        })
    }

    /// Scheme, host and port.
    #[must_use]
    pub fn origin(&self) -> String {
        let scheme = if self.server.is_tls() {
            "https"
        } else {
            "http"
        };
        format!("{scheme}://{}:{}", self.host, self.server.port())
    }

    /// The URL of a path.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.origin())
    }

    /// From now on every request to `path` gets this behaviour.
    pub fn always(&self, path: &str, behaviour: Behaviour) {
        self.respond_with(path, move |_| behaviour.clone());
    }

    /// From now on `responder` decides about every request to `path`.
    pub fn respond_with(
        &self,
        path: &str,
        responder: impl Fn(&Request) -> Behaviour + Send + Sync + 'static,
    ) {
        lock(&self.routes)
            .entry(path.to_owned())
            .or_default()
            .always = Some(Arc::new(responder));
    }

    /// The next request to `path` for which nothing is queued yet gets this behaviour, once.
    pub fn once(&self, path: &str, behaviour: Behaviour) {
        lock(&self.routes)
            .entry(path.to_owned())
            .or_default()
            .once
            .push_back(behaviour);
    }

    /// Every request so far, in the order of their arrival.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.server.requests()
    }

    /// The requests to one path so far, in the order of their arrival.
    #[must_use]
    pub fn requests_to(&self, path: &str) -> Vec<Request> {
        let mut requests = self.requests();
        requests.retain(|request| request.path == path);
        requests
    }

    /// The server below: its connections, and taking it [`Server::down`] and [`Server::up`].
    #[must_use]
    pub fn server(&self) -> &Server {
        &self.server
    }
}

fn answer(routes: &Mutex<HashMap<String, Route>>, request: &Request) -> Behaviour {
    let mut routes = lock(routes);
    let Some(route) = routes.get_mut(&request.path) else {
        return Behaviour::answer(404, "nothing is scripted for this path\n");
    };
    if let Some(behaviour) = route.once.pop_front() {
        return behaviour;
    }
    let responder = route.always.clone();
    // A responder may block, or script this issuer.
    drop(routes);
    responder.map_or_else(
        || Behaviour::answer(404, "the script is at its end\n"),
        |respond| respond(request),
    )
}
