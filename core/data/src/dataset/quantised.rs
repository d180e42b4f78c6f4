//! Number maps as the whole numbers that files hold: a number is `raw * scale + offset`, and nothing is known of a pixel whose raw
//! numbers are all 0.

use serde::{Deserialize, Serialize};

use crate::{DataError, NumberMap};

/// How the numbers of a map are stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Quantised {
    pub scale: f32,
    #[serde(default)]
    pub offset: f32,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub negated_by_flip: Vec<usize>,
}

impl Quantised {
    /// Refuses numbers that mean nothing for a target of so many channels.
    pub fn check(&self, target: &str, channels: usize) -> Result<(), DataError> {
        let Self { scale, offset, .. } = *self;
        if !(scale.is_finite() && scale > 0.0 && offset.is_finite()) {
            return Err(DataError::Scale {
                target: target.into(),
                scale,
                offset,
            });
        }
        let beyond = |channel: &&usize| **channel >= channels;
        match self.negated_by_flip.iter().find(beyond) {
            None => Ok(()),
            Some(&channel) => Err(DataError::FlippedChannel {
                target: target.into(),
                channel,
                channels,
            }),
        }
    }

    /// The map that raw numbers in channel, row, column order stand for.
    pub fn read(&self, [height, width]: [usize; 2], raw: &[u16]) -> Result<NumberMap, DataError> {
        let pixels = (height * width).max(1);
        let channels = raw.len() / pixels;
        let mut numbers: Vec<f32> = raw
            .iter()
            .map(|&raw| f32::from(raw) * self.scale + self.offset)
            .collect();
        for pixel in 0..pixels.min(raw.len()) {
            let places = || (pixel..raw.len()).step_by(pixels);
            if places().all(|place| raw[place] == 0) {
                places().for_each(|place| numbers[place] = 0.0);
            } else if places().all(|place| numbers[place] == 0.0) {
                // Known, and exactly 0: the least that is not the mark of what is unknown.
                numbers[pixel] = f32::MIN_POSITIVE;
            }
        }
        let map = NumberMap::new(channels, height, width, numbers)?;
        Ok(map.with_negated_by_flip(self.negated_by_flip.clone()))
    }

    /// How to store maps in 16 bits: as in the files that they come from, if there are any and no transform made other numbers; whole numbers
    /// exactly where they fit; or else so that the largest number is the largest that can be stored. Numbers above 0 need no offset. What
    /// is known does not become 0.
    pub fn fit(maps: &[NumberMap], files: Option<&Self>) -> Self {
        if let Some(files) = files.filter(|files| maps.iter().all(|map| files.keeps(map))) {
            return files.clone();
        }
        let numbers = || maps.iter().flat_map(known).flat_map(|(_, numbers)| numbers);
        let least = numbers().fold(f32::INFINITY, f32::min);
        let largest = numbers().fold(f32::NEG_INFINITY, f32::max);
        let whole = numbers().all(|number| number.fract() == 0.0);
        let most = f32::from(u16::MAX);
        let (scale, offset) = if least > largest {
            (1.0, 0.0)
        } else if least > 0.0 {
            let scale = if whole && largest <= most {
                1.0
            } else {
                largest / most
            };
            (scale, 0.0)
        } else {
            let steps = most - 1.0;
            // Halves, since the difference of two numbers may be more than a number can be.
            let step = 2.0 * (largest / 2.0 / steps - least / 2.0 / steps);
            let exact = whole && largest - least <= steps && least.abs() < 1e6;
            let scale = match exact || step <= 0.0 {
                true => 1.0,
                false => step,
            };
            (scale, (least - scale).max(f32::MIN))
        };
        Self {
            scale: scale.max(f32::MIN_POSITIVE),
            offset,
            negated_by_flip: maps
                .first()
                .map(|map| map.negated_by_flip().to_vec())
                .unwrap_or_default(),
        }
    }

    /// Whether a map's known numbers come back as they are.
    fn keeps(&self, map: &NumberMap) -> bool {
        let mut bytes = Vec::new();
        self.write(map, &mut bytes);
        let pairs = bytes.as_chunks::<2>().0.iter();
        let raw: Vec<u16> = pairs.map(|pair| u16::from_le_bytes(*pair)).collect();
        let read = self.read(map.extents(), &raw);
        read.is_ok_and(|read| {
            let numbers = |map| known(map).map(|(pixel, numbers)| (pixel, numbers.collect()));
            let numbers = |map| numbers(map).collect::<Vec<(usize, Vec<f32>)>>();
            read.negated_by_flip() == map.negated_by_flip() && numbers(&read) == numbers(map)
        })
    }

    /// The raw number that stands for a number.
    fn steps(&self, number: f32) -> u16 {
        ((number - self.offset) / self.scale).round() as u16
    }

    /// The raw numbers of a map, little-endian, behind those that `bytes` holds.
    pub fn write(&self, map: &NumberMap, bytes: &mut Vec<u8>) {
        let [channels, height, width] = map.shape();
        let pixels = height * width;
        let mut raw = vec![0u16; channels * pixels];
        for (pixel, numbers) in known(map) {
            for (channel, number) in numbers.enumerate() {
                raw[channel * pixels + pixel] = self.steps(number);
            }
            let places = || (pixel..raw.len()).step_by(pixels);
            // 0 in all channels would say that nothing is known.
            if places().all(|place| raw[place] == 0) {
                raw[pixel] = 1;
            }
        }
        bytes.extend(raw.iter().flat_map(|raw| raw.to_le_bytes()));
    }
}

