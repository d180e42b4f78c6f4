//! What JPEG loses: the lossy half of a baseline encoder and decoder, in the integers of libjpeg (its `islow` transforms, 4:2:0
//! subsampling and smooth upsampling), so that bytes come out as Pillow's do. Entropy coding loses nothing and is left out.
//!
//! Sources: ITU-T T.81; Loeffler, Ligtenberg and Moschytz 1989 (the transform); `jccolor.c`, `jcsample.c`, `jfdctint.c`, `jidctint.c` and
//! `jdsample.c` of libjpeg (its rounding).

/// Side of a block.
const SIDE: usize = 8;

type Block = [i32; SIDE * SIDE];

/// ITU-T T.81, table K.1.
const LUMA: [u16; 64] = [
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56,
    14, 17, 22, 29, 51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113,
    92, 49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
];

/// ITU-T T.81, table K.2.
const CHROMA: [u16; 64] = [
    17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99,
    47, 66, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99,
];

/// Bytes of one component, row by row.
struct Component {
    height: usize,
    width: usize,
    bytes: Vec<u8>,
}

impl Component {
    fn from_fn(height: usize, width: usize, byte: impl Fn(usize, usize) -> u8) -> Self {
        let rows = (0..height).flat_map(|row| (0..width).map(move |column| (row, column)));
        Self {
            height,
            width,
            bytes: rows.map(|(row, column)| byte(row, column)).collect(),
        }
    }

    /// The byte at a place; the last row and column repeat.
    fn near(&self, row: usize, column: usize) -> i32 {
        let (row, column) = (row.min(self.height - 1), column.min(self.width - 1));
        i32::from(self.bytes[row * self.width + column])
    }
}

/// Planes of bytes after compression at a quality of 1 to 100, and decompression. Three are a colour image, others are grey each.
pub(super) fn recompressed(
    planes: &[Vec<u8>],
    height: usize,
    width: usize,
    quality: u16,
) -> Vec<Vec<u8>> {
    let component = |bytes: &Vec<u8>| Component {
        height,
        width,
        bytes: bytes.clone(),
    };
    let [luma_steps, chroma_steps] = [LUMA, CHROMA].map(|table| steps(&table, quality));
    let [red, green, blue] = planes else {
        let coded = planes
            .iter()
            .map(|plane| coded(&component(plane), width, &luma_steps));
        return coded.map(|component| component.bytes).collect();
    };
    let pixels = || red.iter().zip(green).zip(blue);
    let from_rgb = |weights: [i32; 3], offset: i32| Component {
        height,
        width,
        bytes: pixels()
            .map(|((red, green), blue)| {
                let [red, green, blue] = [red, green, blue].map(|byte| i32::from(*byte));
                let sum = weights[0] * red + weights[1] * green + weights[2] * blue + offset;
                (sum >> 16) as u8
            })
            .collect(),
    };
    const HALF: i32 = 1 << 15;
    const MIDDLE: i32 = (128 << 16) + HALF - 1;
    let luma = from_rgb([19_595, 38_470, 7_471], HALF);
    let chroma = [[-11_059, -21_709, 32_768], [32_768, -27_439, -5_329]].map(|weights| {
        let small = halved(&from_rgb(weights, MIDDLE));
        doubled(
            &coded(&small, width.div_ceil(2), &chroma_steps),
            height,
            width,
        )
    });
    let luma = coded(&luma, width, &luma_steps);
    let to_rgb = |from_chroma: fn(i32, i32) -> i32| {
        let chroma = chroma[0].bytes.iter().zip(&chroma[1].bytes);
        let values = luma.bytes.iter().zip(chroma).map(|(luma, (blue, red))| {
            let [blue, red] = [blue, red].map(|byte| i32::from(*byte) - 128);
            (i32::from(*luma) + from_chroma(blue, red)).clamp(0, 255) as u8
        });
        values.collect()
    };
    vec![
        to_rgb(|_, red| (91_881 * red + HALF) >> 16),
        to_rgb(|blue, red| (-22_554 * blue - 46_802 * red + HALF) >> 16),
        to_rgb(|blue, _| (116_130 * blue + HALF) >> 16),
    ]
}

/// The steps of quantisation at a quality.
fn steps(table: &[u16; 64], quality: u16) -> [i32; 64] {
    let scale = match quality {
        ..50 => 5000 / i32::from(quality.max(1)),
        _ => 200 - 2 * i32::from(quality.min(100)),
    };
    table.map(|step| ((i32::from(step) * scale + 50) / 100).clamp(1, 255))
}

