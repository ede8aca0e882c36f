//! Reading a file that may be damaged, or made to do harm: every offset is checked, nothing is believed.

use super::{
    BRANCH, BUCKET_HEAD, ELEMENT, IS_BUCKET, LEAF, MAGIC, META, META_BYTES, PAGE_HEAD, VERSION, checksum,
};

/// Deepest tree: bbolt's grow by one for each factor of dozens.
const DEPTH_MAX: usize = 32;

/// Bytes at a place.
pub trait ReadAt {
    fn bytes(&self) -> u64;
    /// Fills the whole buffer.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> std::io::Result<()>;
}

/// An opened file.
pub struct File<F> {
    file: F,
    page_bytes: u64,
    root: u64,
    /// Pages in use.
    pages: u64,
}

/// One page with what overflows from it.
struct Page {
    at: u64,
    flags: u16,
    count: usize,
    bytes: Vec<u8>,
}

type Row<'a> = (u32, &'a [u8], &'a [u8]);
/// Told of key and value of each row.
pub type Visitor<'a> = dyn FnMut(&[u8], &[u8]) -> Result<(), String> + 'a;
/// Told of each element, with its flags.
type Elements<'a> = dyn FnMut(u32, &[u8], &[u8]) -> Result<(), String> + 'a;

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

struct Meta {
    page_bytes: u64,
    root: u64,
    pages: u64,
    transaction: u64,
}

fn meta(bytes: &[u8]) -> Option<Meta> {
    let body = bytes.get(PAGE_HEAD..PAGE_HEAD + META_BYTES)?;
    let sound = u16_at(bytes, 8)? == META
        && u32_at(body, 0)? == MAGIC
        && u32_at(body, 4)? == VERSION
        && u64_at(body, META_BYTES - 8)? == checksum(body.get(..META_BYTES - 8)?);
    let page_bytes = u64::from(u32_at(body, 8)?);
    let possible = page_bytes.is_power_of_two() && (512..=65_536).contains(&page_bytes);
    (sound && possible).then_some(Meta {
        page_bytes,
        root: u64_at(body, 16)?,
        pages: u64_at(body, 40)?,
        transaction: u64_at(body, 48)?,
    })
}

impl<F: ReadAt> File<F> {
    /// # Errors
    /// No sound meta page, or a file that is shorter than it says.
    pub fn open(file: F) -> Result<File<F>, String> {
        let length = file.bytes();
        let look = |offset: u64| {
            let mut head = [0; PAGE_HEAD + META_BYTES];
            file.read_at(offset, &mut head).ok()?;
            meta(&head)
        };
        let first = look(0);
        // The second meta page is one page on, whatever the size of pages is.
        let sizes = [4096, 16_384, 65_536, 32_768, 8192, 2048, 1024, 512];
        let second = match &first {
            Some(meta) => look(meta.page_bytes),
            None => sizes.into_iter().find_map(look),
        };
        let newest = first
            .into_iter()
            .chain(second)
            .max_by_key(|meta| meta.transaction);
        let Some(meta) = newest else {
            return Err("not a database of etcd: no sound meta page at its start".into());
        };
        if meta
            .pages
            .checked_mul(meta.page_bytes)
            .is_none_or(|needed| needed > length)
        {
            return Err(format!(
                "the database is cut off: it has {length} bytes, and should have {} pages of {}",
                meta.pages, meta.page_bytes
            ));
        }
        Ok(File {
            file,
            page_bytes: meta.page_bytes,
            root: meta.root,
            pages: meta.pages,
        })
    }

    /// Bytes of the pages in use.
    pub fn size(&self) -> u64 {
        self.pages * self.page_bytes
    }

    /// Names of the buckets.
    pub fn buckets(&self) -> Result<Vec<Vec<u8>>, String> {
        let mut names = Vec::new();
        let mut visited = 0;
        self.walk(self.root, DEPTH_MAX, &mut visited, &mut |flags, key, _| {
            if flags & IS_BUCKET != 0 {
                names.push(key.to_vec());
            }
            Ok(())
        })?;
        Ok(names)
    }

