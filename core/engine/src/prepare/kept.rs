//! What encoders make of images and of texts, kept in a folder, so that runs which show them the same compute it once: other methods,
//! settings, seeds of draws, shards, and runs that are resumed. A file's name is the digest of all that its numbers depend on, so nothing
//! has to be told apart or cleared when an experiment changes; a file that is damaged is computed again.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use dtta_base::{Digest, write_whole};
use dtta_tensor::Device;

use crate::error::Result;

/// What files of kept numbers end in.
const ENDING: &str = "kept";
/// Characters of the digest that a file begins with.
const DIGEST: usize = 64;

/// A folder for what encoders make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keep {
    /// Made if it is not there.
    pub folder: PathBuf,
    /// Files are added until all there are have so many bytes, about: of several processes, none sees what the others write.
    pub max_bytes: u64,
}

/// The folder, open.
#[derive(Debug)]
pub(crate) struct Kept {
    folder: PathBuf,
    /// Bytes that may still be written; none once that was told.
    room: Mutex<Option<u64>>,
}

/// The latents of one encoder.
pub(crate) struct Latents {
    kept: Arc<Kept>,
    /// The digest of encoder, device and versions.
    encoder: String,
}

impl Latents {
    pub fn new(kept: Arc<Kept>, encoder: String) -> Self {
        Self { kept, encoder }
    }

    /// The latent of an image of that shape, as [`Kept::get`] has it.
    pub fn get(
        &self,
        shape: [usize; 3],
        pixels: &[f32],
        numbers: usize,
        compute: impl FnOnce() -> Result<Vec<f32>>,
    ) -> Result<Vec<f32>> {
        self.kept.get(&self.key(shape, pixels), numbers, compute)
    }

    /// The digest of all that a latent depends on.
    fn key(&self, shape: [usize; 3], pixels: &[f32]) -> String {
        let mut digest = Digest::new();
        digest.field(&self.encoder);
        for extent in shape {
            digest.field((extent as u64).to_le_bytes());
        }
        digest.field(bytes(pixels));
        digest.finish()
    }
}

impl Kept {
    /// # Errors
    /// [`dtta_base::Error`] for a folder that cannot be made or read.
    pub fn open(keep: &Keep) -> Result<Self> {
        let folder = &keep.folder;
        let failed = |source| dtta_base::Error::Read {
            path: folder.clone(),
            source,
        };
        fs::create_dir_all(folder).map_err(failed)?;
        let mut taken = 0;
        for entry in fs::read_dir(folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if entry.path().extension().is_some_and(|end| end == ENDING) {
                // One that another process replaces in this moment counts nothing.
                taken += entry.metadata().map_or(0, |about| about.len());
            }
        }
        Ok(Self {
            folder: folder.clone(),
            room: Mutex::new(Some(keep.max_bytes.saturating_sub(taken))),
        })
    }

    /// So many numbers: those that are kept under a digest of all that they depend on, or those that `compute` gives, which are kept from then
    /// on. What cannot be written is a warning, since the result is the same.
    pub fn get(
        &self,
        key: &str,
        numbers: usize,
        compute: impl FnOnce() -> Result<Vec<f32>>,
    ) -> Result<Vec<f32>> {
        let path = self.folder.join(key).with_extension(ENDING);
        match read(&path, key, numbers) {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => {}
            Err(reason) => log::warn!("`{}` {reason}: it is computed again", path.display()),
        }
        let computed = compute()?;
        self.write(&path, key, &computed);
        Ok(computed)
    }

    fn write(&self, path: &Path, key: &str, numbers: &[f32]) {
        let body = bytes(numbers);
        let size = (DIGEST + body.len()) as u64;
        {
            let mut room = self.room.lock().unwrap_or_else(PoisonError::into_inner);
            match *room {
                Some(left) if left >= size => *room = Some(left - size),
                Some(_) => {
                    log::warn!(
                        "`{}` is full: what encoders make is no longer kept",
                        self.folder.display()
                    );
                    *room = None;
                    return;
                }
                None => return,
            }
        }
        let whole = [checksum(key, &body).as_bytes(), &body].concat();
        if let Err(error) = write_whole(path, &whole) {
            log::warn!("what an encoder made is not kept: {error}");
        }
    }
}

/// Of the files whose names begin so, of where an encoder computes, and of what computes.
pub(crate) fn digest_of(
    prefix: &str,
    digests: &BTreeMap<String, String>,
    device: &Device,
) -> Digest {
    let mut digest = Digest::new();
    for (name, value) in digests.iter().filter(|(name, _)| name.starts_with(prefix)) {
        digest.field(name);
        digest.field(value);
    }
    digest.field(device.name());
    digest.field(env!("CARGO_PKG_VERSION"));
    digest.field(dtta_tensor::BURN_VERSION);
    digest
}

/// What a file begins with: of its numbers, and of what they depend on, so that a file under another's name is none of it.
fn checksum(key: &str, body: &[u8]) -> String {
    let mut digest = Digest::new();
    digest.field(key);
    digest.field(body);
    digest.finish()
}

