//! What environment variables and flags give.

use std::collections::BTreeMap;

use shoal_content::Registry;

use super::{
    Given,
    error::{ConfigError, Source},
    keys::{ENV_FILE, ENV_PREFIX, ENV_REGISTRIES, FLAG_REGISTRY, KEYS, Key, Kind, split_list},
    registries::{self, RegistryAccess},
    value::Value,
};

type Registries = BTreeMap<Registry, (RegistryAccess, Source)>;

/// The flags of a command line, one for each key: pairs of name and value, in the order given.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// Names are without dashes.
    pub values: Vec<(String, String)>,
    /// `--config`
    pub file: Option<std::path::PathBuf>,
}

/// What the environment gives, and warnings.
///
/// A variable that names no key only warns: Kubernetes sets `SHOAL_SERVICE_HOST` and the like for a service of our name.
pub(crate) fn from_environment(
    env: &[(String, String)],
    registries: &mut Registries,
) -> Result<(BTreeMap<&'static str, Given>, Vec<String>), ConfigError> {
    let mut given = BTreeMap::new();
    let mut warnings = Vec::new();
    for (name, text) in env.iter().filter(|(name, _)| name.starts_with(ENV_PREFIX)) {
        let source = Source::Env(name.escape_debug().to_string());
        if name == ENV_REGISTRIES {
            add_registries(ENV_REGISTRIES, text, &source, registries)?;
        } else if let Some(key) = KEYS.iter().find(|key| key.env() == *name) {
            let value = key.written_as(text);
            let value = value.map_err(|reason| ConfigError::bad(key.name, &text_value(text), &source, reason))?;
            given.insert(key.name, Given { value, source });
        } else if name != ENV_FILE && !is_service_link(name) {
            warnings.push(format!("environment variable {} names no key of the configuration", name.escape_debug()));
        }
    }
    Ok((given, warnings))
}

/// The forms that Kubernetes makes of a service's name.
fn is_service_link(name: &str) -> bool {
    name.contains("_SERVICE_HOST") || name.contains("_SERVICE_PORT") || name.contains("_PORT")
}

/// What flags give.
pub(crate) fn from_flags(
    flags: &[(String, String)],
    registries: &mut Registries,
) -> Result<BTreeMap<&'static str, Given>, ConfigError> {
    let mut given: BTreeMap<&'static str, Given> = BTreeMap::new();
    for (flag, text) in flags {
        let source = Source::Flag(flag.escape_debug().to_string());
        if flag == FLAG_REGISTRY {
            add_registries(FLAG_REGISTRY, text, &source, registries)?;
            continue;
        }
        let Some(key) = KEYS.iter().find(|key| key.flag() == *flag) else {
            let names: Vec<_> = KEYS.iter().map(Key::flag).collect();
            return Err(ConfigError::unknown(flag, source, names.iter().map(String::as_str)));
        };
        let value = key.written_as(text);
        let value = value.map_err(|reason| ConfigError::bad(key.name, &text_value(text), &source, reason))?;
        match (given.get_mut(key.name), value) {
            (Some(Given { value: Value::List(list), .. }), Value::List(more)) => list.extend(more),
            (_, value) => {
                given.insert(key.name, Given { value, source });
            }
        }
    }
    Ok(given)
}

fn add_registries(key: &str, text: &str, source: &Source, registries: &mut Registries) -> Result<(), ConfigError> {
    for part in split_list(text) {
        let (name, access) =
            registries::from_text(&part).map_err(|reason| ConfigError::bad(key, &text_value(&part), source, reason))?;
        registries.insert(name, (access, source.clone()));
    }
    Ok(())
}

fn text_value(text: &str) -> Value {
    Value::Text(text.to_owned())
}

// === the command line ===

impl clap::Args for Flags {
    fn augment_args(command: clap::Command) -> clap::Command {
        let file = clap::Arg::new("config")
            .long("config")
            .value_name("FILE")
            .help("The TOML file [default: /etc/shoal/shoal.toml if it is there] [env: SHOAL_CONFIG]")
            .value_parser(clap::value_parser!(std::path::PathBuf));
        let registry = clap::Arg::new(FLAG_REGISTRY)
            .long(FLAG_REGISTRY)
            .value_name("NAME[=URL][;allow_private][;ca=FILE]")
            .help(format!("A registry that is served; may be repeated [env: {ENV_REGISTRIES}]"))
            .action(clap::ArgAction::Append);
        let command = command.arg(file).arg(registry.help_heading(HEADING));
        KEYS.iter().fold(command, |command, key| command.arg(argument(key)))
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

const HEADING: &str = "Configuration";

fn argument(key: &Key) -> clap::Arg {
    let default = key.default.filter(|text| !text.is_empty()).map(|text| format!(" [default: {text}]"));
    let help = format!("{}{} [env: {}]", key.help, default.unwrap_or_default(), key.env());
    let argument =
        clap::Arg::new(key.name).long(key.flag()).value_name(key.placeholder).help(help).help_heading(HEADING);
    match key.kind {
        Kind::Text => argument,
        Kind::Bool => argument.num_args(0..=1).require_equals(true).default_missing_value("true"),
        Kind::List => argument.action(clap::ArgAction::Append),
    }
}

impl clap::FromArgMatches for Flags {
    fn from_arg_matches(matches: &clap::ArgMatches) -> Result<Self, clap::Error> {
        let mut flags = Self::default();
        flags.update_from_arg_matches(matches)?;
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &clap::ArgMatches) -> Result<(), clap::Error> {
        self.file = matches.get_one::<std::path::PathBuf>("config").cloned();
        let names = KEYS.iter().map(|key| (key.name, key.flag())).chain([(FLAG_REGISTRY, FLAG_REGISTRY.to_owned())]);
        for (id, flag) in names {
            let values = matches.get_many::<String>(id).into_iter().flatten();
            self.values.extend(values.map(|value| (flag.clone(), value.clone())));
        }
        Ok(())
    }
}
