//! Configuration: one TOML file, the environment and flags, the later over the earlier.
//!
//! [`keys::KEYS`] is the one list of what can be set; file, environment variables, flags, `shoal config` and the help
//! text are all made from it. [`parse`] is pure: texts in, an [`Effective`] configuration or the first error out.
//! Every value keeps where it came from, so that `shoal config` and every error can say so.
//!
//! | module | what it holds |
//! |---|---|
//! | [`keys`] | the names, defaults and help texts |
//! | [`value`] | sizes, durations, shares, addresses: text to type |
//! | [`registries`] | the registries that are served |
//! | [`flags`] | environment variables and flags |
//! | [`file`](mod@file) | the TOML file, key by key, with line numbers |
//! | [`error`] | what may be wrong, and where |
//! | [`show`] | `shoal config` |
//! | [`load`](mod@load) | reading the file and the environment |

pub mod error;
pub mod file;
pub mod flags;
pub mod keys;
pub mod load;
pub mod registries;
pub mod show;
pub mod value;

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, time::Duration};

use shoal_content::Registry;

pub use error::{ConfigError, Source};
pub use flags::Flags;
pub use load::load;
pub use registries::RegistryAccess;
pub use value::{PeerAddress, Quota, Value};

use keys::{KEYS, Key};

/// Everything that an operator can set, typed and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where blobs, the index and the peer key are kept.
    pub data_dir: PathBuf,
    /// How much disk the blobs may take.
    pub quota: Quota,
    /// Eviction starts when this share of the quota is used, in percent.
    pub high_watermark: u8,
    /// Eviction stops when no more than this share of the quota is used, in percent.
    pub low_watermark: u8,
    /// Bytes of the file system that are left to others, whatever the quota says.
    pub keep_free: u64,
    /// Whether blobs are written past the page cache.
    pub direct_writes: DirectWrites,
    /// How long a stop waits for bodies in flight.
    pub stop_grace: Duration,
    /// The OCI endpoint.
    pub gateway: GatewayConfig,
    /// The libp2p peer.
    pub swarm: SwarmConfig,
    /// Registries.
    pub upstream: UpstreamConfig,
    /// Sessions.
    pub fetch: FetchConfig,
    /// The unix socket of the admin API.
    pub admin_socket: PathBuf,
    /// Health, readiness and metrics.
    pub metrics_listen: SocketAddr,
    /// Where IPFS tools read what the node holds; nowhere without.
    pub ipfs_listen: Option<SocketAddr>,
    /// Logging.
    pub log: LogConfig,
}

/// Whether blobs are written past the page cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DirectWrites {
    /// Where the file system takes direct writes and the disk is quick.
    Auto,
    /// Never.
    Never,
}

/// `[gateway]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayConfig {
    /// Where runtimes connect.
    pub listen: SocketAddr,
    /// The registry meant by requests that name none, neither by `ns` nor in the path.
    pub default_registry: Option<Registry>,
    /// To whom images are given.
    pub rights: Rights,
}

/// To whom images are given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rights {
    /// To who may read them upstream, and to all where upstream cannot be asked and has never said.
    Caller,
    /// To who may read them upstream; to nobody where it cannot be asked and has never said.
    Strict,
    /// To all who reach this node.
    Node,
}

/// `[swarm]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SwarmConfig {
    /// Multiaddresses to listen on.
    pub listen: Vec<String>,
    /// The swarm key in Kubo's form; unset: `swarm.key` in the data directory, made on the first start.
    pub key_file: Option<PathBuf>,
    /// How the swarm key admits.
    pub admission: Admission,
    /// Peers to dial at start and whenever they are lost.
    pub peers: Vec<PeerAddress>,
    /// Whether peers of the local network are looked for by multicast DNS.
    pub mdns: bool,
    /// Multiaddresses to tell to peers besides those that are listened on.
    pub advertise: Vec<String>,
    /// How long a provider record lives in the DHT without being renewed.
    pub provider_ttl: Duration,
}

/// How a connection proves that it knows the swarm key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// A hash of the key is part of the noise handshake: costs nothing.
    Noise,
    /// The whole connection is encrypted with the key as IPFS's private networks do, for swarms shared with Kubo or Helia.
    Pnet,
}

