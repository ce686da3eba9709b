//! The node's own credentials: a docker config file and the helpers that it names.
//!
//! The file is read again when what was read is older than [`FRESH`], so a secret that Kubernetes replaces takes effect
//! without a restart. A helper is a program of somebody else: it runs on a blocking thread, the first request waits for
//! it no longer than [`HELPER_TIMEOUT`], and while it hangs no second one is started for that registry and nobody waits
//! again.

use std::{
    collections::HashMap,
    fs::File,
    io::BufReader,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use docker_credential::{CredentialRetrievalError, DockerCredential};
use shoal_content::{Registry, name::DOCKER_HUB};
use tokio::{sync::Mutex as AsyncMutex, task::JoinHandle};

use crate::secret::{Credential, Redacted};

/// How long a credential is used without asking again. Helpers cost tens of milliseconds and more.
const FRESH: Duration = Duration::from_secs(60);
/// How long a helper may take. Helpers of clouds make a request or two.
const HELPER_TIMEOUT: Duration = Duration::from_secs(10);
/// Registries remembered at once.
const MAX_REGISTRIES: usize = 1024;

/// What the node has for a registry, and what went wrong looking for it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Found {
    pub(crate) credential: Option<Credential>,
    pub(crate) problem: Option<Arc<str>>,
}

/// The docker config file, and what it gave lately.
#[derive(Debug)]
pub(crate) struct NodeCredentials {
    path: Option<PathBuf>,
    slots: Mutex<HashMap<Registry, Arc<AsyncMutex<Slot>>>>,
}

#[derive(Debug, Default)]
struct Slot {
    found: Option<(Found, Instant)>,
    running: Option<JoinHandle<Found>>,
}

// === impl NodeCredentials ===

impl NodeCredentials {
    pub(crate) fn new(path: Option<PathBuf>) -> Self {
        Self { path, slots: Mutex::default() }
    }

    /// What the node has for `registry`, a canonical name.
    pub(crate) async fn find(&self, registry: &Registry) -> Found {
        let Some(path) = &self.path else { return Found::default() };
        let slot = self.slot(registry);
        let mut slot = slot.lock().await;
        let is_waited_for = slot.running.as_ref().is_some_and(|running| !running.is_finished());
        let has_news = slot.running.as_ref().is_some_and(JoinHandle::is_finished);
        if let Some((found, at)) = &slot.found
            && (is_waited_for || (at.elapsed() < FRESH && !has_news))
        {
            return found.clone();
        }
        let mut running = slot.running.take().unwrap_or_else(|| {
            let (path, registry) = (path.clone(), registry.clone());
            tokio::task::spawn_blocking(move || look_up(&path, &registry))
        });
        let found = match tokio::time::timeout(HELPER_TIMEOUT, &mut running).await {
            Ok(Ok(found)) => found,
            Ok(Err(_)) => problem("the credential lookup failed".into()),
            Err(_) => {
                slot.running = Some(running);
                problem(format!("the credential helper has not answered for {} s", HELPER_TIMEOUT.as_secs()))
            }
        };
        if let Some(problem) = &found.problem {
            tracing::warn!(%registry, config = %path.display(), %problem, "no credentials for a registry");
        }
        slot.found = Some((found.clone(), Instant::now()));
        found
    }

    /// Reads again at the next request: what was there was refused.
    pub(crate) async fn refused(&self, registry: &Registry, refused: &Credential) {
        if self.path.is_none() {
            return;
        }
        let slot = self.slot(registry);
        let mut slot = slot.lock().await;
        if slot.found.as_ref().is_some_and(|(found, _)| found.credential.as_ref() == Some(refused)) {
            slot.found = None;
        }
    }

    fn slot(&self, registry: &Registry) -> Arc<AsyncMutex<Slot>> {
        let mut slots = self.slots.lock().expect("no holder panics");
        if slots.len() >= MAX_REGISTRIES && !slots.contains_key(registry) {
            slots.clear();
        }
        Arc::clone(slots.entry(registry.clone()).or_default())
    }
}

/// The names under which a registry may stand in a docker config file, most usual first.
fn names(registry: &Registry) -> Vec<String> {
    match registry.as_str() {
        DOCKER_HUB => vec!["https://index.docker.io/v1/".into(), "index.docker.io".into(), DOCKER_HUB.into()],
        name => vec![name.to_owned(), format!("https://{name}")],
    }
}

