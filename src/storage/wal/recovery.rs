//! Opening a log: what is on disk becomes a [`LogIndex`], or a refusal that says what is wrong where.
//!
//! A group is synced before the next is written. So after any crash:
//! * every acknowledged group is whole, and at most one group, the last, is torn;
//! * an invalid place with nothing whole behind it is the end of the log: what is there was never
//!   acknowledged and is overwritten;
//! * a whole group *behind* an invalid place means that acknowledged data was damaged: the log is refused.
//!
//! What it cannot know: whether the very last group was acknowledged before it was damaged.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::log_index::{LogIndex, Place};
use super::segment::{Segment, segment_number, segment_path, spare_number};
use super::{Held, WalOptions};
use crate::base::broken::{LOG_WAY_OUT, Unknown};
use crate::base::{Broken, limits};
use crate::runtime::{Disk, Env};
use crate::storage::failed;
use crate::storage::format::{self, Record, SECTOR, SEGMENT_HEADER, SegmentHeader};

/// A log as it was found.
pub(super) struct Found {
    pub log_index: LogIndex,
    pub segments: BTreeMap<u64, Held>,
    /// The segment that is written next, and where; `None` for a new log.
    pub active: Option<(Arc<Segment>, u64)>,
    /// The sequence number of the next group.
    pub sequence: u64,
    /// A segment that was made ready before the stop.
    pub prepared: Option<Segment>,
    /// Numbers of the spare files that can be used.
    pub spares: Vec<u64>,
}

/// Whose log lies in a directory, by the first header that is whole; `None` without any.
pub(super) async fn owner(env: &Env, directory: &Path) -> Result<Option<[u8; 16]>, Broken> {
    let disk = env.disk();
    let names = match disk.read_dir(directory).await {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        names => names.map_err(failed("could not read the log's directory", directory))?,
    };
    let mut numbers: Vec<u64> = names.iter().filter_map(|name| segment_number(name)).collect();
    numbers.sort_unstable();
    for number in numbers {
        let path = segment_path(directory, number);
        let cannot = failed("could not open log segment", &path);
        let file = disk.open(&path).await.map_err(&cannot)?;
        let sector = file.read_at(0, SEGMENT_HEADER).await.map_err(&cannot)?;
        if let Some(header) = SegmentHeader::decode(&sector) {
            return Ok(Some(header.identity));
        }
        refuse_other_version(&path, &sector)?;
    }
    Ok(None)
}

pub(super) async fn recover(env: &Env, directory: &Path, options: &WalOptions) -> Result<Found, Broken> {
    let disk = env.disk();
    let cannot = failed("could not read the log's directory", directory);
    let names = disk.read_dir(directory).await.map_err(&cannot)?;
    let spares = keep_spares(&*disk, directory, options, &names).await?;
    let mut numbers: Vec<u64> = names.iter().filter_map(|name| segment_number(name)).collect();
    numbers.sort_unstable();
    // Removals may reach the disk in any order: what is before a gap is left over from a purge, if the
    // rest shows that nothing in it is needed.
    let run = numbers
        .windows(2)
        .rposition(|pair| pair[0] + 1 != pair[1])
        .map_or(0, |gap| gap + 1);
    let left_over = numbers.drain(..run).collect::<Vec<_>>();

    let mut replay = Replay::new(directory);
    for number in numbers {
        let segment = open(&*disk, directory, options, number).await?;
        let cannot = failed("could not read log segment", &segment.path);
        let length =
            usize::try_from(segment.length).map_err(|_| Broken::invariant("a log segment too large"))?;
        let bytes = segment.file.read_at(0, length).await.map_err(cannot)?;
        replay.segment(Arc::new(segment), &bytes)?;
    }
    let recovered = replay.finish(!left_over.is_empty(), spares)?;

    for number in left_over {
        let path = segment_path(directory, number);
        disk.remove_file(&path)
            .await
            .map_err(failed("could not remove log segment", &path))?;
    }
    let active = recovered.active.as_ref();
    if let Some((segment, _)) = active.filter(|_| options.sync) {
        // After a kill the last group may be in the page cache only; it counts from now on.
        let cannot = failed("could not sync log segment", &segment.path);
        segment.file.sync().await.map_err(&cannot)?;
        // So may the name of the segment that was made ready.
        let cannot = failed("could not sync the log's directory", directory);
        disk.sync_dir(directory).await.map_err(&cannot)?;
    }
    Ok(recovered)
}

