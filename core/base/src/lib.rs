//! What every room stands on and none owns: documents with their faults by JSON pointer, files that appear whole or not at all,
//! digests, and randomness as a function of a key. It knows no tensor, no model and no data.

mod digest;
mod document;
mod error;
mod file;
mod memory;
mod random;
mod target;

pub use digest::{Digest, sha256, sha256_file};
pub use document::{check, invalid, parse, read_json, schema_of};
pub use error::{Error, Issue, Result};
pub use file::{FolderLock, file_name, remove, replace, write_json, write_whole};
pub use memory::{expect_memory, in_bytes};
pub use random::keyed_rng;
pub use target::TargetType;
