//! The structure of `src/`, read as text: layers, circles between files, type names, sizes.
//!
//! The reading order of the modules in `src/lib.rs` is the order of the layers: a module imports only from modules above
//! it. A failed check lists every violation.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

/// Files without a reason in their header are split before they get longer.
const MAX_FILE_LINES: usize = 400;
const MAX_MAIN_LINES: usize = 100;
const MAX_README_LINES: usize = 150;
/// A header with this line says why the file is longer.
const LONG_REASON: &str = "//! Long because: ";
/// Names that every module may have: the error enum and the result of its boundary.
const PER_MODULE_NAMES: [&str; 2] = ["Error", "Result"];
/// Type names that stand for two things, each for a reason.
const SHARED_NAMES: [&str; 0] = [];
/// The suffixes of constants that have a standard form: `MAX_…`, `MIN_…`, `…_TIMEOUT`, `…_INTERVAL`, `…_DELAY`.
const BANNED_SUFFIXES: [&str; 5] = ["_MOST", "_LEAST", "_WITHIN", "_EVERY", "_AFTER"];

/// Something that a check found: where, and what.
struct Violation {
    at: String,
    text: String,
}

/// One source file: its module path, such as `edge::limits`, and its text without comments and literals.
struct Source {
    path: PathBuf,
    text: String,
    code: String,
}

/// An import of one file from another, with its line.
struct Import {
    line: usize,
    path: String,
    target: String,
}

#[test]
fn modules_import_only_from_layers_above() {
    let sources = sources();
    let layers = layers(&sources["lib"].code);
    let layer = |module: &str| layers.iter().position(|layer| module.split("::").next() == Some(layer));
    let mut violations = Vec::new();
    for (module, source) in &sources {
        let Some(own) = layer(module) else { continue };
        for import in imports(module, source, &sources) {
            if let Some(below) = layer(&import.target).filter(|target| *target > own) {
                violations.push(Violation {
                    at: format!("{}:{}", source.path.display(), import.line),
                    text: format!("{module} imports {}, {} is below {}", import.path, layers[below], layers[own]),
                });
            }
        }
    }
    report("imports from a layer below", &violations);
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let sources = sources();
    let edges: BTreeMap<&str, BTreeSet<String>> = sources
        .iter()
        .map(|(module, source)| {
            let targets = imports(module, source, &sources).into_iter().map(|import| import.target);
            (module.as_str(), targets.filter(|target| target != module).collect())
        })
        .collect();
    let reachable = |from: &str| {
        let mut found = BTreeSet::new();
        let mut open = vec![from.to_owned()];
        while let Some(module) = open.pop() {
            for target in &edges[module.as_str()] {
                if found.insert(target.clone()) {
                    open.push(target.clone());
                }
            }
        }
        found
    };
    let reach: BTreeMap<&str, BTreeSet<String>> = edges.keys().map(|module| (*module, reachable(module))).collect();
    let circle_of = |module: &str| {
        let others = reach[module].iter().filter(|other| reach[other.as_str()].contains(module));
        others.map(String::as_str).collect::<Vec<_>>().join(", ")
    };
    let in_circle = reach.keys().filter(|module| reach[**module].contains(**module));
    let violations: Vec<_> =
        in_circle.map(|module| Violation { at: circle_of(module), text: (*module).to_owned() }).collect();
    report("files in a circle", &violations);
}

#[test]
fn type_names_are_unique() {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for source in sources().into_values() {
        for (index, line) in without_tests(&source.code).lines().enumerate() {
            if let Some(name) = type_name(line) {
                places.entry(name).or_default().push(format!("{}:{}", source.path.display(), index + 1));
            }
        }
    }
    let exempt = |name: &str| PER_MODULE_NAMES.contains(&name) || SHARED_NAMES.contains(&name);
    let repeated = places.into_iter().filter(|(name, places)| places.len() > 1 && !exempt(name));
    let violations: Vec<_> = repeated.map(|(text, places)| Violation { at: places.join(", "), text }).collect();
    report("type names with several meanings", &violations);
}

