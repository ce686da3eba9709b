//! While another than the nearest peer coordinates: who is asked instead, and when the nearest is asked again.
//!
//! A node that has been in company does not go on by itself when its coordinator falls silent: the next nearest is asked, in the order in
//! which all members ask, so that they meet there and do not each read upstream. Those that are nearer are probed meanwhile, by a request
//! that wants nothing of them, and the first to answer is asked from then on: one that was thought to be silent for a moment keeps nobody.

use std::time::{Duration, Instant};

use futures::{StreamExt, stream::FuturesUnordered};
use shoal_coordination::Reply;
use shoal_swarm::PeerId;
use tokio::task::JoinHandle;

use super::{
    asking::{ASK_AGAIN, PATIENCE},
    coordination::CANDIDATES,
    drive::{Coordinator, Driver},
};
use crate::coordinators;

/// Coordinators in a row that may be silent before this node goes on by itself; and those nearer that are probed.
const MAX_SILENT: usize = 3;

/// Why a coordinator did not answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unanswered {
    /// It took too long. What it said, or was told, may be late or lost.
    #[error("no answer within {0:?}")]
    Late(Duration),
    /// It will not answer.
    #[error("{0}")]
    Failed(String),
}

impl Unanswered {
    #[expect(clippy::needless_pass_by_value, reason = "errors are mapped by it")]
    pub(super) fn failed(reason: impl ToString) -> Self {
        Self::Failed(reason.to_string())
    }
}

/// Who was silent, and who is probed.
#[derive(Default)]
pub(super) struct Away {
    /// Coordinators in a row that did not answer.
    silent: usize,
    probing: Option<JoinHandle<Option<PeerId>>>,
}

impl Away {
    /// A coordinator has answered.
    pub(super) fn answered(&mut self) {
        self.silent = 0;
    }
}

impl Driver<'_> {
    /// A coordinator is silent, also when asked once more: another is asked from now on.
    pub(super) async fn fell_silent(&mut self, peer: PeerId) {
        if self.asked_again || self.has_answered {
            self.ask_again = ASK_AGAIN;
        }
        self.was_alone = true;
        self.away.silent += 1;
        self.env.heard.silent(peer, Instant::now());
        let is_sought = self.member.is_in_company() && self.away.silent < MAX_SILENT;
        let next = if is_sought { self.nearest_of_use(false).await } else { None };
        self.ask_from_now_on(next.map_or(Coordinator::Itself, Coordinator::Peer));
    }

    /// Asks those that are nearer than who coordinates now whether they answer again.
    pub(super) async fn probe(&mut self) {
        if self.away.probing.is_some() {
            return;
        }
        let nearest = self.env.swarm.nearest(&self.session.digest, CANDIDATES).await.unwrap_or_default();
        let coordinator = match self.coordinator {
            Coordinator::Itself => None,
            Coordinator::Peer(peer) => Some(peer),
        };
        // This node is the nearest of those that are of use where it comes before all of them.
        let nearer = nearest.into_iter().take_while(|peer| *peer != coordinator).map_while(|peer| peer);
        let nearer: Vec<PeerId> = nearer.filter(|peer| self.is_of_use(peer)).take(MAX_SILENT).collect();
        if nearer.is_empty() {
            return;
        }
        let request = coordinators::encode(&self.session.digest, &self.member.probe());
        let swarm = self.env.swarm.clone();
        self.away.probing = Some(tokio::spawn(async move {
            let ask = |peer: PeerId| {
                let (swarm, request) = (swarm.clone(), request.clone());
                async move {
                    let answer = tokio::time::timeout(PATIENCE, swarm.coordinate(peer, request)).await.ok()?.ok()?;
                    Reply::decode(&answer, coordinators::read_peer).is_ok().then_some(peer)
                }
            };
            let mut answers: FuturesUnordered<_> = nearer.into_iter().map(ask).collect();
            while let Some(answer) = answers.next().await {
                if answer.is_some() {
                    return answer;
                }
            }
            None
        }));
    }

    /// Goes back to a nearer coordinator that answers again.
    pub(super) async fn look_who_is_back(&mut self) {
        let Some(probing) = self.away.probing.take_if(|probing| probing.is_finished()) else { return };
        if let Ok(Some(peer)) = probing.await
            && self.coordinator != Coordinator::Peer(peer)
        {
            self.env.heard.answered(peer, Instant::now());
            self.ask_from_now_on(Coordinator::Peer(peer));
        }
    }
}
