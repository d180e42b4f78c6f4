//! Charts: what they show as data, and as SVG. The library draws in whole units, so a unit is a fraction of a pixel.

mod lines;
mod matrix;
mod palette;
mod rows;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

pub use self::lines::{Lines, Reference, Series};
pub use self::matrix::Matrix;
pub use self::palette::{Role, variables, with_variables};
pub use self::rows::{Bars, Gains, Row};
use crate::error::{Error, Result};

/// Units of a drawing in a pixel.
const UNITS: i32 = 4;
/// Text in pixels.
const TEXT: i32 = 13;
/// What a letter takes on average, of its size; there are no fonts here to ask.
const LETTER: f64 = 0.58;

/// A chart.
#[derive(Debug, Clone)]
pub struct Chart {
    /// Its file's name, without an ending.
    pub name: &'static str,
    /// What it shows.
    pub title: String,
    /// What there is to see, for those who do not see it.
    pub description: String,
    /// What else has to be said.
    pub note: Option<String>,
    /// The picture.
    pub plot: Plot,
    /// Its data.
    pub table: Table,
}

/// A chart's picture.
#[derive(Debug, Clone)]
pub enum Plot {
    /// Curves.
    Lines(Lines),
    /// Before and after, side by side.
    Bars(Bars),
    /// Changes with their intervals.
    Gains(Gains),
    /// Counts by row and column.
    Matrix(Matrix),
}

/// Data as a table; the first column names the row.
#[derive(Debug, Clone, Default)]
pub struct Table {
    /// Names of columns.
    pub head: Vec<String>,
    /// Rows.
    pub rows: Vec<Vec<String>>,
    /// Rows that were left out, since there are too many.
    pub left_out: usize,
}

/// Rows of a table at most.
const ROWS: usize = 500;

impl Table {
    /// A table with as many rows as are shown.
    pub fn new<'a>(head: impl IntoIterator<Item = &'a str>, rows: Vec<Vec<String>>) -> Self {
        let left_out = rows.len().saturating_sub(ROWS);
        let mut rows = rows;
        rows.truncate(ROWS);
        Self {
            head: head.into_iter().map(str::to_owned).collect(),
            rows,
            left_out,
        }
    }
}

/// How wide a drawing is, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Width {
    /// For a desk.
    Wide,
    /// For a hand.
    Narrow,
}

impl Width {
    fn pixels(self) -> i32 {
        match self {
            Self::Wide => 940,
            Self::Narrow => 350,
        }
    }
}

impl Chart {
    /// The chart as the inner part of an SVG in light colours, and its width and height in units.
    ///
    /// # Errors
    /// [`Error::Drawing`].
    pub fn draw(&self, width: Width) -> Result<(String, [i32; 2])> {
        let size = [width.pixels(), self.plot.height(width)].map(|pixels| pixels * UNITS);
        let mut svg = String::new();
        let drawn = {
            let backend = SVGBackend::with_string(&mut svg, (size[0] as u32, size[1] as u32));
            let area = backend.into_drawing_area();
            let drawn = match &self.plot {
                Plot::Lines(lines) => lines.draw(&area, width),
                Plot::Bars(bars) => bars.draw(&area, width),
                Plot::Gains(gains) => gains.draw(&area, width),
                Plot::Matrix(matrix) => matrix.draw(&area, width),
            };
            drawn.and_then(|()| Ok(area.present()?))
        };
        drawn.map_err(|Undrawn(reason)| Error::Drawing {
            chart: self.title.clone(),
            reason,
        })?;
        let start = svg.find('>').map_or(0, |place| place + 1);
        let end = svg.rfind("</svg>").unwrap_or(svg.len());
        Ok((svg[start.min(end)..end].to_owned(), size))
    }

