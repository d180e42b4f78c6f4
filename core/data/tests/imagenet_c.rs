//! Parity with `imagecorruptions` 1.1.2 on the same random draws, through fixtures of `tests/reference/corruptions.py`: a grid of pixels of
//! a picture of 224 × 224, for each corruption at each severity, in colour and grey, and the corner of one of 233 × 250.

#![expect(clippy::unwrap_used, reason = "these are tests")]

use dtta_data::{Corrupter, Corruption, Draws, Image, Severity};
use safetensors::SafeTensors;

const SIDE: usize = 224;

/// The draws that the script gave the reference: SplitMix64, and what is made of its numbers.
struct Counted(u64);

impl Draws for Counted {
    fn unit(&mut self) -> f64 {
        self.0 += 1;
        let mut bits = self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((bits ^ (bits >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Box and Muller's.
    fn normal(&mut self) -> f64 {
        let (radius, angle) = (self.unit(), self.unit());
        (-2.0 * (1.0 - radius).ln()).sqrt() * (std::f64::consts::TAU * angle).cos()
    }

    /// The smallest number that the distribution's sum reaches the draw at.
    fn poisson(&mut self, mean: f64) -> f64 {
        let draw = self.unit();
        let (mut number, mut term) = (0.0, (-mean).exp());
        let mut sum = term;
        while sum < draw && number < 1000.0 {
            number += 1.0;
            term *= mean / number;
            sum += term;
        }
        number
    }

    fn below(&mut self, count: usize) -> usize {
        (self.unit() * count as f64) as usize
    }
}

/// The script's picture: slopes, disks, stripes and texture, in whole numbers.
fn picture(height: usize, width: usize, channel: usize) -> impl Fn(usize, usize) -> u8 {
    let (h, w, k) = (height as i64, width as i64, channel as i64);
    move |row, column| {
        let (r, c) = (row as i64, column as i64);
        let mut value = r * (k + 1) * 60 / h + c * (3 - k) * 40 / w + 20;
        let distance = (2 * r - h).pow(2) + (2 * c - w).pow(2);
        if distance < h * w / 4 {
            value += 90 - 30 * k;
        }
        if r < h / 2 && c < w / 3 {
            value += (r * 7 + c * 3) / 16 % 2 * 60;
        }
        value += ((r * 31 + c * 17 + k * 7) ^ (r * c)) % 23;
        value.clamp(0, 255) as u8
    }
}

fn image([channels, height, width]: [usize; 3]) -> Image {
    Image::from_fn([channels, height, width], |channel, row, column| {
        f32::from(picture(height, width, channel)(row, column)) / 255.0
    })
    .unwrap()
}

/// The script's pictures of frost, each of another size.
fn frost_pictures() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for number in 1..=5u32 {
        let (height, width) = (200 + 40 * number, 330 - 30 * number);
        let frost = image::RgbImage::from_fn(width, height, |x, y| {
            let channel = |k| picture(height as usize, width as usize, k)(y as usize, x as usize);
            image::Rgb([channel(0), channel(1), channel(2)])
        });
        let kind = if number < 4 { "png" } else { "jpg" };
        let path = folder.path().join(format!("frost{number}.{kind}"));
        frost
            .save_with_format(path, image::ImageFormat::Png)
            .unwrap();
    }
    folder
}

/// How far a corruption is from the reference, over the values that are kept.
#[derive(Debug, Default)]
struct Distance {
    values: usize,
    by_one: usize,
    by_more: usize,
    most: i32,
}

/// Compares every corruption at every severity that the fixtures have for an image, at these rows and columns.
fn compare(
    kind: &str,
    image: &Image,
    rows: &[usize],
    columns: &[usize],
) -> Vec<(String, Distance)> {
    let file = std::fs::read("tests/fixtures/imagecorruptions.safetensors").unwrap();
    let fixtures = SafeTensors::deserialize(&file).unwrap();
    let frost = frost_pictures();
    let mut found = Vec::new();
    for (corruption, severity) in Corruption::all()
        .flat_map(|corruption| Severity::ALL.map(|severity| (corruption, severity)))
    {
        let name = format!("{kind}/{corruption}/{severity}");
        let Ok(expected) = fixtures.tensor(&name) else {
            continue;
        };
        let frost = (corruption == Corruption::Frost).then_some(frost.path());
        let corrupter = Corrupter::new(corruption, severity, frost).unwrap();
        let output = corrupter.corrupt_by(image, &mut Counted(0));
        let mut expected = expected.data().iter();
        let mut distance = Distance::default();
        for (&row, &column) in rows
            .iter()
            .flat_map(|row| columns.iter().map(move |column| (row, column)))
        {
            for channel in 0..image.channels() {
                let value = output.get(channel, row, column).unwrap() * 255.0;
                let off = (value.round() as i32 - i32::from(*expected.next().unwrap())).abs();
                distance.values += 1;
                distance.by_one += usize::from(off == 1);
                distance.by_more += usize::from(off > 1);
                distance.most = distance.most.max(off);
            }
        }
        assert!(expected.next().is_none(), "{name}");
        eprintln!("{name}: {distance:?}");
        found.push((name, distance));
    }
    found
}

/// One level is what rounding in another order makes of a number at a whole level. Saturation by 2 makes many of those.
fn assert_close(found: &[(String, Distance)], cases: usize) {
    assert_eq!(found.len(), cases);
    let wrong: Vec<_> = found
        .iter()
        .filter(|(_, distance)| distance.by_more > 0 || 4 * distance.by_one > distance.values)
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn grid(first: usize, step: usize) -> Vec<usize> {
    (first..SIDE).step_by(step).collect()
}

#[test]
fn corruptions_of_colour_are_those_of_imagenet_c_to_one_level() {
    let found = compare("rgb", &image([3, SIDE, SIDE]), &grid(6, 7), &grid(7, 9));
    assert_close(&found, 95);
}

#[test]
fn corruptions_of_grey_are_those_of_imagenet_c_to_one_level() {
    let found = compare("grey", &image([1, SIDE, SIDE]), &grid(6, 7), &grid(7, 9));
    assert_close(&found, 57);
}

#[test]
fn corners_of_images_of_other_extents_are_those_of_imagenet_c_to_one_level() {
    let corner = |side: usize| (side - 24..side).collect::<Vec<_>>();
    let found = compare("corner", &image([3, 233, 250]), &corner(233), &corner(250));
    assert_close(&found, 19);
}
