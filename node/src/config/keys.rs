//! The one list of what can be set.

use super::value::Value;

/// How a key's value is written in the file, and how its flag behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A string.
    Text,
    /// `true` or `false`; the flag alone means true.
    Bool,
    /// An array of strings; in the environment joined by commas, as a flag repeated or joined by commas.
    List,
}

/// Something that can be set.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Dotted, as in the file.
    pub name: &'static str,
    /// How it is written.
    pub kind: Kind,
    /// As it would be given by a flag; `None`: unset.
    pub default: Option<&'static str>,
    /// What the help text shows in place of the value.
    pub placeholder: &'static str,
    /// One sentence.
    pub help: &'static str,
}

/// The environment variables of Shoal begin with this.
pub const ENV_PREFIX: &str = "SHOAL_";

/// The variable that names the file.
pub const ENV_FILE: &str = "SHOAL_CONFIG";

/// The variable that holds registries, joined by commas.
pub const ENV_REGISTRIES: &str = "SHOAL_REGISTRIES";

/// The flag that gives a registry; may be repeated.
pub const FLAG_REGISTRY: &str = "registry";

const fn text(name: &'static str, default: &'static str, placeholder: &'static str, help: &'static str) -> Key {
    Key { name, kind: Kind::Text, default: Some(default), placeholder, help }
}

const fn unset(name: &'static str, placeholder: &'static str, help: &'static str) -> Key {
    Key { name, kind: Kind::Text, default: None, placeholder, help }
}

const fn switch(name: &'static str, default: &'static str, help: &'static str) -> Key {
    Key { name, kind: Kind::Bool, default: Some(default), placeholder: "true|false", help }
}

const fn list(name: &'static str, default: &'static str, placeholder: &'static str, help: &'static str) -> Key {
    Key { name, kind: Kind::List, default: Some(default), placeholder, help }
}

/// Every key, in the order in which `shoal config` prints them: those without a section first.
pub const KEYS: &[Key] = &[
    text("data_dir", "/var/lib/shoal", "DIR", "Where blobs, the index and the peer key are kept"),
    text("quota", "20GiB", "SIZE|PERCENT", "Disk that blobs may take: 20GiB, or 10% of the file system"),
    text("high_watermark", "95%", "PERCENT", "Share of the quota at which eviction starts"),
    text("low_watermark", "85%", "PERCENT", "Share of the quota down to which eviction goes"),
    text("keep_free", "1GiB", "SIZE", "Disk space left to others, whatever the quota says"),
    text("direct_writes", "auto", "auto|never", "Write past the page cache where the disk is quick, or never"),
    // Kubernetes kills 30 s after it asked; the rest is for withdrawing and closing.
    text("stop_grace", "20s", "TIME", "How long a stop waits for bodies in flight"),
    switch("any_registry", "false", "Serve images of every registry, not only of those listed"),
    unset("docker_config", "FILE", "Docker config.json with credentials for registries"),
    text("gateway.listen", "127.0.0.1:5050", "IP:PORT", "Where the container runtime connects"),
    text("gateway.default_registry", "docker.io", "REGISTRY", "Registry meant by requests that name none"),
    text(
        "gateway.rights",
        "caller",
        "caller|strict|node",
        "To whom images are given: to who may read them upstream (strict: also while upstream is down), or to all on the node",
    ),
    list("swarm.listen", "/ip4/0.0.0.0/tcp/5051", "MULTIADDR", "Where peers connect"),
    unset("swarm.key_file", "FILE", "Swarm key, the same on all nodes [default: DATA_DIR/swarm.key, made if missing]"),
    text("swarm.admission", "noise", "noise|pnet", "How the key admits; pnet for swarms shared with other IPFS peers"),
    list("swarm.peers", "", "HOST:PORT|MULTIADDR", "Peers to connect to; a DNS name stands for all its addresses"),
    switch("swarm.mdns", "false", "Look for peers of the local network by multicast DNS"),
    list("swarm.advertise", "", "MULTIADDR", "Addresses to tell to peers besides those listened on"),
    // A stale record costs one refusal; each halving doubles what announcing costs.
    text("swarm.provider_ttl", "30m", "TIME", "How long a provider record lives without renewal"),
    text(
        "fetch.serve",
        "stream",
        "stream|verified",
        "Send bytes as blocks match, or peers' bytes when the blob has matched",
    ),
    text("fetch.swarm_budget", "80ms", "TIME", "How long the swarm may search before upstream is asked"),
    text("fetch.stall", "900ms", "TIME", "How long a source may be silent before another takes over"),
    // Long enough for the requests of one pull, short enough that the next pull sees a moved tag.
    text("fetch.tag_ttl", "5s", "TIME", "How long a tag's digest is taken from memory"),
    text("admin.socket", "/run/shoal/shoal.sock", "FILE", "Unix socket for the commands that ask the running node"),
    text("metrics.listen", "127.0.0.1:5052", "IP:PORT", "Where /healthz, /readyz and /metrics are served"),
    unset(
        "ipfs.listen",
        "IP:PORT",
        "Where any IPFS tool may read all that this node holds, private images too [default: off]",
    ),
    text("log.level", "info", "FILTER", "What is logged: info, or info,shoal_swarm=debug"),
    text("log.format", "text", "text|json", "Form of a log line"),
];

impl Key {
    /// The key of this name.
    pub fn find(name: &str) -> Option<&'static Key> {
        KEYS.iter().find(|key| key.name == name)
    }

    /// The key of a name that stands in this program's source.
    pub(crate) fn named(name: &'static str) -> &'static Key {
        Self::find(name).expect("every name that `parse` takes is in KEYS: its tests take all")
    }

    /// `gateway.default_registry` as `gateway-default-registry`.
    pub fn flag(&self) -> String {
        self.name.replace(['.', '_'], "-")
    }

    /// `gateway.default_registry` as `SHOAL_GATEWAY_DEFAULT_REGISTRY`.
    pub fn env(&self) -> String {
        format!("{ENV_PREFIX}{}", self.name.replace('.', "_").to_ascii_uppercase())
    }

    /// The default as a value.
    pub fn default_value(&self) -> Option<Value> {
        let text = self.default?;
        Some(match self.kind {
            Kind::Text => Value::Text(text.to_owned()),
            Kind::Bool => Value::Bool(text == "true"),
            Kind::List => Value::List(split_list(text)),
        })
    }

    /// A value written as one text, as in the environment.
    pub(crate) fn written_as(&self, text: &str) -> Result<Value, String> {
        Ok(match self.kind {
            Kind::Text => Value::Text(text.to_owned()),
            Kind::List => Value::List(split_list(text)),
            Kind::Bool => match text {
                "true" => Value::Bool(true),
                "false" => Value::Bool(false),
                _ => return Err("must be true or false".to_owned()),
            },
        })
    }
}

/// The parts of a list written with commas; blanks around them do not count, and the empty text is the empty list.
pub(crate) fn split_list(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
}
