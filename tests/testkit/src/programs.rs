//! Programs that tests run: their paths, and a function that runs one to its end.

use std::env;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The root of the repository.
pub fn repository() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).expect("the crate is in tests/testkit")
}

/// The `rollcall` binary. Cargo builds it before an integration test runs, into the parent of the test's folder.
pub fn rollcall_binary() -> PathBuf {
    let test = env::current_exe().unwrap();
    let binary = test.ancestors().nth(2).expect("test binaries are in target/<profile>/deps").join("rollcall");
    assert!(binary.exists(), "{} does not exist; run `cargo build`", binary.display());
    binary
}

/// The folder into which `make tools` installs programs.
pub fn tools() -> PathBuf {
    repository().join(env::var_os("ROLLCALL_TOOLS").map_or_else(|| "target/tools".into(), PathBuf::from))
}

/// redis-server or a compatible program: `make test-valkey` sets `ROLLCALL_REDIS_SERVER`.
pub fn redis_program() -> String {
    env::var("ROLLCALL_REDIS_SERVER").unwrap_or_else(|_| "redis-server".to_owned())
}

/// The value of `LD_PRELOAD` that gives a Redis a wall clock of its own: libfaketime, and an allocator. The default allocator of
/// Redis reads the clock while it starts, which libfaketime does not support.
pub fn faketime_libraries() -> String {
    let folders: Vec<PathBuf> = ["/usr/lib", "/usr/lib64"]
        .iter()
        .flat_map(|folder| {
            fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).chain([folder.into()])
        })
        .collect();
    let find = |begin: &str| {
        let files = folders.iter().flat_map(|folder| [folder.clone(), folder.join("faketime")]);
        let mut files = files.flat_map(|folder| fs::read_dir(folder).into_iter().flatten().flatten());
        let found = files.find(|file| file.file_name().to_string_lossy().starts_with(begin));
        found.map(|file| file.path().display().to_string())
    };
    let libraries = [find("libmimalloc.so."), find("libfaketime.so.")];
    let [Some(allocator), Some(faketime)] = libraries else {
        panic!(
            "libfaketime and libmimalloc are needed for the tests; `make tools` installs them (Debian: apt install faketime libmimalloc2.0)"
        )
    };
    format!("{allocator} {faketime}")
}

/// A program of Prometheus: from the folder of `make tools` if it exists there, otherwise from `PATH`.
pub fn prometheus(program: &str) -> Command {
    let unpacked = tools().join("prometheus/usr/bin").join(program);
    Command::new(if unpacked.exists() { unpacked } else { program.into() })
}

/// Runs a program to its end. Returns whether it succeeded, and its output and errors.
pub fn run(command: &mut Command) -> (bool, String) {
    let running = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = running.expect("the program is needed for the tests; `make tools` installs it");
    let mut output = String::new();
    child.stdout.take().unwrap().read_to_string(&mut output).unwrap();
    child.stderr.take().unwrap().read_to_string(&mut output).unwrap();
    (child.wait().unwrap().success(), output)
}
