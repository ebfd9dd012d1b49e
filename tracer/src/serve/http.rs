//! The web server: a thread of its own, and bounds on what a client can make it do.

use std::{
    collections::VecDeque,
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    thread,
    time::Duration,
};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body, Bytes, Frame, Incoming, SizeHint},
    header::{ACCEPT, ALLOW, CONTENT_TYPE, HOST, HeaderValue, VARY},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::mpsc,
    task::JoinHandle,
};

use super::{accept::Format, desk::Desk, health, live, proto, texts};
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

/// Answers one connection.
pub(crate) async fn answer<S: AsyncRead + AsyncWrite + Unpin>(stream: S, desk: Arc<Desk>) {
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

/// What is answered.
pub type Answer = Response<Content>;

/// The body of an answer.
pub enum Content {
    /// All of it.
    Whole(Full<Bytes>),
    /// As it comes.
    Events(mpsc::Receiver<Bytes>),
}

impl<T: Into<Bytes>> From<T> for Content {
    fn from(whole: T) -> Self {
        Self::Whole(Full::new(whole.into()))
    }
}

impl Body for Content {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Whole(whole) => Pin::new(whole).poll_frame(context),
            Self::Events(events) => {
                events.poll_recv(context).map(|event| event.map(|event| Ok(Frame::data(event))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(whole) if whole.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(whole) => whole.size_hint(),
            Self::Events(_) => SizeHint::default(),
        }
    }
}

/// Whether this is a browser that shows pages.
fn is_browser(request: &Request<Incoming>) -> bool {
    let accept = request.headers().get(ACCEPT).and_then(|value| value.to_str().ok());
    accept.is_some_and(|accept| accept.contains("text/html"))
}

/// Whether it names two hosts.
fn is_ambiguous(request: &Request<Incoming>) -> bool {
    let mut hosts = request.headers().get_all(HOST).iter();
    let first = hosts.next();
    let other = |host: &HeaderValue| {
        request
            .uri()
            .authority()
            .is_some_and(|asked| !asked.as_str().as_bytes().eq_ignore_ascii_case(host.as_bytes()))
    };
    hosts.next().is_some() || first.is_some_and(other)
}

async fn respond(request: &Request<Incoming>, desk: &Arc<Desk>) -> Answer {
    if is_ambiguous(request) {
        return plain(StatusCode::BAD_REQUEST, "two hosts are named; name one\n".into());
    }
    let path = request.uri().path();
    if !matches!(path, "/" | "/events" | "/metrics" | "/healthz") {
        return plain(StatusCode::NOT_FOUND, "not found; there are /metrics and /healthz\n".into());
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut answer = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n".into());
        answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return answer;
    }
    let page = path == "/" && is_browser(request);
    if page || path == "/events" {
        let host = request.headers().get(HOST).and_then(|value| value.to_str().ok());
        return match (live::is_ours(host), page) {
            (false, _) => live::refused(),
            (true, true) => live::page(),
            (true, false) if *request.method() == Method::GET => live::events(desk),
            (true, false) => plain(StatusCode::OK, String::new()),
        };
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
                 /         with a browser: a page that shows what happens now\n\
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
    let body: Bytes = body;
    let mut answer = Response::new(Content::from(body));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
    answer.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
    answer
}

/// A few words.
pub fn plain(status: StatusCode, text: String) -> Answer {
    let mut answer = Response::new(Content::from(text));
    *answer.status_mut() = status;
    answer
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}
