//! Which native code is at work. A library has the rights of this program, and may end it from within a call; what is registered to run at
//! its end can then say whose call that was.

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::Place;

/// What native code was entered for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Errand {
    /// A library is opened, or asked what it offers.
    Opening(PathBuf),
    /// A function of a role is called.
    Calling(Place),
}

impl fmt::Display for Errand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Opening(path) => write!(f, "`{}`, when it was opened", path.display()),
            Self::Calling(place) => place.fmt(f),
        }
    }
}

static NEXT: AtomicU64 = AtomicU64::new(0);
static UNDER_WAY: Mutex<Vec<(u64, Errand)>> = Mutex::new(Vec::new());

fn list() -> MutexGuard<'static, Vec<(u64, Errand)>> {
    // Nothing panics while it holds the list.
    UNDER_WAY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Native code is at work for as long as this lives.
pub(crate) struct Entered(u64);

impl Entered {
    pub(crate) fn new(errand: Errand) -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        list().push((number, errand));
        Self(number)
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        list().retain(|(number, _)| *number != self.0);
    }
}

/// The calls of native plugins that have begun and not returned, in words. For whoever has to say why a process ends in the middle of one.
pub fn under_way() -> Vec<String> {
    list()
        .iter()
        .map(|(_, errand)| errand.to_string())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::Role;

    #[test]
    fn what_has_returned_is_not_under_way() {
        let call = |function| Errand::Calling(Place::new("only-here", Role::Metric, function));
        let mine = || -> Vec<String> {
            let all = under_way().into_iter();
            all.filter(|words| words.contains("only-here")).collect()
        };
        let (first, second) = (Entered::new(call("update")), Entered::new(call("save")));
        assert_eq!(mine().len(), 2);
        drop(first);
        assert_eq!(mine(), ["plugin `only-here`, metric.save"]);
        drop(second);
        assert!(mine().is_empty());
    }
}
