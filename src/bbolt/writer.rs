//! Writing a file in one go, from sorted rows, with memory for one page and for the first key of each.
//!
//! The head of the file says where the root is and how many pages there are, so the rows are read twice: once to lay
//! the pages out, and once to write them. Rows must be the same both times.

use bytes::{BufMut, Bytes, BytesMut};

use super::{
    BRANCH, BUCKET_HEAD, ELEMENT, FREELIST, IS_BUCKET, LEAF, MAGIC, META, META_BYTES, PAGE_BYTES, PAGE_HEAD,
    VERSION, checksum,
};
use crate::base::Broken;
use crate::base::kv::Visit;

/// Pages that come before those of the buckets: two metas, and an empty free list.
const FIRST_PAGE: u64 = 3;
const FREELIST_PAGE: u64 = 2;
/// Leaves written in one go: starting again in the middle of a bucket costs a search.
const LEAVES_AT_ONCE: usize = 64;

/// What a file is made of.
pub trait Rows {
    /// Names, ascending.
    fn buckets(&self) -> &[&'static str];

    /// Rows of a bucket from a key on, ascending.
    fn rows(
        &self,
        bucket: &str,
        from: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> Visit,
    ) -> Result<(), Broken>;
}

/// Decides which rows share a leaf.
#[derive(Default)]
struct Packing {
    rows: usize,
    bytes: usize,
}

impl Packing {
    /// Takes the next row in; true if it begins another leaf.
    fn take(&mut self, key: &[u8], value: &[u8]) -> bool {
        let row = ELEMENT + key.len() + value.len();
        let full = self.rows > 0 && PAGE_HEAD + self.bytes + row > PAGE_BYTES;
        if full {
            *self = Packing::default();
        }
        self.rows += 1;
        self.bytes += row;
        full || self.rows == 1
    }

    fn pages(&self) -> u64 {
        (PAGE_HEAD + self.bytes).div_ceil(PAGE_BYTES) as u64
    }
}

/// A page that was laid out: its place, and its first key.
struct Placed {
    page: u64,
    key: Vec<u8>,
}

/// Where a bucket's pages are.
struct Bucket {
    name: &'static str,
    leaves: Vec<Placed>,
    /// From the one above the leaves to the root; empty if a leaf is the root.
    branches: Vec<Vec<Placed>>,
    /// 0: the bucket is empty.
    root: u64,
}

struct Plan {
    buckets: Vec<Bucket>,
    root: u64,
    pages: u64,
}

fn plan(rows: &dyn Rows) -> Result<Plan, Broken> {
    let mut next = FIRST_PAGE;
    let mut buckets = Vec::new();
    for &name in rows.buckets() {
        let mut leaves: Vec<Placed> = Vec::new();
        let mut packing = Packing::default();
        rows.rows(name, &[], &mut |key, value| {
            let pages_before = packing.pages();
            if packing.take(key, value) {
                if !leaves.is_empty() {
                    next += pages_before;
                }
                leaves.push(Placed {
                    page: next,
                    key: key.to_vec(),
                });
            }
            Visit::Continue
        })?;
        if !leaves.is_empty() {
            next += packing.pages();
        }
        let mut branches: Vec<Vec<Placed>> = Vec::new();
        let mut level: &[Placed] = &leaves;
        while level.len() > 1 {
            let mut packing = Packing::default();
            let mut above: Vec<Placed> = Vec::new();
            for below in level {
                let pages_before = packing.pages();
                if packing.take(&below.key, &[]) {
                    if !above.is_empty() {
                        next += pages_before;
                    }
                    above.push(Placed {
                        page: next,
                        key: below.key.clone(),
                    });
                }
            }
            next += packing.pages();
            branches.push(above);
            level = branches.last().map_or(&[], Vec::as_slice);
        }
        let root = level.first().map_or(0, |root| root.page);
        buckets.push(Bucket {
            name,
            leaves,
            branches,
            root,
        });
    }
    Ok(Plan {
        buckets,
        root: next,
        pages: next + 1,
    })
}

/// What is written next.
enum Stage {
    Head,
    /// Leaves of a bucket, from this row on.
    Leaves {
        bucket: usize,
        from: Vec<u8>,
    },
    Branches {
        bucket: usize,
    },
    Root,
    End,
}

/// Writes a file part by part.
pub struct Encoder<R> {
    rows: R,
    plan: Plan,
    stage: Stage,
}

impl<R: Rows> Encoder<R> {
    /// Lays the file out: reads all rows once.
    pub fn new(rows: R) -> Result<Encoder<R>, Broken> {
        let plan = plan(&rows)?;
        Ok(Encoder {
            rows,
            plan,
            stage: Stage::Head,
        })
    }