/// A component at half its extents: means of four, rounded down and up in turn. Its blocks are filled up from the full image's last column.
fn halved(full: &Component) -> Component {
    let width = full.width.div_ceil(2).next_multiple_of(SIDE);
    Component::from_fn(full.height.div_ceil(2), width, |row, column| {
        let four = [(0, 0), (0, 1), (1, 0), (1, 1)];
        let sum: i32 = four
            .map(|(down, right)| full.near(2 * row + down, 2 * column + right))
            .iter()
            .sum();
        ((sum + 1 + (column % 2) as i32) >> 2) as u8
    })
}

/// A component at twice its extents: three parts of the nearest and one of the next on each axis.
fn doubled(half: &Component, height: usize, width: usize) -> Component {
    // libjpeg repeats the pixels of components that are so narrow.
    if half.width <= 2 {
        return Component::from_fn(height, width, |row, column| {
            half.near(row / 2, column / 2) as u8
        });
    }
    Component::from_fn(height, width, |row, column| {
        let next = |place: usize| (place / 2 + place % 2).wrapping_sub(1 - place % 2);
        let other_row = match row {
            0 => 0,
            _ => next(row),
        };
        let sum = |column: usize| 3 * half.near(row / 2, column) + half.near(other_row, column);
        let own = sum(column / 2);
        let other = match column {
            0 => own,
            _ => sum(next(column)),
        };
        // Rounded up and down in turn.
        ((3 * own + other + 8 - (column % 2) as i32) >> 4) as u8
    })
}

/// The first columns of a component after the transform, quantisation, and the way back.
fn coded(component: &Component, width: usize, steps: &[i32; 64]) -> Component {
    let height = component.height;
    let mut bytes = vec![0; height * width];
    for top in (0..height).step_by(SIDE) {
        for left in (0..width).step_by(SIDE) {
            let mut block: Block = std::array::from_fn(|place| {
                component.near(top + place / SIDE, left + place % SIDE) - 128
            });
            forward(&mut block);
            for (value, step) in block.iter_mut().zip(steps) {
                // The transform's values are eight times too large.
                let (divisor, size) = (8 * step, value.abs());
                *value = value.signum() * ((size + divisor / 2) / divisor) * step;
            }
            inverse(&mut block);
            for row in 0..SIDE.min(height - top) {
                for column in 0..SIDE.min(width - left) {
                    let value = block[row * SIDE + column] + 128;
                    bytes[(top + row) * width + left + column] = value.clamp(0, 255) as u8;
                }
            }
        }
    }
    Component {
        height,
        width,
        bytes,
    }
}

/// Bits behind the point of the constants below, and of values between the two passes.
const CONST_BITS: u32 = 13;
const PASS_BITS: u32 = 2;

const F_0_298: i32 = 2446;
const F_0_390: i32 = 3196;
const F_0_541: i32 = 4433;
const F_0_765: i32 = 6270;
const F_0_899: i32 = 7373;
const F_1_175: i32 = 9633;
const F_1_501: i32 = 12_299;
const F_1_847: i32 = 15_137;
const F_1_961: i32 = 16_069;
const F_2_053: i32 = 16_819;
const F_2_562: i32 = 20_995;
const F_3_072: i32 = 25_172;

/// Divided by 2^`bits` and rounded.
fn descaled(value: i32, bits: u32) -> i32 {
    (value + (1 << (bits - 1))) >> bits
}

/// The discrete cosine transform in place; its values are eight times those of the orthonormal one.
fn forward(block: &mut Block) {
    for row in 0..SIDE {
        let values = std::array::from_fn(|column| block[row * SIDE + column]);
        let sums = |value: i32| value << PASS_BITS;
        let products = |value: i32| descaled(value, CONST_BITS - PASS_BITS);
        for (column, value) in forward_axis(values, sums, products).into_iter().enumerate() {
            block[row * SIDE + column] = value;
        }
    }
    for column in 0..SIDE {
        let values = std::array::from_fn(|row| block[row * SIDE + column]);
        let sums = |value: i32| descaled(value, PASS_BITS);
        let products = |value: i32| descaled(value, CONST_BITS + PASS_BITS);
        for (row, value) in forward_axis(values, sums, products).into_iter().enumerate() {
            block[row * SIDE + column] = value;
        }
    }
}

