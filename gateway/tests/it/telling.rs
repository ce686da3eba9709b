//! What the gateway tells the operator, and what it never tells.

use std::{
    io,
    sync::{Arc, Mutex},
};

use prometheus_client::{encoding::text::encode, registry::Registry};
use tracing_subscriber::fmt::MakeWriter;

use crate::{
    fake::{Fake, Serve, content, denied},
    wire::{Client, get, serve},
};
use shoal_gateway::Config;

const SECRET: &str = "c2VjcmV0OnB3";

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Log;

    fn make_writer(&'a self) -> Log {
        self.clone()
    }
}

#[tokio::test]
async fn credentials_are_in_no_log_line_and_cut_bodies_are() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(log.clone())
        .with_ansi(false)
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .finish();
    // The test's runtime has one thread, so this covers the gateway too.
    let _guard = tracing::subscriber::set_default(subscriber);
    let fake = Fake::new();
    let cut = fake.blob(content(100_000), Serve::FailAfter(1000));
    let refused = fake.blob(content(10), Serve::Refuse(denied()));
    let served = serve(fake, Config::default()).await;
    let secret = [format!("Authorization: Basic {SECRET}"), format!("Cookie: {SECRET}")];
    let secret = secret.each_ref().map(String::as_str);
    get(&served, &format!("/v2/a/blobs/{refused}?ns=a.b"), &secret).await;
    get(&served, "/v2/a/manifests/none?ns=a.b", &secret).await;
    get(&served, "/v2/../x?ns=a.b", &secret).await;
    let mut client = Client::connect(&served).await;
    client.ask("GET", &format!("/v2/a/blobs/{cut}?ns=a.b"), &secret).await;
    client.rest().await;
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(!log.contains(SECRET));
    let line = log.lines().find(|line| line.contains("body cut")).expect("no line of the cut");
    assert!(line.contains("WARN") && line.contains(&cut.to_string()) && line.contains("all sources failed"), "{line}");
}

#[tokio::test]
async fn every_counter_is_exported_under_its_name() {
    let fake = Fake::new();
    let digest = fake.blob(content(1000), Serve::Well);
    let served = serve(fake, Config::default()).await;
    let (head, _) = get(&served, &format!("/v2/a/blobs/{digest}?ns=a.b"), &[]).await;
    assert_eq!(head.status, 200);
    let mut registry = Registry::with_prefix("shoal");
    served.gateway.metrics().register(&mut registry);
    let mut text = String::new();
    encode(&mut text, &registry).unwrap();
    for line in [
        "shoal_gateway_requests_total{kind=\"blob\",status=\"200\"} 1",
        "shoal_gateway_body_bytes_total{kind=\"blob\"} 1000",
        "shoal_gateway_connections_refused_total 0",
        "shoal_gateway_slow_clients_total 0",
        "shoal_gateway_resumes_refused_total 0",
        "shoal_gateway_late_total 0",
        "shoal_gateway_stale_tags_total 0",
        "shoal_gateway_port_closed_total 0",
    ] {
        assert!(text.lines().any(|have| have == line), "{line} is not in\n{text}");
    }
    for name in ["shoal_gateway_requests_in_flight", "shoal_gateway_connections", "shoal_gateway_bodies_cut"] {
        assert!(text.contains(&format!("# TYPE {name} ")), "{name}");
    }
}
