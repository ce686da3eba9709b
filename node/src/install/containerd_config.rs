//! Whether containerd reads `certs.d` at all: its `config_path`.
//!
//! Where it is unset older versions read nothing, and 2.4 hands a list of two folders to a puller that takes one and
//! silently ignores every hosts.toml. So it is set to one folder, which takes a restart of containerd; the node does
//! not restart the runtime that it runs under, it says so.

use std::path::{Path, PathBuf};

use super::{
    InstallError,
    planner::{Found, Planner},
    report::Report,
};

/// Where containerd looks for its configuration.
pub(crate) const FILE: &str = "/etc/containerd/config.toml";

/// The folder that everybody uses.
pub(crate) const CERTS_DIR: &str = "/etc/containerd/certs.d";

/// The tables that hold `config_path`, by version of the configuration.
const TABLES: &[&[&str]] = &[
    &["plugins", "io.containerd.cri.v1.images", "registry"],
    &["plugins", "io.containerd.grpc.v1.cri", "registry"],
    &["plugins", "cri", "registry"],
];

/// What the configuration says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ContainerdConfig {
    /// `version`, 1 where there is none.
    version: i64,
    is_there: bool,
    config_path: Option<String>,
    has_mirrors: bool,
}

impl ContainerdConfig {
    /// Reads the file; one that cannot be read says nothing.
    pub(crate) fn read(planner: &Planner, file: &Path) -> Result<Self, InstallError> {
        let file = planner.under_root(file)?;
        let Found::Text(text) = planner.read(&file)? else { return Ok(Self::default()) };
        let Ok(table) = text.parse::<toml::Table>() else { return Ok(Self { is_there: true, ..Self::default() }) };
        let mut config = Self::of(&table);
        let imports = table.get("imports").and_then(toml::Value::as_array);
        for import in imports.into_iter().flatten().filter_map(toml::Value::as_str) {
            for path in matching(planner, import)? {
                if let Found::Text(text) = planner.read(&path)?
                    && let Ok(table) = text.parse::<toml::Table>()
                {
                    let imported = Self::of(&table);
                    config.config_path = imported.config_path.or(config.config_path);
                    config.has_mirrors |= imported.has_mirrors;
                }
            }
        }
        Ok(config)
    }

    fn of(table: &toml::Table) -> Self {
        let registries = || TABLES.iter().filter_map(|path| descend(table, path));
        let version = table.get("version").and_then(toml::Value::as_integer).unwrap_or(1);
        let config_path = registries().find_map(|registry| registry.get("config_path")?.as_str());
        let has_mirrors = registries().any(|registry| registry.contains_key("mirrors"));
        let config_path = config_path.filter(|path| !path.is_empty()).map(str::to_owned);
        Self { version, is_there: true, config_path, has_mirrors }
    }

    /// The folder that containerd reads hosts.toml files in; the usual one where it says none or several.
    pub(crate) fn certs_dir(&self) -> PathBuf {
        match &self.config_path {
            Some(path) if !path.contains(':') => PathBuf::from(path),
            _ => PathBuf::from(CERTS_DIR),
        }
    }

    /// Says what to do where containerd would not read `certs_dir`.
    pub(crate) fn advise(&self, certs_dir: &Path, report: &mut Report) {
        let certs_dir = certs_dir.display();
        match &self.config_path {
            Some(path) if *path == certs_dir.to_string() => {}
            Some(path) if path.contains(':') => report.note(format!(
                "containerd's config_path is {path:?}; its own puller takes one folder and ignores two: set {certs_dir} alone in {FILE} and restart containerd"
            )),
            Some(path) => report.note(format!(
                "containerd reads {path}, not {certs_dir}: give --certs-dir {path}, or change config_path in {FILE} and restart containerd"
            )),
            None => {
                let table = match (self.is_there, self.version) {
                    (true, 2) => "[plugins.\"io.containerd.grpc.v1.cri\".registry]",
                    (true, 1) => "[plugins.cri.registry]",
                    _ => "[plugins.\"io.containerd.cri.v1.images\".registry]",
                };
                let fresh = if self.is_there { "" } else { " (containerd 2: begin the file with `version = 3`)" };
                report.note(format!(
                    "containerd does not read {certs_dir} yet, its config_path is unset. Put this into {FILE}{fresh} and restart containerd:\n  {table}\n    config_path = \"{certs_dir}\""
                ));
            }
        }
        if self.has_mirrors {
            report.note(format!(
                "{FILE} has `registry.mirrors`, which containerd refuses beside config_path: move them to hosts.toml files"
            ));
        }
    }
}

fn descend<'a>(table: &'a toml::Table, path: &[&str]) -> Option<&'a toml::Table> {
    path.iter().try_fold(table, |table, name| table.get(*name)?.as_table())
}

/// Files of an `imports` entry; `*` is understood in the file name, where it is used.
fn matching(planner: &Planner, import: &str) -> Result<Vec<PathBuf>, InstallError> {
    let Some((dir, name)) = import.rsplit_once('/') else { return Ok(Vec::new()) };
    let dir = planner.under_root(Path::new(dir))?;
    let Some((before, after)) = name.split_once('*') else { return Ok(vec![dir.join(name)]) };
    let paths = planner.list(&dir)?.into_iter();
    let fits = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.len() >= before.len() + after.len() && name.starts_with(before) && name.ends_with(after)
    };
    Ok(paths.filter(fits).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn advice(text: &str) -> Vec<String> {
        let mut report = Report::default();
        let config = ContainerdConfig::of(&text.parse().unwrap());
        config.advise(Path::new(CERTS_DIR), &mut report);
        report.notes
    }

    #[test]
    fn a_config_path_of_one_folder_needs_no_advice() {
        for table in ["io.containerd.cri.v1.images", "io.containerd.grpc.v1.cri"] {
            let text = format!("version = 3\n[plugins.\"{table}\".registry]\nconfig_path = \"{CERTS_DIR}\"\n");
            assert_eq!(advice(&text), Vec::<String>::new());
        }
    }

    #[test]
    fn an_unset_a_double_and_another_config_path_are_told() {
        assert!(advice("version = 2\n")[0].contains("grpc.v1.cri\".registry]"));
        assert!(advice("version = 3\n")[0].contains("cri.v1.images\".registry]"));
        let of = |path: &str| {
            advice(&format!(
                "version = 3\n[plugins.\"io.containerd.cri.v1.images\".registry]\nconfig_path = \"{path}\"\n"
            ))
        };
        assert!(of("/etc/containerd/certs.d:/etc/docker/certs.d")[0].contains("takes one folder"));
        assert!(of("/srv/certs.d")[0].contains("--certs-dir /srv/certs.d"));
        assert!(of("")[0].contains("unset"));
        let mirrors =
            "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry.mirrors.\"docker.io\"]\nendpoint = []\n";
        assert!(advice(mirrors).iter().any(|note| note.contains("registry.mirrors")));
    }
}
