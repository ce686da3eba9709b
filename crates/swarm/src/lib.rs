//! The libp2p host: transports, Kademlia, identity, discovery.
