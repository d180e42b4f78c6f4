//! What holds for all corruptions, whatever their numbers are: those are held to the reference in `imagenet_c.rs`.

#![expect(clippy::unwrap_used, reason = "these are tests")]

use std::path::Path;

use dtta_data::{Corrupter, Corruption, Image, Severity};

/// A disk on black, darker to one side, so that there are edges, flat parts and a slope.
fn picture(channels: usize, side: usize) -> Image {
    let unit = side as f32 / 28.0;
    Image::from_fn([channels, side, side], |channel, row, column| {
        let [row, column] = [row, column].map(|place| place as f32 / unit);
        let inside = (row - 13.0).hypot(column - 14.0) < 9.0;
        if inside {
            0.9 - 0.02 * column - 0.1 * channel as f32
        } else {
            0.0
        }
    })
    .unwrap()
}

/// A folder with pictures of frost: slopes and stripes.
fn frost_pictures() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for number in 1..=5u32 {
        let picture = image::RgbImage::from_fn(300, 280, |x, y| {
            image::Rgb([
                (x / 2) as u8,
                (y / 2 + 10 * number) as u8,
                ((x + y) % 97) as u8,
            ])
        });
        let kind = if number < 4 { "png" } else { "jpg" };
        let path = folder.path().join(format!("frost{number}.{kind}"));
        picture
            .save_with_format(path, image::ImageFormat::Png)
            .unwrap();
    }
    folder
}

/// Every corruption at every severity.
fn all(frost: &Path) -> impl Iterator<Item = Corrupter> {
    let severities = |corruption| Severity::ALL.map(|severity| (corruption, severity));
    Corruption::all()
        .flat_map(severities)
        .map(move |(corruption, severity)| {
            let frost = (corruption == Corruption::Frost).then_some(frost);
            Corrupter::new(corruption, severity, frost).unwrap()
        })
}

fn mean_change(left: &Image, right: &Image) -> f64 {
    let change = left.data().iter().zip(right.data());
    let change = change.map(|(left, right)| f64::from((left - right).abs()));
    change.sum::<f64>() / left.data().len() as f64
}

#[test]
fn each_is_a_function_of_its_key() {
    let frost = frost_pictures();
    for corrupter in all(frost.path()) {
        let image = picture(3, 28);
        let draw = |seed, id| corrupter.corrupt(&image, seed, id);
        let corruption = corrupter.corruption();
        assert_eq!(draw(1, "a"), draw(1, "a"), "{corruption}");
        let random = [
            "noise", "fog", "motion", "snow", "frost", "spatter", "glass", "elastic",
        ];
        let random = random.iter().any(|word| corruption.name().contains(word));
        // Weak ones move too little at this size for each draw to show.
        if corrupter.severity().get() >= 4 {
            assert_eq!(draw(1, "a") != draw(2, "a"), random, "{corruption}");
            assert_eq!(draw(1, "a") != draw(1, "b"), random, "{corruption}");
        }
    }
}

#[test]
fn values_are_bytes_for_any_shape() {
    let frost = frost_pictures();
    for shape in [[1, 1, 1], [3, 1, 9], [3, 32, 17], [2, 5, 2]] {
        let image = Image::from_fn(shape, |_, row, column| {
            ((row * 3 + column) % 4) as f32 / 3.0
        })
        .unwrap();
        let black = Image::from_fn(shape, |_, _, _| 0.0).unwrap();
        for corrupter in all(frost.path()) {
            for image in [&image, &black] {
                let output = corrupter.corrupt(image, 0, "x");
                assert_eq!(output.shape(), shape);
                let is_byte =
                    |value: &f32| (0..=255u8).any(|byte| f32::from(byte) / 255.0 == *value);
                assert!(
                    output.data().iter().all(is_byte),
                    "{} of {shape:?}",
                    corrupter.in_words(shape[1], shape[2])
                );
            }
        }
    }
}

#[test]
fn a_higher_severity_changes_more_at_any_size() {
    let frost = frost_pictures();
    for (side, samples) in [(28, 12), (224, 2)] {
        let image = picture(3, side);
        // The mean over a few samples, since one draw of a random corruption may be mild.
        let change = |corrupter: Corrupter| {
            let change = |sample: u32| {
                mean_change(&image, &corrupter.corrupt(&image, 0, &sample.to_string()))
            };
            (0..samples).map(change).sum::<f64>()
        };
        let corrupters: Vec<Corrupter> = all(frost.path()).collect();
        for of_one in corrupters.chunks(5) {
            let changes: Vec<f64> = of_one.iter().cloned().map(change).collect();
            let corruption = of_one[0].corruption();
            // Saturation goes down for two severities and up for three; spatter turns from water to mud; snow has several strengths that go up and
            // down, and so have glass, fog and frost; pixels of a small image are cut unevenly, and what JPEG loses of these smooth ones depends on where its steps fall. That these are the reference's is tested in `imagenet_c.rs`.
            let ordered = !matches!(
                corruption,
                Corruption::Saturate
                    | Corruption::Spatter
                    | Corruption::Snow
                    | Corruption::GlassBlur
                    | Corruption::Fog
                    | Corruption::Frost
                    | Corruption::JpegCompression
            ) && (side == 224 || corruption != Corruption::Pixelate);
            assert!(
                changes[0] > 0.0 && (!ordered || changes.is_sorted()),
                "{corruption} at {side}: {changes:?}"
            );
        }
    }
}