/// `registries`, `any_registry` and `docker_config`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamConfig {
    /// Whether registries that are not listed are served too.
    pub any_registry: bool,
    /// Registries that are served, and how each is reached.
    pub registries: BTreeMap<Registry, RegistryAccess>,
    /// A docker `config.json` with credentials.
    pub docker_config: Option<PathBuf>,
}

/// `[fetch]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchConfig {
    /// When bytes may leave for the runtime.
    pub serve: ServeMode,
    /// How long the swarm may take to say who has a blob before upstream is asked.
    pub swarm_budget: Duration,
    /// How long a source may send nothing before its work goes to another.
    pub stall: Duration,
    /// How long a tag's digest is taken from memory.
    pub tag_ttl: Duration,
}

/// When bytes may leave for the runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServeMode {
    /// As their leaves land and match.
    Stream,
    /// Leaves that only peers vouch for wait until the whole blob has matched its digest.
    Verified,
}

/// `[log]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// A filter as `tracing` reads it: `info`, or `info,shoal_swarm=debug`.
    pub level: String,
    /// The form of a line.
    pub format: LogFormat,
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For eyes.
    Text,
    /// One JSON object a line.
    Json,
}

/// A configuration, and where each of its values came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effective {
    /// The values.
    pub config: Config,
    /// One for each key, in the order of [`KEYS`], then one for each registry.
    pub entries: Vec<Entry>,
    /// What looks like a mistake but could be somebody else's: environment variables of our prefix that name no key.
    pub warnings: Vec<String>,
}

/// One value as it was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key, dotted, as it would stand in the file.
    pub key: String,
    /// The value; `None` where the key is unset and has no default.
    pub value: Option<Value>,
    /// Who gave it.
    pub source: Source,
}

/// The text of a configuration file and the path to name in messages.
#[derive(Clone, Copy, Debug)]
pub struct FileText<'a> {
    /// Where the text was read.
    pub path: &'a str,
    /// TOML.
    pub text: &'a str,
}

/// The effective configuration of these sources. `env` are variables as the process has them (those without our prefix are passed over),
/// `flags` pairs of a flag's name without dashes and its value; a list may be given by repeating its flag.
pub fn parse(
    file: Option<FileText<'_>>,
    env: &[(String, String)],
    flags: &[(String, String)],
) -> Result<Effective, ConfigError> {
    let mut layers = Layers::collect(file, env, flags)?;
    let config = Config {
        data_dir: layers.take("data_dir", value::path)?,
        quota: layers.take("quota", value::quota)?,
        high_watermark: layers.take("high_watermark", value::percent)?,
        low_watermark: layers.take("low_watermark", value::percent)?,
        keep_free: layers.take("keep_free", value::size)?,
        direct_writes: layers.take("direct_writes", |value| {
            value::choice(value, &[("auto", DirectWrites::Auto), ("never", DirectWrites::Never)])
        })?,
        stop_grace: layers.take("stop_grace", value::duration)?,
        gateway: GatewayConfig {
            listen: layers.take("gateway.listen", value::socket)?,
            default_registry: layers.take_optional("gateway.default_registry", value::registry)?,
            rights: layers.take("gateway.rights", |value| {
                value::choice(value, &[("caller", Rights::Caller), ("strict", Rights::Strict), ("node", Rights::Node)])
            })?,
        },
        swarm: SwarmConfig {
            listen: layers.take("swarm.listen", value::multiaddrs)?,
            key_file: layers.take_optional("swarm.key_file", value::path)?,
            admission: layers.take("swarm.admission", |value| {
                value::choice(value, &[("noise", Admission::Noise), ("pnet", Admission::Pnet)])
            })?,
            peers: layers.take("swarm.peers", value::peers)?,
            mdns: layers.take("swarm.mdns", value::boolean)?,
            advertise: layers.take("swarm.advertise", value::multiaddrs)?,
            provider_ttl: layers.take("swarm.provider_ttl", value::duration)?,
        },
        upstream: UpstreamConfig {
            any_registry: layers.take("any_registry", value::boolean)?,
            docker_config: layers.take_optional("docker_config", value::path)?,
            registries: layers.registries(),
        },
        fetch: FetchConfig {
            serve: layers.take("fetch.serve", |value| {
                value::choice(value, &[("stream", ServeMode::Stream), ("verified", ServeMode::Verified)])
            })?,
            swarm_budget: layers.take("fetch.swarm_budget", value::duration)?,
            stall: layers.take("fetch.stall", value::duration)?,
            tag_ttl: layers.take("fetch.tag_ttl", value::duration)?,
        },
        admin_socket: layers.take("admin.socket", value::socket_path)?,
        metrics_listen: layers.take("metrics.listen", value::socket)?,
        ipfs_listen: layers.take_optional("ipfs.listen", value::socket)?,
        log: LogConfig {
            level: layers.take("log.level", value::log_filter)?,
            format: layers.take("log.format", |value| {
                value::choice(value, &[("text", LogFormat::Text), ("json", LogFormat::Json)])
            })?,
        },
    };
    layers.check(config)
}

