//! The mesh token that the nodes of one user on one machine share, unless the mesh is configured otherwise.
//!
//! Owns the path of its file, and the creation: the first node writes the file, and all others read it. So a mesh on a
//! loopback address refuses the other users of the machine, and needs no flag. The format of the file is that of
//! `--mesh-token-file`.

use std::env;
use std::fs::DirBuilder;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use rand::Rng as _;

/// The permissions of all users but the owner.
const OTHERS: u32 = 0o077;

/// `$XDG_STATE_HOME/rollcall/mesh.token`, or `~/.local/state/rollcall/mesh.token`. `None` without a home directory.
pub(crate) fn shared_token_file() -> Option<PathBuf> {
    let absolute = |variable| env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")))?;
    Some(state.join("rollcall/mesh.token"))
}

/// Creates the file with a random token, unless it exists.
///
/// # Errors
/// The file cannot be created, or other users may read it.
pub(crate) fn create_if_missing(file: &Path) -> anyhow::Result<()> {
    if !file.exists() {
        create(file).with_context(|| format!("cannot create {}", file.display()))?;
    }
    let mode = file.metadata().with_context(|| format!("cannot read {}", file.display()))?.mode();
    ensure!(mode & OTHERS == 0, "other users may read {0}: run `chmod 600 {0}`", file.display());
    Ok(())
}

fn create(file: &Path) -> anyhow::Result<()> {
    let folder = file.parent().context("the path has no folder")?;
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    // A temporary file has mode 0600. It is complete before it gets the name, so that no other node reads half a token.
    let mut temporary = tempfile::NamedTempFile::new_in(folder)?;
    let token: [u8; 32] = rand::rng().random();
    let token: String = token.iter().map(|byte| format!("{byte:02x}")).collect();
    writeln!(temporary, "# Shared by the nodes of this user on this machine. See --mesh-token-file.\n{token}")?;
    match temporary.persist_noclobber(file) {
        Ok(_) => Ok(()),
        // Another node was first.
        Err(error) if error.error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error.error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;
    use std::{slice, thread};

    use super::*;
    use crate::mesh::security::tokens::MeshTokens;

    #[test]
    fn nodes_that_start_together_share_one_token() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("state/rollcall/mesh.token");
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| create_if_missing(&file).unwrap());
            }
        });
        assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o600);
        assert_eq!(file.parent().unwrap().metadata().unwrap().mode() & 0o777, 0o700);
        let left: Vec<_> = fs::read_dir(file.parent().unwrap()).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(left, slice::from_ref(&file), "no temporary file is left");
        let token = fs::read(&file).unwrap();
        create_if_missing(&file).unwrap();
        assert_eq!(fs::read(&file).unwrap(), token, "a later node keeps the token");
        MeshTokens::watch(file).unwrap();
    }

    #[test]
    fn a_token_that_others_may_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("mesh.token");
        fs::write(&file, "0".repeat(64)).unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o640)).unwrap();
        let error = create_if_missing(&file).unwrap_err().to_string();
        assert!(error.contains("chmod 600"), "{error}");
    }
}
