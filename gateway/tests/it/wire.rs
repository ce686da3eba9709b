//! A gateway on a loopback socket, and a client that sees every byte and how the connection ends.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use shoal_fetch::Pulls;
use shoal_gateway::{Config, Gateway};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinHandle,
    time::timeout,
};

/// No test waits longer for anything.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

pub(crate) struct Served {
    pub(crate) address: SocketAddr,
    pub(crate) gateway: Gateway,
    pub(crate) stop: Option<oneshot::Sender<()>>,
    pub(crate) task: JoinHandle<Result<(), shoal_gateway::Error>>,
}

pub(crate) async fn serve(pulls: Arc<dyn Pulls>, config: Config) -> Served {
    serve_at(Ipv4Addr::LOCALHOST.into(), pulls, config).await
}

/// On a free port of this address.
pub(crate) async fn serve_at(address: IpAddr, pulls: Arc<dyn Pulls>, config: Config) -> Served {
    let listener = TcpListener::bind((address, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let gateway = Gateway::new(pulls, config);
    let (stop, stopped) = oneshot::channel();
    let serving = gateway.clone();
    let task = tokio::spawn(async move {
        serving
            .serve(listener, async {
                let _ = stopped.await;
            })
            .await
    });
    Served { address, gateway, stop: Some(stop), task }
}

pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(DEADLINE, future).await.unwrap_or_else(|_| panic!("{what}: not within {DEADLINE:?}"))
}

/// Waits until `holds`, looking again and again.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    within(what, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) status: u16,
    headers: HashMap<String, String>,
}

impl Head {
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    pub(crate) fn length(&self) -> usize {
        self.get("content-length").expect("no content-length").parse().unwrap()
    }
}

pub(crate) struct Client {
    pub(crate) tcp: TcpStream,
    read: Vec<u8>,
}

impl Client {
    pub(crate) async fn connect(served: &Served) -> Self {
        Self::over(TcpStream::connect(served.address).await.unwrap())
    }

    pub(crate) fn over(tcp: TcpStream) -> Self {
        Self { tcp, read: Vec::new() }
    }

    pub(crate) async fn send(&mut self, text: &str) {
        self.tcp.write_all(text.as_bytes()).await.unwrap();
    }

    /// Sends a request without a body.
    pub(crate) async fn ask(&mut self, method: &str, path: &str, headers: &[&str]) {
        let mut text = format!("{method} {path} HTTP/1.1\r\nHost: mirror\r\n");
        for header in headers {
            text.push_str(header);
            text.push_str("\r\n");
        }
        text.push_str("\r\n");
        self.send(&text).await;
    }

    /// Reads until the end of a head.
    pub(crate) async fn head(&mut self) -> Head {
        within("the head of an answer", async {
            loop {
                if let Some(end) = self.read.windows(4).position(|window| window == b"\r\n\r\n") {
                    let text = String::from_utf8(self.read.drain(..end + 4).collect()).unwrap();
                    let mut lines = text.lines();
                    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
                    let headers = lines
                        .filter_map(|line| line.split_once(": "))
                        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
                        .collect();
                    return Head { status, headers };
                }
                let mut buffer = vec![0; 16 * 1024];
                let count = self.tcp.read(&mut buffer).await.expect("reset before a head");
                assert!(count > 0, "end before a head, after {:?}", String::from_utf8_lossy(&self.read));
                self.read.extend_from_slice(&buffer[..count]);
            }
        })
        .await
    }

    pub(crate) async fn body(&mut self, length: usize) -> Vec<u8> {
        within("a body", async {
            let mut buffer = vec![0; 64 * 1024];
            while self.read.len() < length {
                let count = self.tcp.read(&mut buffer).await.expect("reset in a body");
                assert!(count > 0, "the body ended at {} of {length}", self.read.len());
                self.read.extend_from_slice(&buffer[..count]);
            }
            self.read.drain(..length).collect()
        })
        .await
    }

    /// All until the end, which must be a FIN.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        within("the end of a connection", async {
            let mut rest = std::mem::take(&mut self.read);
            self.tcp.read_to_end(&mut rest).await.expect("ended by reset, not by FIN");
            rest
        })
        .await
    }
}

/// One request on a connection of its own: head and whole body.
pub(crate) async fn fetch(served: &Served, method: &str, path: &str, headers: &[&str]) -> (Head, Vec<u8>) {
    let mut client = Client::connect(served).await;
    client.ask(method, path, headers).await;
    let head = client.head().await;
    let length = if method == "HEAD" { 0 } else { head.length() };
    let body = client.body(length).await;
    (head, body)
}

pub(crate) async fn get(served: &Served, path: &str, headers: &[&str]) -> (Head, Vec<u8>) {
    fetch(served, "GET", path, headers).await
}

pub(crate) fn error_code(body: &[u8]) -> String {
    let value: serde_json::Value = serde_json::from_slice(body).unwrap();
    let error = &value["errors"][0];
    assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{value}");
    error["code"].as_str().unwrap().to_owned()
}