/// What each source gives, by key.
struct Layers {
    /// From the strongest to the weakest.
    given: [BTreeMap<&'static str, Given>; 3],
    registries: BTreeMap<Registry, (RegistryAccess, Source)>,
    entries: Vec<Entry>,
    warnings: Vec<String>,
}

/// A value that some source gives.
pub(crate) struct Given {
    pub(crate) value: Value,
    pub(crate) source: Source,
}

impl Layers {
    fn collect(
        file: Option<FileText<'_>>,
        env: &[(String, String)],
        flags: &[(String, String)],
    ) -> Result<Self, ConfigError> {
        let mut registries = BTreeMap::new();
        let file = match file {
            Some(file) => file::read(file, &mut registries)?,
            None => BTreeMap::new(),
        };
        let (env, warnings) = flags::from_environment(env, &mut registries)?;
        let flags = flags::from_flags(flags, &mut registries)?;
        Ok(Self { given: [flags, env, file], registries, entries: Vec::new(), warnings })
    }

    fn take<T>(&mut self, name: &'static str, read: impl Fn(&Value) -> Result<T, String>) -> Result<T, ConfigError> {
        let key = Key::named(name);
        let Some(given) = self.strongest(key) else {
            return Err(ConfigError::Missing { key: name.to_owned() });
        };
        self.read(key, given, read)
    }

    /// As [`take`](Self::take), where the key may be unset: it has no default, or was given as the empty text.
    fn take_optional<T>(
        &mut self,
        name: &'static str,
        read: impl Fn(&Value) -> Result<T, String>,
    ) -> Result<Option<T>, ConfigError> {
        let key = Key::named(name);
        match self.strongest(key) {
            Some(given) if given.value != Value::Text(String::new()) => self.read(key, given, read).map(Some),
            given => {
                let source = given.map_or(Source::Default, |given| given.source);
                self.entries.push(Entry { key: name.to_owned(), value: None, source });
                Ok(None)
            }
        }
    }

    fn strongest(&mut self, key: &Key) -> Option<Given> {
        let given = self.given.iter_mut().find_map(|layer| layer.remove(key.name));
        given.or_else(|| key.default_value().map(|value| Given { value, source: Source::Default }))
    }

    fn read<T>(
        &mut self,
        key: &Key,
        given: Given,
        read: impl Fn(&Value) -> Result<T, String>,
    ) -> Result<T, ConfigError> {
        let value =
            read(&given.value).map_err(|reason| ConfigError::bad(key.name, &given.value, &given.source, reason))?;
        self.entries.push(Entry { key: key.name.to_owned(), value: Some(given.value), source: given.source });
        Ok(value)
    }

    fn registries(&self) -> BTreeMap<Registry, RegistryAccess> {
        self.registries.iter().map(|(name, (access, _))| (name.clone(), access.clone())).collect()
    }

    /// What only several keys together can get wrong.
    fn check(mut self, config: Config) -> Result<Effective, ConfigError> {
        if config.low_watermark >= config.high_watermark {
            let low = self.entries.iter().find(|entry| entry.key == "low_watermark");
            let source = low.map_or(Source::Default, |entry| entry.source.clone());
            let reason = format!("must be below high_watermark, which is {}%", config.high_watermark);
            return Err(ConfigError::bad(
                "low_watermark",
                &Value::Text(format!("{}%", config.low_watermark)),
                &source,
                reason,
            ));
        }
        let order = |name: &str| KEYS.iter().position(|key| key.name == name);
        self.entries.sort_by_key(|entry| order(&entry.key));
        for (name, (access, source)) in &self.registries {
            let value = Some(Value::Registry(access.clone()));
            self.entries.push(Entry { key: registries::key(name), value, source: source.clone() });
        }
        Ok(Effective { config, entries: self.entries, warnings: self.warnings })
    }
}
