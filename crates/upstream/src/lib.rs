//! Registries: authentication, manifests, ranged reads.