    /// The chart as a file of its own, with its title.
    ///
    /// # Errors
    /// [`Error::Drawing`].
    pub fn file(&self) -> Result<String> {
        const HEAD: i32 = 34;
        let (inner, [width, height]) = self.draw(Width::Wide)?;
        let [title, description] = [&self.title, &self.description].map(|text| escaped(text));
        let (wide, high) = (width / UNITS, height / UNITS + HEAD);
        let (head, all) = (HEAD * UNITS, height + HEAD * UNITS);
        let (size, base, left) = (16 * UNITS, -10 * UNITS, 8 * UNITS);
        Ok(format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" role=\"img\" width=\"{wide}\" height=\"{high}\" viewBox=\"0 -{head} {width} {all}\" font-family=\"sans-serif\">\n\
             <title>{title}</title>\n<desc>{description}</desc>\n\
             <rect x=\"0\" y=\"-{head}\" width=\"{width}\" height=\"{all}\" fill=\"#FFFFFF\"/>\n\
             <text x=\"{left}\" y=\"{base}\" font-size=\"{size}\" font-weight=\"bold\" fill=\"#1C232B\">{title}</text>\n{inner}</svg>\n"
        ))
    }
}

/// Text in XML.
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for character in clean(text).chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            other => escaped.push(other),
        }
    }
    escaped
}

/// Text without what XML cannot hold.
fn clean(text: &str) -> String {
    let is_odd = |c: char| c.is_control() || matches!(c, '\u{FFFE}' | '\u{FFFF}');
    text.chars()
        .map(|c| if is_odd(c) { ' ' } else { c })
        .collect()
}

impl Plot {
    fn height(&self, width: Width) -> i32 {
        match self {
            Self::Lines(lines) => lines.height(width),
            Self::Bars(bars) => bars.height(),
            Self::Gains(gains) => gains.height(),
            Self::Matrix(matrix) => matrix.height(width),
        }
    }
}

/// Why something could not be drawn.
struct Undrawn(String);

impl<E: std::error::Error + Send + Sync> From<DrawingAreaErrorKind<E>> for Undrawn {
    fn from(error: DrawingAreaErrorKind<E>) -> Self {
        Self(error.to_string())
    }
}

/// Where charts are drawn.
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Pixels in units.
fn px(pixels: i32) -> i32 {
    pixels * UNITS
}

/// Words, anchored so. The library gives a font's size with its line's height.
fn words(role: Role, horizontal: HPos) -> TextStyle<'static> {
    let font = ("sans-serif", f64::from(px(TEXT)) * 1.24);
    font.into_font()
        .color(&role.colour())
        .pos(Pos::new(horizontal, VPos::Center))
}

/// About how many pixels words take.
fn width_of(text: &str) -> i32 {
    (text.chars().count() as f64 * LETTER * f64::from(TEXT)).ceil() as i32
}

/// Text that takes at most so many pixels.
fn fitted(text: &str, pixels: i32) -> String {
    let text = clean(text);
    let most = ((f64::from(pixels) / (LETTER * f64::from(TEXT))) as usize).max(2);
    match text.chars().count() > most {
        true => text.chars().take(most - 1).chain(['…']).collect(),
        false => text,
    }
}

/// The shape of a mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// A ring, for what was before.
    Ring,
    /// A square, for what is after.
    Square,
    /// A triangle.
    Up,
    /// One upside down.
    Down,
    /// None.
    None,
}

/// Draws a mark of a radius in pixels.
fn mark(
    area: &Area<'_>,
    (x, y): (i32, i32),
    shape: Shape,
    role: Role,
    radius: i32,
) -> Result<(), Undrawn> {
    let (r, colour) = (px(radius), role.colour());
    match shape {
        Shape::None => {}
        Shape::Ring => {
            let inside = Circle::new((x, y), r, Role::Paper.colour().filled());
            area.draw(&inside)?;
            area.draw(&Circle::new(
                (x, y),
                r,
                colour.stroke_width(px(1) as u32 + 2),
            ))?;
        }
        Shape::Square => {
            let corners = [(x - r, y - r), (x + r, y + r)];
            area.draw(&Rectangle::new(corners, colour.filled()))?;
        }
        Shape::Up | Shape::Down => {
            let tip = if shape == Shape::Up { -r } else { r };
            let corners = vec![(x, y + tip), (x - r, y - tip), (x + r, y - tip)];
            area.draw(&Polygon::new(corners, colour.filled()))?;
        }
    }
    Ok(())
}

/// Draws a straight line of a width in units.
fn line(
    area: &Area<'_>,
    from: (i32, i32),
    to: (i32, i32),
    role: Role,
    width: u32,
) -> Result<(), Undrawn> {
    let path = PathElement::new(vec![from, to], role.colour().stroke_width(width));
    Ok(area.draw(&path)?)
}