#[test]
fn files_are_short_and_begin_with_a_header() {
    let mut violations = Vec::new();
    for (module, source) in sources() {
        let lines = source.text.lines().count();
        let mut add = |text: &str| {
            let path = source.path.display();
            violations.push(Violation { at: format!("{path}:{lines}"), text: format!("{path} {text}") });
        };
        if !source.text.starts_with("//!") {
            add("does not begin with a `//!` header");
        }
        if source.path.ends_with("mod.rs") {
            add("is not named after its folder, beside it");
        }
        let max = if module == "main" { MAX_MAIN_LINES } else { MAX_FILE_LINES };
        if lines > max && !source.text.contains(LONG_REASON) {
            add("is too long, and its header has no line `Long because: ...`");
        }
    }
    let readme = fs::read_to_string(root().join("README.md")).unwrap().lines().count();
    if readme > MAX_README_LINES {
        violations.push(Violation { at: format!("README.md:{readme}"), text: "README.md is too long".to_owned() });
    }
    report("files", &violations);
}

#[test]
fn constants_use_the_standard_suffixes() {
    let mut violations = Vec::new();
    for source in sources().into_values() {
        for (index, line) in source.code.lines().enumerate() {
            let Some((_, rest)) = line.split_once("const ") else { continue };
            let name: String = rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            if BANNED_SUFFIXES.iter().any(|suffix| name.ends_with(suffix)) {
                violations.push(Violation { at: format!("{}:{}", source.path.display(), index + 1), text: name });
            }
        }
    }
    report("constants", &violations);
}

/// Fails with every violation.
fn report(what: &str, violations: &[Violation]) {
    let lines: Vec<_> = violations.iter().map(|violation| format!("{}: {}", violation.at, violation.text)).collect();
    assert!(lines.is_empty(), "{what}: {}\n{}", lines.len(), lines.join("\n"));
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every file of `src/` by its module path.
fn sources() -> BTreeMap<String, Source> {
    let root = root();
    let mut found = BTreeMap::new();
    let mut folders = vec![root.join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let relative = path.strip_prefix(&root).unwrap().to_owned();
            let module = relative.strip_prefix("src").unwrap().with_extension("");
            let module = module.to_str().unwrap().replace('/', "::");
            let text = fs::read_to_string(&path).unwrap();
            let code = without_comments_and_literals(&text);
            found.insert(module, Source { path: relative, text, code });
        }
    }
    assert!(found.len() > 50, "the sources are not where this test expects them");
    found
}

/// The layers from top to bottom: the order of `pub mod` in lib.rs.
fn layers(lib: &str) -> Vec<&str> {
    let layers: Vec<_> = lib.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    assert!(layers.len() > 10, "lib.rs declares the layers with `pub mod`");
    layers
}

/// Every path that begins with `crate`, `super` or `self`, resolved to the file that it names.
fn imports(module: &str, source: &Source, sources: &BTreeMap<String, Source>) -> Vec<Import> {
    let mut found = Vec::new();
    let code = without_tests(&source.code);
    for start in ["crate::", "super::", "self::"] {
        for (at, _) in code.match_indices(start) {
            let continues = code[..at].chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':');
            if continues {
                continue;
            }
            let line = code[..at].matches('\n').count() + 1;
            for path in paths(&code[at..]) {
                if let Some(target) = resolve(module, &path, sources) {
                    found.push(Import { line, path, target });
                }
            }
        }
    }
    // A `use` of a child needs no `self::`.
    for statement in code.split("use ").skip(1) {
        let first: String = statement.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
        let child = format!("{module}::{first}");
        if sources.contains_key(&child) {
            found.push(Import { line: 0, path: first, target: child });
        }
    }
    // So does a path such as `child::function()`.
    for child in sources.keys().filter(|other| other.rsplit_once("::").is_some_and(|(parent, _)| parent == module)) {
        let name = child.rsplit("::").next().unwrap_or_default();
        let used = code.match_indices(&format!("{name}::")).any(|(at, _)| {
            !code[..at].chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':' || c == '.')
        });
        if used {
            found.push(Import { line: 0, path: name.to_owned(), target: child.clone() });
        }
    }
    found
}

