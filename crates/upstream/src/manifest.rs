//! Manifests and indexes: what is asked for, and what must hold of what comes. Pure.

use bytes::Bytes;
use oci_distribution::manifest::{
    IMAGE_MANIFEST_LIST_MEDIA_TYPE, IMAGE_MANIFEST_MEDIA_TYPE, OCI_IMAGE_INDEX_MEDIA_TYPE, OCI_IMAGE_MEDIA_TYPE,
};
use serde::Deserialize;
use serde::de::IgnoredAny;
use shoal_content::{Algorithm, Digest};

/// Largest manifest taken, in bytes: what the distribution specification makes every registry accept.
pub const MAX_MANIFEST: usize = 4 * 1024 * 1024;
/// Longest media type taken, in bytes (RFC 6838, 4.2: 127 on either side of the slash).
const MAX_MEDIA_TYPE: usize = 255;

/// A manifest or index, verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The digest of `bytes`.
    pub digest: Digest,
    /// Its media type.
    pub media_type: String,
    /// At most [`MAX_MANIFEST`] bytes.
    pub bytes: Bytes,
}

/// What a tag names, as a registry says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Digest of the manifest or index.
    pub digest: Digest,
    /// Its media type.
    pub media_type: String,
    /// Its size in bytes.
    pub size: u64,
}

/// Everything that a tag may name, joined on one line, which every registry understands.
pub(crate) fn accept() -> String {
    [OCI_IMAGE_INDEX_MEDIA_TYPE, IMAGE_MANIFEST_LIST_MEDIA_TYPE, OCI_IMAGE_MEDIA_TYPE, IMAGE_MANIFEST_MEDIA_TYPE, "*/*"]
        .join(", ")
}

/// A `Content-Type` without its parameters, if it is a media type.
pub(crate) fn media_type(content_type: &str) -> Option<String> {
    let media_type = content_type.split(';').next()?.trim();
    let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&byte);
    let is_part = |part: &str| !part.is_empty() && part.bytes().all(is_inner);
    let (kind, name) = media_type.split_once('/')?;
    (media_type.len() <= MAX_MEDIA_TYPE && is_part(kind) && is_part(name)).then(|| media_type.to_owned())
}

/// Checks a manifest that came, against the digest that it was asked for by and the one that was sent with it. `Err`
/// says what is wrong.
pub(crate) fn verify(
    bytes: Bytes,
    asked: Option<&Digest>,
    announced: Option<&str>,
    content_type: Option<&str>,
) -> Result<Manifest, String> {
    let announced = match announced {
        Some(text) => {
            Some(text.parse::<Digest>().map_err(|error| format!("its Docker-Content-Digest is no digest: {error}"))?)
        }
        None => None,
    };
    for (expected, by) in [(asked, "it was asked for by"), (announced.as_ref(), "it announced")] {
        if let Some(expected) = expected {
            let actual = Digest::of(expected.algorithm(), &bytes);
            if actual != *expected {
                return Err(format!("the digest of the {} bytes sent is {actual}, {by} {expected}", bytes.len()));
            }
        }
    }
    let digest = asked.copied().or(announced).unwrap_or_else(|| Digest::of(Algorithm::Sha256, &bytes));
    let media_type = agreed_media_type(&bytes, content_type)?;
    Ok(Manifest { digest, media_type, bytes })
}

