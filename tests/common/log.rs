//! What processes write to standard error. It goes to a file, and through no reader of ours: what a node has written
//! before it answers is there for whoever has the answer.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::process::Stdio;
use std::sync::Arc;

/// A file without a name, which processes write to one after another.
#[derive(Clone)]
pub struct Log(Arc<File>);

impl Log {
    pub fn new() -> Self {
        Self(Arc::new(tempfile::tempfile().unwrap()))
    }

    /// The end that a process writes to.
    pub fn end(&self) -> Stdio {
        self.0.try_clone().unwrap().into()
    }

    /// The lines that are written whole. The place in the file is the writers', so it is not read from there.
    pub fn text(&self) -> String {
        let mut written = vec![0; self.0.metadata().unwrap().len() as usize];
        self.0.read_exact_at(&mut written, 0).unwrap();
        let whole = written.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        written.truncate(whole);
        String::from_utf8(written).unwrap()
    }

    /// How many lines hold this text.
    pub fn count(&self, part: &str) -> usize {
        self.text().lines().filter(|line| line.contains(part)).count()
    }
}
