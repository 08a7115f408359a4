//! What the documents say of the tests: whoever is named as the evidence of a promise is there.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

const DOCUMENTS: [&str; 2] = ["docs/FAULTS.md", "docs/SECURITY.md"];

/// Tests are named `file::name` in code spans; a name may end in `…`.
#[test]
fn every_test_that_a_document_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let sources: Vec<PathBuf> = ["tests", "src"].iter().flat_map(|folder| sources(&root.join(folder))).collect();
    for document in DOCUMENTS {
        let text = fs::read_to_string(root.join(document)).unwrap();
        let spans = text.split('`').skip(1).step_by(2);
        let named: Vec<&str> = spans.filter(|span| span.contains("::") && !span.contains(' ')).collect();
        assert!(named.len() > 10, "{document} names its tests");
        for test in named {
            let (file, name) = test.rsplit_once("::").unwrap();
            let file = file.rsplit("::").next().unwrap();
            let (beginning, whole) = name.strip_suffix('…').map_or((name, "("), |beginning| (beginning, ""));
            let line = format!("fn {beginning}{whole}");
            let is_there = |source: &PathBuf| {
                source.file_stem() == Some(OsStr::new(file)) && fs::read_to_string(source).unwrap().contains(&line)
            };
            assert!(sources.iter().any(is_there), "{document} names {test}, which is nowhere");
        }
    }
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("node_modules") {
            found.extend(sources(&path));
        } else if path.extension() == Some(OsStr::new("rs")) {
            found.push(path);
        }
    }
    found
}