fn look_up(path: &Path, registry: &Registry) -> Found {
    for name in names(registry) {
        let file = match File::open(path) {
            Ok(file) => BufReader::new(file),
            Err(error) => return problem(format!("cannot read {}: {error}", path.display())),
        };
        match docker_credential::get_credential_from_reader(file, &name) {
            Ok(DockerCredential::UsernamePassword(username, password)) => {
                return Found { credential: Some(Credential::basic(username, password)), problem: None };
            }
            Ok(DockerCredential::IdentityToken(token)) => {
                return Found { credential: Some(Credential::Identity(Redacted::new(token))), problem: None };
            }
            Err(CredentialRetrievalError::NoCredentialConfigured) => {}
            // The helpers' protocol has no code for "none": all of them print this.
            Err(CredentialRetrievalError::HelperFailure { stdout, .. }) if stdout.contains("credentials not found") => {
            }
            // A helper's output may hold secrets: only its name is repeated.
            Err(CredentialRetrievalError::HelperFailure { helper, .. }) => {
                return problem(format!(
                    "credential helper {helper} failed: run `{helper} get` as this user to see why"
                ));
            }
            Err(CredentialRetrievalError::ConfigReadError) => {
                return problem(format!("{} is not a docker config file", path.display()));
            }
            Err(error) => return problem(format!("{}: {error}", path.display())),
        }
    }
    Found::default()
}

fn problem(text: String) -> Found {
    Found { credential: None, problem: Some(text.into()) }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn look(config: &str, registry: &str) -> Found {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.json");
        fs::write(&path, config).unwrap();
        look_up(&path, &registry.parse().unwrap())
    }

    #[test]
    fn credentials_are_found_under_the_names_that_docker_writes() {
        let config = r#"{"auths":{
            "https://index.docker.io/v1/":{"auth":"aHViOnNlY3JldA=="},
            "registry.example:5000":{"username":"u","password":"p"},
            "token.example":{"identitytoken":"refresh"}}}"#;
        assert_eq!(look(config, "docker.io").credential, Some(Credential::basic("hub", "secret")));
        assert_eq!(look(config, "registry.example:5000").credential, Some(Credential::basic("u", "p")));
        assert_eq!(look(config, "token.example").credential, Some(Credential::Identity(Redacted::new("refresh"))));
        let none = look(config, "other.example");
        assert!(none.credential.is_none() && none.problem.is_none());
    }

    #[test]
    fn a_file_that_is_not_a_docker_config_is_a_problem_that_names_it() {
        assert!(look("{", "a.example").problem.unwrap().contains("config.json"));
        let missing = look_up(Path::new("/nonexistent/config.json"), &"a.example".parse().unwrap());
        assert!(missing.problem.unwrap().contains("/nonexistent/config.json"));
    }

    #[test]
    fn a_helper_that_is_not_there_is_a_problem() {
        let found = look(r#"{"credHelpers":{"a.example":"shoal-test-does-not-exist"}}"#, "a.example");
        assert!(found.credential.is_none() && found.problem.is_some());
    }

    #[tokio::test]
    async fn a_credential_that_was_refused_is_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.json");
        let write = |password: &str| {
            let config = format!(r#"{{"auths":{{"a.example":{{"username":"u","password":"{password}"}}}}}}"#);
            fs::write(&path, config).unwrap();
        };
        write("old");
        let registry: Registry = "a.example".parse().unwrap();
        let credentials = NodeCredentials::new(Some(path.clone()));
        let old = credentials.find(&registry).await.credential.unwrap();
        write("new");
        assert_eq!(credentials.find(&registry).await.credential, Some(old.clone()));
        credentials.refused(&registry, &old).await;
        assert_eq!(credentials.find(&registry).await.credential, Some(Credential::basic("u", "new")));
    }

    #[tokio::test]
    async fn while_a_helper_hangs_nobody_waits_for_it_twice_and_its_answer_is_taken_when_it_comes() {
        let registry: Registry = "a.example".parse().unwrap();
        let credentials = NodeCredentials::new(Some("/nonexistent".into()));
        let (answer, wait) = std::sync::mpsc::sync_channel::<()>(1);
        let late = Found { credential: Some(Credential::basic("u", "p")), problem: None };
        let running = tokio::task::spawn_blocking(move || {
            wait.recv().ok();
            late
        });
        {
            let slot = credentials.slot(&registry);
            let mut slot = slot.lock().await;
            slot.running = Some(running);
            slot.found = Some((problem("it hangs".into()), Instant::now()));
        }
        let start = Instant::now();
        assert_eq!(credentials.find(&registry).await.problem.as_deref(), Some("it hangs"));
        assert!(start.elapsed() < HELPER_TIMEOUT / 2);
        answer.send(()).unwrap();
        let deadline = Instant::now() + HELPER_TIMEOUT;
        while credentials.find(&registry).await.credential.is_none() {
            assert!(Instant::now() < deadline, "its answer is not taken");
            tokio::task::yield_now().await;
        }
    }
}
