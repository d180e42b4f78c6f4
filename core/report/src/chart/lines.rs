//! Curves over one axis.

use plotters::prelude::*;
use plotters::style::text_anchor::HPos;

use super::{
    Area, Role, Shape, Undrawn, Width, describe, fitted, legend, legend_height, line, mark, px,
    range_of, say, tick, width_of, words,
};

/// Curves.
#[derive(Debug, Clone)]
pub struct Lines {
    /// What is along the horizontal axis, with its unit.
    pub x: String,
    /// What is along the vertical one.
    pub y: String,
    /// Whether there is nothing between whole numbers along it.
    pub is_whole: bool,
    /// Whether it holds decimal logarithms, to be written as what they are of.
    pub is_log: bool,
    /// The horizontal range; that of the points if absent.
    pub x_range: Option<[f64; 2]>,
    /// The vertical one.
    pub y_range: Option<[f64; 2]>,
    /// The curves.
    pub series: Vec<Series>,
    /// Places on the horizontal axis where something begins, and what.
    pub sections: Vec<(f64, String)>,
    /// A line from one corner to the other, where both axes are alike, or at a height.
    pub reference: Option<Reference>,
}

/// A line to compare with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Reference {
    /// From the lower left to the upper right.
    Diagonal,
    /// At a height.
    At(f64),
}

/// A curve, in pieces.
#[derive(Debug, Clone)]
pub struct Series {
    /// What it is.
    pub name: String,
    /// Its colour.
    pub role: Role,
    /// The shape of its marks.
    pub shape: Shape,
    /// Its points, piece by piece.
    pub pieces: Vec<Vec<(f64, f64)>>,
    /// Pieces of more points have a mark at about so many of them.
    pub marks: usize,
}

const HEIGHT: i32 = 300;
/// Room for labels on the left, below, and at the right edge.
const LEFT: i32 = 78;
const BELOW: i32 = 44;
const RIGHT: i32 = 22;

impl Lines {
    pub(super) fn height(&self, width: Width) -> i32 {
        let names: Vec<&str> = self.series.iter().map(|series| &*series.name).collect();
        let head = legend_height(&names, 4, width.pixels());
        match self.reference {
            Some(Reference::Diagonal) => HEIGHT + 60 + head,
            _ => HEIGHT + head,
        }
    }

    pub(super) fn draw(&self, area: &Area<'_>, width: Width) -> Result<(), Undrawn> {
        let points = || {
            self.series
                .iter()
                .flat_map(|series| series.pieces.iter().flatten())
        };
        let nothing = [0.0, 1.0];
        let across = self
            .x_range
            .or_else(|| range_of(points().map(|point| point.0)));
        let up = self
            .y_range
            .or_else(|| range_of(points().map(|point| point.1)));
        let (across, mut up) = (across.unwrap_or(nothing), up.unwrap_or(nothing));
        if !self.sections.is_empty() {
            // Room for their names.
            up[1] += 0.09 * (up[1] - up[0]);
        }
        let entries: Vec<_> = self
            .series
            .iter()
            .map(|series| (series.role, series.shape, &*series.name))
            .collect();
        let head = legend(area, &entries, 4, width.pixels())?;
        // Both axes alike ask for a square.
        let is_square = self.reference == Some(Reference::Diagonal);
        let side = self.height(width) - head - BELOW;
        let right = match is_square {
            true => (width.pixels() - LEFT - side).max(RIGHT),
            false => RIGHT,
        };
        let mut chart = ChartBuilder::on(area)
            .margin_top(px(head))
            .margin_right(px(right))
            .x_label_area_size(px(BELOW))
            .y_label_area_size(px(LEFT))
            .build_cartesian_2d(across[0]..across[1], up[0]..up[1])?;
        let labels = if width == Width::Narrow { 4 } else { 10 };
        let across_label = |value: &f64| match *value {
            value if self.is_log => significant(10f64.powf(value)),
            value if self.is_whole && value.fract() != 0.0 => String::new(),
            value => tick(value),
        };
        let mut mesh = chart.configure_mesh();
        if self.is_whole {
            mesh.disable_x_mesh();
        }
        mesh.x_labels(if is_square { 6 } else { labels })
            .y_labels(6)
            .max_light_lines(0)
            .bold_line_style(Role::Grid.colour().stroke_width(4))
            .axis_style(Role::Ink.colour().stroke_width(4))
            .label_style(words(Role::Ink, HPos::Center))
            .axis_desc_style(words(Role::Ink, HPos::Center))
            .x_label_formatter(&across_label)
            .y_label_formatter(&|value| tick(*value))
            .draw()?;
        let span = [LEFT, width.pixels() - right];
        let mut upright = words(Role::Ink, HPos::Center);
        upright.font = upright.font.transform(FontTransform::Rotate270);
        let place = (px(11), px(head + side / 2));
        area.draw(&Text::new(fitted(&self.y, side), place, upright))?;
        describe(area, &self.x, span, self.height(width), width)?;
        let at = |x: f64, y: f64| chart.backend_coord(&(x, y));
        self.draw_sections(area, &at, up)?;
        let reference = match self.reference {
            Some(Reference::Diagonal) => Some((across[0].max(up[0]), across[1].min(up[1]))),
            Some(Reference::At(height)) => Some((height, height)),
            None => None,
        };
        if let Some((from, to)) = reference {
            line(
                area,
                at(across[0], from),
                at(across[1], to),
                Role::Neutral,
                6,
            )?;
        }
        for series in &self.series {
            for piece in &series.pieces {
                let path: Vec<_> = piece.iter().map(|&(x, y)| at(x, y)).collect();
                if path.len() > 1 {
                    let style = series.role.colour().stroke_width(px(2) as u32);
                    area.draw(&PathElement::new(path.clone(), style))?;
                }
                let every = path.len().div_ceil(series.marks.max(1)).max(1);
                // The last point of a piece has a mark, so that one point alone has.
                for place in path.iter().rev().step_by(every) {
                    mark(area, *place, series.shape, series.role, 4)?;
                }
            }
        }
        Ok(())
    }

    /// A line where each section begins, and its name where there is room.
    fn draw_sections(
        &self,
        area: &Area<'_>,
        at: &dyn Fn(f64, f64) -> (i32, i32),
        [low, high]: [f64; 2],
    ) -> Result<(), Undrawn> {
        let last = self.x_range.map_or(f64::MAX, |range| range[1]);
        for (n, (start, name)) in self.sections.iter().enumerate() {
            let end = self.sections.get(n + 1).map_or(last, |section| section.0);
            let (from, to) = (at(*start, high), at(*start, low));
            if n > 0 {
                line(area, from, to, Role::Neutral, 3)?;
            }
            let room = (at(end.min(last), high).0 - from.0) / px(1) - 8;
            let shown = fitted(name, room);
            if room > 50 || width_of(name) <= room {
                say(
                    area,
                    &shown,
                    (from.0 + px(4), from.1 + px(9)),
                    Role::Neutral,
                    HPos::Left,
                )?;
            }
        }
        Ok(())
    }
}

/// A positive number with two significant digits.
fn significant(value: f64) -> String {
    let digits = 1 - value.log10().floor() as i32;
    tick((value * 10f64.powi(digits)).round() / 10f64.powi(digits))
}
