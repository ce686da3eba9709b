//! Small facts kept for others: what a tag named, of which media type a blob is. Bounded, and lost with the index.

use shoal_content::Digest;

use crate::{
    error::{Error, Result},
    index::TagRecord,
    store::Store,
};

/// The longest key of a tag, in bytes: a registry, a repository and a tag of the longest kind fit.
const MAX_TAG_KEY: usize = 1024;

/// The longest media type, in bytes (RFC 6838, section 4.2: twice 127 and a slash).
const MAX_MEDIA_TYPE: usize = 255;

/// Tags that are dropped at once when there are too many, as a part of all: looking for the oldest reads all of them.
const DROPPED_TAGS: usize = 10;

impl Store {
    /// What was last set for a tag. Keys are the caller's, such as `docker.io/library/alpine:3`.
    pub fn tag(&self, key: &str) -> Result<Option<TagRecord>> {
        self.shared.index.tag(key)
    }

    /// Every tag, by ascending key.
    pub fn tags(&self) -> Result<Vec<(String, TagRecord)>> {
        let mut tags = Vec::new();
        self.shared.index.tags(&mut |key, tag| tags.push((key.to_owned(), tag)))?;
        Ok(tags)
    }

    /// Sets a tag. When there are more than `Options::max_tags`, those resolved longest ago are dropped.
    pub fn set_tag(&self, key: &str, tag: &TagRecord) -> Result<()> {
        check_len("a tag's key", key, MAX_TAG_KEY)?;
        check_len("a media type", &tag.media_type, MAX_MEDIA_TYPE)?;
        self.shared.heal_index();
        if !self.shared.index.set_tag(key, tag)? {
            return Ok(());
        }
        let excess = {
            let mut table = self.shared.table();
            table.tags += 1;
            table.tags.saturating_sub(self.shared.options.max_tags)
        };
        if excess > 0 { self.drop_oldest_tags(excess) } else { Ok(()) }
    }

    /// The media type of a held blob, where somebody said.
    pub fn media_type(&self, digest: &Digest) -> Result<Option<String>> {
        Ok(self.shared.index.record(digest)?.and_then(|record| record.media_type))
    }

    /// Says of which media type a held blob is; false when it is not held.
    pub fn set_media_type(&self, digest: &Digest, media_type: &str) -> Result<bool> {
        check_len("a media type", media_type, MAX_MEDIA_TYPE)?;
        self.shared.index.update(digest, &mut |record| record.media_type = Some(media_type.to_owned()))
    }

    fn drop_oldest_tags(&self, excess: usize) -> Result<()> {
        let mut tags: Vec<_> = self.tags()?.into_iter().map(|(key, tag)| (tag.resolved_at, key)).collect();
        tags.sort();
        let dropped = excess.max(self.shared.options.max_tags / DROPPED_TAGS);
        for (_, key) in tags.iter().take(dropped) {
            self.shared.index.remove_tag(key)?;
        }
        self.shared.table().tags = tags.len().saturating_sub(dropped);
        tracing::debug!(dropped, "too many tags: dropped those resolved longest ago");
        Ok(())
    }
}

fn check_len(what: &'static str, text: &str, limit: usize) -> Result<()> {
    if text.len() > limit {
        return Err(Error::TooLong { what, len: text.len(), limit });
    }
    Ok(())
}
