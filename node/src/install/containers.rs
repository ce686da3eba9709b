//! The drop-in of CRI-O, podman, buildah and skopeo: `registries.conf.d/50-shoal.conf`.
//!
//! They send no `ns`: the registry stands in the mirror's path, so each is named, and there is none for "every registry".

use std::path::{Path, PathBuf};

use super::{
    Action, InstallError, Target, block,
    planner::{Found, Planner},
    report::Report,
};

const DIR: &str = "/etc/containers/registries.conf.d";
const MAIN: &str = "/etc/containers/registries.conf";
const FILE: &str = "50-shoal.conf";

/// Not for us to do: the node does not touch the runtime that it runs under.
const RELOAD: &str = "CRI-O reads its registries again after `systemctl reload crio`; podman and skopeo do at once";

pub(crate) fn install(
    planner: &mut Planner,
    targets: &[Target],
    gateway: &str,
    report: &mut Report,
) -> Result<(), InstallError> {
    let file = planner.under_root(Path::new(DIR))?.join(FILE);
    let mut body = String::new();
    for target in targets {
        let Some(registry) = &target.registry else { continue };
        if let Some(path) = who_has(planner, registry.as_str())? {
            report.refuse(&path, format!("has an entry for {registry} already: add the mirror to it by hand"));
            continue;
        }
        body.push_str(&entry(registry.as_str(), target.server.as_deref(), gateway));
    }
    if body.is_empty() {
        report.note("CRI-O, podman and skopeo have no entry for every registry: name those to mirror with --registry");
        return Ok(());
    }
    match planner.read(&file)? {
        Found::Missing => {
            let made = planner.missing_directories(&file);
            planner.create(&file, &block::render(&body, made));
            report.step(&file, Action::Created);
            report.note(RELOAD);
        }
        Found::Untouchable(reason) => report.refuse(&file, reason),
        Found::Text(text) => match block::find(&text) {
            Ok(Some(range)) => {
                let rendered = block::render(&body, block::made(&text[range.clone()]));
                let updated = format!("{}{rendered}{}", &text[..range.start], &text[range.end..]);
                if updated == text {
                    report.step(&file, Action::Unchanged);
                } else {
                    planner.replace(&file, &updated);
                    report.step(&file, Action::Updated);
                    report.note(RELOAD);
                }
            }
            Ok(None) => report.refuse(&file, "was not written by `shoal install`: left as it is"),
            Err(error) => report.refuse(&file, error.to_string()),
        },
    }
    Ok(())
}

pub(crate) fn uninstall(planner: &mut Planner, report: &mut Report) -> Result<(), InstallError> {
    let dir = planner.under_root(Path::new(DIR))?;
    let file = dir.join(FILE);
    planner.discard_temporaries(&file);
    let Found::Text(text) = planner.read(&file)? else { return Ok(()) };
    match block::find(&text) {
        Ok(None) => {}
        Ok(Some(range)) if block::without(&text, range.clone()).trim().is_empty() => {
            planner.remove(&file, block::made(&text[range]));
            report.step(&file, Action::Removed);
        }
        Ok(Some(range)) => {
            planner.replace(&file, &block::without(&text, range));
            report.step(&file, Action::TakenOut);
        }
        Err(error) => report.refuse(&file, error.to_string()),
    }
    Ok(())
}

fn entry(registry: &str, server: Option<&str>, gateway: &str) -> String {
    let (scheme, location) = match server.and_then(|server| server.split_once("://")) {
        // Docker Hub's own name is what these tools know it by; its API host is containerd's affair.
        Some((scheme, location)) if registry != shoal_content::name::DOCKER_HUB => (scheme, location),
        _ => ("https", registry),
    };
    let insecure = if scheme == "http" { "insecure = true\n" } else { "" };
    let mirror = gateway.split_once("://").map_or(gateway, |(_, address)| address);
    format!(
        "\n[[registry]]\nprefix = \"{registry}\"\nlocation = \"{location}\"\n{insecure}\n\
         [[registry.mirror]]\nlocation = \"{mirror}/{registry}\"\ninsecure = true\n"
    )
}

/// The file of somebody else that has an entry for the registry: of two for one prefix only the last counts.
fn who_has(planner: &Planner, registry: &str) -> Result<Option<PathBuf>, InstallError> {
    let mut files = vec![planner.under_root(Path::new(MAIN))?];
    files.extend(planner.list(&planner.under_root(Path::new(DIR))?)?);
    for file in files {
        let is_conf = file.extension().is_some_and(|extension| extension == "conf");
        if !is_conf || file.file_name().is_some_and(|name| name == FILE) {
            continue;
        }
        let Found::Text(text) = planner.read(&file)? else { continue };
        let Ok(table) = text.parse::<toml::Table>() else { continue };
        let entries = table.get("registry").and_then(toml::Value::as_array).into_iter().flatten();
        let names = entries.filter_map(|entry| entry.get("prefix").or_else(|| entry.get("location"))?.as_str());
        if names.into_iter().any(|name| name == registry) {
            return Ok(Some(file));
        }
    }
    Ok(None)
}
