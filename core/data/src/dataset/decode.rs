//! Image files as pixels, the way torchvision's loader sees them: the pixels as they are stored, whatever orientation the file's EXIF data
//! wishes for; CMYK as RGB; transparency dropped; of several frames or pages the first.
//!
//! What a file would become is known from its header, and held to a limit before anything is allocated. Decoders that forgive are not
//! forgiven: a JPEG that ends early would be grey from there on.

use std::fs;
use std::io::Cursor;
use std::path::Path;

use image::codecs::pnm::{PnmDecoder, PnmSubtype};
use image::error::{ImageFormatHint, UnsupportedError, UnsupportedErrorKind};
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader};

use super::folder::ColourMode;
use crate::error::{bounded, fetched, unreadable};
use crate::image::PIXELS_LIMIT;
use crate::{DataError, Image, Transform};

impl Image {
    /// Decodes an image file to [0, 1], as datasets do.
    ///
    /// # Errors
    /// [`DataError::File`], [`DataError::Decode`], [`DataError::CutOff`], [`DataError::DecodedSize`] or [`DataError::LfsPointer`], naming the
    /// file.
    pub fn read(path: impl AsRef<Path>, channels: ColourMode) -> Result<Self, DataError> {
        read_image(path.as_ref(), channels)
    }
}

/// Decodes one image to [0, 1].
pub(super) fn read_image(path: &Path, channels: ColourMode) -> Result<Image, DataError> {
    let bytes = fs::read(path).map_err(unreadable(path))?;
    fetched(path, &bytes)?;
    let refuse = |source| DataError::Decode {
        path: path.to_owned(),
        source,
    };
    // Extensions lie often enough; the first bytes do not.
    let reader = ImageReader::new(Cursor::new(&bytes))
        .with_guessed_format()
        .map_err(unreadable(path))?;
    match reader.format() {
        Some(ImageFormat::Jpeg) if !jpeg_ends(&bytes) => {
            return Err(DataError::CutOff { path: path.into() });
        }
        Some(ImageFormat::Pnm) => expect_full_range(&bytes).map_err(refuse)?,
        _ => {}
    }
    let decoder = reader.into_decoder().map_err(refuse)?;
    let (width, height) = decoder.dimensions();
    let found = u64::from(width) * u64::from(height);
    bounded(path, "pixels", found, PIXELS_LIMIT as u64)?;
    let decoded = DynamicImage::from_decoder(decoder).map_err(refuse)?;
    let image = from_decoded(decoded, path)?;
    match channels {
        ColourMode::Grayscale => Transform::Grayscale {}.apply(image),
        ColourMode::Rgb => Transform::Rgb {}.apply(image),
    }
}

/// Pixels of 8 or 16 bits as numbers in [0, 1].
fn from_decoded(decoded: DynamicImage, path: &Path) -> Result<Image, DataError> {
    let colour = decoded.color();
    let extents = [decoded.height() as usize, decoded.width() as usize];
    let wide = match colour.bytes_per_pixel() / colour.channel_count() {
        1 => false,
        2 => true,
        _ => {
            let kind = UnsupportedErrorKind::Color(colour.into());
            return Err(DataError::Decode {
                path: path.to_owned(),
                source: unsupported(ImageFormatHint::Unknown, kind),
            });
        }
    };
    // Grey files are read as grey: weighing three equal channels would round.
    match (colour.has_color(), wide) {
        (false, false) => planes(1, extents, &decoded.into_luma8(), 255.0),
        (false, true) => planes(1, extents, &decoded.into_luma16(), 65_535.0),
        (true, false) => planes(3, extents, &decoded.into_rgb8(), 255.0),
        (true, true) => planes(3, extents, &decoded.into_rgb16(), 65_535.0),
    }
}

/// An image from its values in row, column, channel order.
fn planes<T: Copy + Into<f32>>(
    channels: usize,
    [height, width]: [usize; 2],
    values: &[T],
    white: f32,
) -> Result<Image, DataError> {
    Image::from_fn([channels, height, width], |channel, row, column| {
        values[(row * width + column) * channels + channel].into() / white
    })
}

