//! Changes of counts by row and column.

use plotters::prelude::*;
use plotters::style::text_anchor::HPos;

use super::{Area, Role, Undrawn, Width, fitted, line, px, say, width_of, words};

/// Changes of counts.
#[derive(Debug, Clone)]
pub struct Matrix {
    /// What rows and columns are.
    pub axes: [String; 2],
    /// Names of rows and columns, which are the same.
    pub names: Vec<String>,
    /// Row, column, change; where there is one.
    pub cells: Vec<(usize, usize, i64)>,
}

/// Matrices of more rows have no numbers in their cells.
const WITH_NUMBERS: usize = 20;
const HEAD: i32 = 40;

impl Matrix {
    fn left(&self, width: Width) -> i32 {
        let most = if width == Width::Narrow { 84 } else { 160 };
        let longest = self
            .names
            .iter()
            .map(|name| width_of(name))
            .max()
            .unwrap_or(0);
        (longest + 8).min(most)
    }

    /// Cells are wider than high where there is room for it.
    fn cell(&self, width: Width) -> [i32; 2] {
        let room = (width.pixels() - self.left(width) - 8) / self.names.len().max(1) as i32;
        let wide = room.clamp(4, 64);
        [
            wide,
            wide.min(30).max(if self.names.len() <= WITH_NUMBERS {
                20
            } else {
                4
            }),
        ]
    }

    pub(super) fn height(&self, width: Width) -> i32 {
        HEAD + 8 + self.cell(width)[1] * self.names.len() as i32
    }

    pub(super) fn draw(&self, area: &Area<'_>, width: Width) -> Result<(), Undrawn> {
        let (left, [wide, high]) = (self.left(width), self.cell(width));
        let count = self.names.len() as i32;
        let [rows, columns] = &self.axes;
        say(
            area,
            &format!("rows: {rows}, columns: {columns}"),
            (px(4), px(9)),
            Role::Ink,
            HPos::Left,
        )?;
        let top = HEAD;
        // Names fit beside rows that are high enough, and above columns that are wide enough; else the numbers do.
        let beside = high >= 14;
        let above = wide >= 44;
        for (n, name) in self.names.iter().enumerate() {
            let n = n as i32;
            let middle = (px(left - 5), px(top + n * high) + px(high) / 2);
            if beside {
                say(
                    area,
                    &fitted(name, left - 8),
                    middle,
                    Role::Ink,
                    HPos::Right,
                )?;
            }
            let middle = (px(left + n * wide) + px(wide) / 2, px(top - 10));
            if above {
                say(
                    area,
                    &fitted(name, wide - 4),
                    middle,
                    Role::Ink,
                    HPos::Center,
                )?;
            } else if wide >= 16 {
                say(area, &(n + 1).to_string(), middle, Role::Ink, HPos::Center)?;
            }
        }
        for n in 0..=count {
            let (right, bottom) = (left + count * wide, top + count * high);
            line(
                area,
                (px(left), px(top + n * high)),
                (px(right), px(top + n * high)),
                Role::Grid,
                3,
            )?;
            line(
                area,
                (px(left + n * wide), px(top)),
                (px(left + n * wide), px(bottom)),
                Role::Grid,
                3,
            )?;
        }
        let most = self
            .cells
            .iter()
            .map(|cell| cell.2.abs())
            .max()
            .unwrap_or(1)
            .max(1);
        let is_numbered = self.names.len() <= WITH_NUMBERS;
        for &(row, column, change) in &self.cells {
            let (x, y) = (px(left + column as i32 * wide), px(top + row as i32 * high));
            // The right answers are the diagonal: more is better there, and worse elsewhere.
            let role = if (change > 0) == (row == column) {
                Role::After
            } else {
                Role::Worse
            };
            let share = change.abs() as f64 / most as f64;
            let corners = [(x + 2, y + 2), (x + px(wide) - 2, y + px(high) - 2)];
            let strength = if is_numbered {
                0.12 + 0.28 * share
            } else {
                0.25 + 0.75 * share
            };
            area.draw(&Rectangle::new(
                corners,
                role.colour().mix(strength).filled(),
            ))?;
            if is_numbered {
                let text = format!("{change:+}").replace('-', "\u{2212}");
                let middle = (x + px(wide) / 2, y + px(high) / 2);
                let room = (wide - 1) as f64 / width_of(&text).max(1) as f64;
                let mut style = words(Role::Ink, HPos::Center);
                style.font = style.font.resize(style.font.get_size() * room.min(1.0));
                area.draw(&Text::new(text, middle, style))?;
            } else if change < 0 {
                // Fewer have a hole.
                let (w, h) = (px(wide) / 3, px(high) / 3);
                let hole = [(x + w, y + h), (x + px(wide) - w, y + px(high) - h)];
                area.draw(&Rectangle::new(hole, Role::Paper.colour().filled()))?;
            }
        }
        Ok(())
    }
}
