//! Certificates and keys out of PEM files.
//!
//! Owns what is said of a file that is not what it should be: the error names the file and what is wrong with it, and
//! never repeats what is in it.

use std::path::Path;

use anyhow::{Context as _, anyhow, bail, ensure};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use crate::auth::crypto::provider;

/// How a key begins that only a password opens: as PKCS#8, and as OpenSSL used to write it.
const ENCRYPTED: [&[u8]; 2] = [b"BEGIN ENCRYPTED PRIVATE KEY", b"Proc-Type: 4,ENCRYPTED"];

/// The certificates of a file, in their order.
///
/// # Errors
/// When there is none, or something that is none.
pub fn certificates(path: &Path, contents: &[u8]) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(contents).collect();
    let read = read.with_context(|| format!("{} is not PEM", path.display()))?;
    ensure!(!read.is_empty(), "there is no certificate in {} (`BEGIN CERTIFICATE`, PEM)", path.display());
    Ok(read)
}

/// The private key of a file.
///
/// # Errors
/// When there is none, or one that is encrypted.
pub fn key(path: &Path, contents: &[u8]) -> anyhow::Result<PrivateKeyDer<'static>> {
    let holds = |begin: &&[u8]| contents.windows(begin.len()).any(|window| window == *begin);
    if ENCRYPTED.iter().any(holds) {
        bail!("the key in {} is encrypted, and there is nobody to ask for its password: decrypt it", path.display());
    }
    PrivateKeyDer::from_pem_slice(contents)
        .map_err(|_| anyhow!("there is no private key in {} (`BEGIN PRIVATE KEY`, PEM)", path.display()))
}

/// The CAs of a file.
///
/// # Errors
/// When there is none, or something that cannot be one.
pub fn roots(path: &Path, contents: &[u8]) -> anyhow::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path, contents)? {
        roots.add(certificate).with_context(|| format!("a certificate in {} cannot be a CA", path.display()))?;
    }
    Ok(roots)
}

/// A certificate, with those between it and its CA, and its key.
///
/// # Errors
/// When one is missing, or they do not belong together.
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

    fn said(read: anyhow::Result<impl Sized>) -> String {
        format!("{:#}", read.err().expect("it is refused"))
    }

    #[test]
    fn what_is_wrong_with_a_file_is_said_with_its_name_and_without_its_contents() {
        let path = Path::new("/etc/some.file");
        let made = |name: &str| rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        let (one, other) = (made("one"), made("other"));
        let (certificate, private) = (one.cert.pem(), one.signing_key.serialize_pem());
        let encrypted = private.replace("BEGIN PRIVATE", "BEGIN ENCRYPTED PRIVATE");
        let legacy = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\naGk=\n-----END RSA PRIVATE KEY-----\n";
        let cut = &certificate[..certificate.len() / 2];
        for (said, names) in [
            (said(certificates(path, private.as_bytes())), "no certificate in /etc/some.file"),
            (said(certificates(path, b"")), "no certificate in /etc/some.file"),
            (said(certificates(path, cut.as_bytes())), "/etc/some.file is not PEM"),
            (said(key(path, certificate.as_bytes())), "no private key in /etc/some.file"),
            (said(key(path, encrypted.as_bytes())), "/etc/some.file is encrypted"),
            (said(key(path, legacy.as_bytes())), "/etc/some.file is encrypted"),
            (said(roots(path, b"-----BEGIN CERTIFICATE-----\naGk=\n-----END CERTIFICATE-----\n")), "cannot be a CA"),
        ] {
            assert!(said.contains(names) && said.lines().count() == 1, "{said}");
            let secret = private.lines().nth(1).unwrap();
            assert!(!said.contains(secret), "{said}");
        }
        let paths = [Path::new("/a.pem"), Path::new("/b.key")];
        assert!(certified_key(paths, [certificate.as_bytes(), private.as_bytes()]).is_ok());
        let mixed = certified_key(paths, [certificate.as_bytes(), other.signing_key.serialize_pem().as_bytes()]);
        assert_eq!(said(mixed), "the key in /b.key is not that of the certificate in /a.pem");
    }
}
