//! The directory of a zip archive, with or without its extension for sizes beyond 4 GiB: which bytes of the file each entry is. Only entries
//! that are stored as they are, as `torch.save` writes them, can be read.

use std::collections::BTreeMap;

use super::pickle::Reason;
use super::source::Source;

/// The most bytes that a directory may have, and with it the most that is read of an archive unasked.
const MOST_BYTES: u64 = 64 << 20;
/// Bytes of the record that ends an archive, without its comment.
const END: u64 = 22;
/// Bytes of the longest comment behind it.
const COMMENT: u64 = 0xffff;
/// Bytes of an entry in the directory, and of one before its data, each without its name and what follows that.
const ENTRY: usize = 46;
const LOCAL: u64 = 30;

/// An entry.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    /// Where its header is.
    header: u64,
    /// Bytes of its data.
    pub length: u64,
    /// CRC-32 of its data; 0 if the archive was written without.
    pub checksum: u32,
    /// Whether its data are as they were.
    stored: bool,
}

impl Entry {
    /// Where its data start, all of which are in the file.
    pub fn start(&self, source: &Source) -> Result<u64, Reason> {
        if !self.stored {
            return Err("is compressed or encrypted, which `torch.save` does not do".into());
        }
        let mut local = [0; LOCAL as usize];
        source
            .bytes(self.header, &mut local)
            .map_err(|error| error.to_string())?;
        if !local.starts_with(b"PK\x03\x04") {
            return Err("is not where the directory of the archive says".into());
        }
        let start =
            self.header + LOCAL + u64::from(short(&local, 26)) + u64::from(short(&local, 28));
        match start.checked_add(self.length) {
            Some(end) if end <= source.length() => Ok(start),
            _ => Err("reaches beyond the end of the file".into()),
        }
    }
}

/// The entries of an archive by their names.
pub(super) fn entries(source: &Source) -> Result<BTreeMap<String, Entry>, Reason> {
    let fetch = |start: u64, length: u64| {
        let mut bytes = vec![0; length as usize];
        source
            .bytes(start, &mut bytes)
            .map_err(|error| error.to_string())
            .map(|()| bytes)
    };
    let length = source.length();
    let tail_start = length.saturating_sub(END + COMMENT + LOCATOR);
    let tail = fetch(tail_start, length - tail_start)?;
    let end = tail
        .windows(END as usize)
        .rposition(|window| window.starts_with(b"PK\x05\x06"))
        .ok_or("the archive has no end: the file is cut short")?;
    let record = &tail[end..];
    let mut directory = (u64::from(long(record, 12)), u64::from(long(record, 16)));
    // The record of large archives, by the locator before the end.
    let locator = end
        .checked_sub(LOCATOR as usize)
        .map(|start| &tail[start..]);
    if let Some(locator) = locator.filter(|locator| locator.starts_with(b"PK\x06\x07")) {
        let place = wide(locator, 8);
        if place.checked_add(56).is_none_or(|end| end > length) {
            return Err("the archive's end is not where it says".into());
        }
        let record = fetch(place, 56)?;
        if !record.starts_with(b"PK\x06\x06") {
            return Err("the archive's end is not where it says".into());
        }
        directory = (wide(&record, 40), wide(&record, 48));
    }
    let (size, start) = directory;
    if size > MOST_BYTES || start.checked_add(size).is_none_or(|end| end > length) {
        return Err("the archive's directory is not in the file".into());
    }
    parse(&fetch(start, size)?)
}

/// Bytes of what tells where the record of a large archive is.
const LOCATOR: u64 = 20;

fn parse(mut bytes: &[u8]) -> Result<BTreeMap<String, Entry>, Reason> {
    let damaged = || Reason::from("the archive's directory is damaged");
    let mut entries = BTreeMap::new();
    while !bytes.is_empty() {
        if bytes.len() < ENTRY || !bytes.starts_with(b"PK\x01\x02") {
            return Err(damaged());
        }
        let lengths = [28, 30, 32].map(|at| usize::from(short(bytes, at)));
        let all = ENTRY + lengths.iter().sum::<usize>();
        let (Some(name), true) = (bytes.get(ENTRY..ENTRY + lengths[0]), bytes.len() >= all) else {
            return Err(damaged());
        };
        let extra = &bytes[ENTRY + lengths[0]..ENTRY + lengths[0] + lengths[1]];
        let (packed, length, header) = sizes(bytes, extra).ok_or_else(damaged)?;
        let encrypted = short(bytes, 8) & 1 != 0;
        let entry = Entry {
            header,
            length,
            checksum: long(bytes, 16),
            stored: short(bytes, 10) == 0 && packed == length && !encrypted,
        };
        let name = String::from_utf8(name.to_vec()).map_err(|_| damaged())?;
        if entries.insert(name.clone(), entry).is_some() {
            return Err(format!("the archive holds `{name}` twice"));
        }
        bytes = &bytes[all..];
    }
    Ok(entries)
}

/// Bytes in the archive, bytes of the data and place of an entry, each of which may stand in the extension, in this order of the data,
/// the archive and the place.
fn sizes(entry: &[u8], mut extra: &[u8]) -> Option<(u64, u64, u64)> {
    const ELSEWHERE: u32 = u32::MAX;
    let short_ones = [24, 20, 42].map(|at| long(entry, at));
    let mut wide_ones: &[u8] = &[];
    while extra.len() >= 4 {
        let (tag, length) = (short(extra, 0), usize::from(short(extra, 2)));
        let body = extra.get(4..4 + length)?;
        if tag == 1 {
            wide_ones = body;
        }
        extra = &extra[4 + length..];
    }
    let mut found = [0; 3];
    for (found, &short_one) in found.iter_mut().zip(&short_ones) {
        *found = match short_one {
            ELSEWHERE => {
                let (first, rest) = wide_ones.split_first_chunk::<8>()?;
                wide_ones = rest;
                u64::from_le_bytes(*first)
            }
            other => other.into(),
        };
    }
    let [length, packed, header] = found;
    // So that what follows a header cannot overflow.
    (header < 1 << 62).then_some((packed, length, header))
}

fn short(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn long(bytes: &[u8], at: usize) -> u32 {
    u32::from(short(bytes, at)) | u32::from(short(bytes, at + 2)) << 16
}

fn wide(bytes: &[u8], at: usize) -> u64 {
    u64::from(long(bytes, at)) | u64::from(long(bytes, at + 4)) << 32
}
