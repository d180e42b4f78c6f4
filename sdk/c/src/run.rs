//! Experiments, as the command runs them.

use std::ffi::{CString, c_char, c_int, c_void};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use dtta::{Devices, Document, Existing, Finished, Prepared, Shard, Sink, Start};

use crate::status::{Fault, Status, answer, call, list, optional, text};

/// How an experiment runs. All zero is a run of all of it on the CPU that replaces nothing.
#[repr(C)]
pub struct RunOptions {
    /// Values in the place of the file's, such as "method.steps=3".
    pub overrides: *const *const c_char,
    /// How many there are.
    pub override_count: usize,
    /// Device, such as "cpu"; null for the CPU.
    pub device: *const c_char,
    /// Continues a run that was stopped, and answers that of a finished one. A shard always does.
    pub resume: c_int,
    /// Removes what is in the folder first.
    pub replace: c_int,
    /// Shard, from 0; of how many, 0 for all of it.
    pub shard: u32,
    /// Shards.
    pub shard_count: u32,
    /// Called after each sample by the thread of the call, with samples that are done and all. What is not 0 stops the run. May be null.
    pub progress:
        Option<unsafe extern "C" fn(user: *mut c_void, done: usize, total: usize) -> c_int>,
    /// Handed to `progress`.
    pub user: *mut c_void,
}

/// Holds an experiment to its schema and to itself, with every fault at once; nothing is loaded.
///
/// # Safety
/// `experiment` is a text; `overrides` are `override_count` texts.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dtta_validate(
    experiment: *const c_char,
    overrides: *const *const c_char,
    override_count: usize,
) -> Status {
    call(|| {
        // SAFETY: the caller's promise.
        unsafe { document(experiment, overrides, override_count) }.map(|_| Status::Ok)
    })
}

/// Runs an experiment into the folder `out`, as `dtta run` does.
///
/// `summary`, where it is not null, receives the summary as JSON, which `dtta_text_free` frees.
///
/// # Safety
/// `experiment` and `out` are texts; `options` is null or holds what its fields say; `summary` is null or may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dtta_run(
    experiment: *const c_char,
    out: *const c_char,
    options: *const RunOptions,
    summary: *mut *mut c_char,
) -> Status {
    call(|| {
        let none = RunOptions {
            overrides: std::ptr::null(),
            override_count: 0,
            device: std::ptr::null(),
            resume: 0,
            replace: 0,
            shard: 0,
            shard_count: 0,
            progress: None,
            user: std::ptr::null_mut(),
        };
        // SAFETY: the caller's promise.
        let (options, out, device, document) = unsafe {
            let options = options.as_ref().unwrap_or(&none);
            (
                options,
                text("out", out)?,
                optional("device", options.device)?,
                document(experiment, options.overrides, options.override_count)?,
            )
        };
        let device = device.unwrap_or("cpu").parse::<dtta_tensor::Device>();
        let device = device.map_err(|error| Fault::misuse(error.to_string()))?;
        let shard = match options.shard_count {
            0 => Shard::whole(),
            count => format!("{}/{count}", options.shard)
                .parse()
                .map_err(|error: String| Fault::misuse(error))?,
        };
        let stop = AtomicBool::new(false);
        let settings = dtta::RunOptions {
            existing: match (options.resume != 0, options.replace != 0) {
                (true, true) => {
                    return Err(Fault::misuse("`resume` and `replace` exclude each other"));
                }
                (_, true) => Existing::Replace,
                (true, _) => Existing::Resume,
                // As of the command: who gives a shard, be it the only one, expects that it goes on.
                _ if options.shard_count > 0 => Existing::Resume,
                _ => Existing::Keep,
            },
            shard,
            ..dtta::RunOptions::new(Path::new(out), &stop)
        };
        let watch = Watch {
            options,
            stop: &stop,
            total: 0,
        };
        let mut prepared = Prepared::new(document, &dtta_cli::extensions(), Devices::from(device))?;
        let found = prepared.run(&settings, vec![Box::new(watch)])?;
        if !summary.is_null() {
            let json = serde_json::json!(found).to_string();
            let json = CString::new(json).map_err(|error| Fault::misuse(error.to_string()))?;
            // SAFETY: it is not null, and the caller's promise.
            unsafe { answer("summary", summary, json.into_raw()) }?;
        }
        Ok(match found.skipped {
            0 => Status::Ok,
            _ => Status::Skipped,
        })
    })
}

/// Frees a text that the library answered; null is nothing.
///
/// # Safety
/// It is such a text, and not freed yet.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dtta_text_free(text: *mut c_char) {
    if !text.is_null() {
        // SAFETY: the caller's promise.
        drop(unsafe { CString::from_raw(text) });
    }
}

unsafe fn document(
    experiment: *const c_char,
    overrides: *const *const c_char,
    count: usize,
) -> Result<Document, Fault> {
    // SAFETY: the caller's promise.
    let (experiment, overrides) = unsafe {
        let overrides = list("overrides", overrides, count)?;
        let overrides = overrides.iter().map(|&one| text("overrides", one));
        let overrides: Result<Vec<&str>, Fault> = overrides.collect();
        (text("experiment", experiment)?, overrides?)
    };
    let overrides: Vec<String> = overrides.into_iter().map(String::from).collect();
    let methods = dtta_cli::extensions().methods;
    Ok(Document::load(Path::new(experiment), &overrides, &methods)?)
}

/// Tells the caller of progress, and hears whether to stop.
struct Watch<'a> {
    options: &'a RunOptions,
    stop: &'a AtomicBool,
    total: usize,
}

impl Watch<'_> {
    fn tell(&self, done: usize) {
        if let Some(progress) = self.options.progress {
            // SAFETY: the caller's function, with what it wants.
            if unsafe { progress(self.options.user, done, self.total) } != 0 {
                self.stop.store(true, Ordering::Relaxed);
            }
        }
    }
}

impl Sink for Watch<'_> {
    fn start(&mut self, start: &Start<'_>) -> dtta::Result<()> {
        self.total = start.total;
        Ok(())
    }

    fn sample(&mut self, finished: &Finished<'_>) -> dtta::Result<()> {
        self.tell(finished.done);
        Ok(())
    }
}