    /// Bytes of the whole file.
    pub fn file_bytes(&self) -> u64 {
        self.plan.pages * PAGE_BYTES as u64
    }

    /// The next part, of some pages; `None` after the last.
    pub fn next_part(&mut self) -> Result<Option<Bytes>, Broken> {
        let mut out = BytesMut::new();
        while out.is_empty() {
            self.stage = match std::mem::replace(&mut self.stage, Stage::End) {
                Stage::Head => {
                    meta(&mut out, 0, &self.plan);
                    meta(&mut out, 1, &self.plan);
                    page_head(&mut out, FREELIST_PAGE, FREELIST, 0, 0);
                    fill_page(&mut out);
                    self.leaves_of(0)
                }
                Stage::Leaves { bucket, from } => match self.write_leaves(&mut out, bucket, &from)? {
                    Some(from) => Stage::Leaves { bucket, from },
                    None => Stage::Branches { bucket },
                },
                Stage::Branches { bucket } => {
                    self.write_branches(&mut out, bucket);
                    self.leaves_of(bucket + 1)
                }
                Stage::Root => {
                    self.write_root(&mut out);
                    Stage::End
                }
                Stage::End => return Ok(None),
            };
        }
        Ok(Some(out.freeze()))
    }

    fn leaves_of(&self, bucket: usize) -> Stage {
        match bucket < self.plan.buckets.len() {
            true => Stage::Leaves {
                bucket,
                from: Vec::new(),
            },
            false => Stage::Root,
        }
    }

    /// Some leaves from a row on; the row at which the next begins.
    fn write_leaves(
        &self,
        out: &mut BytesMut,
        bucket: usize,
        from: &[u8],
    ) -> Result<Option<Vec<u8>>, Broken> {
        let Some(planned) = self.plan.buckets.get(bucket) else {
            return Ok(None);
        };
        let mut at = planned.leaves.partition_point(|leaf| leaf.key.as_slice() < from);
        let mut packing = Packing::default();
        let mut leaf: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        let mut rest = None;
        let mut changed = false;
        let mut close = |leaf: &mut Vec<(Vec<u8>, Vec<u8>)>| {
            let Some((first, _)) = leaf.first() else { return };
            match planned.leaves.get(at) {
                Some(placed) if placed.key == *first => write_leaf(out, placed.page, leaf, 0),
                _ => changed = true,
            }
            at += 1;
            leaf.clear();
        };
        let mut closed = 0;
        self.rows.rows(planned.name, from, &mut |key, value| {
            if packing.take(key, value) && !leaf.is_empty() {
                close(&mut leaf);
                closed += 1;
                if closed == LEAVES_AT_ONCE {
                    rest = Some(key.to_vec());
                    return Visit::Stop;
                }
            }
            leaf.push((key.to_vec(), value.to_vec()));
            Visit::Continue
        })?;
        close(&mut leaf);
        if changed {
            return Err(Broken::invariant("a view showed other rows the second time"));
        }
        Ok(rest)
    }

