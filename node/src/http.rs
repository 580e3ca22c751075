//! The HTTP port of a node: `/metrics` for Prometheus, `/healthz` for whoever restarts processes.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Method, Response, StatusCode, header};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use weft_proto::link::{Accept, Link};

/// Connections at a time; further ones wait in the listener's queue.
const MAX_CONNECTIONS: usize = 64;
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection is closed after so long: scrapers open another.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(300);

/// What the port tells.
pub trait Pages: Send + Sync + 'static {
    /// The page of metrics.
    fn metrics(&self) -> BoxFuture<'_, String>;
    /// `Ok` while the node serves; else what is wrong.
    fn health(&self) -> Result<String, String>;
}

/// Serves the pages until `stop` is true or its sender is gone.
pub async fn serve(mut accept: Box<dyn Accept>, pages: Arc<dyn Pages>, mut stop: watch::Receiver<bool>) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let permit = room.clone().acquire_owned().await.expect("the semaphore is never closed");
        let link = tokio::select! {
            biased;
            () = crate::node::stopped(&mut stop) => return,
            link = accept.accept() => link,
        };
        while connections.try_join_next().is_some() {}
        match link {
            Ok(link) => {
                let pages = pages.clone();
                connections.spawn(async move {
                    let _permit = permit;
                    connection(link, pages).await;
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accept a connection on the HTTP port");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn connection(link: Link, pages: Arc<dyn Pages>) {
    let answers = service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let pages = pages.clone();
        async move { Ok::<_, Infallible>(answer(request.method(), request.uri().path(), &*pages).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_headers(64)
        .max_buf_size(16 << 10)
        .auto_date_header(false)
        .serve_connection(TokioIo::new(link), answers);
    if let Ok(Err(error)) = tokio::time::timeout(CONNECTION_TIMEOUT, served).await {
        tracing::debug!(%error, "connection on the HTTP port");
    }
}

async fn answer(method: &Method, path: &str, pages: &dyn Pages) -> Response<Full<Bytes>> {
    const TEXT: &str = "text/plain; charset=utf-8";
    let (status, kind, body) = match (method, path) {
        (&Method::GET | &Method::HEAD, "/metrics") => {
            (StatusCode::OK, "application/openmetrics-text; version=1.0.0; charset=utf-8", pages.metrics().await)
        }
        (&Method::GET | &Method::HEAD, "/healthz") => match pages.health() {
            Ok(fine) => (StatusCode::OK, TEXT, fine + "\n"),
            Err(wrong) => (StatusCode::SERVICE_UNAVAILABLE, TEXT, wrong + "\n"),
        },
        (&Method::GET | &Method::HEAD, _) => (StatusCode::NOT_FOUND, TEXT, "here are /metrics and /healthz\n".into()),
        _ => (StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET is answered here\n".into()),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    response
}
