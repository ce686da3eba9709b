//! What the gateway can be told.

use std::time::Duration;

use shoal_content::Registry;

/// Limits, waits and the registry of requests that name none. [`Config::default`] suits a node with a container runtime.
#[derive(Clone, Debug)]
pub struct Config {
    /// The registry of a request that names none (Docker's `registry-mirrors`, lazy pullers). Without one they are answered 404.
    pub default_registry: Option<Registry>,

    /// Most connections at once. One more is closed at once, so that its client asks its next host.
    pub max_connections: usize,
    /// Most bytes of a request's line and headers.
    pub max_header_bytes: usize,
    /// Longest wait for a whole request head, also for the next one on an idle connection.
    pub header_timeout: Duration,
    /// Longest time in which a client may take no byte of what is being sent to it.
    pub write_timeout: Duration,
    /// Longest time in which a body may bring no byte, before it is cut so that the client can ask elsewhere.
    pub stall_timeout: Duration,

    /// Until when a manifest must be there, for a client that has a next host to ask.
    pub manifest_budget: Duration,
    /// Until when a blob's first byte must be there, for a client that has a next host to ask.
    pub first_byte_budget: Duration,
    /// The same for clients that have no other host: longer, since giving up fails their pull.
    pub patient_budget: Duration,

    /// How long after a cut body the resume of that blob is refused, so that containerd goes on from upstream.
    pub refuse_resume_for: Duration,

    /// How long the runtime may stand still before the port is closed. Zero: no watchdog.
    pub watchdog: Duration,
    /// How long requests in flight may go on after the shutdown began.
    pub drain: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            default_registry: None,
            // A node of 110 pods that all pull, three layers each, with room for parallel ranges.
            max_connections: 1024,
            // Go's default is 1 MiB; what runtimes send, credentials included, stays under 8 KiB.
            max_header_bytes: 16 * 1024,
            // Go keeps idle connections for 30 s to 90 s and repeats a GET that met a closing one.
            header_timeout: Duration::from_secs(30),
            // A client that unpacks onto a busy disk pauses for seconds, not for a minute.
            write_timeout: Duration::from_secs(60),
            // Well under the five minutes after which CRI cancels the whole pull, over the 10 s that podman waits out.
            stall_timeout: Duration::from_secs(15),
            // containerd gives a host 30 s for headers and asks up to four times in a pull.
            manifest_budget: Duration::from_secs(5),
            first_byte_budget: Duration::from_secs(10),
            patient_budget: Duration::from_secs(25),
            refuse_resume_for: Duration::from_secs(30),
            watchdog: Duration::from_secs(5),
            drain: Duration::from_secs(20),
        }
    }
}