    fn write_branches(&self, out: &mut BytesMut, bucket: usize) {
        let Some(planned) = self.plan.buckets.get(bucket) else {
            return;
        };
        let mut below = &planned.leaves;
        for level in &planned.branches {
            let mut ends = level.iter().skip(1);
            let mut rest = below.as_slice();
            for branch in level {
                let next = ends.next();
                let count = next.map_or(rest.len(), |next| {
                    rest.partition_point(|page| page.key < next.key)
                });
                let (own, others) = rest.split_at(count);
                write_branch(out, branch.page, own);
                rest = others;
            }
            below = level;
        }
    }

    /// The leaf that names the buckets.
    fn write_root(&self, out: &mut BytesMut) {
        let element = |bucket: &Bucket| {
            let mut value = BytesMut::new();
            value.put_u64_le(bucket.root);
            value.put_u64_le(0);
            if bucket.root == 0 {
                page_head(&mut value, 0, LEAF, 0, 0);
            }
            (bucket.name.as_bytes().to_vec(), value.to_vec())
        };
        let elements: Vec<_> = self.plan.buckets.iter().map(element).collect();
        write_leaf(out, self.plan.root, &elements, IS_BUCKET);
    }
}

fn page_head(out: &mut BytesMut, page: u64, flags: u16, count: usize, overflow: usize) {
    out.put_u64_le(page);
    out.put_u16_le(flags);
    out.put_u16_le(u16::try_from(count).expect("a page of rows has few of them"));
    out.put_u32_le(u32::try_from(overflow).expect("a row is far smaller than 16 TiB"));
}

fn fill_page(out: &mut BytesMut) {
    out.resize(out.len().next_multiple_of(PAGE_BYTES), 0);
}

fn u32_of(number: usize) -> u32 {
    u32::try_from(number).expect("pages and rows are far smaller than 4 GiB")
}

fn write_leaf(out: &mut BytesMut, page: u64, rows: &[(Vec<u8>, Vec<u8>)], flags: u32) {
    let bytes = rows.iter().map(|(key, value)| ELEMENT + key.len() + value.len());
    let pages = (PAGE_HEAD + bytes.sum::<usize>()).div_ceil(PAGE_BYTES);
    page_head(out, page, LEAF, rows.len(), pages - 1);
    let mut position = rows.len() * ELEMENT;
    for (key, value) in rows {
        out.put_u32_le(flags);
        out.put_u32_le(u32_of(position));
        out.put_u32_le(u32_of(key.len()));
        out.put_u32_le(u32_of(value.len()));
        position = position + key.len() + value.len() - ELEMENT;
    }
    for (key, value) in rows {
        out.put_slice(key);
        out.put_slice(value);
    }
    fill_page(out);
}

fn write_branch(out: &mut BytesMut, page: u64, below: &[Placed]) {
    let bytes = below.iter().map(|child| ELEMENT + child.key.len());
    let pages = (PAGE_HEAD + bytes.sum::<usize>()).div_ceil(PAGE_BYTES);
    page_head(out, page, BRANCH, below.len(), pages - 1);
    let mut position = below.len() * ELEMENT;
    for child in below {
        out.put_u32_le(u32_of(position));
        out.put_u32_le(u32_of(child.key.len()));
        out.put_u64_le(child.page);
        position = position + child.key.len() - ELEMENT;
    }
    for child in below {
        out.put_slice(&child.key);
    }
    fill_page(out);
}

fn meta(out: &mut BytesMut, number: u64, plan: &Plan) {
    page_head(out, number, META, 0, 0);
    let start = out.len();
    out.put_u32_le(MAGIC);
    out.put_u32_le(VERSION);
    out.put_u32_le(PAGE_BYTES as u32);
    out.put_u32_le(0);
    out.put_u64_le(plan.root);
    out.put_u64_le(0);
    out.put_u64_le(FREELIST_PAGE);
    out.put_u64_le(plan.pages);
    out.put_u64_le(number);
    let sum = checksum(&out[start..]);
    out.put_u64_le(sum);
    debug_assert_eq!(out.len() - start, META_BYTES);
    fill_page(out);
}

const _: () = assert!(BUCKET_HEAD == 16, "root and sequence");
