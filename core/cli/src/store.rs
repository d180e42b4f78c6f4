//! Runs in object stores. A run is made in a folder on a local disk, where it can append, lock and rename. Its files are uploaded when it is
//! finished, and `unit.json` last, which is put there only if none is: that is the commit, and it happens once.
//!
//! ```text
//! s3://bucket/part-3/unit.json                         says which shard it is, and its files with their digests
//! s3://bucket/part-3/5f70bf18a0860070/records.jsonl    the files, in a folder of the digest of that `unit.json`
//! ```
//!
//! Two processes that computed the same shard have other times in their records. Each uploads into a folder of its own, so their files
//! never mix, and whoever is late removes its own.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, anyhow, ensure};
use dtta::{Closed, MERGED, RunDescription};
use dtta_base::{sha256, write_whole};
use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt as _, PutMode};
use serde::de::DeserializeOwned;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;

use crate::Failure;

/// The schemes that are features of this crate, by the feature's name.
const FEATURES: [&str; 3] = ["s3", "gs", "az"];

/// The bytes that are sent at once.
const PIECE: usize = 16 << 20;

/// The pieces of a file that are under way together.
const PIECES: usize = 4;

/// Characters of the digest that a folder of files is called.
const NAME: usize = 16;

/// A place in an object store, which holds one run or shard.
pub struct Store {
    address: String,
    objects: Box<dyn ObjectStore>,
    place: Key,
    runtime: Runtime,
}

impl fmt::Display for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.address)
    }
}

/// The address of a place in an object store; nothing for a path of this machine. What is neither is refused.
fn address(path: &Path) -> Result<Option<&str>, Failure> {
    let address = path.to_str().filter(|text| text.contains("://"));
    if address.is_none() {
        dtta_base::expect_folder(path).map_err(Failure::misuse)?;
    }
    Ok(address)
}

/// Refuses an object store where only a folder will do.
pub fn expect_folder(out: &Path) -> Result<(), Failure> {
    match address(out)? {
        None => Ok(()),
        Some(address) => Err(Failure::Misuse(anyhow!(
            "`{address}`: this command writes into a folder; `dtta run` and `dtta merge` write into object stores"
        ))),
    }
}

impl Store {
    /// The place that is meant, if it is in an object store. Nothing is asked of the store yet.
    pub fn at(path: &Path) -> Result<Option<Self>, Failure> {
        let Some(address) = address(path)? else {
            return Ok(None);
        };
        let (objects, place) = open(address)
            .with_context(|| format!("`{address}`"))
            .map_err(Failure::Misuse)?;
        let runtime = Builder::new_current_thread().enable_all().build();
        Ok(Some(Self {
            address: address.trim_end_matches('/').to_owned(),
            objects,
            place,
            runtime: runtime.map_err(Failure::failed)?,
        }))
    }

    /// Whether a finished run is there, which has to be this one.
    pub fn holds(&self, run: &RunDescription) -> Result<bool, Failure> {
        let Some(unit) = self.unit()? else {
            return Ok(false);
        };
        let there: RunDescription = read(&self.expect(&unit, RunDescription::FILE)?)
            .with_context(|| format!("`{self}`"))
            .map_err(Failure::Misuse)?;
        match there.unlike(run) {
            None => Ok(true),
            Some(reason) => Err(Failure::Misuse(anyhow!(
                "`{self}` holds another run: {reason}; give another place"
            ))),
        }
    }

    /// Writes and removes an empty file, so that a place that cannot be written is told before a run and not after.
    pub fn expect_writable(&self) -> Result<(), Failure> {
        let key = self.place.clone().join(".begun");
        self.wait(&key, self.objects.put(&key, Vec::new().into()))?;
        // Where nothing may be removed, it stays.
        self.runtime.block_on(self.objects.delete(&key)).ok();
        Ok(())
    }

