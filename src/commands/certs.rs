//! `rollcall certs`: creates a CA and certificates for the nodes of a mesh.
//!
//! Owns the files. The CA is created once and reused. Existing files are replaced only with `--force`. Each file is written
//! atomically, and keys are readable by their owner only. A certificate is checked as a node would check it, before it is
//! written.

use std::fmt::{self, Write as _};
use std::fs::{self, Permissions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use jiff::{Span, Zoned};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use rustls::pki_types::ServerName;

use crate::commands::process::{EXIT_FAILED, run_until_signal, start_logging};
use crate::mesh::security::CertificateFiles;
use crate::mesh::security::certificates::Certificates;
use crate::telemetry::logging::{self, Logging};

const CA_VALIDITY_DAYS: u16 = 3650;
/// A certificate is valid from one day before it is created, because clocks differ.
const BACKDATED_DAYS: u16 = 1;
const MODE_OWNER_ONLY: u32 = 0o600;
const MODE_WORLD_READABLE: u32 = 0o644;

#[derive(Debug, Args)]
pub struct CertsArgs {
    /// The folder for the files. A CA that it contains (`ca.pem` and `ca.key`) is reused, so that nodes can be added later.
    /// Do not copy `ca.key` to the nodes: its holder can create certificates
    #[arg(long, env = "ROLLCALL_CERTS_OUT", value_name = "DIR")]
    pub out: PathBuf,

    /// The validity of the certificates of the nodes, in days
    #[arg(long, default_value_t = 365, env = "ROLLCALL_CERTS_DAYS", value_parser = clap::value_parser!(u16).range(1..=3650))]
    pub days: u16,

    /// Replace existing certificates. The CA is never replaced
    #[arg(long, env = "ROLLCALL_CERTS_FORCE")]
    pub force: bool,

    /// One certificate for each NAME: the host name or IP address at which other nodes reach the mesh of the node
    /// (--mesh-advertise). Separate several names of one node by commas; the first one names the files
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<CertificateNames>,
}

/// The names of one node. The first one names its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateNames(Vec<String>);

/// The CA of a folder.
struct CertificateAuthority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl FromStr for CertificateNames {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names: Vec<String> = text.split(',').map(str::to_owned).collect();
        match names.iter().find(|name| ServerName::try_from(name.as_str()).is_err()) {
            // `ca` would overwrite the files of the CA.
            None if names[0] == "ca" => Err("must not be `ca`, the name of the files of the CA".to_owned()),
            None => Ok(Self(names)),
            Some(wrong) => Err(format!("{wrong:?} is neither a host name nor an IP address")),
        }
    }
}

impl CertificateNames {
    fn first(&self) -> &str {
        &self.0[0]
    }
}

impl fmt::Display for CertificateNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(","))
    }
}

/// Runs the subcommand.
pub(super) fn run(args: &CertsArgs, logging: Result<Logging, logging::Error>) -> ExitCode {
    run_until_signal(logging, None, EXIT_FAILED, |logging, _| {
        start_logging(logging, None);
        async move {
            print!("{}", create(args)?);
            Ok(ExitCode::SUCCESS)
        }
    })
}

/// Creates the missing files, and returns the text to print.
fn create(args: &CertsArgs) -> anyhow::Result<String> {
    let CertsArgs { out, names, days, force } = args;
    let (days, force) = (*days, *force);
    fs::create_dir_all(out).with_context(|| format!("cannot create the folder {}", out.display()))?;
    if !force {
        for name in names {
            for path in [certificate_file(out, name), key_file(out, name)] {
                ensure!(!path.exists(), "{} exists already; --force replaces it", path.display());
            }
        }
    }
    let mut output = String::new();
    let ca = match CertificateAuthority::open(out)? {
        Some(ca) => ca,
        None => {
            writeln!(
                output,
                "created a CA: {}, {} (do not copy the second file to the nodes)",
                ca_file(out).display(),
                ca_key(out).display()
            )?;
            CertificateAuthority::create(out)?
        }
    };
    for name in names {
        let (certificate, key) = ca.certify(out, name, days)?;
        let files =
            CertificateFiles { ca: ca_file(out), certificate: certificate_file(out, name), key: key_file(out, name) };
        write(&files.key, &key, MODE_OWNER_ONLY, force)?;
        write(&files.certificate, &certificate, MODE_WORLD_READABLE, force)?;
        writeln!(
            output,
            "for {name}, {days} days: --mesh-ca {} --mesh-cert {} --mesh-key {}",
            files.ca.display(),
            files.certificate.display(),
            files.key.display()
        )?;
    }
    Ok(output)
}

