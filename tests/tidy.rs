//! The rules of the repository, checked: the direction of dependencies, the quarantine of foreign names,
//! and a few habits.
//!
//! ```text
//!   cli ─► node ─► server ─► consensus ─► state, storage, transport ─► proto ─► runtime ─► base
//!                                └► config ─► storage, client ─────────┘
//! ```
//!
//! It reads the sources: every path that is written (`use` trees are flattened, comments and texts left
//! out) is resolved to a layer or to a foreign crate. What macros expand to it does not see. clippy.toml
//! holds the bans of single functions; here are the bans of whole crates and folders.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

/// The page whose code map says which layers a layer may know: the map is what is checked.
const ARCHITECTURE: &str = include_str!("../src/ARCHITECTURE.md");

/// Which layers each layer may name, as the code map has it: `src/server/` in the first column, names in the last.
static MAY_KNOW: LazyLock<BTreeMap<String, Vec<String>>> = LazyLock::new(|| {
    let mut map: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for row in ARCHITECTURE.lines().filter(|line| line.starts_with("| `src/")) {
        let columns: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [places, _, names] = columns[..] else {
            panic!("three columns: {row}");
        };
        let names: Vec<String> = names
            .split(", ")
            .filter(|name| *name != "–")
            .map(str::to_owned)
            .collect();
        for place in places.split(", ") {
            map.entry(layer(place.trim_matches('`')).to_owned())
                .or_default()
                .extend(names.clone());
        }
    }
    map
});

/// Foreign names, and the only files (or folders) of the product that may say them.
const QUARANTINE: &[(&str, &[&str])] = &[
    ("openraft", &["src/consensus/"]),
    ("fjall", &["src/storage/fjall.rs", "src/storage/fjall/"]),
    ("log", &["src/storage/fjall_log.rs"]),
    // Keys of tokens are read as those of certificates are.
    ("rustls", &["src/runtime/tls/", "src/server/auth/jwt.rs"]),
    ("tokio_rustls", &["src/runtime/tls/"]),
    ("rcgen", &["src/runtime/tls/", "src/server/auth/jwt.rs"]),
    ("x509_parser", &["src/runtime/tls/"]),
    ("hickory_resolver", &["src/runtime/dns.rs"]),
    ("dns_lookup", &["src/runtime/tls/"]),
    // Whoever encodes a command has it decoded, too, as apply will: there is one place for both.
    (
        "crate::proto::command::Command",
        &["src/consensus/propose/command.rs", "src/proto/nesting/tests.rs"],
    ),
    ("prometheus", &["src/server/"]),
    ("hyper", &["src/server/", "src/client.rs", "src/runtime/timer.rs"]),
    ("hyper_util", &["src/server/", "src/client.rs"]),
    ("rustix", &["src/runtime/tokio.rs", "src/runtime/tokio/"]),
    // openraft's runtime trait names a type of rand's; the numbers come from `Env`.
    ("rand", &["src/runtime/tokio.rs", "src/consensus/raft/runtime.rs"]),
    ("signal_hook", &["src/cli/serve.rs"]),
    ("madsim", &[]),
    ("tokio::fs", &["src/runtime/tokio.rs"]),
    ("tokio::net", &["src/runtime/tokio/"]),
    ("tokio::process", &[]),
    ("tokio::runtime", &["src/runtime/tokio/"]),
    ("tokio::signal", &["src/cli/serve.rs"]),
    ("tokio::spawn", &["src/runtime/tokio.rs"]),
    (
        "tokio::task",
        &["src/runtime/tokio.rs", "src/runtime/tokio/threads.rs"],
    ),
    ("tokio::time", &["src/runtime/tokio.rs", "src/runtime/tokio/"]),
    ("tokio::sync::watch", &[]),
    (
        "std::fs",
        &[
            "src/runtime/tokio.rs",
            "src/runtime/tokio/",
            "src/runtime/tls/",
            "src/storage/fjall.rs",
            "src/storage/fjall_journal.rs",
            "src/cli/",
        ],
    ),
    ("std::net::TcpListener", &["src/runtime/tokio/"]),
    ("std::net::TcpStream", &["src/runtime/tokio/"]),
    ("std::process", &["src/main.rs", "src/cli/"]),
    (
        "std::thread",
        &[
            "src/runtime/tokio/threads.rs",
            "src/runtime/panics.rs",
            "src/storage/fjall.rs",
        ],
    ),
    // hyper's timer trait names it; see the header of that file.
    (
        "std::time::Instant",
        &["src/runtime/tokio.rs", "src/runtime/timer.rs"],
    ),
    ("std::time::SystemTime", &["src/runtime/tokio.rs"]),
];

