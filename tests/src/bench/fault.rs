//! What goes wrong half way, and whom it hits.

use std::{fmt, time::Duration};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use super::{
    admin,
    bed::{Bed, Fleet},
    link,
    scenario::Plan,
};
use crate::Host;

/// How long the network stays cut.
pub(crate) const CUT: Duration = Duration::from_secs(5);
/// One of so many nodes dies.
const PART_THAT_DIES: usize = 3;

/// A fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Coordinator,
    Busiest,
    Third,
    Cut,
    Upstream,
}

/// Name on the command line, and what it is.
pub(crate) const FAULTS: &[(Fault, &str, &str)] = &[
    (Fault::Coordinator, "coordinator", "the node nearest to the digest of the largest layer dies"),
    (Fault::Busiest, "busiest", "the node that has read most from upstream dies"),
    (Fault::Third, "third", "a third of the nodes die"),
    (Fault::Cut, "cut", "the network between nodes is cut in two for 5 s; both halves reach upstream"),
    (Fault::Upstream, "upstream", "upstream dies"),
];

impl Fault {
    /// It hits what direct pulls do not have.
    pub(crate) fn is_of_peers(self) -> bool {
        self != Fault::Upstream
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(FAULTS.iter().find(|(fault, ..)| fault == self).map_or("?", |(_, name, _)| name))
    }
}

/// Makes it happen, and gives the nodes that died.
pub(crate) fn strike(fault: Fault, silent: bool, bed: &mut Bed, plan: &Plan, fleet: &mut Fleet) -> Result<Vec<usize>> {
    let victims = match fault {
        Fault::Coordinator => {
            let digest = bed.registry(plan.payload)?.image.largest_layer().digest.clone();
            vec![nearest(bed.hosts(plan), &digest)?]
        }
        Fault::Busiest => vec![busiest(bed.hosts(plan))?],
        // Not the warm ones: then nothing would be left to measure.
        Fault::Third => plan.cold().take((plan.pulling / PART_THAT_DIES).max(1)).collect(),
        Fault::Cut => {
            let (one, other) = halves(bed.hosts(plan));
            link::cut(&one, &other)?;
            Vec::new()
        }
        Fault::Upstream => {
            bed.registry(plan.payload)?.kill()?;
            if silent {
                bed.upstream.unplug()?;
            }
            Vec::new()
        }
    };
    for &victim in &victims {
        if silent {
            bed.hosts(plan)[victim].unplug()?;
        } else if let Some(shoal) = fleet.shoals.get_mut(victim) {
            shoal.kill()?;
        }
    }
    Ok(victims)
}

/// Ends what has an end.
pub(crate) fn heal(fault: Fault, bed: &Bed, plan: &Plan) -> Result<()> {
    match fault {
        Fault::Cut => {
            let (one, other) = halves(bed.hosts(plan));
            link::heal(&one, &other)
        }
        _ => Ok(()),
    }
}

/// What a run leaves behind of a fault.
pub(crate) fn clear(fault: Fault, bed: &mut Bed) -> Result<()> {
    if fault == Fault::Upstream {
        bed.upstream.plug_in()?;
        bed.drop_registry();
    }
    Ok(())
}

/// Neighbours in number fall apart, so that each half has nodes of both ends of a list.
fn halves(hosts: &[Host]) -> (Vec<&Host>, Vec<&Host>) {
    let of =
        |odd: usize| hosts.iter().enumerate().filter(|(index, _)| index % 2 == odd).map(|(_, host)| host).collect();
    (of(0), of(1))
}

fn busiest(hosts: &[Host]) -> Result<usize> {
    let read = |host: &Host| admin::sources(&admin::socket(host)).unwrap_or_default().upstream;
    (0..hosts.len()).max_by_key(|&node| read(&hosts[node])).context("there is no node")
}

/// The node whose key is nearest to that of a digest, as Kademlia measures.
fn nearest(hosts: &[Host], digest: &str) -> Result<usize> {
    // A multihash: function sha2-256, 32 bytes.
    let mut multihash = vec![0x12, 0x20];
    multihash.extend(hex::decode(digest.trim_start_matches("sha256:"))?);
    let target = Sha256::digest(&multihash);
    let mut nearest = None;
    for (node, host) in hosts.iter().enumerate() {
        let peer = base58(&admin::peer_id(&admin::socket(host))?)?;
        let distance: Vec<u8> = Sha256::digest(&peer).iter().zip(&target).map(|(a, b)| a ^ b).collect();
        if nearest.as_ref().is_none_or(|(least, _)| distance < *least) {
            nearest = Some((distance, node));
        }
    }
    nearest.map(|(_, node)| node).context("there is no node")
}

/// Bytes of a text in Bitcoin's base58, in which peers' names are written.
fn base58(text: &str) -> Result<Vec<u8>> {
    const ALPHABET: &str = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
    let mut bytes: Vec<u8> = Vec::new();
    for letter in text.chars() {
        let digit = ALPHABET.find(letter).with_context(|| format!("{text:?} is not base58"))?;
        let mut carry = digit;
        for byte in bytes.iter_mut().rev() {
            carry += usize::from(*byte) * 58;
            *byte = (carry & 0xff) as u8;
            carry >>= 8;
        }
        while carry > 0 {
            bytes.insert(0, (carry & 0xff) as u8);
            carry >>= 8;
        }
    }
    let zeros = text.chars().take_while(|letter| *letter == '1').count();
    bytes.splice(0..0, std::iter::repeat_n(0, zeros));
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::base58;

    #[test]
    fn a_peers_name_is_the_bytes_of_its_key() {
        // The first example of the base58 draft, and the prefix that all ed25519 peers have.
        assert_eq!(base58("2NEpo7TZRRrLZSi2U").unwrap(), b"Hello World!");
        let peer = base58("12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA").unwrap();
        assert_eq!((peer.len(), &peer[..6]), (38, &[0x00, 0x24, 0x08, 0x01, 0x12, 0x20][..]));
        assert!(base58("0").is_err());
    }
}