    /// Uploads the folder of a finished run, and commits it. Answers whether that is what the store has: not where another process was
    /// first with the same shard.
    pub fn upload(&self, folder: &Path, stop: &AtomicBool) -> Result<bool, Failure> {
        let own = |name| fs::read(folder.join(name)).map_err(anyhow::Error::from);
        let own_unit = own(Closed::FILE).and_then(|unit| Ok((read::<Closed>(&unit)?, unit)));
        let own_run = own(RunDescription::FILE).and_then(|run| read::<RunDescription>(&run));
        let context = || format!("`{}`", folder.display());
        let (closed, unit) = own_unit.with_context(context).map_err(Failure::Failed)?;
        let run = own_run.with_context(context).map_err(Failure::Failed)?;
        let files: Vec<(PathBuf, Key)> = closed
            .files()
            .map(|name| (folder.join(name), self.file(&unit, name)))
            .collect();
        for (path, key) in &files {
            if stop.load(Ordering::Relaxed) {
                let message = format!(
                    "interrupted while uploading `{}` to `{self}`; the same command goes on",
                    folder.display()
                );
                return Err(Failure::Again(anyhow!(message)));
            }
            self.put(path, key)?;
        }
        let key = self.unit_key();
        let put = self
            .objects
            .put_opts(&key, unit.clone().into(), PutMode::Create.into());
        match self.runtime.block_on(put) {
            Ok(_) => Ok(true),
            // What came of an earlier try, whose answer was lost.
            Err(object_store::Error::AlreadyExists { .. }) if self.unit()? == Some(unit) => {
                Ok(true)
            }
            Err(object_store::Error::AlreadyExists { .. }) => {
                for (_, key) in &files {
                    self.runtime.block_on(self.objects.delete(key)).ok();
                }
                self.holds(&run)?;
                Ok(false)
            }
            Err(error) => Err(self.failed(&key, error)),
        }
    }

    /// Downloads what a merge reads of a finished shard.
    pub fn download(&self, folder: &Path) -> Result<(), Failure> {
        let unit = self.unit()?.ok_or_else(|| {
            Failure::Misuse(anyhow!(
                "`{self}` has no `{}`: there is no finished run",
                Closed::FILE
            ))
        })?;
        let write = |name: &str, bytes: &[u8]| {
            fs::create_dir_all(folder).map_err(Failure::failed)?;
            write_whole(&folder.join(name), bytes).map_err(Failure::failed)
        };
        for name in MERGED {
            write(name, &self.expect(&unit, name)?)?;
        }
        write(Closed::FILE, &unit)
    }

    fn unit_key(&self) -> Key {
        self.place.clone().join(Closed::FILE)
    }

    /// Where a file lies of the run that this `unit.json` is of.
    fn file(&self, unit: &[u8], name: &str) -> Key {
        let folder = self.place.clone().join(&sha256(unit)[..NAME]);
        name.split('/').fold(folder, |key, part| key.join(part))
    }

    fn unit(&self) -> Result<Option<Vec<u8>>, Failure> {
        self.get(&self.unit_key())
    }

    /// A file of the run that this `unit.json` is of.
    fn expect(&self, unit: &[u8], name: &str) -> Result<Vec<u8>, Failure> {
        let key = self.file(unit, name);
        self.get(&key)?.ok_or_else(|| {
            let message = format!("`{self}` is not whole: there is no `{key}`");
            Failure::Misuse(anyhow!(message))
        })
    }

    fn get(&self, key: &Key) -> Result<Option<Vec<u8>>, Failure> {
        let bytes = async { self.objects.get(key).await?.bytes().await };
        match self.runtime.block_on(bytes) {
            Ok(bytes) => Ok(Some(bytes.into())),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failed(key, error)),
        }
    }

    /// Uploads a file, in pieces if it is large.
    fn put(&self, path: &Path, key: &Key) -> Result<(), Failure> {
        let unread = |error| {
            let error = anyhow::Error::from(error);
            Failure::Failed(error.context(format!("cannot read `{}`", path.display())))
        };
        let mut file = File::open(path).map_err(unread)?;
        let first = piece(&mut file).map_err(unread)?;
        if first.len() < PIECE {
            self.wait(key, self.objects.put(key, first.into()))?;
            return Ok(());
        }
        let mut upload = self.wait(key, self.objects.put_multipart(key))?;
        let sent = send(&mut *upload, first, &mut file);
        self.runtime.block_on(sent).map_err(|error| match error {
            Unsent::Unread(error) => unread(error),
            Unsent::Refused(error) => self.failed(key, error),
        })
    }

    fn wait<T>(
        &self,
        key: &Key,
        work: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T, Failure> {
        let done = self.runtime.block_on(work);
        done.map_err(|error| self.failed(key, error))
    }

    fn failed(&self, key: &Key, error: object_store::Error) -> Failure {
        // A bucket that is not there will not be there the next time.
        let failure = match &error {
            object_store::Error::NotFound { .. } => Failure::Misuse,
            _ => Failure::Failed,
        };
        let context = format!("`{self}`: `{key}`");
        failure(anyhow::Error::from(error).context(context))
    }
}