/// The paths of one expression or `use` tree, without braces: `a::{b, c::d}` is `a::b` and `a::c::d`.
fn paths(text: &str) -> Vec<String> {
    let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')).unwrap_or(text.len());
    let prefix = text[..end].trim_end_matches(':').to_owned();
    if !text[..end].ends_with("::") || !text[end..].starts_with('{') {
        return vec![prefix];
    }
    let mut depth = 0;
    let mut item = String::new();
    let mut items = Vec::new();
    for character in text[end..].chars() {
        match character {
            '{' => {
                depth += 1;
                if depth > 1 {
                    item.push(character);
                }
            }
            '}' => {
                depth -= 1;
                if depth == 0 {
                    items.push(std::mem::take(&mut item));
                    break;
                }
                item.push(character);
            }
            ',' if depth == 1 => items.push(std::mem::take(&mut item)),
            character => item.push(character),
        }
    }
    let items = items.iter().map(|item| item.trim()).filter(|item| !item.is_empty());
    items
        .flat_map(|item| match item.split(" as ").next().unwrap_or_default().trim() {
            "self" => vec![prefix.clone()],
            item => paths(item).into_iter().map(|rest| format!("{prefix}::{rest}")).collect(),
        })
        .collect()
}

/// The file that a path names, if it is not the file that contains it.
fn resolve(module: &str, path: &str, sources: &BTreeMap<String, Source>) -> Option<String> {
    let mut base: Vec<&str> = module.split("::").collect();
    let mut segments = path.split("::").peekable();
    match segments.next()? {
        "crate" => base.clear(),
        "super" => {
            base.pop();
            while segments.next_if_eq(&"super").is_some() {
                base.pop();
            }
        }
        _ => {}
    }
    base.extend(segments);
    while !base.is_empty() {
        let candidate = base.join("::");
        if sources.contains_key(&candidate) {
            return Some(candidate).filter(|target| target != module);
        }
        base.pop();
    }
    None
}

/// The name that a line defines, if it defines a type.
fn type_name(line: &str) -> Option<String> {
    let mut words = line.split_whitespace().skip_while(|word| word.starts_with("pub"));
    if line.starts_with(' ') || !matches!(words.next()?, "struct" | "enum" | "trait" | "type" | "union") {
        return None;
    }
    let name: String = words.next()?.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    Some(name)
}

/// Unit tests may use whatever they like.
fn without_tests(code: &str) -> &str {
    code.find("#[cfg(test)]").map_or(code, |at| &code[..at])
}

/// Blanks comments, strings and characters; lines stay where they are.
fn without_comments_and_literals(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(character) = rest.chars().next() {
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("r#\"") {
            rest.find("\"#").map_or(rest.len(), |end| end + 2)
        } else if character == '"' {
            string_length(rest)
        } else if character == '\'' && is_character_literal(rest) {
            rest[1..].find('\'').map_or(rest.len(), |end| if rest.starts_with("'\\''") { 4 } else { end + 2 })
        } else {
            code.push(character);
            rest = &rest[character.len_utf8()..];
            continue;
        };
        code.extend(rest[..length].chars().filter(|c| *c == '\n'));
        rest = &rest[length..];
    }
    code
}

fn string_length(text: &str) -> usize {
    let mut escaped = false;
    for (at, character) in text.char_indices().skip(1) {
        match character {
            '"' if !escaped => return at + 1,
            '\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    text.len()
}

/// `'a'` and `'\n'` are literals, `'a` in `&'a str` is a lifetime.
fn is_character_literal(text: &str) -> bool {
    let mut characters = text.chars().skip(1);
    match characters.next() {
        Some('\\') => true,
        Some(_) => characters.next() == Some('\''),
        None => false,
    }
}
