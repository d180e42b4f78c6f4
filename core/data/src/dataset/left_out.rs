//! What a dataset found in its folders and did not take. Counts by reason with one example each, so that a folder of a million files is told
//! in one line.

use std::collections::BTreeMap;
use std::fmt;

/// Reasons that a message names; the others are counted together.
const SHOWN: usize = 8;

/// What was found in a dataset's folders and left out, by reason. As text, one line without an end:
/// ``2 hidden (`.ipynb_checkpoints`, …), 3 `.txt` files``; nothing if nothing was left out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LeftOut(BTreeMap<Reason, Found>);

/// Why something was left out.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reason {
    /// An image beside class folders, so that it has no class.
    BesideClasses,
    /// A file that is not called as the pattern says.
    Named(String),
    /// A map of this target that belongs to no image.
    WithoutImage(String),
    /// A link to a folder that it lies in.
    Loop,
    /// Of a GIF file, all frames but the first.
    LaterFrames,
    /// A name that starts with a dot, or a folder that a file system or archive keeps for itself.
    Hidden,
    /// Neither a file nor a folder.
    Special,
    /// A file of a type that is not read: its extension in lower case.
    Extension(String),
}

/// How many, and the name of the first.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Found {
    count: usize,
    first: String,
}

impl LeftOut {
    /// How many files and folders were left out. A folder counts once, whatever it holds.
    pub fn count(&self) -> usize {
        let whole = |(reason, _): &(&Reason, &Found)| **reason != Reason::LaterFrames;
        self.0
            .iter()
            .filter(whole)
            .map(|(_, found)| found.count)
            .sum()
    }

    /// Whether there is nothing to say.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn add(&mut self, reason: Reason, name: impl Into<String>) {
        let first = name.into();
        let found = self.0.entry(reason).or_insert(Found { count: 0, first });
        found.count += 1;
    }

    pub(super) fn merge(&mut self, other: Self) {
        for (reason, found) in other.0 {
            let first = found.first;
            let own = self.0.entry(reason).or_insert(Found { count: 0, first });
            own.count += found.count;
        }
    }
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (reason, found)) in self.0.iter().take(SHOWN).enumerate() {
            f.write_str(if n == 0 { "" } else { ", " })?;
            describe(f, reason, found)?;
        }
        match self.0.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, ", and {more} kinds more"),
        }
    }
}

fn describe(f: &mut fmt::Formatter<'_>, reason: &Reason, found: &Found) -> fmt::Result {
    let Found { count, first } = found;
    let s = if *count == 1 { "" } else { "s" };
    let more = if *count == 1 { "" } else { ", …" };
    match reason {
        Reason::BesideClasses => {
            write!(f, "{count} image{s} beside class folders (`{first}`{more})")
        }
        Reason::Named(pattern) => {
            write!(
                f,
                "{count} file{s} not called `{pattern}` (`{first}`{more})"
            )
        }
        Reason::WithoutImage(target) => {
            write!(
                f,
                "{count} map{s} of `{target}` without an image (`{first}`{more})"
            )
        }
        Reason::Loop => write!(f, "{count} link{s} to a folder above (`{first}`{more})"),
        Reason::LaterFrames => write!(f, "all but the first frame of {count} GIF file{s}"),
        Reason::Hidden => write!(f, "{count} hidden (`{first}`{more})"),
        Reason::Special => write!(f, "{count} neither a file nor a folder (`{first}`{more})"),
        Reason::Extension(extension) if extension.is_empty() => {
            write!(f, "{count} file{s} without an extension")
        }
        Reason::Extension(extension) => write!(f, "{count} `.{extension}` file{s}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_how_many_and_why_in_one_line() {
        let mut left_out = LeftOut::default();
        assert!(left_out.is_empty() && left_out.to_string().is_empty());
        left_out.add(Reason::Hidden, ".a");
        left_out.add(Reason::Hidden, ".b");
        left_out.add(Reason::LaterFrames, "x.gif");
        let mut other = LeftOut::default();
        other.add(Reason::Extension("txt".into()), "notes.txt");
        other.add(Reason::Hidden, ".c");
        left_out.merge(other);
        assert_eq!(
            left_out.to_string(),
            "all but the first frame of 1 GIF file, 3 hidden (`.a`, …), 1 `.txt` file"
        );
        assert_eq!(left_out.count(), 4);
    }

    #[test]
    fn a_hundred_reasons_still_make_a_line() {
        let mut left_out = LeftOut::default();
        for n in 0..100 {
            left_out.add(Reason::Extension(format!("{n:03}")), "x");
        }
        let text = left_out.to_string();
        assert!(text.ends_with("and 92 kinds more"), "{text}");
        assert!(text.len() < 300);
    }
}