#[test]
fn a_small_image_is_blurred_as_a_large_one_from_farther_away() {
    let small = picture(3, 28);
    let large = Image::from_fn([3, 224, 224], |channel, row, column| {
        small.get(channel, row / 8, column / 8).unwrap()
    })
    .unwrap();
    for corruption in [
        Corruption::GaussianBlur,
        Corruption::DefocusBlur,
        Corruption::MotionBlur,
    ] {
        for severity in Severity::ALL {
            let corrupter = Corrupter::new(corruption, severity, None).unwrap();
            let found = corrupter.corrupt(&small, 3, "x");
            let blurred = corrupter.corrupt(&large, 3, "x");
            let shrunk = Image::from_fn([3, 28, 28], |channel, row, column| {
                let pixels = (0..64).map(|place| {
                    blurred
                        .get(channel, 8 * row + place / 8, 8 * column + place % 8)
                        .unwrap()
                });
                pixels.sum::<f32>() / 64.0
            })
            .unwrap();
            // The large image was cut off to bytes before it was averaged. The picture is black at its edges, so what lies beyond does not
            // matter.
            let largest = found.data().iter().zip(shrunk.data());
            let largest = largest.map(|(found, expected)| (found - expected).abs());
            let largest = largest.fold(0.0, f32::max);
            assert!(
                largest <= 1.01 / 255.0,
                "{corruption}/{severity}: {largest}"
            );
        }
    }
}

#[test]
fn lengths_are_those_of_the_reference_from_its_size_on() {
    let words = |corruption, side| {
        let corrupter = Corrupter::new(corruption, Severity::ALL[2], None).unwrap();
        corrupter.in_words(side, side)
    };
    let plain = "defocus_blur/3 of ImageNet-C on 224x224 pixels";
    assert_eq!(words(Corruption::DefocusBlur, 224), plain);
    let scaled = "defocus_blur/3 of ImageNet-C with lengths scaled by 0.125 (sqrt(height * width) / 224) for 28x28 pixels";
    assert_eq!(words(Corruption::DefocusBlur, 28), scaled);
    let unscaled = "contrast/3 of ImageNet-C on 28x28 pixels";
    assert_eq!(words(Corruption::Contrast, 28), unscaled);
    let blur = Corrupter::new(Corruption::DefocusBlur, Severity::ALL[2], None).unwrap();
    assert_eq!(blur.scale(480, 640), 1.0);
}

#[test]
fn frost_without_its_pictures_is_refused_with_where_they_are() {
    let severity = Severity::ALL[0];
    let refused = Corrupter::new(Corruption::Frost, severity, None).unwrap_err();
    assert!(
        refused.to_string().contains("package `imagecorruptions`"),
        "{refused}"
    );
    let folder = frost_pictures();
    std::fs::remove_file(folder.path().join("frost4.jpg")).unwrap();
    let refused = Corrupter::new(Corruption::Frost, severity, Some(folder.path())).unwrap_err();
    let text = refused.to_string();
    assert!(
        text.contains("frost4.jpg` is missing") && text.contains("imagecorruptions"),
        "{text}"
    );
    let refused = Corrupter::new(Corruption::Fog, severity, Some(folder.path())).unwrap_err();
    assert!(
        refused.to_string().contains("`fog` uses no pictures"),
        "{refused}"
    );
}

#[test]
fn the_noise_of_this_version_is_pinned() {
    // Changing the key's encoding or a generator changes every published record: let it be on purpose.
    let image = Image::new(1, 1, 3, vec![0.5; 3]).unwrap();
    let corrupter = Corrupter::new(Corruption::GaussianNoise, Severity::ALL[1], None).unwrap();
    let bytes: Vec<f32> = corrupter
        .corrupt(&image, 7, "test/00042")
        .data()
        .iter()
        .map(|value| (value * 255.0).round())
        .collect();
    assert_eq!(bytes, [144.0, 131.0, 68.0]);
}

#[test]
fn severities_and_names_survive_json() {
    for corruption in Corruption::all() {
        let json = serde_json::to_string(&corruption).unwrap();
        assert_eq!(json, format!("\"{corruption}\""));
    }
    assert_eq!(serde_json::from_str::<Severity>("5").unwrap().get(), 5);
    for refused in ["0", "6", "-1", "1.5", "\"3\""] {
        assert!(
            serde_json::from_str::<Severity>(refused).is_err(),
            "{refused}"
        );
    }
    let schema = serde_json::to_value(schemars::schema_for!(Severity)).unwrap();
    assert_eq!(
        (&schema["minimum"], &schema["maximum"]),
        (&1.into(), &5.into()),
        "{schema}"
    );
}