/// The media type that header and body agree on.
///
/// Two readers of one manifest must not take it for two things (GHSA-qq97-vm5h-rrhg): header and body must not differ,
/// and a body that could be either kind is refused.
fn agreed_media_type(bytes: &[u8], content_type: Option<&str>) -> Result<String, String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Shape {
        media_type: Option<String>,
        manifests: Option<IgnoredAny>,
        config: Option<IgnoredAny>,
        layers: Option<IgnoredAny>,
    }
    let shape: Shape =
        serde_json::from_slice(bytes).map_err(|error| format!("what it sent is not a manifest: {error}"))?;
    let is_image = shape.config.is_some() || shape.layers.is_some();
    if shape.manifests.is_some() && is_image {
        return Err("the manifest is index and image at once".into());
    }
    let header = content_type.and_then(media_type).filter(|header| {
        // What stores say of files that they know nothing of.
        !["application/octet-stream", "application/json", "text/plain"].contains(&header.as_str())
    });
    match (header, shape.media_type) {
        (Some(header), Some(body)) if header == body => Ok(header),
        (Some(header), Some(body)) => {
            let body: String = body.chars().take(MAX_MEDIA_TYPE).collect();
            Err(format!("its Content-Type is {header}, and the manifest says {body:?}"))
        }
        (Some(header), None) => Ok(header),
        (None, Some(body)) => media_type(&body).ok_or_else(|| "the manifest's mediaType is none".to_owned()),
        // The specification lets a manifest leave its type out; then its shape tells.
        (None, None) if shape.manifests.is_some() => Ok(OCI_IMAGE_INDEX_MEDIA_TYPE.to_owned()),
        (None, None) if is_image => Ok(OCI_IMAGE_MEDIA_TYPE.to_owned()),
        (None, None) => Err("what it sent has no media type and not the shape of a manifest".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IMAGE: &str = r#"{"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{},"layers":[]}"#;

    fn check(body: &str, content_type: Option<&str>) -> Result<String, String> {
        verify(Bytes::copy_from_slice(body.as_bytes()), None, None, content_type).map(|manifest| manifest.media_type)
    }

    #[test]
    fn bytes_must_have_the_digest_that_was_asked_for_and_the_one_announced() {
        let bytes = Bytes::from_static(IMAGE.as_bytes());
        let right = Digest::of(Algorithm::Sha256, &bytes);
        let long = Digest::of(Algorithm::Sha512, &bytes);
        let wrong = Digest::of(Algorithm::Sha256, b"other");
        let verify = |asked: Option<&Digest>, announced: Option<String>| {
            verify(bytes.clone(), asked, announced.as_deref(), Some(OCI_IMAGE_MEDIA_TYPE))
                .map(|manifest| manifest.digest)
        };
        assert_eq!(verify(None, None), Ok(right));
        assert_eq!(verify(Some(&right), Some(right.to_string())), Ok(right));
        assert_eq!(verify(Some(&long), Some(right.to_string())), Ok(long));
        assert_eq!(verify(None, Some(long.to_string())), Ok(long));
        assert!(verify(Some(&wrong), None).unwrap_err().contains("asked for by"));
        assert!(verify(Some(&right), Some(wrong.to_string())).unwrap_err().contains("announced"));
        assert!(verify(None, Some("md5:00".into())).is_err());
    }

    #[test]
    fn header_and_body_must_agree_on_the_type() {
        assert_eq!(check(IMAGE, Some(OCI_IMAGE_MEDIA_TYPE)).unwrap(), OCI_IMAGE_MEDIA_TYPE);
        let with_charset = format!("{OCI_IMAGE_MEDIA_TYPE}; charset=utf-8");
        assert_eq!(check(IMAGE, Some(&with_charset)).unwrap(), OCI_IMAGE_MEDIA_TYPE);
        assert_eq!(check(IMAGE, None).unwrap(), OCI_IMAGE_MEDIA_TYPE);
        assert_eq!(check(IMAGE, Some("application/octet-stream")).unwrap(), OCI_IMAGE_MEDIA_TYPE);
        assert!(check(IMAGE, Some(OCI_IMAGE_INDEX_MEDIA_TYPE)).unwrap_err().contains("Content-Type"));
    }

    #[test]
    fn a_manifest_without_a_type_is_known_by_its_shape() {
        assert_eq!(check(r#"{"manifests":[]}"#, None).unwrap(), OCI_IMAGE_INDEX_MEDIA_TYPE);
        assert_eq!(check(r#"{"layers":[]}"#, None).unwrap(), OCI_IMAGE_MEDIA_TYPE);
        assert_eq!(check("{}", Some("application/x.own+json")).unwrap(), "application/x.own+json");
        assert!(check("{}", None).is_err());
    }

    #[test]
    fn what_could_be_two_things_or_is_none_is_refused() {
        for body in [r#"{"manifests":[],"layers":[]}"#, "<html>", "[]", "", r#"{"mediaType":7}"#] {
            assert!(check(body, Some(OCI_IMAGE_MEDIA_TYPE)).is_err(), "{body}");
        }
        assert!(check(r#"{"mediaType":"a\r\nb/c"}"#, None).is_err());
    }
}
