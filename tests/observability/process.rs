//! What the admin port of a node tells, and the programs that read it.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::common::RedisServer;
pub use crate::common::process::Process;
use crate::common::process::serve;

/// The samples of one scrape, each by its name and labels as they are written.
pub struct Samples(BTreeMap<String, f64>);

impl Process {
    /// Starts a node that is called `name`, with `more` flags; it need not be ready yet.
    pub fn begin(redis: &str, name: &str, more: &[&str]) -> Self {
        let mut command = serve();
        Self::launch(command.args(["--identity", "query", "--redis", redis, "--node-name", name]).args(more))
    }

    pub async fn start(redis: &RedisServer, name: &str, more: &[&str]) -> Self {
        let process = Self::begin(&redis.url(), name, more);
        process.is_ready().await;
        process
    }

    /// What the admin port answers.
    pub async fn get(&self, path: &str) -> reqwest::Response {
        reqwest::get(format!("http://{}{path}", self.admin)).await.unwrap()
    }

    pub async fn samples(&self) -> Samples {
        Samples::read(&self.get("/metrics").await.text().await.unwrap())
    }

    /// What a path of the public port answers.
    pub async fn ask(&self, path: &str) -> reqwest::Response {
        reqwest::get(format!("http://{}{path}", self.public)).await.unwrap()
    }
}

impl Samples {
    pub fn read(text: &str) -> Self {
        let samples = text.lines().filter(|line| !line.starts_with('#')).map(|line| {
            let (name, value) = line.rsplit_once(' ').expect("a name and a value");
            (name.to_owned(), value.parse().expect("a number"))
        });
        Self(samples.collect())
    }

    /// The value of a sample, its labels in alphabetical order.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.0.get(name).copied()
    }

    /// The sum of all samples of this name that have all of these labels, as in `peer="node-1"`.
    pub fn sum(&self, name: &str, labels: &[&str]) -> f64 {
        let of_name = self.0.iter().filter(|(sample, _)| sample.split('{').next() == Some(name));
        of_name.filter(|(sample, _)| labels.iter().all(|label| sample.contains(label))).map(|(_, value)| value).sum()
    }

    pub fn any(&self, part: &str) -> bool {
        self.0.keys().any(|sample| sample.contains(part))
    }
}

/// A program of Prometheus: what `make tools` unpacked, or else the system's.
pub fn prometheus(program: &str) -> Command {
    let tools = std::env::var_os("ROLLCALL_TOOLS").map_or_else(|| "target/tools".into(), PathBuf::from);
    let unpacked = Path::new(env!("CARGO_MANIFEST_DIR")).join(tools).join("prometheus/usr/bin").join(program);
    Command::new(if unpacked.exists() { unpacked } else { program.into() })
}

/// Runs a program to its end; what it said, and whether that was well.
pub fn run(command: &mut Command) -> (bool, String) {
    let running = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = running.expect("the program is needed for the tests; `make tools` installs it");
    let mut said = String::new();
    child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    (child.wait().unwrap().success(), said)
}
