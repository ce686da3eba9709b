//! Names from URLs, `ns` and command lines: what parses is written as it was read, and is safe in paths and URLs.

#![no_main]

use libfuzzer_sys::fuzz_target;
use shoal_content::{Digest, Image, Reference, Registry, Repository, Tag};

/// Whether a name can be put into a path or a URL as it is.
fn is_safe(name: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-:/[]@".contains(c);
    let is_inner = |part: &str| !part.is_empty() && part != "." && part != "..";
    name.chars().all(is_plain) && name.split('/').all(is_inner)
}

fuzz_target!(|text: &str| {
    if let Ok(digest) = text.parse::<Digest>() {
        assert_eq!(digest.to_string(), text);
        assert_eq!(Digest::from_multihash(&digest.multihash()), Some(digest));
        assert_eq!(Digest::new(digest.algorithm(), digest.hash()), Some(digest));
        assert!(is_safe(text));
    }
    if let Ok(registry) = text.parse::<Registry>() {
        assert_eq!(registry.as_str(), text.to_ascii_lowercase());
        assert_eq!(registry.as_str().parse(), Ok(registry.clone()));
        assert!(is_safe(registry.as_str()) && !registry.as_str().contains(['/', '@']));
        let host = registry.host();
        assert!(!host.is_empty() && !host.contains(['[', ']']));
        let bracketed = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        let port = registry.port().map_or(String::new(), |port| format!(":{port}"));
        assert_eq!(format!("{bracketed}{port}"), registry.as_str());
    }
    if let Ok(repository) = text.parse::<Repository>() {
        assert_eq!(repository.as_str(), text);
        assert!(is_safe(text) && !text.contains([':', '@', '[']));
    }
    if let Ok(tag) = text.parse::<Tag>() {
        assert_eq!(tag.as_str(), text);
        assert!(is_safe(text) && !text.contains([':', '/', '@', '[']));
    }
    if let Ok(reference) = text.parse::<Reference>() {
        assert_eq!(reference.to_string(), text);
    }
    if let Ok(image) = text.parse::<Image>() {
        let full = image.to_string();
        assert_eq!(full.parse(), Ok(image));
        assert!(is_safe(&full));
    }
});