    /// Every row of a bucket, in order; `false` if there is no such bucket.
    pub fn rows(&self, bucket: &[u8], visit: &mut Visitor<'_>) -> Result<bool, String> {
        let mut found = None;
        let mut visited = 0;
        self.walk(self.root, DEPTH_MAX, &mut visited, &mut |flags, key, value| {
            if flags & IS_BUCKET != 0 && key == bucket {
                found = Some(value.to_vec());
            }
            Ok(())
        })?;
        let Some(value) = found else { return Ok(false) };
        let name = String::from_utf8_lossy(bucket);
        let root = u64_at(&value, 0).ok_or_else(|| format!("bucket {name} has no root"))?;
        let mut last: Option<Vec<u8>> = None;
        let mut checked = |flags: u32, key: &[u8], value: &[u8]| {
            if last.as_deref().is_some_and(|last| last >= key) {
                return Err(format!("keys of bucket {name} are out of order"));
            }
            last = Some(key.to_vec());
            match flags & IS_BUCKET {
                0 => visit(key, value),
                _ => Ok(()),
            }
        };
        if root == 0 {
            let inline = value.get(BUCKET_HEAD..).unwrap_or_default();
            let page = parse(0, inline.to_vec()).ok_or_else(|| format!("bucket {name} is cut off"))?;
            page.leaf(&mut checked)?;
        } else {
            self.walk(root, DEPTH_MAX, &mut visited, &mut checked)?;
        }
        Ok(true)
    }

    fn damaged(&self, page: u64, what: &str) -> String {
        let offset = page.saturating_mul(self.page_bytes);
        format!("the database is damaged at offset {offset}, page {page}: {what}")
    }

    fn page(&self, number: u64) -> Result<Page, String> {
        let damaged = |what| self.damaged(number, what);
        if number < 2 || number >= self.pages {
            return Err(damaged("there is no such page"));
        }
        let offset = number * self.page_bytes;
        let mut head = [0; PAGE_HEAD];
        let unreadable = |error: std::io::Error| self.damaged(number, &error.to_string());
        self.file.read_at(offset, &mut head).map_err(unreadable)?;
        let overflow = u32_at(&head, 12).map_or(0, u64::from);
        if u64_at(&head, 0) != Some(number) {
            return Err(damaged("it has another page's number"));
        }
        if number + overflow >= self.pages {
            return Err(damaged("it overflows beyond the end"));
        }
        let length =
            usize::try_from((overflow + 1) * self.page_bytes).map_err(|_| damaged("it is too long"))?;
        let mut bytes = vec![0; length];
        self.file.read_at(offset, &mut bytes).map_err(unreadable)?;
        parse(number, bytes).ok_or_else(|| damaged("it has no head"))
    }

    fn walk(
        &self,
        number: u64,
        depth: usize,
        visited: &mut u64,
        visit: &mut Elements<'_>,
    ) -> Result<(), String> {
        let page = self.page(number)?;
        *visited += 1;
        if depth == 0 || *visited > self.pages {
            return Err(self.damaged(number, "pages refer to one another in circles"));
        }
        match page.flags {
            LEAF => page.leaf(visit).map_err(|what| self.damaged(number, &what)),
            BRANCH => {
                for index in 0..page.count {
                    let at = PAGE_HEAD + index * ELEMENT + 8;
                    let child =
                        u64_at(&page.bytes, at).ok_or_else(|| self.damaged(number, "it is cut off"))?;
                    self.walk(child, depth - 1, visited, visit)?;
                }
                Ok(())
            }
            _ => Err(self.damaged(number, "it is neither leaf nor branch")),
        }
    }
}

fn parse(at: u64, bytes: Vec<u8>) -> Option<Page> {
    Some(Page {
        at,
        flags: u16_at(&bytes, 8)?,
        count: usize::from(u16_at(&bytes, 10)?),
        bytes,
    })
}

impl Page {
    fn leaf(&self, visit: &mut Elements<'_>) -> Result<(), String> {
        for index in 0..self.count {
            let (flags, key, value) = self
                .row(index)
                .ok_or_else(|| format!("element {index} of page {} lies outside", self.at))?;
            visit(flags, key, value)?;
        }
        Ok(())
    }

    fn row(&self, index: usize) -> Option<Row<'_>> {
        let element = PAGE_HEAD + index * ELEMENT;
        let size = |at| u32_at(&self.bytes, element + at).and_then(|size| usize::try_from(size).ok());
        let key_at = element.checked_add(size(4)?)?;
        let value_at = key_at.checked_add(size(8)?)?;
        let end = value_at.checked_add(size(12)?)?;
        let flags = u32_at(&self.bytes, element)?;
        Some((
            flags,
            self.bytes.get(key_at..value_at)?,
            self.bytes.get(value_at..end)?,
        ))
    }
}
