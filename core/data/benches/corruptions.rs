//! Microseconds per corrupted image of 28×28, for each corruption at severity 3: `cargo bench -p dtta-data`.

use dtta_data::{Corruption, Image, Severity, corrupt};

fn main() {
    divan::main();
}

#[divan::bench(args = Corruption::REPORTED.into_iter().chain(Corruption::TUNING))]
fn corrupt_28x28(bencher: divan::Bencher, corruption: Corruption) {
    let image = Image::from_fn([1, 28, 28], |_, row, column| {
        ((row * 28 + column) % 97) as f32 / 96.0
    })
    .expect("the shape is small and not empty");
    bencher.bench(|| corrupt(&image, corruption, Severity::ALL[2], 0, "test/00042"));
}