/// The pixels that something is known about, with their numbers.
fn known(map: &NumberMap) -> impl Iterator<Item = (usize, impl Iterator<Item = f32>)> {
    let pixels = map.shape()[1] * map.shape()[2];
    (0..pixels)
        .filter(|&pixel| map.is_known(pixel))
        .map(|pixel| (pixel, map.pixel(pixel)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(channels: usize, numbers: &[f32]) -> NumberMap {
        NumberMap::new(channels, 1, numbers.len() / channels, numbers.to_vec()).unwrap()
    }

    fn there_and_back(map: &NumberMap) -> (Quantised, NumberMap) {
        let stored = Quantised::fit(std::slice::from_ref(map), None);
        let mut bytes = Vec::new();
        stored.write(map, &mut bytes);
        let raw: Vec<u16> = bytes
            .as_chunks::<2>()
            .0
            .iter()
            .map(|pair| u16::from_le_bytes(*pair))
            .collect();
        stored.check("map", map.shape()[0]).unwrap();
        let read = stored.read(map.extents(), &raw).unwrap();
        (stored, read)
    }

    #[test]
    fn distances_that_are_not_whole_keep_four_digits() {
        let (stored, read) = there_and_back(&map(1, &[0.0, 1e-9, 0.5, 2.0, f32::NAN]));
        assert_eq!((stored.scale, stored.offset), (2.0 / 65535.0, 0.0));
        let read = read.data();
        assert_eq!((read[0], read[4]), (0.0, 0.0));
        assert!(read[1] > 0.0);
        assert!((read[2] - 0.5).abs() < 1e-4 && (read[3] - 2.0).abs() < 1e-4);
    }

    #[test]
    fn whole_numbers_stay_exact() {
        for numbers in [&[0.0, 1.0, 65535.0][..], &[0.0, -3.0, 7.0], &[5.0, 5.0]] {
            let map = map(1, numbers);
            assert_eq!(there_and_back(&map).1, map);
        }
        assert!(there_and_back(&map(1, &[0.0; 3])).1.data() == [0.0; 3]);
    }

    #[test]
    fn numbers_of_both_signs_keep_four_digits_and_stay_known() {
        let numbers = [-1.0, 0.6, 0.0, 1e-7, 0.5, 0.8, 0.0, 1e-7];
        let normals = map(2, &numbers).with_negated_by_flip(vec![0]);
        let (_, read) = there_and_back(&normals);
        for (pixel, known) in [true, true, false, true].into_iter().enumerate() {
            assert_eq!(read.is_known(pixel), known, "{pixel}");
        }
        for (read, number) in read.data().iter().zip(numbers) {
            assert!((read - number).abs() < 2e-5, "{read}, not {number}");
        }
        assert_eq!(read.negated_by_flip(), [0]);
    }

    #[test]
    fn numbers_of_files_stay_exact_and_others_are_not_forced_into_their_steps() {
        let millimetres = Quantised {
            scale: 0.001,
            offset: 0.0,
            negated_by_flip: vec![],
        };
        let raw: Vec<u16> = (0..=u16::MAX).collect();
        let every = millimetres.read([256, 256], &raw).unwrap();
        assert_eq!(Quantised::fit(&[every], Some(&millimetres)), millimetres);
        // As normals are stored: one of three numbers may be 0 in the file, which is -1.
        let normals = Quantised {
            scale: 2.0 / 254.0,
            offset: -1.0,
            negated_by_flip: vec![0],
        };
        let stored = normals.read([1, 2], &[0, 0, 127, 254, 127, 0]).unwrap();
        assert_eq!(Quantised::fit(&[stored], Some(&normals)), normals);

        let halves = map(1, &[0.0, 0.0005, 2.0]);
        for files in [&millimetres, &normals] {
            let fitted = Quantised::fit(std::slice::from_ref(&halves), Some(files));
            assert_eq!(fitted, Quantised::fit(std::slice::from_ref(&halves), None));
        }
    }

    #[test]
    fn a_number_of_zero_is_not_nothing() {
        let stored = Quantised {
            scale: 0.5,
            offset: -1.0,
            negated_by_flip: vec![],
        };
        let read = stored.read([1, 3], &[0, 2, 3]).unwrap();
        assert_eq!(read.data(), [0.0, f32::MIN_POSITIVE, 0.5]);
        assert_eq!([0, 1, 2].map(|n| read.is_known(n)), [false, true, true]);
    }

    #[test]
    fn refuses_numbers_that_mean_nothing() {
        let stored = |scale, offset, negated_by_flip| Quantised {
            scale,
            offset,
            negated_by_flip,
        };
        for (scale, offset) in [(0.0, 0.0), (-1.0, 0.0), (1.0, f32::INFINITY)] {
            let refused = stored(scale, offset, vec![]).check("x", 1);
            assert!(matches!(refused, Err(DataError::Scale { .. })));
        }
        assert!(matches!(
            stored(1.0, 0.0, vec![3]).check("x", 3),
            Err(DataError::FlippedChannel { channel: 3, .. })
        ));
    }
}
