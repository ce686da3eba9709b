//! What a registry wants before it answers, read from `WWW-Authenticate`, and whom it may send us to for it.
//!
//! Pure. The realm rule is the answer to CVE-2026-33540: a registry, or who speaks in its place, names a token endpoint
//! of its own choice, and the credentials for the registry would be sent there.

use http::{HeaderMap, header::WWW_AUTHENTICATE};
use http_auth::{ChallengeRef, parser::ChallengeParser};
use shoal_content::Repository;
use url::{Host, Url};

/// Longest service or scope taken from a challenge, in bytes.
const MAX_PARAMETER: usize = 1024;

/// Domains under which anybody can have a name: two names there have nothing to do with one another.
const SHARED_DOMAINS: [&str; 10] = [
    "amazonaws.com",
    "azurecr.io",
    "azurewebsites.net",
    "cloudfront.net",
    "github.io",
    "gitlab.io",
    "herokuapp.com",
    "ocir.io",
    "pkg.dev",
    "run.app",
];

/// A demand for authentication that Shoal can meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// User name and password with every request.
    Basic,
    /// A token from `realm`.
    Bearer {
        /// The token endpoint.
        realm: Url,
        /// Who the token is for.
        service: Option<String>,
        /// A scope that is not of the usual form, which is asked for beside ours.
        extra_scope: Option<String>,
    },
}

/// The challenge of an answer; Bearer goes before Basic where both are offered. `Err` says what was there instead.
pub(crate) fn read(headers: &HeaderMap) -> Result<Challenge, String> {
    let mut basic = false;
    let mut seen = Vec::new();
    for value in headers.get_all(WWW_AUTHENTICATE) {
        let text = value.to_str().map_err(|_| "its WWW-Authenticate is not text".to_owned())?;
        for challenge in ChallengeParser::new(text) {
            let challenge = challenge.map_err(|_| "its WWW-Authenticate cannot be parsed".to_owned())?;
            match challenge.scheme.to_ascii_lowercase().as_str() {
                "bearer" => return read_bearer(&challenge),
                "basic" => basic = true,
                _ => seen.push(challenge.scheme.chars().take(32).collect::<String>()),
            }
        }
    }
    match (basic, seen.as_slice()) {
        (true, _) => Ok(Challenge::Basic),
        (false, []) => Err("it asks for authentication without a challenge".into()),
        (false, seen) => {
            Err(format!("it asks for {}: only Basic and Bearer authentication are known", seen.join(", ")))
        }
    }
}

fn read_bearer(challenge: &ChallengeRef<'_>) -> Result<Challenge, String> {
    let parameter = |name: &str| {
        let (_, value) = challenge.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name))?;
        let value = value.to_unescaped();
        (!value.is_empty() && value.len() <= MAX_PARAMETER).then_some(value)
    };
    let realm = parameter("realm").ok_or("its Bearer challenge has no realm")?;
    let realm = Url::parse(&realm).map_err(|_| "the realm of its Bearer challenge is not a URL".to_owned())?;
    let extra_scope = parameter("scope").filter(|scope| !scope.starts_with("repository:"));
    Ok(Challenge::Bearer { realm, service: parameter("service"), extra_scope })
}

/// The scope that a pull needs, whatever else the registry names.
pub(crate) fn pull_scope(repository: &Repository) -> String {
    format!("repository:{repository}:pull")
}

/// Whether credentials for the registry at `endpoint` may be sent to `realm`. `Err` is the rule that forbids it.
///
/// The realm's host must be the registry's own, one above or below it, or one beside it under a domain of at least two
/// labels that is nobody's or one owner's; or be listed in `token_hosts`. Addresses count only as themselves. A
/// registry on HTTPS has its token endpoint on HTTPS.
pub(crate) fn check_realm(realm: &Url, endpoint: &Url, token_hosts: &[String]) -> Result<(), String> {
    match realm.scheme() {
        "https" => {}
        "http" if endpoint.scheme() == "http" => {}
        "http" => return Err("its token endpoint is on plain HTTP".into()),
        _ => return Err("its token endpoint is not an HTTP URL".into()),
    }
    if !realm.username().is_empty() || realm.password().is_some() {
        return Err("the URL of its token endpoint has a user name in it".into());
    }
    let (Some(to), Some(from)) = (realm.host(), endpoint.host()) else {
        return Err("its token endpoint has no host".into());
    };
    let listed = token_hosts.iter().any(|host| host.eq_ignore_ascii_case(&to.to_string()));
    let related = match (&to, &from) {
        (Host::Domain(to), Host::Domain(from)) => to == from || is_same_owner(to, from),
        _ => to == from,
    };
    if listed || related {
        Ok(())
    } else {
        Err(format!(
            "its token endpoint is at {to}, which is not of the registry's domain: if it is right, add it to `token_hosts`"
        ))
    }
}

fn is_same_owner(left: &str, right: &str) -> bool {
    let is_below =
        |inner: &str, outer: &str| inner.strip_suffix(outer).is_some_and(|rest| rest.ends_with('.')) && is_owned(outer);
    let parent = |host: &str| host.split_once('.').map(|(_, parent)| parent.to_owned());
    is_below(left, right)
        || is_below(right, left)
        || matches!((parent(left), parent(right)), (Some(left), Some(right)) if left == right && is_owned(&left))
}

