//! The cryptography that TLS and the JWKS client share: ring, and the CAs of this machine.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::{CryptoProvider, ring};

/// The implementation of TLS cryptography. Passed explicitly, so that no dependency can install another default.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// The CAs that this machine trusts, read from disk. `None` if there are none.
pub fn system_roots() -> Option<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    (!roots.is_empty()).then_some(roots)
}
