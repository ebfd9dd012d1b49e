//! The web server: a thread of its own, and bounds on what a client can make it do.

use std::{
    collections::VecDeque, convert::Infallible, io, net::SocketAddr, sync::Arc, thread,
    time::Duration,
};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{ACCEPT, ALLOW, CONTENT_TYPE, HeaderValue, VARY},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use super::{accept::Format, desk::Desk, health, proto, texts};
use crate::failure::{Failure, Why};

/// Connections at once; one more ends the oldest.
const CONNECTIONS: usize = 64;
/// A connection is one request, and takes no longer, however slow the client.
const LIMIT: Duration = Duration::from_secs(10);
/// Bytes of a request's head.
const HEAD: usize = 16 * 1024;

/// Takes the address, before anything else is done.
///
/// # Errors
/// When somebody else has it, or it is none of this machine's.
pub fn bind(address: SocketAddr) -> Result<std::net::TcpListener, Failure> {
    let failed = |error: io::Error| {
        let remedy = match error.kind() {
            io::ErrorKind::AddrInUse => "stop what listens there, or --listen elsewhere",
            io::ErrorKind::AddrNotAvailable => "--listen on an address of this machine",
            io::ErrorKind::PermissionDenied => "--listen on a port from 1024 on, or run it as root",
            _ => "--listen elsewhere",
        };
        Failure::new(Why::Failed, format!("cannot listen on {address}: {error}; {remedy}"))
    };
    let listener = std::net::TcpListener::bind(address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}

/// Begins to answer.
///
/// # Errors
/// When there can be no thread, or no event loop in it.
pub fn start(
    listener: std::net::TcpListener,
    desk: Arc<Desk>,
) -> Result<thread::JoinHandle<()>, Failure> {
    let failed = |error: io::Error| {
        Failure::new(Why::Failed, format!("the web server cannot run: {error}; free some memory"))
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(failed)?;
    let listener = {
        let _inside = runtime.enter();
        TcpListener::from_std(listener).map_err(failed)?
    };
    thread::Builder::new()
        .name("forkscope-http".into())
        .spawn(move || runtime.block_on(answer_all(listener, desk)))
        .map_err(failed)
}

async fn answer_all(listener: TcpListener, desk: Arc<Desk>) {
    let mut connections: VecDeque<JoinHandle<()>> = VecDeque::new();
    loop {
        let accepted = tokio::select! {
            () = desk.quit.notified() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                connections.retain(|connection| !connection.is_finished());
                // Whoever has been here longest has had its time: an answer takes milliseconds.
                if connections.len() >= CONNECTIONS
                    && let Some(oldest) = connections.pop_front()
                {
                    oldest.abort();
                }
                let desk = Arc::clone(&desk);
                connections.push_back(tokio::spawn(async move {
                    let _ = tokio::time::timeout(LIMIT, answer(stream, desk)).await;
                }));
            }
            // Out of descriptors, or the client is gone: the next may fare better.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn answer(stream: TcpStream, desk: Arc<Desk>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let desk = Arc::clone(&desk);
        async move { Ok::<_, Infallible>(respond(&request, &desk).await) }
    });
    // What goes wrong is the client's doing, and it has been told what there is to tell.
    let _ = http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(HEAD)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

type Answer = Response<Full<Bytes>>;

async fn respond(request: &Request<Incoming>, desk: &Desk) -> Answer {
    let path = request.uri().path();
    if !matches!(path, "/" | "/metrics" | "/healthz") {
        return plain(StatusCode::NOT_FOUND, "not found; there are /metrics and /healthz\n".into());
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut answer = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n".into());
        answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return answer;
    }
    match path {
        "/metrics" => metrics(request, desk).await,
        "/healthz" => {
            let snapshot = desk.ask().await;
            let troubles = health::troubles(desk, snapshot.as_deref());
            if troubles.is_empty() {
                plain(StatusCode::OK, "ok\n".into())
            } else {
                plain(StatusCode::SERVICE_UNAVAILABLE, troubles.join("\n") + "\n")
            }
        }
        _ => plain(
            StatusCode::OK,
            format!(
                "forkscope {}: what fork, vfork, clone and exec really cost\n\n\
                 /metrics  for Prometheus: text, OpenMetrics, or protobuf with native histograms\n\
                 /healthz  200 while nothing is lost and everything is attached, else why not\n",
                env!("CARGO_PKG_VERSION")
            ),
        ),
    }
}

async fn metrics(request: &Request<Incoming>, desk: &Desk) -> Answer {
    let Some(snapshot) = desk.ask().await else {
        return plain(StatusCode::SERVICE_UNAVAILABLE, "tracing has not begun yet\n".into());
    };
    // Several headers are one list.
    let accept: Vec<&str> =
        request.headers().get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    let mut format = Format::wanted(&accept.join(","));
    let body = match format {
        Format::Protobuf => proto::delimited(&snapshot.families).into(),
        Format::OpenMetrics => match texts::openmetrics(snapshot.families.clone()) {
            Ok(text) => text.into(),
            Err(_) => {
                format = Format::Classic;
                texts::classic(&snapshot.families).into()
            }
        },
        Format::Classic => texts::classic(&snapshot.families).into(),
    };
    let mut answer = Response::new(Full::new(body));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
    answer.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
    answer
}

fn plain(status: StatusCode, text: String) -> Answer {
    let mut answer = Response::new(Full::new(text.into()));
    *answer.status_mut() = status;
    answer
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}
