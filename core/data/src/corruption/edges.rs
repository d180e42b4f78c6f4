//! Edges and distances to them as OpenCV finds them: `Canny` with its default aperture and sums of absolute derivatives, and
//! `distanceTransform` with `DIST_L2` and a mask of 5, which approximates. No crate has them in this form: `imageproc` smooths before it
//! looks for edges, and measures distances exactly.

use super::plane::Border;

/// tan 22.5° with 15 bits behind the point.
const TANGENT: i32 = 13_573;

/// Which pixels are edges: local maxima of the gradient above `low` that hang together with one above `high`.
pub(super) fn edges(bytes: &[u8], height: usize, width: usize, low: i32, high: i32) -> Vec<bool> {
    let at = |row: isize, column: isize| {
        let (row, column) = (
            Border::Nearest.index(row, height),
            Border::Nearest.index(column, width),
        );
        i32::from(bytes[row * width + column])
    };
    let places = || (0..height as isize).flat_map(|row| (0..width as isize).map(move |c| (row, c)));
    let sobel: Vec<[i32; 2]> = places()
        .map(|(r, c)| {
            let right = |row: isize| at(row, c + 1) - at(row, c - 1);
            let down = |column: isize| at(r + 1, column) - at(r - 1, column);
            [
                right(r - 1) + 2 * right(r) + right(r + 1),
                down(c - 1) + 2 * down(c) + down(c + 1),
            ]
        })
        .collect();
    let strength = |row: isize, column: isize| {
        let inside = (0..height as isize).contains(&row) && (0..width as isize).contains(&column);
        match inside {
            true => {
                let [right, down] = sobel[row as usize * width + column as usize];
                right.abs() + down.abs()
            }
            false => 0,
        }
    };
    let is_maximum = |row: isize, column: isize| {
        let own = strength(row, column);
        let [right, down] = sobel[row as usize * width + column as usize];
        let (x, y) = (right.abs(), down.abs() << 15);
        if y < x * TANGENT {
            own > strength(row, column - 1) && own >= strength(row, column + 1)
        } else if y > x * TANGENT + (x << 16) {
            own > strength(row - 1, column) && own >= strength(row + 1, column)
        } else {
            let side = if (right ^ down) < 0 { -1 } else { 1 };
            own > strength(row - 1, column - side) && own > strength(row + 1, column + side)
        }
    };
    let candidates: Vec<bool> = places()
        .map(|(row, column)| strength(row, column) > low && is_maximum(row, column))
        .collect();
    let mut edges = vec![false; bytes.len()];
    let mut found: Vec<(isize, isize)> = places()
        .filter(|&(row, column)| {
            candidates[row as usize * width + column as usize] && strength(row, column) > high
        })
        .collect();
    for &(row, column) in &found {
        edges[row as usize * width + column as usize] = true;
    }
    while let Some((row, column)) = found.pop() {
        for (row, column) in (-1..=1).flat_map(|d| (-1..=1).map(move |r| (row + d, column + r))) {
            let inside =
                (0..height as isize).contains(&row) && (0..width as isize).contains(&column);
            let place = row.max(0) as usize * width + column.max(0) as usize;
            if inside && candidates[place] && !edges[place] {
                edges[place] = true;
                found.push((row, column));
            }
        }
    }
    edges
}

/// How far each pixel is from the next edge, by the shortest way of steps to neighbours and of knight's moves; far beyond the image where
/// there is none.
pub(super) fn distances(edges: &[bool], height: usize, width: usize) -> Vec<f64> {
    /// The lengths that OpenCV gives steps, with 16 bits behind the point.
    const STRAIGHT: u32 = 1 << 16;
    const DIAGONAL: u32 = 91_750;
    const KNIGHT: u32 = 143_976;
    const BEFORE: [(isize, isize, u32); 8] = [
        (-2, -1, KNIGHT),
        (-2, 1, KNIGHT),
        (-1, -2, KNIGHT),
        (-1, -1, DIAGONAL),
        (-1, 0, STRAIGHT),
        (-1, 1, DIAGONAL),
        (-1, 2, KNIGHT),
        (0, -1, STRAIGHT),
    ];
    const FAR: u32 = u32::MAX >> 2;
    let mut lengths: Vec<u32> = edges
        .iter()
        .map(|edge| if *edge { 0 } else { FAR })
        .collect();
    let mut pass = |place: usize, direction: isize| {
        let (row, column) = ((place / width) as isize, (place % width) as isize);
        for (down, right, length) in BEFORE {
            let (row, column) = (row + direction * down, column + direction * right);
            let inside =
                (0..height as isize).contains(&row) && (0..width as isize).contains(&column);
            if inside {
                let other = lengths[row as usize * width + column as usize];
                lengths[place] = lengths[place].min(other + length);
            }
        }
    };
    (0..edges.len()).for_each(|place| pass(place, 1));
    (0..edges.len()).rev().for_each(|place| pass(place, -1));
    lengths
        .into_iter()
        .map(|length| f64::from(length) / f64::from(STRAIGHT))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_has_one_edge() {
        let bytes: Vec<u8> = (0..48)
            .map(|place| if place % 8 < 4 { 0 } else { 200 })
            .collect();
        let found = edges(&bytes, 6, 8, 50, 150);
        for (place, edge) in found.iter().enumerate() {
            // Both columns at the step have the same gradient; the first is the maximum.
            assert_eq!(*edge, place % 8 == 3, "{place}");
        }
        assert_eq!(edges(&[70; 48], 6, 8, 50, 150), [false; 48]);
    }

    #[test]
    fn distances_are_those_of_the_shortest_way() {
        let mut one = [false; 25];
        one[12] = true;
        let found = distances(&one, 5, 5);
        let rounded: Vec<f64> = found
            .iter()
            .map(|length| (length * 1e4).round() / 1e4)
            .collect();
        assert_eq!(
            rounded[..10],
            [2.8, 2.1969, 2.0, 2.1969, 2.8, 2.1969, 1.4, 1.0, 1.4, 2.1969]
        );
        assert!(
            distances(&[false; 4], 2, 2)
                .iter()
                .all(|length| *length > 1e4)
        );
    }
}