/// The next bytes of a file that are sent at once: fewer at its end.
fn piece(file: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(PIECE as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Why a file was not sent.
enum Unsent {
    Unread(io::Error),
    Refused(object_store::Error),
}

impl From<object_store::Error> for Unsent {
    fn from(error: object_store::Error) -> Self {
        Self::Refused(error)
    }
}

/// Sends a file in pieces, the first of which is read already. Where that fails, what was sent is taken back: a store would keep the
/// pieces of what never became a file, and charge for them.
async fn send(
    upload: &mut dyn MultipartUpload,
    first: Vec<u8>,
    file: &mut impl Read,
) -> Result<(), Unsent> {
    let mut under_way = JoinSet::new();
    let sent = send_pieces(upload, first, file, &mut under_way).await;
    if sent.is_err() {
        under_way.shutdown().await;
        // The store's own rules are left, then.
        upload.abort().await.ok();
    }
    sent
}

async fn send_pieces(
    upload: &mut dyn MultipartUpload,
    mut bytes: Vec<u8>,
    file: &mut impl Read,
    under_way: &mut JoinSet<object_store::Result<()>>,
) -> Result<(), Unsent> {
    while !bytes.is_empty() {
        if under_way.len() == PIECES
            && let Some(done) = under_way.join_next().await
        {
            done.map_err(object_store::Error::from)??;
        }
        under_way.spawn(upload.put_part(bytes.into()));
        bytes = piece(file).map_err(Unsent::Unread)?;
    }
    while let Some(done) = under_way.join_next().await {
        done.map_err(object_store::Error::from)??;
    }
    upload.complete().await?;
    Ok(())
}

fn read<T: DeserializeOwned>(document: &[u8]) -> anyhow::Result<T> {
    serde_json::from_slice(document).context("a document that is not of this version of dtta")
}

/// The store of an address, and the place in it. How to get in, the environment says, by the variables that each store's own tools have.
fn open(address: &str) -> anyhow::Result<(Box<dyn ObjectStore>, Key)> {
    let (scheme, rest) = address.split_once("://").unwrap_or_default();
    if scheme == "file" {
        ensure!(
            rest.starts_with('/'),
            "expected `file:///` and the rest of an absolute path"
        );
        let place = Key::from_absolute_path(rest)?;
        return Ok((Box::new(LocalFileSystem::new().with_fsync(true)), place));
    }
    let (_bucket, place) = rest.split_once('/').unwrap_or((rest, ""));
    let found: Option<Box<dyn ObjectStore>> = match scheme {
        #[cfg(feature = "s3")]
        "s3" => Some(Box::new(
            object_store::aws::AmazonS3Builder::from_env()
                .with_url(address)
                .build()?,
        )),
        #[cfg(feature = "gs")]
        "gs" => Some(Box::new(
            object_store::gcp::GoogleCloudStorageBuilder::from_env()
                .with_url(address)
                .build()?,
        )),
        #[cfg(feature = "az")]
        "az" => Some(Box::new(
            object_store::azure::MicrosoftAzureBuilder::from_env()
                .with_url(address)
                .build()?,
        )),
        _ => None,
    };
    let objects = found.with_context(|| match FEATURES.contains(&scheme) {
        true => format!(
            "this dtta was built without `{scheme}://`; build it with `--features {scheme}`"
        ),
        false => {
            format!("`{scheme}://` is no object store; expected s3://, gs://, az:// or file:///")
        }
    })?;
    Ok((objects, Key::from(place)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_files_are_put_in_pieces() {
        let folder = tempfile::tempdir().unwrap();
        let address = format!("file://{}/bucket/run/", folder.path().display());
        let store = Store::at(Path::new(&address)).ok().flatten().unwrap();
        let path = folder.path().join("file");
        for bytes in [0, 1, PIECE - 1, PIECE, 2 * PIECE + 5] {
            let written: Vec<u8> = (0..bytes).map(|at| (at % 251) as u8).collect();
            fs::write(&path, &written).unwrap();
            let key = store.file(b"unit", "images/fog%2F5/a~b.png");
            assert!(store.put(&path, &key).is_ok());
            let read = store.get(&key).ok().flatten().unwrap();
            assert!(read == written, "{bytes} bytes");
        }
        let key = store.file(b"unit", "nothing");
        assert!(matches!(store.get(&key), Ok(None)));
    }

    /// An upload that fails at one of its calls, and says which there were.
    #[derive(Debug, Default)]
    struct Failing {
        fails_at: &'static str,
        calls: Vec<&'static str>,
    }

    impl Failing {
        fn call(&mut self, name: &'static str) -> object_store::Result<()> {
            self.calls.push(name);
            // The second piece, since all that fail are sent after one that does not.
            let seen = self.calls.iter().filter(|call| **call == name).count();
            match name == self.fails_at && (name != "piece" || seen == 2) {
                true => Err(object_store::Error::NotImplemented {
                    operation: name.into(),
                    implementer: "a test".into(),
                }),
                false => Ok(()),
            }
        }
    }

    type Answer<'a, T> =
        std::pin::Pin<Box<dyn Future<Output = object_store::Result<T>> + Send + 'a>>;

    impl MultipartUpload for Failing {
        fn put_part(&mut self, _: object_store::PutPayload) -> object_store::UploadPart {
            let answer = self.call("piece");
            Box::pin(async { answer })
        }

        fn complete<'a, 'b>(&'a mut self) -> Answer<'b, object_store::PutResult>
        where
            'a: 'b,
            Self: 'b,
        {
            let answer = self.call("complete").map(|()| object_store::PutResult {
                e_tag: None,
                version: None,
                extensions: Default::default(),
            });
            Box::pin(async { answer })
        }

        fn abort<'a, 'b>(&'a mut self) -> Answer<'b, ()>
        where
            'a: 'b,
            Self: 'b,
        {
            let answer = self.call("abort");
            Box::pin(async { answer })
        }
    }

    /// A file of three pieces, which may end with an error.
    struct Pieces {
        left: usize,
        broken: bool,
    }

    impl Read for Pieces {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.left == 0 && self.broken {
                return Err(io::Error::other("the disk is gone"));
            }
            let count = buffer.len().min(self.left);
            self.left -= count;
            Ok(count)
        }
    }

    #[test]
    fn what_was_sent_of_a_file_is_taken_back_where_the_rest_fails() {
        let runtime = Builder::new_current_thread().build().unwrap();
        let sent = |fails_at, broken| {
            let mut upload = Failing {
                fails_at,
                ..Failing::default()
            };
            let mut file = Pieces {
                left: 2 * PIECE + 5,
                broken,
            };
            let first = piece(&mut file).unwrap();
            let outcome = runtime.block_on(send(&mut upload, first, &mut file));
            (outcome.is_ok(), upload.calls.join(" "))
        };
        let whole = "piece piece piece complete";
        assert_eq!(sent("", false), (true, whole.into()));
        assert_eq!(sent("complete", false), (false, format!("{whole} abort")));
        let (done, calls) = sent("piece", false);
        assert!(
            !done && calls.ends_with("abort") && !calls.contains("complete"),
            "{calls}"
        );
        assert_eq!(sent("", true), (false, "piece piece abort".into()));
    }
}
