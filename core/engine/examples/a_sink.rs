//! An output of one's own: confidences before and after, as comma-separated values beside the records.
//!
//!     cargo run --release -p dtta --example a_sink -- examples/fashion/online.json

#![expect(clippy::print_stdout, reason = "an example talks to people")]

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::atomic::AtomicBool;

use dtta::{Document, Extensions, Finished, Prepared, Result, RunOptions, Sink, Start};
use dtta_tensor::Device;

/// Writes `confidence.csv`.
#[derive(Default)]
struct Csv(Option<BufWriter<File>>);

/// A file that cannot be written ends the run.
fn written(source: std::io::Error) -> dtta::Error {
    let path = "confidence.csv".into();
    dtta_base::Error::Write { path, source }.into()
}

impl Sink for Csv {
    fn start(&mut self, start: &Start<'_>) -> Result<()> {
        let file = File::create(start.folder.join("confidence.csv")).map_err(written)?;
        let mut file = BufWriter::new(file);
        writeln!(file, "id,domain,source,adapted").map_err(written)?;
        self.0 = Some(file);
        Ok(())
    }

    fn sample(&mut self, finished: &Finished<'_>) -> Result<()> {
        let record = finished.record;
        let confidences = record.source.confidence.zip(record.adapted.confidence);
        if let (Some(file), Some((source, adapted))) = (&mut self.0, confidences) {
            writeln!(file, "{},{},{source},{adapted}", record.id, record.domain)
                .map_err(written)?;
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<()> {
        self.0
            .as_mut()
            .map_or(Ok(()), |file| file.flush())
            .map_err(written)
    }
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("which experiment?")?;
    let extensions = Extensions::default();
    let document = Document::load(Path::new(&path), &[], &extensions.methods)?;
    let stop = AtomicBool::new(false);
    let options = RunOptions::new("runs/with-confidences", &stop);
    let summary = Prepared::new(document, &extensions, Device::cpu())?
        .run(&options, vec![Box::new(Csv::default())])?;
    println!("{:?}", summary.mean.adapted);
    Ok(())
}
