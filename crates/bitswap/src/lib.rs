//! Bitswap 1.2 as a libp2p behaviour with a sans-I/O engine.