/// The numbers of a file that is whole; nothing if there is none.
fn read(path: &Path, key: &str, numbers: usize) -> Result<Option<Vec<f32>>, String> {
    let failed = |error: std::io::Error| format!("cannot be read ({error})");
    let about = match fs::metadata(path) {
        Ok(about) => about,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    // Before it is opened: what is no file may wait for a writer, and one of another length has nothing that is looked for.
    let length = DIGEST + numbers * size_of::<f32>();
    if !about.is_file() || about.len() != length as u64 {
        return Err("is damaged".into());
    }
    let whole = fs::read(path).map_err(failed)?;
    let (_, body) = whole
        .split_at_checked(DIGEST)
        .filter(|(digest, body)| checksum(key, body).as_bytes() == *digest)
        .ok_or("is damaged")?;
    let chunks = body.chunks_exact(size_of::<f32>());
    let numbers = chunks.map(|chunk| f32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]));
    Ok(Some(numbers.collect()))
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: [usize; 3] = [1, 1, 2];

    fn open(folder: &Path, max_bytes: u64, encoder: &str) -> Latents {
        let folder = folder.to_owned();
        let kept = Kept::open(&Keep { folder, max_bytes }).unwrap();
        Latents::new(Arc::new(kept), encoder.into())
    }

    fn files(folder: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(folder).unwrap();
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths
    }

    /// The latent of some pixels, and whether it had to be computed.
    fn get(latents: &Latents, shape: [usize; 3], pixels: &[f32]) -> (Vec<f32>, bool) {
        let mut computed = false;
        let latent = latents.get(shape, pixels, 3, || {
            computed = true;
            Ok(vec![pixels[0], 2.0, -0.0])
        });
        (latent.unwrap(), computed)
    }

    #[test]
    fn a_latent_is_computed_once_for_the_same_pixels_and_encoder() {
        let folder = tempfile::tempdir().unwrap();
        let of = |encoder: &str| open(folder.path(), 1 << 20, encoder);
        let latents = of("a");
        assert_eq!(
            get(&latents, SHAPE, &[1.0, 0.5]),
            (vec![1.0, 2.0, 0.0], true)
        );
        // Another process.
        assert_eq!(
            get(&of("a"), SHAPE, &[1.0, 0.5]),
            (vec![1.0, 2.0, 0.0], false)
        );
        assert!(get(&latents, SHAPE, &[1.0, 0.25]).1);
        assert!(get(&latents, [1, 2, 1], &[1.0, 0.5]).1);
        assert!(get(&of("b"), SHAPE, &[1.0, 0.5]).1);
        assert_eq!(files(folder.path()).len(), 4);
    }

    #[test]
    fn a_file_that_is_damaged_is_computed_again_and_mended() {
        let folder = tempfile::tempdir().unwrap();
        let latents = open(folder.path(), 1 << 20, "a");
        get(&latents, SHAPE, &[1.0, 0.5]);
        let [path] = &files(folder.path())[..] else {
            panic!("one file")
        };
        let whole = fs::read(path).unwrap();
        let mut changed = whole.clone();
        changed[DIGEST + 1] ^= 1;
        for damaged in [&changed[..], &whole[..whole.len() - 4], &whole[..10], &[]] {
            fs::write(path, damaged).unwrap();
            assert_eq!(
                get(&latents, SHAPE, &[1.0, 0.5]),
                (vec![1.0, 2.0, 0.0], true)
            );
            assert_eq!(fs::read(path).unwrap(), whole);
            assert!(!get(&latents, SHAPE, &[1.0, 0.5]).1);
        }
    }

    #[test]
    fn a_file_under_the_name_of_another_is_computed_again() {
        let folder = tempfile::tempdir().unwrap();
        let latents = open(folder.path(), 1 << 20, "a");
        get(&latents, SHAPE, &[1.0, 0.5]);
        get(&latents, SHAPE, &[3.0, 0.5]);
        let [one, other] = &files(folder.path())[..] else {
            panic!("two files")
        };
        fs::copy(one, folder.path().join("kept")).unwrap();
        fs::copy(other, one).unwrap();
        fs::rename(folder.path().join("kept"), other).unwrap();
        for first in [1.0, 3.0] {
            let expected = (vec![first, 2.0, 0.0], true);
            assert_eq!(get(&latents, SHAPE, &[first, 0.5]), expected);
            assert!(!get(&latents, SHAPE, &[first, 0.5]).1);
        }
    }

    #[test]
    fn what_is_no_file_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let latents = open(folder.path(), 1 << 20, "a");
        let path = folder.path().join(latents.key(SHAPE, &[1.0, 0.5]));
        let path = path.with_extension(ENDING);
        let made = std::process::Command::new("mkfifo").arg(&path).status();
        // Where there are no such things, a folder is none either.
        if !made.is_ok_and(|made| made.success()) {
            fs::create_dir(&path).unwrap();
        }
        assert!(get(&latents, SHAPE, &[1.0, 0.5]).1);
        fs::metadata(&path).unwrap();
    }

    #[test]
    fn a_folder_takes_no_more_than_it_may() {
        let folder = tempfile::tempdir().unwrap();
        let size = (DIGEST + 12) as u64;
        let latents = open(folder.path(), 2 * size, "a");
        for n in 0..4u8 {
            get(&latents, SHAPE, &[f32::from(n), 0.0]);
        }
        assert_eq!(files(folder.path()).len(), 2);
        assert!(!get(&latents, SHAPE, &[1.0, 0.0]).1);
        assert!(get(&latents, SHAPE, &[3.0, 0.0]).1);
        let later = open(folder.path(), 3 * size, "a");
        get(&later, SHAPE, &[3.0, 0.0]);
        get(&later, SHAPE, &[4.0, 0.0]);
        assert_eq!(files(folder.path()).len(), 3);
    }
}
