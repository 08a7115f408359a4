//! Certificates and keys in PEM files.
//!
//! Owns the parsing, and the errors: each names the file and the fault, and none contains the contents of a file. Reads no
//! file; [`super::reload`] does.

use std::path::Path;

use anyhow::{Context as _, anyhow, bail, ensure};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use crate::auth::crypto::provider;

/// The marks of an encrypted key: of PKCS#8, and of the older format of OpenSSL.
const ENCRYPTED: [&[u8]; 2] = [b"BEGIN ENCRYPTED PRIVATE KEY", b"Proc-Type: 4,ENCRYPTED"];

/// The certificates of a file, in their order.
///
/// # Errors
/// When the file has no certificate, or an invalid one.
pub fn certificates(path: &Path, contents: &[u8]) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(contents).collect();
    let read = read.with_context(|| format!("{} is not PEM", path.display()))?;
    ensure!(!read.is_empty(), "no certificate in {} (expected PEM, `BEGIN CERTIFICATE`)", path.display());
    Ok(read)
}

/// The private key of a file.
///
/// # Errors
/// When the file has no key, or an encrypted one.
pub fn key(path: &Path, contents: &[u8]) -> anyhow::Result<PrivateKeyDer<'static>> {
    let contains = |mark: &&[u8]| contents.windows(mark.len()).any(|window| window == *mark);
    if ENCRYPTED.iter().any(contains) {
        bail!(
            "the key in {} is encrypted, and a node cannot ask for a password: decrypt it (`openssl pkey`)",
            path.display()
        );
    }
    PrivateKeyDer::from_pem_slice(contents)
        .map_err(|_| anyhow!("no private key in {} (expected PEM, `BEGIN PRIVATE KEY`)", path.display()))
}

/// The CAs of a file.
///
/// # Errors
/// When the file has no certificate, or one that cannot be a CA.
pub fn roots(path: &Path, contents: &[u8]) -> anyhow::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path, contents)? {
        roots.add(certificate).with_context(|| format!("a certificate in {} cannot be a CA", path.display()))?;
    }
    Ok(roots)
}

/// A certificate with its intermediate certificates and its key.
///
/// # Errors
/// When one is missing, or the key is not that of the certificate.
pub fn certified_key(
    [certificate_path, key_path]: [&Path; 2],
    [certificate, private]: [&[u8]; 2],
) -> anyhow::Result<CertifiedKey> {
    let chain = certificates(certificate_path, certificate)?;
    let private = key(key_path, private)?;
    CertifiedKey::from_der(chain, private, &provider()).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => {
            anyhow!(
                "the key in {} is not that of the certificate in {}",
                key_path.display(),
                certificate_path.display()
            )
        }
        error => anyhow!("{} and {} cannot be used ({error})", certificate_path.display(), key_path.display()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(read: anyhow::Result<impl Sized>) -> String {
        format!("{:#}", read.err().expect("the file is invalid"))
    }

    #[test]
    fn errors_name_the_file_and_contain_none_of_its_contents() {
        let path = Path::new("/etc/some.file");
        let made = |name: &str| rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        let (one, other) = (made("one"), made("other"));
        let (certificate, private) = (one.cert.pem(), one.signing_key.serialize_pem());
        let encrypted = private.replace("BEGIN PRIVATE", "BEGIN ENCRYPTED PRIVATE");
        let legacy = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\naGk=\n-----END RSA PRIVATE KEY-----\n";
        let cut = &certificate[..certificate.len() / 2];
        for (error, expected) in [
            (error(certificates(path, private.as_bytes())), "no certificate in /etc/some.file"),
            (error(certificates(path, b"")), "no certificate in /etc/some.file"),
            (error(certificates(path, cut.as_bytes())), "/etc/some.file is not PEM"),
            (error(key(path, certificate.as_bytes())), "no private key in /etc/some.file"),
            (error(key(path, encrypted.as_bytes())), "/etc/some.file is encrypted"),
            (error(key(path, legacy.as_bytes())), "/etc/some.file is encrypted"),
            (error(roots(path, b"-----BEGIN CERTIFICATE-----\naGk=\n-----END CERTIFICATE-----\n")), "cannot be a CA"),
        ] {
            assert!(error.contains(expected) && error.lines().count() == 1, "{error}");
            let secret = private.lines().nth(1).unwrap();
            assert!(!error.contains(secret), "{error}");
        }
        let paths = [Path::new("/a.pem"), Path::new("/b.key")];
        assert!(certified_key(paths, [certificate.as_bytes(), private.as_bytes()]).is_ok());
        let mixed = certified_key(paths, [certificate.as_bytes(), other.signing_key.serialize_pem().as_bytes()]);
        assert_eq!(error(mixed), "the key in /b.key is not that of the certificate in /a.pem");
    }
}
