//! Time per corrupted image, for each corruption at severity 3: `cargo bench -p dtta-data`. `tests/reference/corruptions.py --time` measures
//! the reference.

use dtta_data::{Corrupter, Corruption, Image, Severity};

fn main() {
    divan::main();
}

fn bench(bencher: divan::Bencher, corruption: Corruption, channels: usize, side: usize) {
    let image = Image::from_fn([channels, side, side], |_, row, column| {
        ((row * 28 + column) % 97) as f32 / 96.0
    })
    .expect("the shape is small and not empty");
    let corrupter =
        Corrupter::new(corruption, Severity::ALL[2], None).expect("it needs no pictures");
    bencher.bench(|| corrupter.corrupt(&image, 0, "test/00042"));
}

/// Those that need no pictures.
fn corruptions() -> impl Iterator<Item = Corruption> {
    Corruption::all().filter(|corruption| *corruption != Corruption::Frost)
}

#[divan::bench(args = corruptions())]
fn corrupt_28x28(bencher: divan::Bencher, corruption: Corruption) {
    bench(bencher, corruption, 1, 28);
}

#[divan::bench(args = corruptions())]
fn corrupt_224x224(bencher: divan::Bencher, corruption: Corruption) {
    bench(bencher, corruption, 3, 224);
}