/// The spare files that can become segments; the others are removed.
async fn keep_spares(
    disk: &dyn Disk,
    directory: &Path,
    options: &WalOptions,
    names: &[String],
) -> Result<Vec<u64>, Broken> {
    let mut spares = Vec::new();
    for name in names {
        let Some(number) = spare_number(name) else {
            continue;
        };
        let path = directory.join(name);
        let cannot = failed("could not look at spare log segment", &path);
        let file = disk.open(&path).await.map_err(&cannot)?;
        let length = file.len().await.map_err(&cannot)?;
        // The header is written last: without one, the file may not be filled with zeros to its end.
        if spares.len() < limits::LOG_SPARE_SEGMENTS_MAX && length == options.segment_bytes {
            let sector = file.read_at(0, SEGMENT_HEADER).await.map_err(&cannot)?;
            if SegmentHeader::decode(&sector).is_some() {
                spares.push(number);
                continue;
            }
        }
        disk.remove_file(&path).await.map_err(&cannot)?;
    }
    Ok(spares)
}

/// Opens a segment and checks that it is what its name says, whole, and ours.
async fn open(
    disk: &dyn Disk,
    directory: &Path,
    options: &WalOptions,
    number: u64,
) -> Result<Segment, Broken> {
    let path = segment_path(directory, number);
    let cannot = failed("could not open log segment", &path);
    let file = disk.open(&path).await.map_err(&cannot)?;
    let sector = file.read_at(0, SEGMENT_HEADER).await.map_err(&cannot)?;
    refuse_other_version(&path, &sector)?;
    let header = SegmentHeader::decode(&sector).filter(|header| header.number == number);
    let Some(header) = header else {
        return Err(damaged(&path, 0, "its header is not whole"));
    };
    if header.identity != options.identity {
        return Err(Broken::Foreign {
            path: path.clone(),
            theirs: header.identity,
            ours: options.identity,
        });
    }
    let length = file.len().await.map_err(cannot)?;
    if length != header.length {
        return Err(Broken::Truncated {
            path,
            length,
            expected: header.length,
        });
    }
    Ok(Segment {
        number,
        epoch: header.epoch,
        length,
        path,
        file,
    })
}

/// # Errors
/// Another release wrote the log.
fn refuse_other_version(path: &Path, sector: &[u8]) -> Result<(), Broken> {
    let Some(version) = format::other_version(sector) else {
        return Ok(());
    };
    Err(Broken::OtherRelease {
        what: format!("log segment {}", path.display()),
        found: Unknown::Log(version),
    })
}

/// The end of the log as far as it is known: the segment and the offset behind its last whole group.
struct End {
    segment: Arc<Segment>,
    offset: u64,
}

/// Reads segments in order.
struct Replay<'a> {
    directory: &'a Path,
    log_index: LogIndex,
    segments: BTreeMap<u64, Held>,
    end: Option<End>,
    /// The sequence number that the next group must have; `None` before the first.
    expected: Option<u64>,
    /// Segments behind the end, in which no whole group was found.
    empty: Vec<Arc<Segment>>,
    /// Where the log ended before the first segment.
    base: Option<super::LogId>,
}

impl<'a> Replay<'a> {
    fn new(directory: &'a Path) -> Self {
        Replay {
            directory,
            log_index: LogIndex::default(),
            segments: BTreeMap::new(),
            end: None,
            expected: None,
            empty: Vec::new(),
            base: None,
        }
    }

    /// Reads one segment; the one before ended, or there is none.
    fn segment(&mut self, segment: Arc<Segment>, bytes: &Bytes) -> Result<(), Broken> {
        let first = format::decode_group(bytes, SEGMENT_HEADER, segment.epoch);
        if let Some(group) = &first {
            self.check_joint(&segment, group.sequence)?;
        }
        let mut offset = SEGMENT_HEADER;
        let mut next = first;
        while let Some(group) = next {
            if self.expected.is_some_and(|expected| group.sequence != expected) {
                return Err(not_whole(&segment, offset, offset));
            }
            self.group(&segment, offset, bytes, &group)?;
            self.expected = Some(group.sequence + 1);
            offset = group.end;
            next = format::decode_group(bytes, offset, segment.epoch);
        }
        if let Some(behind) = whole_behind(bytes, offset + SECTOR, segment.epoch) {
            return Err(not_whole(&segment, offset, behind));
        }
        if offset == SEGMENT_HEADER {
            self.empty.push(segment);
            return Ok(());
        }
        self.end = Some(End {
            segment,
            offset: offset as u64,
        });
        Ok(())
    }

    /// The first group of a segment must follow the last of the one before.
    fn check_joint(&self, segment: &Segment, sequence: u64) -> Result<(), Broken> {
        let in_order = match self.expected {
            Some(expected) => sequence == expected && self.empty.is_empty(),
            None => self.empty.is_empty() && (segment.number > 1 || sequence == 1),
        };
        if in_order {
            return Ok(());
        }
        match (&self.end, self.empty.first()) {
            (_, Some(empty)) => Err(not_whole(empty, SEGMENT_HEADER, SEGMENT_HEADER)),
            (Some(end), None) => Err(not_whole(&end.segment, end.offset as usize, end.offset as usize)),
            (None, None) => Err(not_whole(segment, SEGMENT_HEADER, SEGMENT_HEADER)),
        }
    }

