//! Values that must never be printed, and the credentials made of them.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use shoal_content::{Algorithm, Digest};

/// A secret: `Debug` hides it, there is no `Display`, and only [`Redacted::expose`] gives it out.
#[derive(Clone, PartialEq, Eq)]
pub struct Redacted(String);

/// What one proves one's right to an image with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential {
    /// User name and password, sent as Basic to the registry or to its token endpoint.
    Basic {
        /// User name. Not secret, but not logged either.
        username: Redacted,
        /// Password or access token.
        password: Redacted,
    },
    /// An OAuth2 refresh token (`identitytoken` in a docker config file), sent to the token endpoint only.
    Identity(Redacted),
}

/// Tells credentials apart without keeping them: SHA-256 of the credential, all zeros for none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CredentialKey([u8; 32]);

// === impl Redacted ===

impl Redacted {
    /// Hides `secret`.
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    /// The secret itself, for the one place that sends it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Redacted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

// === impl Credential ===

impl Credential {
    /// User name and password.
    pub fn basic(username: impl Into<String>, password: impl Into<String>) -> Self {
        Self::Basic { username: Redacted::new(username), password: Redacted::new(password) }
    }

    /// Reads the value of an `Authorization: Basic …` header; `None` for anything else.
    pub fn from_authorization(value: &str) -> Option<Self> {
        let (scheme, encoded) = value.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let decoded = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
        let (username, password) = decoded.split_once(':')?;
        Some(Self::basic(username, password))
    }

    /// The `Authorization` value of Basic authentication; `None` for an identity token, which no registry takes.
    pub(crate) fn authorization(&self) -> Option<Redacted> {
        match self {
            Self::Basic { username, password } => {
                let pair = format!("{}:{}", username.expose(), password.expose());
                Some(Redacted(format!("Basic {}", STANDARD.encode(pair))))
            }
            Self::Identity(_) => None,
        }
    }

    /// What tells it from others.
    pub fn key(&self) -> CredentialKey {
        // The length in front keeps `a:` + `b` and `a` + `:b` apart.
        let text = match self {
            Self::Basic { username, password } => {
                format!("basic {} {}{}", username.0.len(), username.0, password.0)
            }
            Self::Identity(token) => format!("identity {}", token.0),
        };
        let mut key = [0; 32];
        key.copy_from_slice(Digest::of(Algorithm::Sha256, text.as_bytes()).hash());
        CredentialKey(key)
    }
}

impl CredentialKey {
    /// The key of no credential.
    pub const ANONYMOUS: Self = Self([0; 32]);
    /// Stands for whatever the node has, where which one it is makes no difference.
    pub(crate) const NODE: Self = Self([1; 32]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_in_what_is_printed() {
        let credential = Credential::basic("robot", "hunter2");
        let printed = format!("{credential:?} {:?} {:?}", credential.authorization(), credential.key());
        assert!(!printed.contains("hunter2"), "{printed}");
        assert!(!printed.contains("robot"), "{printed}");
        assert!(!printed.contains(&STANDARD.encode("robot:hunter2")), "{printed}");
    }

    #[test]
    fn an_authorization_header_reads_back_as_the_credential() {
        let credential = Credential::basic("robot", "with:colon");
        let header = credential.authorization().unwrap();
        assert_eq!(Credential::from_authorization(header.expose()), Some(credential));
        for bad in ["", "Basic", "Basic ???", "Bearer abc", "Basic Zm9v"] {
            assert_eq!(Credential::from_authorization(bad), None, "{bad}");
        }
    }

    #[test]
    fn different_credentials_have_different_keys() {
        let keys = [
            CredentialKey::ANONYMOUS,
            Credential::basic("a", "b").key(),
            Credential::basic("ab", "").key(),
            Credential::basic("", "ab").key(),
            Credential::Identity(Redacted::new("ab")).key(),
        ];
        for (i, left) in keys.iter().enumerate() {
            for right in &keys[i + 1..] {
                assert_ne!(left, right);
            }
        }
    }
}
