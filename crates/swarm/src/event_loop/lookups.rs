//! Finding providers for callers.

use std::{
    collections::{HashMap, HashSet},
    time::Instant,
};

use libp2p::{
    PeerId,
    kad::{GetProvidersError, GetProvidersOk, QueryId, RecordKey},
};
use tokio::sync::mpsc;

use super::EventLoop;

/// Lookups under way. A node pulls a handful of images at once, of a dozen layers each.
const MAX_LOOKUPS: usize = 256;

/// Lookups under way, by Kademlia's query.
#[derive(Debug, Default)]
pub(super) struct Lookups {
    lookups: HashMap<QueryId, Lookup>,
}

#[derive(Debug)]
struct Lookup {
    began: Instant,
    reply: mpsc::Sender<PeerId>,
    found: HashSet<PeerId>,
}

impl EventLoop {
    pub(super) fn begin_lookup(&mut self, key: RecordKey, reply: mpsc::Sender<PeerId>) {
        if self.lookups.lookups.len() >= MAX_LOOKUPS {
            self.counts.lookups_refused.inc();
            tracing::debug!("a lookup was refused: {MAX_LOOKUPS} are under way");
            return;
        }
        // Kademlia first tells of the records that this node keeps itself.
        let query = self.swarm.behaviour_mut().kademlia.get_providers(key);
        self.lookups.lookups.insert(query, Lookup { began: Instant::now(), reply, found: HashSet::new() });
    }

    pub(super) fn on_found(
        &mut self,
        query: QueryId,
        result: Result<GetProvidersOk, GetProvidersError>,
        is_last: bool,
    ) {
        let local = *self.swarm.local_peer_id();
        let Some(lookup) = self.lookups.lookups.get_mut(&query) else { return };
        let mut strangers = Vec::new();
        if let Ok(GetProvidersOk::FoundProviders { providers, .. }) = result {
            for peer in providers {
                if peer == local || !lookup.found.insert(peer) {
                    continue;
                }
                if lookup.found.len() == 1 {
                    self.counts.lookup_first.observe(lookup.began.elapsed().as_secs_f64());
                }
                // A caller that does not take what it has is served already.
                let _ = lookup.reply.try_send(peer);
                if !self.swarm.is_connected(&peer) {
                    strangers.push(peer);
                }
            }
        }
        let is_abandoned = lookup.reply.is_closed();
        if is_last || is_abandoned {
            self.lookups.lookups.remove(&query);
        }
        if is_abandoned && !is_last {
            self.finish(query);
        }
        // Where they are is known to Kademlia only while it is looking.
        for peer in strangers {
            self.dial_peer(peer);
        }
    }

    /// Ends the lookups whose callers have gone.
    pub(super) fn end_abandoned_lookups(&mut self) {
        let abandoned: Vec<QueryId> = self
            .lookups
            .lookups
            .iter()
            .filter(|(_, lookup)| lookup.reply.is_closed())
            .map(|(query, _)| *query)
            .collect();
        for query in abandoned {
            self.lookups.lookups.remove(&query);
            self.finish(query);
        }
    }

    fn finish(&mut self, query: QueryId) {
        if let Some(mut query) = self.swarm.behaviour_mut().kademlia.query_mut(&query) {
            query.finish();
        }
    }
}