    fn group(
        &mut self,
        segment: &Arc<Segment>,
        offset: usize,
        bytes: &Bytes,
        group: &format::Group,
    ) -> Result<(), Broken> {
        let unknown = || Broken::OtherRelease {
            what: format!("log segment {}", segment.path.display()),
            found: Unknown::Records { offset },
        };
        let records = format::decode_records(bytes, group).ok_or_else(unknown)?;
        let held = self.segments.entry(segment.number).or_insert_with(|| Held {
            segment: segment.clone(),
            last_index: None,
        });
        // The first group that is read tells what the segments before it left.
        let mut fresh = self.expected.is_none();
        for (at, record) in records {
            match record {
                Record::Entry(id, payload) => {
                    let place = Place {
                        segment: segment.number,
                        offset: at as u64,
                        checksum: crc32c::crc32c(payload),
                    };
                    self.log_index
                        .restore(id, payload.len(), place)
                        .map_err(|broken| {
                            let path = segment.path.display();
                            Broken::contradiction(format!("log segment {path} at offset {at}: {broken}"))
                        })?;
                    held.last_index = held.last_index.max(Some(id.index));
                }
                Record::Vote(vote) => self.log_index.vote = Some(Bytes::copy_from_slice(vote)),
                Record::Committed(id) => self.log_index.committed = Some(id),
                Record::Truncate(end) => self.log_index.truncate(end),
                Record::Purge(upto) if fresh => self.log_index.set_purged(upto),
                Record::Purge(upto) => self.log_index.purge(upto),
                Record::Reset(upto) => self.log_index.reset(upto),
                Record::Start(end) if fresh => {
                    self.log_index.start(end);
                    self.base = end;
                    fresh = false;
                }
                Record::Start(end) if end == self.log_index.last() => {}
                Record::Start(_) => return Err(not_whole(segment, offset, offset)),
            }
        }
        Ok(())
    }

    fn finish(mut self, left_over: bool, spares: Vec<u64>) -> Result<Found, Broken> {
        let begin = self
            .end
            .as_ref()
            .and_then(|_| self.segments.keys().next().copied());
        let first = begin.or(self.empty.first().map(|segment| segment.number));
        // A segment that never held a group is the log's beginning only if it is number 1.
        let unfounded = begin.is_none() && (left_over || first.is_some_and(|first| first > 1));
        let needed = self.base.filter(|base| {
            let known_from = self.log_index.first().min(base.index + 1);
            let purged = self.log_index.purged();
            known_from > 0 && purged.is_none_or(|purged| purged.index + 1 < known_from)
        });
        if let Some(first) = first.filter(|_| unfounded || needed.is_some()) {
            return Err(Broken::Incomplete {
                what: "log segment",
                path: segment_path(self.directory, first.saturating_sub(1)),
                how: format!("is missing; {LOG_WAY_OUT}"),
            });
        }
        let active = match self.end.take() {
            Some(end) => Some((end.segment, end.offset)),
            None if self.empty.is_empty() => None,
            None => Some((self.empty.remove(0), SEGMENT_HEADER as u64)),
        };
        if let Some((segment, _)) = &active {
            self.segments.entry(segment.number).or_insert_with(|| Held {
                segment: segment.clone(),
                last_index: None,
            });
        }
        let prepared = if self.empty.is_empty() {
            None
        } else {
            Arc::into_inner(self.empty.remove(0))
        };
        Ok(Found {
            log_index: self.log_index,
            segments: self.segments,
            active,
            sequence: self.expected.unwrap_or(1),
            prepared,
            spares,
        })
    }
}

/// The first whole group at `from` or behind it.
fn whole_behind(bytes: &[u8], from: usize, epoch: u64) -> Option<usize> {
    let mut sectors = (from..bytes.len()).step_by(SECTOR);
    sectors.find(|offset| format::decode_group(bytes, *offset, epoch).is_some())
}

fn not_whole(segment: &Segment, offset: usize, behind: usize) -> Broken {
    let behind = if behind > offset {
        format!("a whole group follows at offset {behind}")
    } else {
        "whole groups follow".to_owned()
    };
    let how = format!("the group there is not whole, but {behind}");
    damaged(&segment.path, offset, &how)
}

fn damaged(path: &Path, offset: usize, how: &str) -> Broken {
    Broken::Damaged {
        what: "log segment",
        path: path.to_owned(),
        offset: offset as u64,
        how: format!("{how}; {LOG_WAY_OUT}"),
    }
}
