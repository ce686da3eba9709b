//! Reading the file and the environment.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use super::{ConfigError, Effective, FileText, Flags, keys::ENV_FILE, parse};

/// Read where no other file is named; may be absent.
pub const DEFAULT_FILE: &str = "/etc/shoal/shoal.toml";

/// Far more than every key and a thousand registries take.
const MAX_FILE: u64 = 1 << 20;

/// The effective configuration of this process: its environment, the file that `--config`, `SHOAL_CONFIG` or the default names, and `flags`.
pub fn load(flags: &Flags) -> Result<Effective, ConfigError> {
    let env: Vec<(String, String)> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().into_owned())))
        .collect();
    let named = flags.file.clone().or_else(|| std::env::var_os(ENV_FILE).filter(|v| !v.is_empty()).map(PathBuf::from));
    let file = match &named {
        Some(path) => Some((path.as_path(), read(path)?)),
        None => {
            let path = Path::new(DEFAULT_FILE);
            path.exists().then(|| read(path).map(|text| (path, text))).transpose()?
        }
    };
    let shown = file.as_ref().map(|(path, text)| (path.to_string_lossy(), text));
    let file = shown.as_ref().map(|(path, text)| FileText { path, text });
    parse(file, &env, &flags.values)
}

fn read(path: &Path) -> Result<String, ConfigError> {
    let refuse = |reason: String| ConfigError::Unreadable { path: path.to_owned(), reason };
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes))
        .map_err(|error| refuse(error.to_string()))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(refuse(format!("it is larger than {MAX_FILE} bytes")));
    }
    String::from_utf8(bytes).map_err(|_| refuse("it is not UTF-8".to_owned()))
}