/// What may be used of the product by the black-box suite, which must not share code with what it judges.
const JEPSEN_MAY_KNOW: &[&str] = &["client", "proto", "runtime"];

/// What decides runs on one thread: no lock and no atomic is around it.
const ONE_THREAD: &[&str] = &["src/consensus/", "src/state/", "src/storage/wal/"];

/// What would order something between threads.
const BETWEEN_THREADS: &[&str] = &[
    "std::sync::Mutex",
    "std::sync::RwLock",
    "std::sync::atomic",
    "tokio::sync::Mutex",
    "tokio::sync::RwLock",
];

/// Files there that are run by other threads, each with its reason.
const OTHER_THREADS: &[&str] = &[
    // Connections are served elsewhere.
    "src/consensus/peers/appends.rs",
    "src/consensus/peers/mod.rs",
    // openraft's trait names a lock.
    "src/consensus/raft/runtime.rs",
];

const LINES_MAX: usize = 700;
/// Files that may be longer, each with its reason.
const LONG_FILES: &[&str] = &[];

/// Texts that must not be in any source. Written in two parts, so that this file passes its own test.
const FORBIDDEN: &[(&str, &str)] = &[
    (concat!("to", "do!("), "what is missing is refused with a message"),
    (
        concat!("unimple", "mented!("),
        "what is missing is refused with a message",
    ),
    (concat!("db", "g!("), "left behind"),
    (concat!("#[ig", "nore"), "a test that does not run proves nothing"),
    (concat!("/ho", "me/"), "a path of somebody's machine"),
    (concat!("/ro", "ot/"), "a path of somebody's machine"),
    (concat!("/Us", "ers/"), "a path of somebody's machine"),
    (concat!("/wo", "rk/"), "a path of somebody's machine"),
];

/// Whether a file is test code: it may name tokio's runtime, and its subject's file has the header.
fn is_test(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    name.ends_with("tests.rs") || name.starts_with("fake_")
}

/// A source file: its path from the repository's root, with '/' between folders.
struct Source {
    path: String,
    text: String,
}

fn sources(folders: &[&str]) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut open: Vec<PathBuf> = folders.iter().map(|folder| root.join(folder)).collect();
    while let Some(folder) = open.pop() {
        let Ok(entries) = fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries {
            let path = entry.expect("a folder can be read").path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("a source can be read");
                let path = path
                    .strip_prefix(root)
                    .expect("below the root")
                    .to_string_lossy()
                    .replace('\\', "/");
                found.push(Source { path, text });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// The code without comments, texts and characters.
fn code(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if let Some(raw) = rest.strip_prefix("r#\"") {
            raw.find("\"#").map_or(rest.len(), |end| end + 5)
        } else if next == '"' {
            text_length(rest)
        } else if rest.starts_with("'\"'") || rest.starts_with("'\\") {
            rest[2..].find('\'').map_or(rest.len(), |end| end + 3)
        } else {
            code.push(next);
            rest = &rest[next.len_utf8()..];
            continue;
        };
        code.push(' ');
        rest = &rest[skipped..];
    }
    code
}

/// Length of the string literal at the start.
fn text_length(rest: &str) -> usize {
    let mut escaped = false;
    for (at, byte) in rest.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// Every path in the code, `use` trees flattened: "crate::state::State", "tokio::sync::mpsc".
fn paths(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut rest = code;
    while let Some(at) = rest.find(|c: char| c.is_alphabetic() || c == '_') {
        rest = &rest[at..];
        let end = rest
            .find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'))
            .unwrap_or(rest.len());
        let (path, tail) = rest.split_at(end);
        match path.strip_suffix("::") {
            Some(prefix) if tail.starts_with('{') => {
                let tree = &tail[..tree_length(tail)];
                flatten(prefix, &tree[1..tree.len() - 1], &mut found);
                rest = &tail[tree.len()..];
            }
            _ => {
                if path.contains("::") {
                    found.insert(path.trim_end_matches(':').to_owned());
                }
                rest = tail;
            }
        }
    }
    found
}

/// Length of the braces at the start, with what is in them.
fn tree_length(text: &str) -> usize {
    let mut depth = 0;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            _ => continue,
        }
        if depth == 0 {
            return at + 1;
        }
    }
    panic!("unbalanced braces in {text}")
}

