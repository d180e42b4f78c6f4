//! One row for each thing that is compared: before and after, or the change with its interval.

use plotters::prelude::*;
use plotters::style::text_anchor::HPos;

use super::{
    Area, Role, Shape, Undrawn, Width, describe, fitted, legend, legend_height, line, mark, px,
    range_of, say, tick, width_of, words,
};
use crate::numbers::Verdict;

/// One row.
#[derive(Debug, Clone)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// Whether it stands for all.
    pub is_mean: bool,
    /// Before and after.
    pub pair: [f64; 2],
    /// Where the change may lie.
    pub interval: Option<[f64; 2]>,
    /// What the interval says.
    pub verdict: Verdict,
    /// The change in words, at the right edge.
    pub label: String,
}

impl Row {
    fn change(&self) -> f64 {
        self.pair[1] - self.pair[0]
    }
}

/// Two bars a row.
#[derive(Debug, Clone)]
pub struct Bars {
    /// What is along the axis, with its unit.
    pub x: String,
    /// What was before and what is after, in words.
    pub names: [String; 2],
    /// The rows.
    pub rows: Vec<Row>,
}

/// The change of each row.
#[derive(Debug, Clone)]
pub struct Gains {
    /// What is along the axis, with its unit.
    pub x: String,
    /// The rows.
    pub rows: Vec<Row>,
}

/// Room below the rows, for the axis.
const BELOW: i32 = 42;

/// Where rows are.
struct Frame<'a> {
    rows: &'a [Row],
    each: i32,
    head: i32,
    left: i32,
    right: i32,
    height: i32,
}

impl Frame<'_> {
    fn new<'a>(rows: &'a [Row], each: i32, head: i32, height: i32, width: Width) -> Frame<'a> {
        let longest =
            |texts: &mut dyn Iterator<Item = &str>| texts.map(width_of).max().unwrap_or(0);
        let most = if width == Width::Narrow { 134 } else { 260 };
        Frame {
            rows,
            each,
            head,
            left: (longest(&mut rows.iter().map(|row| &*row.name)) + 10).min(most),
            right: longest(&mut rows.iter().map(|row| &*row.label)) + 14,
            height,
        }
    }

    /// The middle of a row.
    fn middle(&self, row: usize) -> i32 {
        px(self.head + self.each * row as i32 + self.each / 2)
    }

    /// Draws the axis and the names; where a value is, across.
    fn draw(
        &self,
        area: &Area<'_>,
        x: &str,
        [low, high]: [f64; 2],
        width: Width,
    ) -> Result<impl Fn(f64) -> i32 + use<>, Undrawn> {
        let mut chart = ChartBuilder::on(area)
            .margin_top(px(self.head))
            .margin_left(px(self.left))
            .margin_right(px(self.right))
            .x_label_area_size(px(BELOW))
            .build_cartesian_2d(low..high, 0.0..1.0)?;
        chart
            .configure_mesh()
            .disable_y_mesh()
            .x_labels(if width == Width::Narrow { 4 } else { 9 })
            .max_light_lines(0)
            .bold_line_style(Role::Grid.colour().stroke_width(4))
            .axis_style(Role::Ink.colour().stroke_width(4))
            .label_style(words(Role::Ink, HPos::Center))
            .axis_desc_style(words(Role::Ink, HPos::Center))
            .x_label_formatter(&|value| tick(*value))
            .draw()?;
        let (start, end) = (
            chart.backend_coord(&(low, 0.0)).0,
            chart.backend_coord(&(high, 0.0)).0,
        );
        let span = [self.left, width.pixels() - self.right];
        describe(area, x, span, self.height, width)?;
        let at = move |value: f64| {
            let share = ((value - low) / (high - low)).clamp(0.0, 1.0);
            start + (share * f64::from(end - start)).round() as i32
        };
        for (n, row) in self.rows.iter().enumerate() {
            let middle = self.middle(n);
            let name = fitted(&row.name, self.left - 6);
            say(
                area,
                &name,
                (px(self.left - 6), middle),
                Role::Ink,
                HPos::Right,
            )?;
            let edge = px(width.pixels() - 4);
            say(area, &row.label, (edge, middle), Role::Ink, HPos::Right)?;
            if row.is_mean && self.rows.len() > 1 {
                let below = middle + px(self.each) / 2;
                line(
                    area,
                    (px(2), below),
                    (px(width.pixels() - 2), below),
                    Role::Neutral,
                    4,
                )?;
            }
        }
        Ok(at)
    }
}

/// A whisker between two places.
fn whisker(area: &Area<'_>, [from, to]: [i32; 2], y: i32, role: Role) -> Result<(), Undrawn> {
    line(area, (from, y), (to, y), role, px(2) as u32)?;
    for x in [from, to] {
        line(area, (x, y - px(4)), (x, y + px(4)), role, px(2) as u32)?;
    }
    Ok(())
}

impl Bars {
    const EACH: i32 = 34;

    fn head(&self) -> i32 {
        // On the narrow drawing, whose legend is the taller one, so that both have one height.
        let names = self.legend_names();
        legend_height(&names, 4, Width::Narrow.pixels())
    }