/// Whether the markers of a JPEG lead to its end. Between them lie segments of a known length, which may hold a whole JPEG as a preview,
/// and scans, in which 0xFF is followed by 0 or by the number of a restart (ITU-T T.81, B.1.1).
fn jpeg_ends(bytes: &[u8]) -> bool {
    const RESTARTS: std::ops::RangeInclusive<u8> = 0xd0..=0xd7;
    let mut place = 2;
    while let Some(&[first, marker]) = bytes.get(place..place + 2) {
        match (first, marker) {
            (0xff, 0xd9) => return true,
            (0xff, 0x00 | 0x01 | 0xd8) => place += 2,
            (0xff, marker) if RESTARTS.contains(&marker) => place += 2,
            // Fill bytes, and what a scan or a careless writer left between markers.
            (0xff, 0xff) => place += 1,
            (0xff, _) => {
                let Some(&[high, low]) = bytes.get(place + 2..place + 4) else {
                    return false;
                };
                place += 2 + usize::from(u16::from_be_bytes([high, low])).max(2);
            }
            _ => place += 1,
        }
    }
    false
}

/// Refuses a netpbm file whose greatest value is not that of its bytes; the decoder would not scale it.
fn expect_full_range(bytes: &[u8]) -> Result<(), ImageError> {
    let decoder = PnmDecoder::new(bytes)?;
    let header = decoder.header();
    let most = header.maximal_sample();
    if matches!(header.subtype(), PnmSubtype::Bitmap(_)) || matches!(most, 255 | 65_535) {
        return Ok(());
    }
    let what = format!("a greatest value of {most}; 255 and 65535 are read");
    Err(unsupported(
        ImageFormat::Pnm.into(),
        UnsupportedErrorKind::GenericFeature(what),
    ))
}

fn unsupported(format: ImageFormatHint, kind: UnsupportedErrorKind) -> ImageError {
    ImageError::Unsupported(UnsupportedError::from_format_and_kind(format, kind))
}

#[cfg(test)]
mod tests {
    use image::{GrayImage, ImageBuffer, Luma, Rgb, RgbImage};

    use super::*;

    const TYPES: [&str; 9] = [
        "bmp", "gif", "jfif", "jpg", "pgm", "png", "ppm", "tiff", "webp",
    ];