/// Whether names under `domain` belong to one owner. Short of the public suffix list: at least two labels, not of the
/// form `co.uk`, and not a domain that is known to be handed out.
fn is_owned(domain: &str) -> bool {
    let labels: Vec<&str> = domain.split('.').collect();
    let is_country_registry = matches!(labels[..], [second, top] if top.len() == 2 && second.len() <= 3);
    let is_shared = SHARED_DOMAINS.iter().any(|shared| {
        // The shared domain itself, and subdivisions such as `ecr.eu-west-1.amazonaws.com`.
        domain == *shared || domain.strip_suffix(shared).is_some_and(|rest| rest.ends_with('.'))
    });
    labels.len() >= 2 && !is_country_registry && !is_shared
}

#[cfg(test)]
mod tests {
    use super::*;

    fn challenge(values: &[&str]) -> Result<Challenge, String> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(WWW_AUTHENTICATE, value.parse().unwrap());
        }
        read(&headers)
    }

    fn allowed(realm: &str, endpoint: &str) -> bool {
        check_realm(&realm.parse().unwrap(), &endpoint.parse().unwrap(), &[]).is_ok()
    }

    #[test]
    fn challenges_are_read_and_bearer_goes_first() {
        assert_eq!(challenge(&[r#"Basic realm="x""#]), Ok(Challenge::Basic));
        let bearer = Challenge::Bearer {
            realm: "https://auth.docker.io/token".parse().unwrap(),
            service: Some("registry.docker.io".into()),
            extra_scope: None,
        };
        let text =
            r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a:pull""#;
        assert_eq!(challenge(&[text]), Ok(bearer.clone()));
        assert_eq!(challenge(&[r#"Basic realm="x""#, text]), Ok(bearer));
    }

    #[test]
    fn a_scope_of_a_registrys_own_kind_is_kept() {
        let text = r#"Bearer realm="https://public.ecr.aws/token/",service="public.ecr.aws",scope="aws""#;
        let Ok(Challenge::Bearer { extra_scope, .. }) = challenge(&[text]) else { panic!() };
        assert_eq!(extra_scope.as_deref(), Some("aws"));
    }

    #[test]
    fn what_cannot_be_met_is_said() {
        assert!(challenge(&[]).unwrap_err().contains("without a challenge"));
        assert!(challenge(&["Negotiate"]).unwrap_err().contains("Negotiate"));
        assert!(challenge(&[r#"Bearer service="x""#]).unwrap_err().contains("no realm"));
        assert!(challenge(&[r#"Bearer realm="token""#]).unwrap_err().contains("not a URL"));
        assert!(challenge(&["\"\"\"="]).is_err());
        let long = format!(r#"Bearer realm="https://{}.example""#, "a".repeat(MAX_PARAMETER));
        assert!(challenge(&[&long]).is_err());
    }

    #[test]
    fn a_realm_of_the_registrys_own_domain_is_allowed() {
        for (realm, endpoint) in [
            ("https://auth.docker.io/token", "https://registry-1.docker.io"),
            ("https://ghcr.io/token", "https://ghcr.io"),
            ("https://gitlab.com/jwt/auth", "https://registry.gitlab.com"),
            ("https://docker-auth.elastic.co/auth", "https://docker.elastic.co"),
            ("https://token.registry.example.com/", "https://registry.example.com"),
            ("https://registry.corp.example.co.uk/a", "https://auth.corp.example.co.uk"),
            ("https://10.0.0.5:8443/token", "https://10.0.0.5"),
            ("http://localhost:5001/token", "http://localhost:5000"),
        ] {
            assert!(allowed(realm, endpoint), "{realm} for {endpoint}");
        }
    }

    #[test]
    fn a_realm_of_somebody_else_is_refused() {
        for (realm, endpoint) in [
            ("https://evil.example/token", "https://ghcr.io"),
            ("https://evildocker.io/token", "https://docker.io"),
            ("https://evil.io/token", "https://ghcr.io"),
            ("https://io/token", "https://ghcr.io"),
            ("https://evil.co.uk/token", "https://registry.co.uk"),
            ("https://evil.azurecr.io/token", "https://mine.azurecr.io"),
            ("https://2.dkr.ecr.eu-west-1.amazonaws.com/", "https://1.dkr.ecr.eu-west-1.amazonaws.com"),
            ("https://10.0.0.6/token", "https://10.0.0.5"),
            ("https://169.254.169.254/token", "https://registry.example.com"),
            ("https://[::1]/token", "https://registry.example.com"),
            ("http://auth.docker.io/token", "https://registry-1.docker.io"),
            ("ftp://ghcr.io/token", "https://ghcr.io"),
            ("https://u:p@ghcr.io/token", "https://ghcr.io"),
        ] {
            assert!(!allowed(realm, endpoint), "{realm} for {endpoint}");
        }
    }

    #[test]
    fn a_listed_token_host_is_allowed_though_still_only_over_https() {
        let check = |realm: &str| {
            let hosts = ["ghcr.io".to_owned()];
            check_realm(&realm.parse().unwrap(), &"https://lscr.io".parse().unwrap(), &hosts).is_ok()
        };
        assert!(check("https://ghcr.io/token"));
        assert!(!check("http://ghcr.io/token"));
        assert!(!check("https://ghcr.io.evil.example/token"));
    }
}
