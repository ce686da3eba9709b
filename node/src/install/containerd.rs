//! containerd's `certs.d/<registry>/hosts.toml`: the gateway goes in front of whatever is there.
//!
//! The first time that Shoal extends a file of somebody else, the file keeps a second name, `hosts.toml.shoal-orig`.
//! Taking the entry back gives that very file its name again, owner, mode and times included, unless the entry's
//! surroundings were changed in the meantime; then only the entry goes.

use std::path::{Path, PathBuf};

use shoal_content::Registry;

use super::{
    Action, InstallError, Target, block,
    ops::{Op, TEMPORARY},
    planner::{Found, Planner},
    report::Report,
};

const FILE: &str = "hosts.toml";
const ORIGINAL: &str = "hosts.toml.shoal-orig";

/// The directory that stands for every registry without one of its own.
pub(crate) const EVERY: &str = "_default";

/// The entry is put into `hosts.toml` of each target.
pub(crate) fn install(
    planner: &mut Planner,
    certs_dir: &Path,
    targets: &[Target],
    gateway: &str,
    report: &mut Report,
) -> Result<(), InstallError> {
    let certs_dir = planner.under_root(certs_dir)?;
    for target in targets {
        let dir = directory(planner, &certs_dir, target.registry.as_ref());
        let file = dir.join(FILE);
        match install_one(planner, &certs_dir, &file, target, gateway)? {
            Ok(action) => report.step(&file, action),
            Err(reason) => report.refuse(&file, reason),
        }
    }
    if targets.iter().any(|target| target.registry.is_none()) {
        for path in others(planner, &certs_dir, gateway)? {
            report.note(format!(
                "{} stands before {EVERY}: its registry goes past Shoal unless named with --registry",
                path.display()
            ));
        }
    }
    Ok(())
}

/// Takes every entry back, whatever registries are named now.
pub(crate) fn uninstall(planner: &mut Planner, certs_dir: &Path, report: &mut Report) -> Result<(), InstallError> {
    let certs_dir = planner.under_root(certs_dir)?;
    planner.discard_temporaries(&certs_dir);
    for dir in planner.list(&certs_dir)? {
        if dir.to_string_lossy().ends_with(TEMPORARY) {
            planner.ops.push(Op::Discard(dir));
            continue;
        }
        let file = dir.join(FILE);
        planner.discard_temporary(&file);
        planner.discard_temporary(&dir.join(ORIGINAL));
        match uninstall_one(planner, &file)? {
            Ok(Some(action)) => report.step(&file, action),
            Ok(None) => {}
            Err(reason) => report.refuse(&file, reason),
        }
    }
    Ok(())
}

type Outcome<T> = Result<Result<T, String>, InstallError>;

fn install_one(
    planner: &mut Planner,
    certs_dir: &Path,
    file: &Path,
    target: &Target,
    gateway: &str,
) -> Outcome<Action> {
    let text = match planner.read(file)? {
        Found::Untouchable(reason) => return Ok(Err(reason.to_owned())),
        Found::Text(text) => text,
        Found::Missing => return create(planner, certs_dir, file, target, gateway),
    };
    let original_path = file.with_file_name(ORIGINAL);
    let found = match block::find(&text) {
        Ok(found) => found,
        Err(error) => return Ok(Err(error.to_string())),
    };
    let (base, made) = match &found {
        None => (text.clone(), 0),
        Some(range) => (surroundings(planner, &text, range, &original_path)?, block::made(&text[range.clone()])),
    };
    let theirs = match block::parse(&base) {
        Ok(table) => table,
        Err(error) => return Ok(Err(error.to_string())),
    };
    // A file of somebody else that names no server means the registry itself: it is not for us to name one.
    let is_ours = base.trim().is_empty() && planner.read(&original_path)? == Found::Missing && found.is_some();
    let server = (is_ours && !theirs.contains_key("server")).then_some(target.server.as_deref()).flatten();
    let merged = block::insert(&base, &block::render(&body(server, gateway), made));
    if let Err(error) = block::check_hosts(&base, &merged, gateway) {
        return Ok(Err(error.to_string()));
    }
    if merged == text {
        return Ok(Ok(Action::Unchanged));
    }
    if found.is_none() {
        if let Found::Text(_) = planner.read(&original_path)? {
            planner.ops.push(Op::Remove(original_path.clone()));
        }
        planner.discard_temporary(&original_path);
        planner.ops.push(Op::Link { from: file.to_owned(), to: original_path });
    }
    planner.replace(file, &merged);
    Ok(Ok(if found.is_some() { Action::Updated } else { Action::Merged }))
}

