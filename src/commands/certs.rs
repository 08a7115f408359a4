//! `rollcall certs`: a CA and certificates for the nodes of a mesh, for people who have none.
//!
//! Owns the files: the CA is made once and used from then on, nothing is replaced unless that was asked for, and no file
//! is ever there in part. Keys can be read by their owner alone. What is written is what a node accepts: it is tried
//! first.

use std::fmt::{self, Write as _};
use std::fs::{self, Permissions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context as _, bail, ensure};
use jiff::{Span, Zoned};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use rustls::pki_types::ServerName;

use crate::mesh::security::Files;
use crate::mesh::security::certificates::Certificates;

const CA_DAYS: u16 = 3650;
/// How long before now a certificate is valid already, in days: clocks differ.
const EARLIER_DAYS: u16 = 1;
const OWNER_ALONE: u32 = 0o600;
const EVERYBODY_READS: u32 = 0o644;

/// The names of one node, of which the first names its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names(Vec<String>);

/// What is to be made.
pub struct Order<'a> {
    pub out: &'a Path,
    pub names: &'a [Names],
    pub days: u16,
    pub force: bool,
}

/// The CA of a folder.
struct Ca {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl FromStr for Names {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names: Vec<String> = text.split(',').map(str::to_owned).collect();
        match names.iter().find(|name| ServerName::try_from(name.as_str()).is_err()) {
            // What the CA's files are called.
            None if names[0] == "ca" => Err("must not be `ca`".to_owned()),
            None => Ok(Self(names)),
            Some(wrong) => Err(format!("{wrong:?} is neither a host name nor an IP address")),
        }
    }
}

impl Names {
    fn first(&self) -> &str {
        &self.0[0]
    }
}

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(","))
    }
}

/// Makes what is missing, and returns what to say of it.
///
/// # Errors
/// When the folder cannot be written to, its CA cannot be used, or a file is there already.
pub fn make(order: &Order<'_>) -> anyhow::Result<String> {
    let Order { out, names, days, force } = *order;
    fs::create_dir_all(out).with_context(|| format!("cannot make the folder {}", out.display()))?;
    if !force {
        for name in names {
            for path in [certificate_file(out, name), key_file(out, name)] {
                ensure!(!path.exists(), "{} is there already; --force replaces it", path.display());
            }
        }
    }
    let mut said = String::new();
    let ca = match Ca::of(out)? {
        Some(ca) => ca,
        None => {
            writeln!(
                said,
                "made a CA: {}, {} (keep this one away from the nodes)",
                ca_file(out).display(),
                ca_key(out).display()
            )?;
            Ca::make(out)?
        }
    };
    for name in names {
        let (certificate, key) = ca.certify(out, name, days)?;
        let files = Files { ca: ca_file(out), certificate: certificate_file(out, name), key: key_file(out, name) };
        write(&files.key, &key, OWNER_ALONE, force)?;
        write(&files.certificate, &certificate, EVERYBODY_READS, force)?;
        writeln!(
            said,
            "for {name}, {days} days: --mesh-ca {} --mesh-cert {} --mesh-key {}",
            files.ca.display(),
            files.certificate.display(),
            files.key.display()
        )?;
    }
    Ok(said)
}

impl Ca {
    /// The one that is there.
    fn of(out: &Path) -> anyhow::Result<Option<Self>> {
        let (file, key_file) = (ca_file(out), ca_key(out));
        let (Some(pem), Some(key)) = (read(&file)?, read(&key_file)?) else {
            for (there, missing) in [(&file, &key_file), (&key_file, &file)] {
                ensure!(!there.exists(), "{} is there without {}", there.display(), missing.display());
            }
            return Ok(None);
        };
        let key = KeyPair::from_pem(&key).with_context(|| format!("{} is no key", key_file.display()))?;
        let issuer = Issuer::from_ca_cert_pem(&pem, key).with_context(|| format!("{} is no CA", file.display()))?;
        Ok(Some(Self { pem, issuer }))
    }

    fn make(out: &Path) -> anyhow::Result<Self> {
        let mut terms = terms(Vec::new(), CA_DAYS, "Rollcall mesh CA")?;
        terms.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        terms.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        let pem = terms.self_signed(&key)?.pem();
        write(&ca_key(out), &key.serialize_pem(), OWNER_ALONE, false)?;
        write(&ca_file(out), &pem, EVERYBODY_READS, false)?;
        Ok(Self { pem, issuer: Issuer::new(terms, key) })
    }

    /// A certificate and its key that nodes which go by this CA accept.
    fn certify(&self, out: &Path, names: &Names, days: u16) -> anyhow::Result<(String, String)> {
        let mut terms = terms(names.0.clone(), days, names.first())?;
        terms.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        terms.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        terms.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let (certificate, key) = (terms.signed_by(&key, &self.issuer)?.pem(), key.serialize_pem());
        let files = Files { ca: ca_file(out), certificate: certificate_file(out, names), key: key_file(out, names) };
        let contents = [&self.pem, &certificate, &key].map(|contents| contents.as_bytes());
        for name in &names.0 {
            let advertised = format!("{name}:1");
            Certificates::read(&files, contents, Some(&advertised)).context("the CA cannot be used")?;
        }
        Ok((certificate, key))
    }
}

/// A certificate's names, its time, and what people call it.
fn terms(names: Vec<String>, days: u16, called: &str) -> anyhow::Result<CertificateParams> {
    let mut terms = CertificateParams::new(names)?;
    let now = Zoned::now();
    let day = |span: Span| {
        let then = now.checked_add(span)?;
        anyhow::Ok(date_time_ymd(then.year().into(), then.month().unsigned_abs(), then.day().unsigned_abs()))
    };
    terms.not_before = day(Span::new().days(-i64::from(EARLIER_DAYS)))?;
    // Whole days: the rest of the last one is lost.
    terms.not_after = day(Span::new().days(i64::from(days) + 1))?;
    terms.distinguished_name = DistinguishedName::new();
    terms.distinguished_name.push(DnType::CommonName, called);
    Ok(terms)
}

fn read(path: &Path) -> anyhow::Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(contents) => Ok(Some(contents)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => bail!("cannot read {} ({error})", path.display()),
    }
}

/// Writes a file that is there as a whole or not at all.
fn write(path: &Path, contents: &str, mode: u32, replace: bool) -> anyhow::Result<()> {
    let written = || {
        let folder = path.parent().unwrap_or(Path::new("."));
        let mut file = tempfile::Builder::new().permissions(Permissions::from_mode(mode)).tempfile_in(folder)?;
        file.write_all(contents.as_bytes())?;
        file.as_file().sync_all()?;
        let kept = if replace { file.persist(path) } else { file.persist_noclobber(path) };
        kept.map(drop).map_err(|error| error.error)
    };
    written().with_context(|| format!("cannot write {}", path.display()))
}

fn ca_file(out: &Path) -> PathBuf {
    out.join("ca.pem")
}

fn ca_key(out: &Path) -> PathBuf {
    out.join("ca.key")
}

fn certificate_file(out: &Path, names: &Names) -> PathBuf {
    out.join(format!("{}.pem", names.first()))
}

fn key_file(out: &Path, names: &Names) -> PathBuf {
    out.join(format!("{}.key", names.first()))
}
