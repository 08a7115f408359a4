//! The standard error of processes, captured in a file.
//!
//! The process writes to the file directly, without a task that copies. A line that a node logs before it answers is
//! therefore in the file when the answer arrives.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::process::Stdio;
use std::sync::Arc;

/// A file without a name. Processes may write to it one after another.
#[derive(Clone)]
pub struct CapturedLog(Arc<File>);

impl Default for CapturedLog {
    fn default() -> Self {
        Self::new()
    }
}

impl CapturedLog {
    pub fn new() -> Self {
        Self(Arc::new(tempfile::tempfile().unwrap()))
    }

    /// The standard error for a process.
    pub fn writer(&self) -> Stdio {
        self.0.try_clone().unwrap().into()
    }

    /// The complete lines so far. Reads at an offset: the file position belongs to the writers.
    pub fn text(&self) -> String {
        let mut written = vec![0; self.0.metadata().unwrap().len() as usize];
        self.0.read_exact_at(&mut written, 0).unwrap();
        let complete = written.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        written.truncate(complete);
        String::from_utf8(written).unwrap()
    }

    /// The number of lines that contain this text.
    pub fn count(&self, part: &str) -> usize {
        self.text().lines().filter(|line| line.contains(part)).count()
    }
}
