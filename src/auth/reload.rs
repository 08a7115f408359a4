//! Values that are parsed from files, and reloaded when the files change: certificates, keys and tokens rotate without a
//! restart.
//!
//! Owns reading, comparing and keeping the last valid version. It compares contents and not modification times, because a
//! mounted secret is replaced by a link. A version that cannot be read or parsed is logged once, and the previous one stays
//! in use. Owns no format, and never logs contents.

use std::fs::File;
use std::io::Read as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

pub const RELOAD_INTERVAL: Duration = Duration::from_secs(2);
/// No certificate, key or list of tokens is larger.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// The value of the last valid version of some files. Cheap to clone.
pub struct Reloadable<T> {
    source: Arc<ReloadSource<T>>,
    current: watch::Receiver<Arc<T>>,
}

type FileContents = Vec<Vec<u8>>;
type Parse<T> = dyn Fn(&[Vec<u8>]) -> anyhow::Result<T> + Send + Sync;

struct ReloadSource<T> {
    files: Vec<PathBuf>,
    parse: Box<Parse<T>>,
    /// The contents at the start.
    contents: FileContents,
    latest: watch::Sender<Arc<T>>,
}

impl<T: Send + Sync + 'static> Reloadable<T> {
    /// Reads the files. `parse` gets their contents in the same order.
    ///
    /// # Errors
    /// When a file cannot be read, or `parse` fails.
    pub fn open(
        files: Vec<PathBuf>,
        parse: impl Fn(&[Vec<u8>]) -> anyhow::Result<T> + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        let contents = read(&files)?;
        let (latest, current) = watch::channel(Arc::new(parse(&contents)?));
        Ok(Self { source: Arc::new(ReloadSource { files, parse: Box::new(parse), contents, latest }), current })
    }

    /// The value of the last valid version.
    pub fn current(&self) -> Arc<T> {
        Arc::clone(&self.current.borrow())
    }

    /// Reads the files at each interval, and replaces the value of all clones when they change. Never returns.
    pub async fn reload_on_change(self, every: Duration) {
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last_read = Ok(self.source.contents.clone());
        loop {
            ticks.tick().await;
            let files = self.source.files.clone();
            let read = spawn_blocking(move || read(&files).map_err(|error| format!("{error:#}"))).await;
            let Ok(read) = read else { continue };
            // An invalid version is compared too, so that it is logged once and not at each tick.
            if read == last_read {
                continue;
            }
            last_read = read;
            let parsed = match &last_read {
                Ok(contents) => (self.source.parse)(contents).map_err(|error| format!("{error:#}")),
                Err(error) => Err(error.clone()),
            };
            let files = &self.source.files;
            match parsed {
                Ok(value) => {
                    self.source.latest.send_replace(Arc::new(value));
                    info!(?files, "reloaded files; using the new version");
                }
                Err(error) => warn!(?files, error, "cannot reload files; keeping the previous version"),
            }
        }
    }
}

/// Keeps an optional value up to date. Returns at once for `None`, and never otherwise.
pub async fn reload_on_change<T: Send + Sync + 'static>(value: Option<Reloadable<T>>) {
    if let Some(value) = value {
        value.reload_on_change(RELOAD_INTERVAL).await;
    }
}

impl<T> Clone for Reloadable<T> {
    fn clone(&self) -> Self {
        Self { source: Arc::clone(&self.source), current: self.current.clone() }
    }
}

fn read(files: &[PathBuf]) -> anyhow::Result<FileContents> {
    let read = |path: &PathBuf| {
        let mut contents = Vec::new();
        let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
        let size = file.take(MAX_FILE_BYTES + 1).read_to_end(&mut contents);
        let size = size.with_context(|| format!("cannot read {}", path.display()))?;
        ensure!(size as u64 <= MAX_FILE_BYTES, "{} is larger than 1 MiB", path.display());
        Ok(contents)
    };
    files.iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use anyhow::bail;
    use tempfile::TempDir;
    use tokio::time::{sleep, timeout};

    use super::*;

    fn number(contents: &[Vec<u8>]) -> anyhow::Result<u32> {
        Ok(std::str::from_utf8(&contents[0])?.trim().parse()?)
    }

    async fn wait_for_value(reloadable: &Reloadable<u32>, number: u32) {
        let is_reloaded = async {
            while *reloadable.current() != number {
                sleep(Duration::from_millis(2)).await;
            }
        };
        timeout(Duration::from_secs(10), is_reloaded).await.expect("the file is reloaded");
    }

    #[tokio::test]
    async fn a_valid_change_is_used_and_an_invalid_one_is_not() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("number");
        fs::write(&path, "1\n").unwrap();
        let reloadable = Reloadable::open(vec![path.clone()], number).unwrap();
        let task = tokio::spawn(reloadable.clone().reload_on_change(Duration::from_millis(2)));
        assert_eq!(*reloadable.current(), 1);
        fs::write(&path, "2\n").unwrap();
        wait_for_value(&reloadable, 2).await;
        fs::write(&path, "two").unwrap();
        sleep(Duration::from_millis(50)).await;
        assert_eq!(*reloadable.current(), 2);
        fs::remove_file(&path).unwrap();
        sleep(Duration::from_millis(50)).await;
        assert_eq!(*reloadable.current(), 2);
        // Replaced by name, like a mounted secret.
        let next = folder.path().join("next");
        fs::write(&next, "3").unwrap();
        fs::rename(&next, &path).unwrap();
        wait_for_value(&reloadable, 3).await;
        task.abort();
    }

    #[test]
    fn errors_name_the_file_and_contain_none_of_its_contents() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("secret");
        let error = |parse: fn(&[Vec<u8>]) -> anyhow::Result<u32>| {
            Reloadable::open(vec![path.clone()], parse).err().map(|error| format!("{error:#}"))
        };
        assert!(error(number).unwrap().contains(path.to_str().unwrap()));
        fs::write(&path, vec![b'x'; 2 << 20]).unwrap();
        assert!(error(number).unwrap().contains("larger than 1 MiB"));
        fs::write(&path, "hush").unwrap();
        assert_eq!(error(|_| bail!("no number")).unwrap(), "no number");
    }
}
