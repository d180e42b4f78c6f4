//! Colours. A chart is drawn in the light ones; a page writes each as a variable of its style sheet, which has the dark ones too.
//! Blue, orange and purple of one lightness can be told apart by colour-blind readers, and every mark has a shape of its own besides.

use plotters::style::RGBColor;

/// What a colour is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Words and axes.
    Ink,
    /// Lines of the grid.
    Grid,
    /// The source model.
    Before,
    /// The adapted model, and what became better.
    After,
    /// What became worse.
    Worse,
    /// What is neither.
    Neutral,
    /// The background of a chart by itself.
    Paper,
}

/// Each role, its variable, its light and its dark colour.
const PALETTE: [(Role, &str, [u8; 3], [u8; 3]); 7] = [
    (Role::Ink, "--ink", [0x1C, 0x23, 0x2B], [0xE9, 0xED, 0xF1]),
    (Role::Grid, "--grid", [0xD3, 0xD9, 0xDF], [0x3A, 0x44, 0x4F]),
    (
        Role::Before,
        "--before",
        [0xB3, 0x54, 0x00],
        [0xF2, 0xA6, 0x5A],
    ),
    (
        Role::After,
        "--after",
        [0x00, 0x5F, 0xB8],
        [0x6C, 0xB6, 0xFF],
    ),
    (
        Role::Worse,
        "--worse",
        [0x9C, 0x22, 0x78],
        [0xF2, 0x8C, 0xD0],
    ),
    (
        Role::Neutral,
        "--neutral",
        [0x5B, 0x66, 0x72],
        [0xA3, 0xAF, 0xBB],
    ),
    (
        Role::Paper,
        "--paper",
        [0xFE, 0xFE, 0xFE],
        [0x15, 0x1A, 0x20],
    ),
];

impl Role {
    /// The colour that it is drawn in.
    pub fn colour(self) -> RGBColor {
        let row = PALETTE.iter().find(|row| row.0 == self);
        let [red, green, blue] = row.map_or([0; 3], |row| row.2);
        RGBColor(red, green, blue)
    }
}

fn hex([red, green, blue]: [u8; 3]) -> String {
    format!("#{red:02X}{green:02X}{blue:02X}")
}

/// A drawing with variables in place of colours. Colours stand in quotes; the words of a drawing have none that are not escaped.
pub fn with_variables(svg: &str) -> String {
    PALETTE
        .iter()
        .fold(svg.to_owned(), |svg, (_, name, light, _)| {
            svg.replace(&format!("\"{}\"", hex(*light)), &format!("\"var({name})\""))
        })
}

/// The variables with their light colours, or the dark ones.
pub fn variables(dark: bool) -> String {
    let rows = PALETTE.iter().map(|(_, name, light, other)| {
        let colour = hex(if dark { *other } else { *light });
        format!("{name}:{colour};")
    });
    rows.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// WCAG 2.2: relative luminance, and the contrast of two colours.
    fn contrast(one: [u8; 3], other: [u8; 3]) -> f64 {
        let luminance = |colour: [u8; 3]| {
            let [r, g, b] = colour.map(|channel| {
                let share = f64::from(channel) / 255.0;
                match share <= 0.040_45 {
                    true => share / 12.92,
                    false => ((share + 0.055) / 1.055).powf(2.4),
                }
            });
            0.2126 * r + 0.7152 * g + 0.0722 * b
        };
        let (one, other) = (luminance(one), luminance(other));
        (one.max(other) + 0.05) / (one.min(other) + 0.05)
    }

    #[test]
    fn every_colour_of_words_and_marks_stands_out_from_the_page() {
        let paper = PALETTE[6];
        for (role, _, light, dark) in PALETTE {
            let least = match role {
                Role::Paper | Role::Grid => continue,
                _ => 4.5,
            };
            let found = [contrast(light, paper.2), contrast(dark, paper.3)];
            assert!(
                found.iter().all(|&found| found >= least),
                "{role:?}: {found:?}"
            );
        }
    }

    #[test]
    fn colours_become_variables() {
        let svg = format!("<rect fill=\"{}\"/>", hex(PALETTE[3].2));
        assert_eq!(with_variables(&svg), "<rect fill=\"var(--after)\"/>");
    }
}
