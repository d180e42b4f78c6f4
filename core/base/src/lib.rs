//! What every room stands on and none owns: documents with their faults by JSON pointer, files that appear whole or not at all,
//! digests, and randomness as a function of a key. It knows no tensor, no model and no data.

mod digest;
mod document;
mod error;
mod fault;
mod file;
mod json;
mod meant;
mod memory;
mod random;
mod schema;
mod target;

pub use digest::{Digest, sha256, sha256_file};
pub use document::{
    Overrides, add_others, invalid, parse, parse_and_check, parse_by, read_document, read_json,
};
pub use error::{Error, Issue, Result, listed, told};
pub use fault::check;
pub use file::{FolderLock, expect_folder, file_name, remove, replace, write_json, write_whole};
pub use json::{escaped, parse_json};
pub use memory::{expect_memory, in_bytes};
pub use random::keyed_rng;
pub use schema::{also_spelled, published, schema_of};
pub use target::TargetType;
