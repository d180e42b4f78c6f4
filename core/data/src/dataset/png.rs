//! PNG files as the numbers that they hold: palette indices stay indices, and no colour is converted.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use png::{BitDepth, ColorType};

use crate::DataError;
use crate::error::unreadable;

/// Raw values in channel, row, column order, with rows and columns.
pub(super) struct Raw {
    pub extents: [usize; 2],
    pub values: Vec<u16>,
}

/// The raw values of a PNG with one channel (grey or a palette) or three (RGB), of at most `widest` bits.
pub(super) fn read(path: &Path, channels: usize, widest: BitDepth) -> Result<Raw, DataError> {
    let file = File::open(path).map_err(unreadable(path))?;
    let refuse = |source| DataError::Png {
        path: path.to_owned(),
        source,
    };
    let mut decoder = png::Decoder::new(BufReader::new(file));
    decoder.set_transformations(png::Transformations::IDENTITY);
    let mut reader = decoder.read_info().map_err(refuse)?;
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
    let (height, width) = (reader.info().height as usize, reader.info().width as usize);
    let size = reader.output_buffer_size().unwrap_or_default();
    let mut bytes = vec![0; size];
    let frame = reader.next_frame(&mut bytes).map_err(refuse)?;
    let mut values = Vec::with_capacity(channels * height * width);
    for channel in 0..channels {
        for row in bytes.chunks_exact(frame.line_size).take(height) {
            let columns = 0..width;
            values.extend(columns.map(|column| number(row, column * channels + channel, depth)));
        }
    }
    Ok(Raw {
        extents: [height, width],
        values,
    })
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

    #[test]
    fn reads_values_of_a_few_bits() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("mask.png");
        // 2 bits: 3 1 0 2, then 1.
        let bytes = [0b1101_0010, 0b0100_0000];
        write(&path, ColorType::Grayscale, BitDepth::Two, [5, 1], &bytes);
        let raw = read(&path, 1, BitDepth::Eight).unwrap();
        assert_eq!(raw.values, [3, 1, 0, 2, 1]);
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
        let raw = read(&path, 3, BitDepth::Sixteen).unwrap();
        assert_eq!(
            (raw.extents, raw.values),
            ([1, 2], vec![1, 4, 2, 5, 300, 600])
        );
        assert!(matches!(
            read(&path, 3, BitDepth::Eight),
            Err(DataError::MapFormat { bits: 8, .. })
        ));
        assert!(matches!(
            read(&path, 1, BitDepth::Sixteen),
            Err(DataError::MapFormat { .. })
        ));
    }
}
