//! What a power loss may do to an engine's files, page by page, and what may not be done with it.
//!
//! ```text
//!   batches 1..=10 | sync | batches of all sizes | killed ── image of the files ──► one page damaged ──► opened again
//! ```
//!
//! Damage where nothing was synced costs the batches behind it, which the log has: the engine opens, holds the first so many
//! batches exactly, and takes the others again. Damage of what was synced is refused, or harmless.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::{rows, text};
use crate::base::RevisionAt;
use crate::base::kv::{Batch, Read, Space};
use crate::runtime::Env;
use crate::storage::{EngineKind, Store};

const PAGE: usize = 4096;
/// Batches that are synced.
const SYNCED: u64 = 10;
/// The sizes of values that are not.
const SIZES: [usize; 9] = [1, 100, 4_000, 70_000, 1_500_000, 10, 5_000, 300, 1];
const LAST: &str = "the last batch";
/// In the middle of a large value one page is like another.
const PAGES_AT_VALUE_ENDS: usize = 4;

/// The files below a directory; a journal of fjall's without the zeros at its end.
type Image = BTreeMap<PathBuf, Vec<u8>>;

/// How a page is damaged.
#[derive(Clone, Copy, Debug)]
enum How {
    Zeroed,
    /// And all that follows.
    Cut,
    /// As it was at the sync.
    Older,
    Flipped,
}

fn size(number: u64) -> usize {
    let unsynced = number.checked_sub(SYNCED + 1);
    unsynced.map_or(1 + 97 * number as usize, |at| SIZES[at as usize])
}

/// The batch with this number; its value cannot be compressed.
fn numbered(number: u64) -> Batch {
    let mut seed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut byte = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed >> 32) as u8
    };
    let value: Vec<u8> = (0..size(number)).map(|_| byte()).collect();
    let mut batch = Batch::default();
    batch.put(
        Space::Records,
        RevisionAt::new(number as i64, 0).to_bytes().to_vec(),
        value,
    );
    batch.put(Space::Leases, (number % 7).to_string(), number.to_string());
    batch.put(Space::Meta, "applied", number.to_string());
    if number == last() {
        batch.put(Space::Meta, LAST, "");
    }
    batch
}

fn last() -> u64 {
    SYNCED + SIZES.len() as u64
}

fn applied(read: &dyn Read) -> u64 {
    text(read, Space::Meta, "applied").map_or(0, |text| text.parse().expect("a number"))
}

fn digest(read: &dyn Read) -> u32 {
    rows(read).iter().fold(0, |digest, (space, key, value)| {
        let digest = crc32c::crc32c_append(digest, &[*space as u8]);
        crc32c::crc32c_append(crc32c::crc32c_append(digest, key), value)
    })
}

fn is_preallocated(path: &Path) -> bool {
    path.extension().is_some_and(|end| end == "jnl")
}

fn collect<'a>(env: &'a Env, root: &'a Path, at: PathBuf, image: &'a mut Image) -> BoxFuture<'a, ()> {
    Box::pin(async move {
        let path = root.join(&at);
        if let Ok(names) = env.disk().read_dir(&path).await {
            for name in names {
                collect(env, root, at.join(name), image).await;
            }
            return;
        }
        // It may be gone by now.
        let Ok(file) = env.disk().open(&path).await else {
            return;
        };
        let length = file.len().await.expect("has a length") as usize;
        let bytes = file.read_at(0, length).await.expect("reads");
        let end = match is_preallocated(&at) {
            true => bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1),
            false => length,
        };
        image.insert(at, bytes[..end].to_vec());
    })
}

async fn image(env: &Env, root: &Path) -> Image {
    let mut image = Image::new();
    collect(env, root, PathBuf::new(), &mut image).await;
    image
}

async fn restore(env: &Env, root: &Path, image: &Image) {
    for (path, bytes) in image {
        let path = root.join(path);
        let parent = path.parent().expect("below the root");
        env.disk().create_dir_all(parent).await.expect("creates");
        let file = env.disk().create(&path).await.expect("creates");
        file.write_at(0, Bytes::from(bytes.clone()))
            .await
            .expect("writes");
        if is_preallocated(&path) {
            // As fjall makes them, if shorter.
            file.set_len((bytes.len() + 3 * PAGE) as u64)
                .await
                .expect("extends");
        }
    }
}

fn damaged(image: &Image, before: &Image, path: &Path, page: usize, how: How) -> Image {
    let mut image = image.clone();
    let bytes = image.get_mut(path).expect("a file of the image");
    let range = page * PAGE..((page + 1) * PAGE).min(bytes.len());
    match how {
        How::Zeroed => bytes[range].fill(0),
        How::Cut => bytes.truncate(range.start),
        How::Older => {
            let old = before
                .get(path)
                .map_or(&[][..], |old| &old[range.start.min(old.len())..]);
            for (at, byte) in bytes[range].iter_mut().enumerate() {
                *byte = old.get(at).copied().unwrap_or(0);
            }
        }
        How::Flipped => bytes[range.start + range.len() / 2] ^= 1,
    }
    image
}

/// Pages of a file that a predicate picks, without most of those that lie between others.
fn pages(bytes: &[u8], mut is_wanted: impl FnMut(usize) -> bool) -> Vec<usize> {
    let wanted: Vec<usize> = (0..bytes.len().div_ceil(PAGE))
        .filter(|page| is_wanted(*page))
        .collect();
    let is_kept = |at: usize| at < 10 || at + PAGES_AT_VALUE_ENDS >= wanted.len() || at.is_multiple_of(97);
    let kept = wanted.iter().enumerate().filter(|(at, _)| is_kept(*at));
    kept.map(|(_, page)| *page).collect()
}

