//! Blobs on disk: one file a blob, an index, a quota, crash safety.