fn create(planner: &mut Planner, certs_dir: &Path, file: &Path, target: &Target, gateway: &str) -> Outcome<Action> {
    let dir = file.parent().unwrap_or(certs_dir);
    let certificates = |path: &PathBuf| {
        matches!(path.extension().and_then(|extension| extension.to_str()), Some("crt" | "cert" | "key"))
    };
    if planner.list(dir)?.iter().any(certificates) {
        // With a hosts.toml beside them containerd no longer reads them by their names.
        return Ok(Err(
            "would turn off the certificates beside it: write it by hand, with `ca` and `client`".to_owned()
        ));
    }
    let every = certs_dir.join(EVERY).join(FILE);
    if target.registry.is_some() && !is_ours_alone(planner, &every)? {
        let reason = format!("would take the place of {}: use `--registry {EVERY}`", every.display());
        return Ok(Err(reason));
    }
    let made = planner.missing_directories(file);
    planner.create(file, &block::render(&body(target.server.as_deref(), gateway), made));
    Ok(Ok(Action::Created))
}

fn uninstall_one(planner: &mut Planner, file: &Path) -> Outcome<Option<Action>> {
    let original_path = file.with_file_name(ORIGINAL);
    let original = match planner.read(&original_path)? {
        Found::Text(text) => Some(text),
        _ => None,
    };
    let text = match planner.read(file)? {
        Found::Text(text) => text,
        Found::Missing | Found::Untouchable(_) => return Ok(kept_original(original.as_ref())),
    };
    let range = match block::find(&text) {
        Ok(Some(range)) => range,
        Ok(None) if original.as_ref() == Some(&text) => {
            planner.ops.push(Op::Remove(original_path));
            return Ok(Ok(Some(Action::Restored)));
        }
        Ok(None) => return Ok(kept_original(original.as_ref())),
        Err(error) => return Ok(Err(error.to_string())),
    };
    let entry = text[range.clone()].to_owned();
    Ok(Ok(Some(match original {
        Some(original) if block::insert(&original, &entry) == text => {
            planner.ops.push(Op::Rename { from: original_path, to: file.to_owned() });
            Action::Restored
        }
        Some(_) => {
            planner.replace(file, &block::without(&text, range));
            planner.ops.push(Op::Remove(original_path));
            Action::TakenOut
        }
        None if block::without(&text, range.clone()).trim().is_empty() => {
            planner.remove(file, block::made(&entry));
            Action::Removed
        }
        None => {
            planner.replace(file, &block::without(&text, range));
            Action::TakenOut
        }
    })))
}

fn kept_original(original: Option<&String>) -> Result<Option<Action>, String> {
    match original {
        None => Ok(None),
        Some(_) => Err(format!("was replaced since; what it was before is left beside it as {ORIGINAL}")),
    }
}

/// Whether a file, if it is there, says nothing besides our entry.
fn is_ours_alone(planner: &Planner, file: &Path) -> Result<bool, InstallError> {
    let text = match planner.read(file)? {
        Found::Missing => return Ok(true),
        Found::Untouchable(_) => return Ok(false),
        Found::Text(text) => text,
    };
    Ok(match block::find(&text) {
        Ok(Some(range)) => block::without(&text, range).trim().is_empty(),
        Ok(None) => text.trim().is_empty(),
        Err(_) => false,
    })
}

/// What others wrote of a file that holds our block, byte for byte.
fn surroundings(
    planner: &Planner,
    text: &str,
    range: &std::ops::Range<usize>,
    original_path: &Path,
) -> Result<String, InstallError> {
    if let Found::Text(original) = planner.read(original_path)?
        && block::insert(&original, &text[range.clone()]) == text
    {
        return Ok(original);
    }
    Ok(block::without(text, range.clone()))
}

/// `dial_timeout`: a node whose gateway is gone without a word (a black-holed port) costs 150 s an image without it.
fn body(server: Option<&str>, gateway: &str) -> String {
    let server = server.map(|server| format!("server = \"{server}\"\n\n")).unwrap_or_default();
    format!("{server}[host.\"{gateway}\"]\n  capabilities = [\"pull\", \"resolve\"]\n  dial_timeout = \"200ms\"\n")
}

/// The directory that containerd looks up: `host_port_` first, then `host:port`.
fn directory(planner: &Planner, certs_dir: &Path, registry: Option<&Registry>) -> PathBuf {
    let Some(registry) = registry else { return certs_dir.join(EVERY) };
    let name = registry.as_str();
    let underscored = match name.rsplit_once(':') {
        Some((host, port)) => certs_dir.join(format!("{host}_{port}_")),
        None => return certs_dir.join(name),
    };
    let plain = certs_dir.join(name);
    if !planner.exists(&underscored) && planner.exists(&plain) { plain } else { underscored }
}

/// Files of registries that have one of their own, without an entry for the gateway.
fn others(planner: &Planner, certs_dir: &Path, gateway: &str) -> Result<Vec<PathBuf>, InstallError> {
    let mut others = Vec::new();
    for dir in planner.list(certs_dir)? {
        let file = dir.join(FILE);
        if dir.ends_with(EVERY) || dir.to_string_lossy().ends_with(TEMPORARY) {
            continue;
        }
        if let Found::Text(text) = planner.read(&file)?
            && !text.contains(gateway)
        {
            others.push(file);
        }
    }
    Ok(others)
}
