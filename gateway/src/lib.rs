//! The OCI endpoint: HTTP in, sessions out.