impl CertificateAuthority {
    /// The CA of the folder, if it contains one.
    fn open(out: &Path) -> anyhow::Result<Option<Self>> {
        let (file, key_file) = (ca_file(out), ca_key(out));
        let (Some(pem), Some(key)) = (read(&file)?, read(&key_file)?) else {
            for (existing, missing) in [(&file, &key_file), (&key_file, &file)] {
                ensure!(!existing.exists(), "{} exists, but {} is missing", existing.display(), missing.display());
            }
            return Ok(None);
        };
        let key = KeyPair::from_pem(&key).with_context(|| format!("{} is not a private key", key_file.display()))?;
        let issuer = Issuer::from_ca_cert_pem(&pem, key)
            .with_context(|| format!("{} is not a CA certificate", file.display()))?;
        Ok(Some(Self { pem, issuer }))
    }

    fn create(out: &Path) -> anyhow::Result<Self> {
        let mut params = certificate_params(Vec::new(), CA_VALIDITY_DAYS, "Rollcall mesh CA")?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        let pem = params.self_signed(&key)?.pem();
        write(&ca_key(out), &key.serialize_pem(), MODE_OWNER_ONLY, false)?;
        write(&ca_file(out), &pem, MODE_WORLD_READABLE, false)?;
        Ok(Self { pem, issuer: Issuer::new(params, key) })
    }

    /// A certificate and its key, checked as a node with this CA checks them.
    fn certify(&self, out: &Path, names: &CertificateNames, days: u16) -> anyhow::Result<(String, String)> {
        let mut params = certificate_params(names.0.clone(), days, names.first())?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let (certificate, key) = (params.signed_by(&key, &self.issuer)?.pem(), key.serialize_pem());
        let files =
            CertificateFiles { ca: ca_file(out), certificate: certificate_file(out, names), key: key_file(out, names) };
        let contents = [&self.pem, &certificate, &key].map(|contents| contents.as_bytes());
        for name in &names.0 {
            let advertised = format!("{name}:1");
            Certificates::read(&files, contents, Some(&advertised)).context("the CA cannot be used")?;
        }
        Ok((certificate, key))
    }
}

fn certificate_params(names: Vec<String>, days: u16, common_name: &str) -> anyhow::Result<CertificateParams> {
    let mut params = CertificateParams::new(names)?;
    let now = Zoned::now();
    let day = |span: Span| {
        let then = now.checked_add(span)?;
        anyhow::Ok(date_time_ymd(then.year().into(), then.month().unsigned_abs(), then.day().unsigned_abs()))
    };
    params.not_before = day(Span::new().days(-i64::from(BACKDATED_DAYS)))?;
    // rcgen takes whole days: one more, since the certificate would end at the start of the last day.
    params.not_after = day(Span::new().days(i64::from(days) + 1))?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    Ok(params)
}

fn read(path: &Path) -> anyhow::Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(contents) => Ok(Some(contents)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => bail!("cannot read {} ({error})", path.display()),
    }
}

/// Writes a file atomically.
fn write(path: &Path, contents: &str, mode: u32, replace: bool) -> anyhow::Result<()> {
    let persist = || {
        let folder = path.parent().unwrap_or(Path::new("."));
        let mut file = tempfile::Builder::new().permissions(Permissions::from_mode(mode)).tempfile_in(folder)?;
        file.write_all(contents.as_bytes())?;
        file.as_file().sync_all()?;
        let persisted = if replace { file.persist(path) } else { file.persist_noclobber(path) };
        persisted.map(drop).map_err(|error| error.error)
    };
    persist().with_context(|| format!("cannot write {}", path.display()))
}

fn ca_file(out: &Path) -> PathBuf {
    out.join("ca.pem")
}

fn ca_key(out: &Path) -> PathBuf {
    out.join("ca.key")
}

fn certificate_file(out: &Path, names: &CertificateNames) -> PathBuf {
    out.join(format!("{}.pem", names.first()))
}

fn key_file(out: &Path, names: &CertificateNames) -> PathBuf {
    out.join(format!("{}.key", names.first()))
}