    fn legend_names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.names.iter().map(String::as_str).collect();
        if self.rows.iter().any(|row| row.interval.is_some()) {
            names.push("95 % interval of the change");
        }
        names
    }

    pub(super) fn height(&self) -> i32 {
        self.head() + Self::EACH * self.rows.len() as i32 + BELOW
    }

    pub(super) fn draw(&self, area: &Area<'_>, width: Width) -> Result<(), Undrawn> {
        let roles = [
            (Role::Before, Shape::Ring),
            (Role::After, Shape::Square),
            (Role::Ink, Shape::None),
        ];
        let entries: Vec<_> = self
            .legend_names()
            .into_iter()
            .zip(roles)
            .map(|(name, (role, shape))| (role, shape, name))
            .collect();
        legend(area, &entries, 4, width.pixels())?;
        let ends = self.rows.iter().flat_map(|row| {
            let whisker = row
                .interval
                .map(|interval| interval.map(|end| row.pair[0] + end));
            row.pair.into_iter().chain(whisker.into_iter().flatten())
        });
        let [low, high] = range_of(ends.chain([0.0])).unwrap_or([0.0, 1.0]);
        // A bar has to start at nothing, or its length says something else.
        let low = if low > -0.07 * high { 0.0 } else { low };
        let frame = Frame::new(&self.rows, Self::EACH, self.head(), self.height(), width);
        let at = frame.draw(area, &self.x, [low, high], width)?;
        for (n, row) in self.rows.iter().enumerate() {
            let middle = frame.middle(n);
            let bars = [
                (row.pair[0], Role::Before, -px(12), -px(1)),
                (row.pair[1], Role::After, px(1), px(12)),
            ];
            for (value, role, top, bottom) in bars {
                let (from, to) = (at(0.0).min(at(value)), at(0.0).max(at(value)));
                let colour = role.colour();
                // What was before is an outline.
                let style = match role {
                    Role::Before => colour.stroke_width(px(2) as u32),
                    _ => colour.filled(),
                };
                let outline = if role == Role::Before { px(1) } else { 0 };
                let corners = [
                    (from, middle + top + outline),
                    (to.max(from + px(1)), middle + bottom - outline),
                ];
                match role {
                    Role::Before => {
                        let [(left, top), (right, bottom)] = corners;
                        let around = vec![
                            (left, top),
                            (right, top),
                            (right, bottom),
                            (left, bottom),
                            (left, top),
                        ];
                        area.draw(&PathElement::new(around, style))?;
                    }
                    _ => area.draw(&Rectangle::new(corners, style))?,
                }
            }
            if let Some(interval) = row.interval {
                let ends = interval.map(|end| at(row.pair[0] + end));
                let y = middle + px(6);
                // On the bar and beyond it.
                for (role, width) in [(Role::Paper, px(4)), (Role::Ink, px(2))] {
                    line(area, (ends[0], y), (ends[1], y), role, width as u32)?;
                }
                whisker(area, ends, y, Role::Ink)?;
            }
        }
        Ok(())
    }
}

impl Gains {
    const EACH: i32 = 24;

    fn entries(&self) -> Vec<(Role, Shape, &'static str)> {
        let all = [
            (Verdict::Better, "better"),
            (Verdict::Worse, "worse"),
            (Verdict::Unclear, "interval contains 0"),
            (Verdict::Unknown, "change"),
        ];
        let present = all
            .into_iter()
            .filter(|(verdict, _)| self.rows.iter().any(|row| row.verdict == *verdict));
        present
            .map(|(verdict, name)| {
                let (role, shape) = drawn(verdict);
                (role, shape, name)
            })
            .collect()
    }

    fn head(&self) -> i32 {
        let names: Vec<&str> = self.entries().iter().map(|entry| entry.2).collect();
        legend_height(&names, 4, Width::Narrow.pixels())
    }

    pub(super) fn height(&self) -> i32 {
        self.head() + Self::EACH * self.rows.len() as i32 + BELOW
    }

    pub(super) fn draw(&self, area: &Area<'_>, width: Width) -> Result<(), Undrawn> {
        legend(area, &self.entries(), 4, width.pixels())?;
        let ends = self.rows.iter().flat_map(|row| {
            let interval = row.interval.into_iter().flatten();
            interval.chain([row.change()])
        });
        let range = range_of(ends.chain([0.0])).unwrap_or([-1.0, 1.0]);
        let frame = Frame::new(&self.rows, Self::EACH, self.head(), self.height(), width);
        let at = frame.draw(area, &self.x, range, width)?;
        let bottom = px(self.height() - BELOW);
        line(
            area,
            (at(0.0), px(self.head())),
            (at(0.0), bottom),
            Role::Ink,
            6,
        )?;
        for (n, row) in self.rows.iter().enumerate() {
            let (role, shape) = drawn(row.verdict);
            let middle = frame.middle(n);
            if let Some(interval) = row.interval {
                whisker(area, interval.map(&at), middle, role)?;
            }
            mark(area, (at(row.change()), middle), shape, role, 5)?;
        }
        Ok(())
    }
}

/// How a verdict is drawn.
fn drawn(verdict: Verdict) -> (Role, Shape) {
    match verdict {
        Verdict::Better => (Role::After, Shape::Square),
        Verdict::Worse => (Role::Worse, Shape::Down),
        Verdict::Unclear => (Role::Neutral, Shape::Ring),
        Verdict::Unknown => (Role::Ink, Shape::Up),
    }
}