/// Draws words.
fn say(
    area: &Area<'_>,
    text: &str,
    at: (i32, i32),
    role: Role,
    anchor: HPos,
) -> Result<(), Undrawn> {
    let element = Text::new(clean(text), at, words(role, anchor));
    Ok(area.draw(&element)?)
}

/// Says below everything what is along the horizontal axis, in the middle of `from` to `to` if it fits there, or of the whole drawing.
fn describe(
    area: &Area<'_>,
    text: &str,
    [from, to]: [i32; 2],
    bottom: i32,
    width: Width,
) -> Result<(), Undrawn> {
    let needed = width_of(text);
    let middle = match needed <= to - from {
        true => (from + to) / 2,
        false => ((from + to) / 2).clamp(needed / 2, (width.pixels() - needed / 2).max(needed / 2)),
    };
    let text = fitted(text, width.pixels());
    say(
        area,
        &text,
        (px(middle), px(bottom - 9)),
        Role::Ink,
        HPos::Center,
    )
}

/// Draws a legend from the left edge, as many rows as it takes; the pixels that it takes.
fn legend(
    area: &Area<'_>,
    entries: &[(Role, Shape, &str)],
    left: i32,
    width: i32,
) -> Result<i32, Undrawn> {
    let (mut x, mut y) = (left, 12);
    for (role, shape, name) in entries {
        let name = fitted(name, width - left - 40);
        let needed = 34 + width_of(&name) + 14;
        if x > left && x + needed > width {
            (x, y) = (left, y + 20);
        }
        line(
            area,
            (px(x), px(y)),
            (px(x + 24), px(y)),
            *role,
            px(2) as u32,
        )?;
        mark(area, (px(x + 12), px(y)), *shape, *role, 4)?;
        say(area, &name, (px(x + 30), px(y)), Role::Ink, HPos::Left)?;
        x += needed;
    }
    Ok(y + 14)
}

/// The pixels that [`legend`] takes.
fn legend_height(names: &[&str], left: i32, width: i32) -> i32 {
    let (mut x, mut y) = (left, 12);
    for name in names {
        let needed = 34 + width_of(&fitted(name, width - left - 40)) + 14;
        if x > left && x + needed > width {
            (x, y) = (left, y + 20);
        }
        x += needed;
    }
    y + 14
}

/// A range that holds all these numbers, with room at both ends; not empty.
fn range_of(values: impl Iterator<Item = f64>) -> Option<[f64; 2]> {
    let values = values.filter(|value| value.is_finite());
    let ends = values.fold(None, |ends: Option<[f64; 2]>, value| {
        let [low, high] = ends.unwrap_or([value; 2]);
        Some([low.min(value), high.max(value)])
    });
    ends.map(|[low, high]| {
        let room = match high - low {
            0.0 => (0.05 * high.abs()).max(1e-3),
            span => 0.06 * span,
        };
        [low - room, high + room]
    })
}

/// A number at an axis, without digits that say nothing.
fn tick(value: f64) -> String {
    let text = match value.abs() {
        a if a > 0.0 && a < 1e-3 => return format!("{value:.1e}").replace('-', "\u{2212}"),
        _ => format!("{value:.4}"),
    };
    let text = text.trim_end_matches('0').trim_end_matches('.');
    match text {
        "-0" | "" => "0".into(),
        text => text.replace('-', "\u{2212}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_at_an_axis_have_the_digits_that_they_need() {
        let shown = [0.0, -0.0, 0.1 + 0.2, -20.0, 0.0125, 0.0002].map(tick);
        assert_eq!(
            shown,
            ["0", "0", "0.3", "\u{2212}20", "0.0125", "2.0e\u{2212}4"]
        );
    }

    #[test]
    fn a_range_is_never_empty() {
        assert_eq!(range_of([].into_iter()), None);
        let [low, high] = range_of([2.0, f64::NAN].into_iter()).unwrap();
        assert!(low < 2.0 && 2.0 < high);
    }

    #[test]
    fn words_of_a_drawing_are_escaped_and_fit() {
        assert_eq!(escaped("<a \"&\u{1}>"), "&lt;a &quot;&amp; &gt;");
        assert_eq!(fitted("gaussian_noise", 40), "gaus…");
        assert_eq!(fitted("fog", 40), "fog");
    }
}