    /// Writes an image of few colours, so that GIF keeps them, as its extension says.
    fn write(path: &Path) {
        let colour = |x: u32, y: u32| {
            if (x / 8 + y / 8).is_multiple_of(2) {
                250
            } else {
                30
            }
        };
        let grey = GrayImage::from_fn(40, 24, |x, y| Luma([colour(x, y)]));
        let rgb = RgbImage::from_fn(40, 24, |x, y| Rgb([colour(x, y), 128, colour(y, x)]));
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("pgm") => grey.save(path).unwrap(),
            Some("jfif") => rgb.save_with_format(path, ImageFormat::Jpeg).unwrap(),
            _ => rgb.save(path).unwrap(),
        }
    }

    fn in_folder(name: &str) -> (tempfile::TempDir, std::path::PathBuf) {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join(name);
        (root, path)
    }

    #[test]
    fn reads_every_type_whatever_it_is_called() {
        for kind in TYPES {
            let (root, path) = in_folder(&format!("image.{kind}"));
            write(&path);
            let image = Image::read(&path, ColourMode::Rgb).unwrap();
            assert_eq!(image.shape(), [3, 24, 40], "{kind}");
            let lossy = matches!(kind, "jpg" | "jfif");
            let white = 250.0 / 255.0;
            let tolerance = if lossy { 0.02 } else { 0.0 };
            assert!(
                (image.get(0, 3, 3).unwrap() - white).abs() <= tolerance,
                "{kind}"
            );
            let other = root.path().join("image.wrong");
            fs::rename(&path, &other).unwrap();
            assert_eq!(
                Image::read(&other, ColourMode::Rgb).unwrap(),
                image,
                "{kind}"
            );
        }
    }

    #[test]
    fn a_file_cut_anywhere_is_refused_by_name_or_whole() {
        for kind in TYPES {
            let (_root, path) = in_folder(&format!("image.{kind}"));
            write(&path);
            let whole = fs::read(&path).unwrap();
            let expected = Image::read(&path, ColourMode::Rgb).unwrap();
            let (mut refused, mut tried) = (0, 0);
            for length in (0..whole.len()).rev().step_by(7) {
                tried += 1;
                fs::write(&path, &whole[..length]).unwrap();
                match Image::read(&path, ColourMode::Rgb) {
                    Ok(image) => assert_eq!(image, expected, "{kind} cut to {length}"),
                    Err(error) => {
                        refused += 1;
                        assert!(error.to_string().contains("image."), "{error}");
                    }
                }
            }
            assert!(10 * refused > 9 * tried, "{kind}: {refused} of {tried}");
        }
    }

    #[test]
    fn a_preview_in_a_jpeg_is_not_its_end() {
        let (_root, path) = in_folder("image.jpg");
        write(&path);
        let whole = fs::read(&path).unwrap();
        // The whole JPEG once more in an application's segment, right after the start marker.
        let length = (whole.len() as u16 + 2).to_be_bytes();
        let preview = [&[0xff, 0xe3], &length[..], &whole].concat();
        let with_preview = [&whole[..2], &preview, &whole[2..], b"trailing bytes"].concat();
        assert!(jpeg_ends(&with_preview));
        fs::write(&path, &with_preview).unwrap();
        assert!(Image::read(&path, ColourMode::Rgb).is_ok());
        fs::write(&path, &with_preview[..with_preview.len() - 20]).unwrap();
        let refused = Image::read(&path, ColourMode::Rgb).unwrap_err();
        assert!(matches!(refused, DataError::CutOff { .. }), "{refused}");
    }

    #[test]
    fn more_pixels_than_can_be_meant_are_refused_before_they_are_decoded() {
        let (root, grey) = in_folder("image.pgm");
        fs::write(&grey, b"P5 50000 50000 255\n").unwrap();
        let png = root.path().join("image.png");
        super::super::png::tests::write_claim(&png, 50_000);
        for path in [grey, png] {
            let refused = Image::read(&path, ColourMode::Rgb).unwrap_err();
            assert!(
                matches!(
                    refused,
                    DataError::DecodedSize {
                        found: 2_500_000_000,
                        ..
                    }
                ),
                "{refused}"
            );
        }
    }

    #[test]
    fn values_whose_range_is_not_known_are_refused() {
        let (root, path) = in_folder("float.tiff");
        let floats: ImageBuffer<Rgb<f32>, Vec<f32>> =
            ImageBuffer::from_pixel(2, 2, Rgb([200.0, 0.5, -1.0]));
        DynamicImage::from(floats).save(&path).unwrap();
        let few = root.path().join("few.pgm");
        fs::write(&few, b"P5 1 1 15\n\x0f").unwrap();
        for path in [path, few] {
            let refused = Image::read(&path, ColourMode::Rgb).unwrap_err();
            assert!(matches!(refused, DataError::Decode { .. }), "{refused}");
        }
        let pointer = root.path().join("pointer.png");
        fs::write(
            &pointer,
            "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
        )
        .unwrap();
        let refused = Image::read(&pointer, ColourMode::Rgb).unwrap_err();
        assert!(matches!(refused, DataError::LfsPointer { .. }), "{refused}");
    }

    #[test]
    fn sixteen_bits_count() {
        let (_root, path) = in_folder("deep.png");
        let deep: ImageBuffer<Luma<u16>, Vec<u16>> = ImageBuffer::from_pixel(1, 1, Luma([257]));
        DynamicImage::from(deep).save(&path).unwrap();
        let image = Image::read(&path, ColourMode::Grayscale).unwrap();
        assert_eq!(image.data(), [257.0 / 65_535.0]);
    }
}