/// The items of a `use` tree with their prefix.
fn flatten(prefix: &str, tree: &str, found: &mut BTreeSet<String>) {
    let mut item = String::new();
    let mut rest = tree;
    while let Some(next) = rest.chars().next() {
        if next == '{' {
            let length = tree_length(rest);
            let inner = format!("{prefix}::{}", item.trim().trim_end_matches(':'));
            flatten(&inner, &rest[1..length - 1], found);
            item.clear();
            rest = &rest[length..];
            continue;
        }
        if next == ',' {
            insert_item(prefix, &item, found);
            item.clear();
        } else {
            item.push(next);
        }
        rest = &rest[next.len_utf8()..];
    }
    insert_item(prefix, &item, found);
}

fn insert_item(prefix: &str, item: &str, found: &mut BTreeSet<String>) {
    let name = item.split_whitespace().next().unwrap_or("");
    match name {
        "" => {}
        "self" => drop(found.insert(prefix.to_owned())),
        name => drop(found.insert(format!("{prefix}::{name}"))),
    }
}

/// The layer of a file of the product: the folder or file right below src/.
fn layer(path: &str) -> &str {
    let below = path.strip_prefix("src/").expect("a source of the product");
    let first = below.split('/').next().unwrap_or(below);
    first.strip_suffix(".rs").unwrap_or(first)
}

/// The layers that a file names.
fn named_layers(source: &Source, paths: &BTreeSet<String>) -> BTreeSet<String> {
    let known = |name: &str| MAY_KNOW.contains_key(name);
    let folders = source.path.matches('/').count();
    // src/state/mod.rs is the module `state`, src/state/range.rs and src/client.rs are one below their folder.
    let depth = if source.path.ends_with("/mod.rs") {
        folders - 1
    } else {
        folders
    };
    let mut named = BTreeSet::new();
    for path in paths {
        let parts: Vec<&str> = path.split("::").collect();
        let supers = parts.iter().take_while(|part| **part == "super").count();
        let inside = match parts.first() {
            Some(&"crate") | Some(&"quorate") => parts.get(1),
            Some(&"super") if supers >= depth => parts.get(supers),
            _ => None,
        };
        named.extend(inside.filter(|name| known(name)).map(|name| name.to_string()));
    }
    named.remove(layer(&source.path));
    named
}

/// What is wrong with the arrows of one file.
fn upward_arrows(source: &Source) -> Vec<String> {
    let own = layer(&source.path);
    if own == "lib" {
        return Vec::new();
    }
    let Some(allowed) = MAY_KNOW.get(own) else {
        return vec![format!(
            "{}: {own} is no layer in the code map of src/ARCHITECTURE.md",
            source.path
        )];
    };
    let named = named_layers(source, &paths(&code(&source.text)));
    let wrong = named.iter().filter(|name| !allowed.contains(name));
    wrong
        .map(|name| format!("{}: {own} must not know {name}", source.path))
        .collect()
}

/// Foreign names outside their place.
fn escaped_names(source: &Source) -> Vec<String> {
    let code = code(&source.text);
    let mut wrong = Vec::new();
    for path in paths(&code) {
        for (name, places) in QUARANTINE {
            let named = path == *name || path.strip_prefix(name).is_some_and(|rest| rest.starts_with("::"));
            let allowed = places.iter().any(|place| source.path.starts_with(place));
            // `mod fjall;` makes the name one of ours in that file.
            let own_module = code.contains(&format!("mod {name};"));
            if named && !allowed && !own_module {
                wrong.push(format!("{}: {path} belongs into {places:?}", source.path));
            }
        }
    }
    wrong
}

