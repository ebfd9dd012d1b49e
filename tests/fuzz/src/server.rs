//! Requests to the daemon, over a pipe in memory instead of a socket.

use std::cell::RefCell;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, duplex, split},
    runtime::{Builder, Runtime},
};

thread_local! {
    static RUNTIME: RefCell<Runtime> = RefCell::new(
        Builder::new_current_thread().enable_time().build().expect("an event loop"),
    );
}

/// One connection: whatever is sent, one answer at most, and a whole one.
pub fn http(data: &[u8]) {
    let answer = RUNTIME.with_borrow(|runtime| runtime.block_on(exchange(data)));
    if answer.is_empty() {
        return;
    }
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("a head with an end");
    let head = std::str::from_utf8(&answer[..end]).expect("a head in ASCII");
    let body = &answer[end + 4..];
    let status = head.strip_prefix("HTTP/1.1 ").or(head.strip_prefix("HTTP/1.0 "));
    let status = status.and_then(|rest| rest.get(..3)).expect("a status");
    assert!(
        ["200", "400", "404", "405", "414", "421", "431", "503"].contains(&status),
        "{status} was not to be expected"
    );
    let length = head.lines().find_map(|line| {
        line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse::<usize>().ok()
    });
    // To HEAD the length is told, and nothing follows.
    assert!(body.is_empty() || length == Some(body.len()), "{} bytes: {head}", body.len());
    if status == "200" && head.contains("text/plain") && !body.is_empty() {
        assert!(body.ends_with(b"\n"), "{}", String::from_utf8_lossy(body));
    }
}

async fn exchange(data: &[u8]) -> Vec<u8> {
    let (client, server) = duplex(1 << 14);
    let (mut reader, mut writer) = split(client);
    let send = async {
        // A server that has heard enough hangs up.
        let _ = writer.write_all(data).await;
        let _ = writer.shutdown().await;
    };
    let receive = async {
        let mut answer = Vec::new();
        let _ = reader.read_to_end(&mut answer).await;
        answer
    };
    let (_, _, answer) = tokio::join!(forkscope::fuzz::answer(server), send, receive);
    answer
}
