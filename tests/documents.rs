//! Every file, definition, rule, make target, test and heading that the documents name exists.
//!
//! Owns the check of references from documents to code, and of rule numbers from code to documents. Owns no check of
//! the structure of the code: that is `structure.rs`.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

/// Documents that name tests.
const DOCUMENTS: [&str; 2] = ["docs/FAULTS.md", "docs/SECURITY.md"];
/// Documents that name files, as `path`, and definitions in them, as `path::name`.
const GUIDES: [&str; 2] = [ARCHITECTURE, "CONTRIBUTING.md"];
const ARCHITECTURE: &str = "docs/ARCHITECTURE.md";
/// A code span that begins with one of these is a path.
const FOLDERS: [&str; 10] =
    ["src/", "tests/", "docs/", "proto/", "web/", "deploy/", "bench/", "benches/", "fuzz/", ".github/"];
/// The Rust keywords that precede a defined name.
const KEYWORDS: [&str; 7] = ["fn", "struct", "enum", "trait", "const", "static", "type"];

/// Documents refer to tests as `file::name` in code spans. A name may be a prefix that ends in `…`.
#[test]
fn documents_name_tests_that_exist() {
    let sources: Vec<PathBuf> = ["tests", "src"].iter().flat_map(|folder| sources(&root().join(folder))).collect();
    for document in DOCUMENTS {
        let text = read(document);
        let named: Vec<&str> = code_spans(&text).filter(|span| span.contains("::") && !span.contains(' ')).collect();
        assert!(named.len() > 10, "{document} names only {} tests", named.len());
        for test in named {
            let (file, name) = test.rsplit_once("::").unwrap();
            let file = file.rsplit("::").next().unwrap();
            let (prefix, end) = name.strip_suffix('…').map_or((name, "("), |prefix| (prefix, ""));
            let line = format!("fn {prefix}{end}");
            let defines_test = |source: &PathBuf| {
                source.file_stem() == Some(OsStr::new(file)) && fs::read_to_string(source).unwrap().contains(&line)
            };
            assert!(sources.iter().any(defines_test), "{document} names {test}, which no file defines");
        }
    }
}

#[test]
fn guides_name_files_and_definitions_that_exist() {
    let mut missing = Vec::new();
    for guide in GUIDES {
        let text = read(guide);
        let mut definitions = 0;
        for span in code_spans(&text).filter(|span| FOLDERS.iter().any(|folder| span.starts_with(folder))) {
            let (path, name) = span.split_once("::").map_or((span, None), |(path, name)| (path, Some(name)));
            if !root().join(path).exists() {
                missing.push(format!("{guide}: {path} does not exist"));
            } else if let Some(name) = name {
                definitions += 1;
                if !defines(&read(path), name) {
                    missing.push(format!("{guide}: {path} does not define {name}"));
                }
            }
        }
        assert!(definitions > 5, "{guide} names only {definitions} definitions");
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

#[test]
fn architecture_lists_the_modules_in_reading_order() {
    let library = read("src/lib.rs");
    let modules: Vec<&str> =
        library.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    let text = read(ARCHITECTURE);
    let (_, layers) = text.split_once("\n## The layers\n").expect("the guide has a section \"The layers\"");
    let layers = layers.split("\n## ").next().unwrap();
    let named: Vec<&str> =
        layers.lines().filter_map(|line| Some(line.strip_prefix("| `")?.split_once('`')?.0)).collect();
    assert_eq!(named, modules);
}

/// Comments refer to `docs/ARCHITECTURE.md` as "rule 4" or "rules 2 and 10".
#[test]
fn comments_name_rules_that_exist() {
    let text = read(ARCHITECTURE);
    let rules = (1..).take_while(|number| text.contains(&format!("\n### Rule {number}: "))).count();
    assert!(rules > 5, "the guide has only {rules} rules");
    for source in sources(&root().join("src")) {
        for line in fs::read_to_string(&source).unwrap().lines().filter(|line| line.trim_start().starts_with("//")) {
            let Some((_, named)) = line.split_once("rule ").or_else(|| line.split_once("rules ")) else { continue };
            let number = named.split(|char: char| !char.is_ascii_digit()).next().unwrap();
            if let Ok(number) = number.parse::<usize>() {
                assert!((1..=rules).contains(&number), "{}: {line}", source.display());
            }
        }
    }
}

#[test]
fn guides_name_make_targets_that_exist() {
    let makefile = read("Makefile");
    for guide in GUIDES {
        for span in code_spans(&read(guide)) {
            let Some(target) = span.strip_prefix("make ") else { continue };
            let target = target.split(' ').next().unwrap();
            assert!(makefile.contains(&format!("\n{target}:")), "{guide}: the Makefile has no target {target}");
        }
    }
}

#[test]
fn links_between_documents_lead_to_files_and_headings() {
    let documents: Vec<PathBuf> = ["", "docs", "deploy", "tests", "bench"]
        .iter()
        .flat_map(|folder| fs::read_dir(root().join(folder)).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension() == Some(OsStr::new("md")))
        .collect();
    let (mut broken, mut checked) = (Vec::new(), 0);
    for document in &documents {
        let text = fs::read_to_string(document).unwrap();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            checked += 1;
            let (path, anchor) = target.split_once('#').map_or((target, None), |(path, anchor)| (path, Some(anchor)));
            let path = if path.is_empty() { document.clone() } else { document.parent().unwrap().join(path) };
            let leads_somewhere = path.exists()
                && anchor.is_none_or(|anchor| {
                    let text = fs::read_to_string(&path).unwrap();
                    text.lines().filter(|line| line.starts_with('#')).any(|heading| slug(heading) == anchor)
                });
            if !leads_somewhere {
                broken.push(format!("{}: {target}", document.display()));
            }
        }
    }
    assert!(checked > 50, "only {checked} links were found");
    assert!(broken.is_empty(), "broken links:\n{}", broken.join("\n"));
}

/// The anchor of a heading, as GitHub derives it.
fn slug(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    text.chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The inline code of a document, without its fenced blocks.
fn code_spans(text: &str) -> impl Iterator<Item = &str> {
    text.split("```").step_by(2).flat_map(|prose| prose.split('`').skip(1).step_by(2))
}

fn defines(source: &str, name: &str) -> bool {
    let ends = |rest: &str| !rest.starts_with(|char: char| char.is_alphanumeric() || char == '_');
    KEYWORDS.iter().any(|keyword| {
        let definition = format!("{keyword} {name}");
        source.match_indices(&definition).any(|(start, _)| ends(&source[start + definition.len()..]))
    })
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
