//! The whole does not match its digest: finding the leaf that is wrong, and who lied about it.
//!
//! Doubtful are the leaves for which only peers, or an earlier session, vouch. Another holder's outline may say otherwise of some of them:
//! then those are read anew, from that holder. Where that does not help, all doubtful leaves are read from upstream, which settles it.

use std::{collections::BTreeMap, sync::Arc};

use futures::{StreamExt, stream};
use shoal_content::{LeafHash, Outline, leaf::leaf_range};
use shoal_coordination::Source;
use shoal_store::Blob;
use shoal_swarm::PeerId;

use super::{
    drive::{Driver, chunks},
    local,
};
use crate::{
    face::Error,
    reading::{Read, Reading},
    search::{Found, Search},
    trace::add,
};

/// Leaves had anew from one holder at once.
const AT_ONCE: usize = 4;

impl Driver<'_> {
    /// The blob, once what was wrong with it has been had anew.
    pub(super) async fn recover(&mut self) -> Result<Blob, Error> {
        let digest = self.session.digest;
        let said = self.witnesses.clone();
        let doubtful: Vec<u64> = self.session.state().from_peers.iter().collect();
        if doubtful.is_empty() {
            let partial = self.partial.clone();
            // Nothing of it can be trusted; the next attempt begins anew.
            let _ = tokio::task::spawn_blocking(move || partial.discard()).await;
            return Err(Error::Corrupt {
                what: format!("blob {digest}"),
                reason: format!("upstream {} sent bytes that hash to something else", self.session.origin),
            });
        }
        add(&self.env.counters.lies, 1);
        self.note(format!("the whole does not match: {} leaves are doubtful", doubtful.len()));

        for (holder, outline) in self.other_outlines().await {
            let before = self.hashes(&doubtful);
            let differing: Vec<u64> =
                doubtful.iter().copied().filter(|leaf| outline.leaf(*leaf) != before.get(leaf).copied()).collect();
            if differing.is_empty() || !self.have_from(holder, &outline, &differing).await? {
                continue;
            }
            if let Some(blob) = self.try_commit().await? {
                self.blame(&said, &before, &differing);
                return Ok(blob);
            }
            self.lied(holder, format!("reported wrong leaves for {digest}"));
        }

        let before = self.hashes(&doubtful);
        self.have_from_upstream(&doubtful).await?;
        let after = self.hashes(&doubtful);
        let differing: Vec<u64> = doubtful.into_iter().filter(|leaf| before.get(leaf) != after.get(leaf)).collect();
        match self.try_commit().await? {
            Some(blob) => {
                self.blame(&said, &before, &differing);
                Ok(blob)
            }
            None => Err(Error::Corrupt {
                what: format!("blob {digest}"),
                reason: format!("upstream {} sends bytes that hash to something else", self.session.origin),
            }),
        }
    }

    /// Outlines of holders that differ from what is here.
    async fn other_outlines(&mut self) -> Vec<(PeerId, Arc<Outline>)> {
        let here = self.partial.outline();
        let mut search = Search::begin(&self.env.swarm, self.session.digest, Some(self.size));
        let mut others = Vec::new();
        loop {
            match search.next(&self.env.reputation).await {
                Found::Holder(peer, outline) if outline.size() == self.size && *outline != here => {
                    others.push((peer, outline));
                }
                Found::Holder(..) | Found::Useless(..) => {}
                Found::Over => return others,
            }
        }
    }

    fn hashes(&self, leaves: &[u64]) -> BTreeMap<u64, LeafHash> {
        let outline = self.partial.outline();
        leaves.iter().filter_map(|leaf| Some((*leaf, outline.leaf(*leaf)?))).collect()
    }

    /// Gets leaves anew from a holder, by its own outline; false when it does not give them.
    async fn have_from(&mut self, holder: PeerId, outline: &Outline, leaves: &[u64]) -> Result<bool, Error> {
        let swarm = self.env.swarm.clone();
        let wanted: Vec<(u64, LeafHash)> =
            leaves.iter().filter_map(|leaf| Some((*leaf, outline.leaf(*leaf)?))).collect();
        let mut blocks = stream::iter(wanted)
            .map(|(leaf, hash)| {
                let swarm = swarm.clone();
                async move { (leaf, hash, swarm.block(holder, hash.cid(), 1).await) }
            })
            .buffer_unordered(AT_ONCE);
        let mut got = Vec::new();
        while let Some((leaf, hash, block)) = blocks.next().await {
            let range = leaf_range(self.size, leaf);
            match block {
                Ok(bytes) if bytes.len() as u64 == range.end - range.start => got.push((leaf, hash, bytes)),
                _ => return Ok(false),
            }
        }
        drop(blocks);
        for (leaf, hash, bytes) in got {
            add(&self.env.counters.from_peers, bytes.len() as u64);
            self.forget(leaf).await?;
            self.witnesses.insert(leaf, holder);
            self.write(leaf, bytes, Source::Peer(holder), Some(hash));
            self.write_all().await?;
        }
        Ok(true)
    }

    async fn have_from_upstream(&mut self, leaves: &[u64]) -> Result<(), Error> {
        let what = format!("blob {} of {}", self.session.digest, self.session.origin);
        let mut rest = leaves;
        while let Some(&first) = rest.first() {
            let run = rest.iter().zip(first..).take_while(|(leaf, expected)| **leaf == *expected).count();
            let end = first + run as u64;
            rest = &rest[run..];
            let bytes = leaf_range(self.size, first).start..leaf_range(self.size, end - 1).end;
            let blob = if bytes.end == self.size {
                self.env.upstream.blob(&self.session.origin, &self.session.digest, bytes.start).await
            } else {
                self.env.upstream.blob_range(&self.session.origin, &self.session.digest, bytes).await
            };
            let blob = blob.map_err(|error| Error::Corrupt {
                what: what.clone(),
                reason: format!("peers lied about it, and upstream cannot settle it: {error}"),
            })?;
            let offset = blob.offset();
            let mut reading = Reading::new(chunks(blob), offset, first..end, self.size);
            loop {
                match reading.next().await {
                    Read::Leaf(leaf, bytes) => {
                        add(&self.env.counters.from_upstream, bytes.len() as u64);
                        self.session.state().trace.from_upstream += bytes.len() as u64;
                        self.forget(leaf).await?;
                        self.write(leaf, bytes, Source::Upstream, None);
                        self.write_all().await?;
                    }
                    Read::End => break,
                    Read::Broken(reason) => {
                        return Err(Error::Corrupt {
                            what,
                            reason: format!("peers lied about it, and upstream broke off: {reason}"),
                        });
                    }
                }
            }
        }
        Ok(())
    }

    async fn forget(&mut self, leaf: u64) -> Result<(), Error> {
        let (partial, digest) = (self.partial.clone(), self.session.digest);
        let hash = partial.outline().leaf(leaf);
        // Readers are told first: from now on they wait for it.
        self.session.doubted(leaf, hash);
        tokio::task::spawn_blocking(move || partial.forget_leaf(leaf))
            .await
            .map_err(|error| local(format!("forgetting leaf {leaf} of blob {digest}"), &error))?
            .map_err(|error| local(format!("forgetting leaf {leaf} of blob {digest}"), &error))?;
        self.env.shown.live.remove(hash);
        self.member.forget(leaf);
        Ok(())
    }

    /// Names those who said what turned out to be wrong.
    fn blame(&mut self, said: &BTreeMap<u64, PeerId>, before: &BTreeMap<u64, LeafHash>, differing: &[u64]) {
        let after = self.hashes(differing);
        let liars: std::collections::BTreeSet<PeerId> = differing
            .iter()
            .filter(|leaf| before.get(leaf) != after.get(leaf))
            .filter_map(|leaf| said.get(leaf).copied())
            .collect();
        for liar in liars {
            self.lied(liar, format!("reported wrong leaves for {}", self.session.digest));
        }
    }
}