fn assert_none(wrong: Vec<String>) {
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

/// The code map has every layer, and no arrow of it leads back.
#[test]
fn the_code_map_is_whole_and_without_circles() {
    let mut open: BTreeMap<&String, &Vec<String>> = MAY_KNOW.iter().collect();
    assert!(open.len() > 10, "the map is found");
    while !open.is_empty() {
        let done = |names: &Vec<String>| names.iter().all(|name| !open.contains_key(name));
        let leaf = open
            .iter()
            .find(|(_, names)| done(names))
            .map(|(layer, _)| *layer);
        let leaf = leaf.unwrap_or_else(|| panic!("a circle among {:?}", open.keys()));
        open.remove(leaf);
    }
    let unknown = MAY_KNOW
        .values()
        .flatten()
        .filter(|name| !MAY_KNOW.contains_key(*name));
    assert_none(unknown.map(|name| format!("{name} is no layer")).collect());
}

#[test]
fn arrows_point_downward() {
    let sources = sources(&["src"]);
    assert!(sources.len() > 20, "the sources are found");
    assert_none(sources.iter().flat_map(upward_arrows).collect());
}

#[test]
fn foreign_names_stay_in_their_place() {
    let sources = sources(&["src"]);
    let product = sources.iter().filter(|source| !is_test(&source.path));
    assert_none(product.flat_map(escaped_names).collect());
}

#[test]
fn what_decides_has_no_locks() {
    let mut wrong = Vec::new();
    for source in sources(ONE_THREAD) {
        if is_test(&source.path) || OTHER_THREADS.contains(&source.path.as_str()) {
            continue;
        }
        let named = paths(&code(&source.text)).into_iter();
        let locks = named.filter(|path| BETWEEN_THREADS.iter().any(|lock| path.starts_with(lock)));
        wrong.extend(locks.map(|lock| format!("{}: {lock}", source.path)));
    }
    assert_none(wrong);
}

#[test]
fn the_judge_shares_no_code_with_the_judged() {
    let mut wrong = Vec::new();
    for source in sources(&["jepsen/src"]) {
        for path in paths(&code(&source.text))
            .iter()
            .filter(|path| path.starts_with("quorate::"))
        {
            let layer = path.split("::").nth(1).unwrap_or("");
            if !JEPSEN_MAY_KNOW.contains(&layer) {
                wrong.push(format!("{}: {path}", source.path));
            }
        }
    }
    assert_none(wrong);
}

#[test]
fn files_are_short_and_begin_with_what_they_are() {
    let mut wrong = Vec::new();
    for Source { path, text } in sources(&["src", "sim", "jepsen", "tests", "benches"]) {
        let lines = text.lines().count();
        if lines > LINES_MAX && !LONG_FILES.contains(&path.as_str()) {
            wrong.push(format!("{path}: {lines} lines, more than {LINES_MAX}"));
        }
        if !text.starts_with("//! ") && !is_test(&path) {
            wrong.push(format!("{path}: no module header"));
        }
        if path.starts_with("src/") && text.lines().any(|line| line == "mod tests {") {
            wrong.push(format!("{path}: unit tests are in a file of their own"));
        }
        let found = FORBIDDEN.iter().filter(|(forbidden, _)| text.contains(forbidden));
        wrong.extend(found.map(|(forbidden, why)| format!("{path}: {forbidden} ({why})")));
    }
    assert_none(wrong);
}

/// Whoever changes what a mutant changes learns it here, and not in the simulator's own test, which looks at libraries, too.
#[test]
fn mutants_apply_to_the_sources_of_today() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let catalogue =
        fs::read_to_string(root.join("sim/mutants/catalogue.json")).expect("the mutants are there");
    let catalogue: Vec<serde_json::Value> = serde_json::from_str(&catalogue).expect("a list");
    let of_ours = catalogue.iter().filter(|mutant| mutant.get("crate").is_none());
    let patches: Vec<&str> = of_ours.filter_map(|mutant| mutant["patch"].as_str()).collect();
    assert!(patches.len() > 30, "the patches are found");
    let mut wrong = Vec::new();
    for patch in patches {
        let mut check = Command::new("git");
        check.args(["apply", "--check", "-p1"]).current_dir(root);
        check.arg(root.join("sim/mutants").join(patch));
        // The tree may lie in another repository, or in none.
        let checked = check.env("GIT_DIR", "/nonexistent").output().expect("git runs");
        if !checked.status.success() {
            let why = String::from_utf8_lossy(&checked.stderr);
            wrong.push(format!("{patch}: {}", why.trim()));
        }
    }
    assert_none(wrong);
}