fn page(bytes: Option<&Vec<u8>>, page: usize) -> Vec<u8> {
    let bytes = bytes.map_or(&[][..], |bytes| bytes);
    let mut copy: Vec<u8> = bytes.iter().skip(page * PAGE).take(PAGE).copied().collect();
    copy.resize(PAGE, 0);
    copy
}

struct Sample {
    before: Image,
    after: Image,
    /// After each number of batches.
    digests: Vec<u32>,
}

async fn sample(env: &Env, root: &Path, kind: EngineKind) -> Sample {
    let store = Store::open(env, root, kind).await.expect("opens");
    let engine = store.engine();
    let mut digests = vec![digest(&*engine)];
    let mut before = Image::new();
    for number in 1..=last() {
        engine.write(numbered(number)).expect("writes");
        digests.push(digest(&*engine));
        if number == SYNCED {
            engine.sync().await.expect("syncs");
            before = image(env, root).await;
        }
    }
    loop {
        // What is written reaches the files soon.
        let after = image(env, root).await;
        let is_last = |bytes: &[u8]| bytes.windows(LAST.len()).any(|window| window == LAST.as_bytes());
        if after
            .values()
            .any(|bytes| is_last(&bytes[bytes.len().saturating_sub(2 * PAGE)..]))
        {
            return Sample {
                before,
                after,
                digests,
            };
        }
        env.sleep(Duration::from_millis(10)).await;
    }
}

/// Checks an engine in `root`, an empty directory or none.
pub async fn power_loss(env: &Env, root: &Path, kind: EngineKind) {
    let sample = sample(env, &root.join("live"), kind).await;
    let mut cases = 0;
    for (path, bytes) in &sample.after {
        let old = sample.before.get(path);
        let is_new = |at: usize| page(Some(bytes), at) != page(old, at);
        for at in pages(bytes, is_new) {
            for how in [How::Zeroed, How::Cut, How::Older] {
                // The page may hold something synced as well: that is not what a power loss takes.
                let mut image = damaged(&sample.after, &sample.before, path, at, how);
                keep_synced(&mut image, &sample.before, path);
                let case = format!("{} page {at} {how:?}", path.display());
                survives(
                    env,
                    &root.join(format!("unsynced-{cases}")),
                    kind,
                    &sample,
                    &image,
                    &case,
                )
                .await;
                cases += 1;
            }
        }
    }
    assert!(cases > 40, "{cases} pages were not synced");
    let mut refused = 0;
    for (path, bytes) in &sample.before {
        for at in pages(bytes, |_| true) {
            for how in [How::Zeroed, How::Cut, How::Flipped] {
                let image = damaged(&sample.after, &sample.before, path, at, how);
                let case = format!("{} page {at} {how:?}", path.display());
                let scratch = root.join(format!("synced-{refused}"));
                refused += u32::from(is_noticed(env, &scratch, kind, &sample, &image, &case).await);
            }
        }
    }
    assert!(refused > 0, "damage of what was synced is noticed");
}

/// Puts back what was synced.
fn keep_synced(image: &mut Image, before: &Image, path: &Path) {
    if let (Some(bytes), Some(old)) = (image.get_mut(path), before.get(path)) {
        bytes.resize(bytes.len().max(old.len()), 0);
        bytes[..old.len()].copy_from_slice(old);
    }
}

async fn survives(env: &Env, root: &Path, kind: EngineKind, sample: &Sample, image: &Image, case: &str) {
    restore(env, root, image).await;
    let opened = Store::open(env, root, kind).await;
    let store = opened.unwrap_or_else(|broken| panic!("{case}: {broken}"));
    let engine = store.engine();
    let number = applied(&*engine);
    assert!((SYNCED..=last()).contains(&number), "{case}: {number} batches");
    assert_eq!(
        digest(&*engine),
        sample.digests[number as usize],
        "{case}: {number} batches"
    );
    for number in number + 1..=last() {
        engine.write(numbered(number)).expect("writes");
    }
    engine.sync().await.expect("syncs");
    drop((engine, store));
    let store = Store::open(env, root, kind).await.expect("opens again");
    assert_eq!(
        digest(&*store.engine()),
        sample.digests[last() as usize],
        "{case}: replayed"
    );
    drop(store);
    env.disk().remove_dir_all(root).await.expect("removes");
}

/// True if it is refused.
async fn is_noticed(
    env: &Env,
    root: &Path,
    kind: EngineKind,
    sample: &Sample,
    image: &Image,
    case: &str,
) -> bool {
    restore(env, root, image).await;
    let refused = match Store::open(env, root, kind).await {
        Err(broken) => {
            let text = broken.to_string();
            let names_it = text.contains(&root.display().to_string());
            assert!(names_it, "{case}: {text}");
            true
        }
        Ok(store) => {
            let engine = store.engine();
            let number = applied(&*engine);
            assert!(number >= SYNCED, "{case}: {number} batches");
            assert_eq!(
                digest(&*engine),
                sample.digests[number as usize],
                "{case}: {number} batches"
            );
            false
        }
    };
    env.disk().remove_dir_all(root).await.expect("removes");
    refused
}
