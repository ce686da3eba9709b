//! What a manifest says about blobs: sizes and media types, read from its JSON as far as they are there.

use serde::{Deserialize, Deserializer};
use shoal_content::Digest;

/// A blob or manifest that another manifest names.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Descriptor {
    /// Digest of what is named.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Its media type; empty where the manifest does not say.
    #[serde(default, rename = "mediaType")]
    pub media_type: String,
    /// Platform, in an index.
    #[serde(default)]
    pub platform: Option<Platform>,
    /// It is to be had elsewhere (`urls`): the registry need not have it.
    #[serde(default, rename = "urls", deserialize_with = "are_some")]
    pub elsewhere: bool,
}

/// Whether a list has anything in it; of what kind makes no difference.
fn are_some<'de, D: Deserializer<'de>>(list: D) -> Result<bool, D::Error> {
    Ok(Option::<serde_json::Value>::deserialize(list)?
        .is_some_and(|list| list.as_array().is_none_or(|list| !list.is_empty())))
}

/// What a manifest of an index runs on.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Platform {
    /// CPU architecture, by Go's names.
    #[serde(default)]
    pub architecture: String,
    /// Operating system, by Go's names.
    #[serde(default)]
    pub os: String,
}

/// A manifest or an index, as far as Shoal reads it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Parsed {
    /// Its media type as it says itself; empty where it does not.
    #[serde(default, rename = "mediaType")]
    pub media_type: String,
    /// Config, in a manifest.
    #[serde(default)]
    pub config: Option<Descriptor>,
    /// Layers, in a manifest.
    #[serde(default)]
    pub layers: Vec<Descriptor>,
    /// Manifests, in an index.
    #[serde(default)]
    pub manifests: Vec<Descriptor>,
}

impl Parsed {
    /// Reads a manifest; `None` when it is not one. Unknown members are passed over.
    pub fn from_json(bytes: &[u8]) -> Option<Self> {
        // serde would take an array for the members in order.
        let is_object = bytes.trim_ascii_start().starts_with(b"{");
        if is_object { serde_json::from_slice(bytes).ok() } else { None }
    }

    /// The media type: what it says itself, else what its members make of it.
    pub fn media_type(&self) -> &str {
        if !self.media_type.is_empty() {
            &self.media_type
        } else if self.config.is_none() && !self.manifests.is_empty() {
            "application/vnd.oci.image.index.v1+json"
        } else {
            "application/vnd.oci.image.manifest.v1+json"
        }
    }

    /// The blobs of a manifest: config first, then layers.
    pub fn blobs(&self) -> impl Iterator<Item = &Descriptor> {
        self.config.iter().chain(&self.layers)
    }

    /// All that it names.
    pub fn all(&self) -> impl Iterator<Item = &Descriptor> {
        self.blobs().chain(&self.manifests)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn a_manifest_without_media_type_is_known_by_its_members() {
        let manifest = format!(
            r#"{{"config":{{"digest":"{DIGEST}","size":2}},"layers":[{{"digest":"{DIGEST}","size":3,"x":1}}]}}"#
        );
        let parsed = Parsed::from_json(manifest.as_bytes()).unwrap();
        assert_eq!(parsed.media_type(), "application/vnd.oci.image.manifest.v1+json");
        assert_eq!(parsed.all().map(|descriptor| descriptor.size).collect::<Vec<_>>(), [2, 3]);
        let index = format!(
            r#"{{"manifests":[{{"digest":"{DIGEST}","size":2,"platform":{{"os":"linux","architecture":"amd64"}}}}]}}"#
        );
        let parsed = Parsed::from_json(index.as_bytes()).unwrap();
        assert_eq!(parsed.media_type(), "application/vnd.oci.image.index.v1+json");
    }

    #[test]
    fn what_is_not_a_manifest_is_none() {
        for bad in ["", "[]", "{\"layers\":[{\"digest\":\"x\",\"size\":1}]}", "{\"layers\":[{}]}", "\0"] {
            assert_eq!(Parsed::from_json(bad.as_bytes()), None, "{bad}");
        }
    }
}
