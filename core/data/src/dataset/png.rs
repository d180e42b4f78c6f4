//! PNG files as the numbers that they hold: palette indices stay indices, and no colour is converted.

use std::fs;
use std::io::Cursor;
use std::path::Path;

use png::{BitDepth, ColorType};

use crate::DataError;
use crate::error::{bounded, fetched, unreadable};
use crate::image::PIXELS_LIMIT;

/// A PNG whose header is read and whose values are not.
pub(super) struct Png<'a> {
    path: &'a Path,
    reader: png::Reader<Cursor<Vec<u8>>>,
    channels: usize,
    depth: BitDepth,
}

/// Opens a PNG with one channel (grey or a palette) or three (RGB), of at most `widest` bits.
pub(super) fn open(path: &Path, channels: usize, widest: BitDepth) -> Result<Png<'_>, DataError> {
    let bytes = fs::read(path).map_err(unreadable(path))?;
    fetched(path, &bytes)?;
    let mut decoder = png::Decoder::new(Cursor::new(bytes));
    decoder.set_transformations(png::Transformations::IDENTITY);
    let reader = decoder.read_info().map_err(|source| DataError::Png {
        path: path.to_owned(),
        source,
    })?;
    let (colour, depth) = reader.output_color_type();
    let (fits, expected) = match channels {
        1 => (
            matches!(colour, ColorType::Grayscale | ColorType::Indexed),
            "one channel, grey or with a palette,",
        ),
        _ => (colour == ColorType::Rgb, "three channels, RGB,"),
    };
    if !fits || depth as u8 > widest as u8 {
        return Err(DataError::MapFormat {
            path: path.to_owned(),
            found: format!("{colour:?} of {} bits", depth as u8),
            expected,
            bits: widest as u8,
        });
    }
    let (width, height) = reader.info().size();
    let found = u64::from(width) * u64::from(height);
    bounded(path, "pixels", found, PIXELS_LIMIT as u64)?;
    Ok(Png {
        path,
        reader,
        channels,
        depth,
    })
}

impl Png<'_> {
    /// Rows and columns.
    pub fn extents(&self) -> [usize; 2] {
        let info = self.reader.info();
        [info.height as usize, info.width as usize]
    }

    /// The raw values in channel, row, column order.
    pub fn values(mut self) -> Result<Vec<u16>, DataError> {
        let [height, width] = self.extents();
        let Self {
            channels, depth, ..
        } = self;
        let size = self.reader.output_buffer_size().unwrap_or_default();
        let mut bytes = vec![0; size];
        let frame = self.reader.next_frame(&mut bytes);
        let frame = frame.map_err(|source| DataError::Png {
            path: self.path.to_owned(),
            source,
        })?;
        let mut values = Vec::with_capacity(channels * height * width);
        for channel in 0..channels {
            for row in bytes.chunks_exact(frame.line_size).take(height) {
                let columns = 0..width;
                values
                    .extend(columns.map(|column| number(row, column * channels + channel, depth)));
            }
        }
        Ok(values)
    }
}

/// Number `place` of a row, whose numbers are packed as tightly as their bits allow.
fn number(row: &[u8], place: usize, depth: BitDepth) -> u16 {
    if depth == BitDepth::Sixteen {
        return u16::from_be_bytes([row[2 * place], row[2 * place + 1]]);
    }
    let bits = depth as usize;
    let first = place * bits;
    let shift = 8 - bits - first % 8;
    u16::from(row[first / 8] >> shift) & ((1 << bits) - 1)
}

#[cfg(test)]
pub(super) mod tests {
    use std::fs::File;

    use super::*;

    /// Writes a PNG of these bytes.
    pub fn write(
        path: &Path,
        colour: ColorType,
        depth: BitDepth,
        [width, height]: [u32; 2],
        data: &[u8],
    ) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut encoder = png::Encoder::new(File::create(path).unwrap(), width, height);
        encoder.set_color(colour);
        encoder.set_depth(depth);
        if colour == ColorType::Indexed {
            encoder.set_palette(vec![7; 12]);
        }
        let mut writer = encoder.write_header().unwrap();
        writer.write_image_data(data).unwrap();
    }

    /// Writes a PNG of one pixel whose header claims a square of this side.
    pub fn write_claim(path: &Path, side: u32) {
        let grey = ColorType::Grayscale;
        write(path, grey, BitDepth::Eight, [1, 1], &[0]);
        // The header's width and height, and its checksum (bytes 16 to 24 and 29 to 33).
        let mut bytes = fs::read(path).unwrap();
        bytes[16..20].copy_from_slice(&side.to_be_bytes());
        bytes[20..24].copy_from_slice(&side.to_be_bytes());
        let mut checksum = flate2::Crc::new();
        checksum.update(&bytes[12..29]);
        bytes[29..33].copy_from_slice(&checksum.sum().to_be_bytes());
        fs::write(path, bytes).unwrap();
    }

    #[test]
    fn reads_values_of_a_few_bits() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("mask.png");
        // 2 bits: 3 1 0 2, then 1.
        let bytes = [0b1101_0010, 0b0100_0000];
        write(&path, ColorType::Grayscale, BitDepth::Two, [5, 1], &bytes);
        let png = open(&path, 1, BitDepth::Eight).unwrap();
        assert_eq!(png.values().unwrap(), [3, 1, 0, 2, 1]);
    }

    #[test]
    fn reads_three_channels_one_after_the_other() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("normals.png");
        let bytes: Vec<u8> = [1u16, 2, 300, 4, 5, 600]
            .iter()
            .flat_map(|v| v.to_be_bytes())
            .collect();
        write(&path, ColorType::Rgb, BitDepth::Sixteen, [2, 1], &bytes);
        let png = open(&path, 3, BitDepth::Sixteen).unwrap();
        assert_eq!(png.extents(), [1, 2]);
        assert_eq!(png.values().unwrap(), [1, 4, 2, 5, 300, 600]);
        assert!(matches!(
            open(&path, 3, BitDepth::Eight),
            Err(DataError::MapFormat { bits: 8, .. })
        ));
        assert!(matches!(
            open(&path, 1, BitDepth::Sixteen),
            Err(DataError::MapFormat { .. })
        ));
    }

    #[test]
    fn a_small_file_of_many_pixels_is_refused_before_it_is_decoded() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("mask.png");
        write_claim(&path, 50_000);
        let refused = open(&path, 1, BitDepth::Eight).err().unwrap();
        assert!(
            matches!(
                &refused,
                DataError::DecodedSize {
                    found: 2_500_000_000,
                    ..
                }
            ),
            "{refused}"
        );
    }

    #[test]
    fn a_file_cut_anywhere_is_refused_or_whole() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("mask.png");
        let values: Vec<u8> = (0..=255).map(|n: u8| n.wrapping_mul(37)).collect();
        write(
            &path,
            ColorType::Grayscale,
            BitDepth::Eight,
            [16, 16],
            &values,
        );
        let whole = fs::read(&path).unwrap();
        let expected = open(&path, 1, BitDepth::Eight).unwrap().values().unwrap();
        let mut refused = 0;
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            match open(&path, 1, BitDepth::Eight).and_then(Png::values) {
                Ok(found) => assert_eq!(found, expected, "{length}"),
                Err(_) => refused += 1,
            }
        }
        assert!(10 * refused > 9 * whole.len(), "{refused}");
    }
}