/// The rules bite: forged sources.
#[test]
fn forged_violations_are_found() {
    let check = |path: &str, text: &str, arrows: usize, names: usize| {
        let source = Source {
            path: path.to_owned(),
            text: text.to_owned(),
        };
        assert_eq!(upward_arrows(&source).len(), arrows, "{text}");
        assert_eq!(escaped_names(&source).len(), names, "{text}");
    };
    check(
        "src/state/mod.rs",
        "use crate::base::Revision;\nuse crate::proto::mvccpb;",
        0,
        0,
    );
    check(
        "src/state/mod.rs",
        "use crate::{base::Revision, consensus::{Status, Peer}};",
        1,
        0,
    );
    check(
        "src/state/range.rs",
        "fn f() { crate::server::Server::start() }",
        1,
        0,
    );
    check("src/state/range.rs", "use super::super::storage::Store;", 1, 0);
    check("src/state/range.rs", "use super::storage_of_ours::Store;", 0, 0);
    check(
        "src/state/mod.rs",
        "// crate::server\nconst TEXT: &str = \"crate::server::x\";",
        0,
        0,
    );
    check("src/unheard/of.rs", "", 1, 0);
    check("src/server/services/kv.rs", "use openraft::Raft;", 0, 1);
    check(
        "src/server/services/kv.rs",
        "use crate::proto::command::{Command, command::Request};",
        0,
        1,
    );
    check(
        "src/server/services/kv.rs",
        "use crate::proto::command::command::Request;",
        0,
        0,
    );
    check("src/consensus/raft/log.rs", "use openraft::Raft;", 0, 0);
    check(
        "src/server/services/kv.rs",
        "fn f() { tokio::time::sleep(d) }",
        0,
        1,
    );
    check(
        "src/server/services/kv.rs",
        "use tokio::{sync::mpsc, time::{self, Duration}};",
        0,
        2,
    );
    check(
        "src/server/services/kv.rs",
        "use tokio::sync::{mpsc, watch};",
        0,
        1,
    );
    check(
        "src/server/services/kv.rs",
        "use std::time::Duration;\nuse tokio::sync::mpsc;",
        0,
        0,
    );
    check(
        "src/storage/mod.rs",
        "pub mod fjall;\nuse fjall::FjallEngine;",
        0,
        0,
    );
    check("src/storage/wal.rs", "use ::fjall::Database;", 0, 1);
}

/// What stands between backticks in a text.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    let lines = text.lines();
    lines.flat_map(|line| line.split('`').skip(1).step_by(2))
}

/// Whether a place that a text names is there: a path below the root, or a module of the product and what is in it.
/// `None`: it is no such name. `page`: the folder of the text, from which paths may lead, too.
fn exists(name: &str, page: &str) -> Option<bool> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let is_plain = |name: &str, extra: &str| {
        let plain = |c: char| c.is_alphanumeric() || c == '_' || extra.contains(c);
        !name.is_empty() && name.chars().all(plain)
    };
    if is_plain(name, "/.-") && name.contains('/') {
        let top = name.split('/').next().unwrap_or_default();
        let is_ours = ["src", "sim", "tests", "jepsen", "benches", "docs"].contains(&top);
        return is_ours.then(|| root.join(name).exists() || root.join(page).join(name).exists());
    }
    let parts: Vec<&str> = name.split("::").collect();
    if parts.len() < 2 || !parts.iter().all(|part| is_plain(part, "")) || !MAY_KNOW.contains_key(parts[0]) {
        return None;
    }
    let mut folder = root.join("src");
    let mut module = None;
    for part in parts {
        let file = folder.join(format!("{part}.rs"));
        let file = if file.exists() {
            file
        } else {
            folder.join(part).join("mod.rs")
        };
        if file.exists() {
            module = Some(file);
            folder = folder.join(part);
            continue;
        }
        // Not a module: something that the last one has.
        let text = fs::read_to_string(module?).expect("a source can be read");
        let mut words = text.split(|c: char| !(c.is_alphanumeric() || c == '_'));
        return Some(words.any(|word| word == part));
    }
    Some(true)
}

#[test]
fn places_that_texts_name_are_there() {
    let pages = [
        "README.md",
        "src/ARCHITECTURE.md",
        "sim/README.md",
        "docs/write-errors.md",
    ];
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let pages = pages.map(|path| Source {
        path: path.to_owned(),
        text: fs::read_to_string(root.join(path)).expect("a page can be read"),
    });
    let mut comments = sources(&["src", "sim/src"]);
    for source in &mut comments {
        let lines = source
            .text
            .lines()
            .filter(|line| line.trim_start().starts_with("//"));
        source.text = lines.collect::<Vec<_>>().join("\n");
    }
    let mut missing = Vec::new();
    for source in pages.iter().chain(&comments) {
        let folder = source.path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let gone = quoted(&source.text).filter(|name| exists(name, folder) == Some(false));
        missing.extend(gone.map(|name| format!("{}: {name}", source.path)));
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
    assert_eq!(exists("src/nowhere.rs", ""), Some(false));
    assert_eq!(exists("consensus::nowhere", ""), Some(false));
    assert_eq!(exists("state::apply_nothing::at_all", ""), Some(false));
    assert_eq!(exists("consensus::propose", ""), Some(true));
    assert_eq!(exists("a text", ""), None);
}
