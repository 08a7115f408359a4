//! What is made of files, made anew when they change: certificates, keys and tokens rotate without a restart.
//!
//! Owns reading, noticing and keeping. FileContents are compared, not times: a mounted secret is swapped by a link. What
//! cannot be read, or makes no sense, leaves in use what there was, and is logged once. Knows nothing of what is in the
//! files, and never logs it.

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

/// How often the files are looked at.
pub const RELOAD_INTERVAL: Duration = Duration::from_secs(2);
/// The largest file that is read, in bytes: no certificate, key or list of tokens is larger.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// The latest good state of some files. Cheap to clone.
pub struct Reloadable<T> {
    source: Arc<ReloadSource<T>>,
    current: watch::Receiver<Arc<T>>,
}

type FileContents = Vec<Vec<u8>>;
type Parse<T> = dyn Fn(&[Vec<u8>]) -> anyhow::Result<T> + Send + Sync;

struct ReloadSource<T> {
    files: Vec<PathBuf>,
    make: Box<Parse<T>>,
    /// What the current state was made of.
    contents: FileContents,
    latest: watch::Sender<Arc<T>>,
}

impl<T: Send + Sync + 'static> Reloadable<T> {
    /// Reads the files and makes of their contents, in their order, what they stand for.
    ///
    /// # Errors
    /// When one cannot be read, or `make` refuses.
    pub fn open(
        files: Vec<PathBuf>,
        make: impl Fn(&[Vec<u8>]) -> anyhow::Result<T> + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        let contents = read(&files)?;
        let (latest, current) = watch::channel(Arc::new(make(&contents)?));
        Ok(Self { source: Arc::new(ReloadSource { files, make: Box::new(make), contents, latest }), current })
    }

    /// What the files last meant when they made sense.
    pub fn current(&self) -> Arc<T> {
        Arc::clone(&self.current.borrow())
    }

    /// Looks at the files every so often, for ever. One task does it for all clones.
    pub async fn keep(self, every: Duration) {
        let mut looks = interval(every);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut seen = Ok(self.source.contents.clone());
        loop {
            looks.tick().await;
            let files = self.source.files.clone();
            let read = spawn_blocking(move || read(&files).map_err(|error| format!("{error:#}"))).await;
            let Ok(read) = read else { continue };
            if read == seen {
                continue;
            }
            seen = read;
            let made = match &seen {
                Ok(contents) => (self.source.make)(contents).map_err(|error| format!("{error:#}")),
                Err(error) => Err(error.clone()),
            };
            match made {
                Ok(made) => {
                    self.source.latest.send_replace(Arc::new(made));
                    info!(files = ?self.source.files, "read again, and in use from now on");
                }
                Err(error) => warn!(error, "what was read before stays in use"),
            }
        }
    }
}

/// Looks at these files as often as is usual, for ever where there are any.
pub async fn keep<T: Send + Sync + 'static>(watched: Option<Reloadable<T>>) {
    if let Some(watched) = watched {
        watched.keep(RELOAD_INTERVAL).await;
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

    async fn becomes(watched: &Reloadable<u32>, number: u32) {
        let is = async {
            while *watched.current() != number {
                sleep(Duration::from_millis(2)).await;
            }
        };
        timeout(Duration::from_secs(10), is).await.expect("the file is read again");
    }

    #[tokio::test]
    async fn a_changed_file_counts_and_one_that_makes_no_sense_leaves_the_last_that_did() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("number");
        fs::write(&path, "1\n").unwrap();
        let watched = Reloadable::open(vec![path.clone()], number).unwrap();
        let keeping = tokio::spawn(watched.clone().keep(Duration::from_millis(2)));
        assert_eq!(*watched.current(), 1);
        fs::write(&path, "2\n").unwrap();
        becomes(&watched, 2).await;
        fs::write(&path, "two").unwrap();
        sleep(Duration::from_millis(50)).await;
        assert_eq!(*watched.current(), 2);
        fs::remove_file(&path).unwrap();
        sleep(Duration::from_millis(50)).await;
        assert_eq!(*watched.current(), 2);
        // Swapped by name, as a mounted secret is.
        let next = folder.path().join("next");
        fs::write(&next, "3").unwrap();
        fs::rename(&next, &path).unwrap();
        becomes(&watched, 3).await;
        keeping.abort();
    }

    #[test]
    fn what_cannot_be_read_is_refused_with_its_name_and_without_its_content() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("secret");
        let refused = |make: fn(&[Vec<u8>]) -> anyhow::Result<u32>| {
            Reloadable::open(vec![path.clone()], make).err().map(|error| format!("{error:#}"))
        };
        assert!(refused(number).unwrap().contains(path.to_str().unwrap()));
        fs::write(&path, vec![b'x'; 2 << 20]).unwrap();
        assert!(refused(number).unwrap().contains("larger than 1 MiB"));
        fs::write(&path, "hush").unwrap();
        assert_eq!(refused(|_| bail!("no number")).unwrap(), "no number");
    }
}