/// The transform of one axis. `sums` and `products` bring values without and with a constant's bits to those of the result.
fn forward_axis(
    x: [i32; SIDE],
    sums: impl Fn(i32) -> i32,
    products: impl Fn(i32) -> i32,
) -> [i32; SIDE] {
    let plus: [i32; 4] = std::array::from_fn(|place| x[place] + x[7 - place]);
    let [t7, t6, t5, t4]: [i32; 4] = std::array::from_fn(|place| x[place] - x[7 - place]);
    let (t10, t13) = (plus[0] + plus[3], plus[0] - plus[3]);
    let (t11, t12) = (plus[1] + plus[2], plus[1] - plus[2]);
    let z = (t12 + t13) * F_0_541;
    let [odd7, odd5, odd3, odd1] = odd_part([t4, t5, t6, t7]);
    [
        sums(t10 + t11),
        products(odd1),
        products(z + t13 * F_0_765),
        products(odd3),
        sums(t10 - t11),
        products(odd5),
        products(z - t12 * F_1_847),
        products(odd7),
    ]
}

/// The rotations that both transforms share: frequencies 7, 5, 3, 1 from differences of the middle outwards, and the way back.
fn odd_part([t0, t1, t2, t3]: [i32; 4]) -> [i32; 4] {
    let z5 = (t0 + t2 + t1 + t3) * F_1_175;
    let z1 = -(t0 + t3) * F_0_899;
    let z2 = -(t1 + t2) * F_2_562;
    let z3 = z5 - (t0 + t2) * F_1_961;
    let z4 = z5 - (t1 + t3) * F_0_390;
    [
        t0 * F_0_298 + z1 + z3,
        t1 * F_2_053 + z2 + z4,
        t2 * F_3_072 + z2 + z3,
        t3 * F_1_501 + z1 + z4,
    ]
}

/// The way back, of values as large as the orthonormal transform's.
fn inverse(block: &mut Block) {
    for column in 0..SIDE {
        let values = std::array::from_fn(|row| block[row * SIDE + column]);
        let back = inverse_axis(values);
        for (row, value) in back.into_iter().enumerate() {
            block[row * SIDE + column] = descaled(value, CONST_BITS - PASS_BITS);
        }
    }
    for row in 0..SIDE {
        let values = std::array::from_fn(|column| block[row * SIDE + column]);
        for (column, value) in inverse_axis(values).into_iter().enumerate() {
            block[row * SIDE + column] = descaled(value, CONST_BITS + PASS_BITS + 3);
        }
    }
}

fn inverse_axis(x: [i32; SIDE]) -> [i32; SIDE] {
    let z = (x[2] + x[6]) * F_0_541;
    let (t2, t3) = (z - x[6] * F_1_847, z + x[2] * F_0_765);
    let (t0, t1) = ((x[0] + x[4]) << CONST_BITS, (x[0] - x[4]) << CONST_BITS);
    let even = [t0 + t3, t1 + t2, t1 - t2, t0 - t3];
    let [o7, o5, o3, o1] = odd_part([x[7], x[5], x[3], x[1]]);
    let odd = [o1, o3, o5, o7];
    std::array::from_fn(|place| match place {
        0..4 => even[place] + odd[place],
        _ => even[7 - place] - odd[7 - place],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_transforms_are_those_of_the_definition() {
        let block: Block = std::array::from_fn(|place| (place * place * 37 % 256) as i32 - 128);
        let cosine = |place: usize, frequency: usize| {
            let norm = if frequency == 0 { 0.125f64 } else { 0.25 };
            let angle = (2 * place + 1) as f64 * frequency as f64;
            norm.sqrt() * (angle * std::f64::consts::PI / 16.0).cos()
        };
        let mut found = block;
        forward(&mut found);
        for (index, value) in found.iter().enumerate() {
            let [down, right] = [index / SIDE, index % SIDE];
            let expected: f64 = (0..64)
                .map(|place| {
                    f64::from(block[place])
                        * cosine(place / SIDE, down)
                        * cosine(place % SIDE, right)
                })
                .sum();
            assert!((f64::from(*value) / 8.0 - expected).abs() < 0.3, "{index}");
        }
        let mut back = found.map(|value| descaled(value, 3));
        inverse(&mut back);
        let farthest = back
            .iter()
            .zip(block)
            .map(|(found, was)| (found - was).abs());
        assert!(farthest.max() <= Some(2));
    }

    #[test]
    fn flat_images_stay_flat_to_a_step() {
        // Quality 25 doubles the table: the mean's step is 32 in units of 8 grey levels, so at most 2 levels are lost.
        for level in [0, 17, 128, 200, 255] {
            let flat = vec![vec![level; 9 * 11]];
            let output = &recompressed(&flat, 9, 11, 25)[0];
            assert!(
                output.iter().all(|byte| byte.abs_diff(level) <= 2),
                "{level}"
            );
        }
    }
}
