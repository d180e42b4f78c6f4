//! The contradictions of a configuration, gathered so that a file's faults are told at once.

use std::fmt;

use dtta_base::{Issue, listed};

use crate::error::{ModelError, Result};

/// The largest extent, width or number of classes that a configuration may ask for; products of three fit 64 bits.
pub(crate) const MAX_EXTENT: usize = 1 << 16;
/// The most layers of a kind that a configuration may ask for.
pub(crate) const MAX_LAYERS: usize = 1 << 10;

/// The most levels of a model whose levels halve the extents: with more, the largest image would have none left.
pub(crate) const MAX_LEVELS: usize = 16;

/// Numbers in brackets, the first of many.
pub(crate) fn list(numbers: &[usize]) -> String {
    format!("[{}]", listed(numbers, 8))
}

/// Faults found so far.
#[derive(Default)]
pub(crate) struct Faults(Vec<Issue>);

impl Faults {
    /// That the value at `pointer` should be something else.
    pub fn add(&mut self, pointer: &str, value: impl fmt::Display, expected: impl fmt::Display) {
        self.0.push(Issue::new(
            pointer,
            format!("is {value}, expected {expected}"),
        ));
    }

    /// Expects a number from 1 to `most`; says whether it is one.
    pub fn count(&mut self, pointer: &str, value: usize, most: usize) -> bool {
        let fits = (1..=most).contains(&value);
        if !fits {
            self.add(pointer, value, format_args!("a number from 1 to {most}"));
        }
        fits
    }

    /// Expects a number from 0 to 1.
    pub fn probability(&mut self, pointer: &str, value: f64) {
        if !(0.0..=1.0).contains(&value) {
            self.add(pointer, value, "a probability, 0 to 1");
        }
    }

    /// Expects channels, and a height and width that are multiples of `step`.
    pub fn image(&mut self, image: [usize; 3], step: usize) -> bool {
        let fits = image.iter().all(|extent| (1..=MAX_EXTENT).contains(extent))
            && image[1..].iter().all(|extent| extent.is_multiple_of(step));
        if !fits {
            let multiples = match step {
                1 => "height and width".into(),
                _ => format!("two positive multiples of {step}"),
            };
            let expected = format!("channels and {multiples}, none above {MAX_EXTENT}");
            self.add("/image", format_args!("{image:?}"), expected);
        }
        fits
    }

    /// Expects at least one level, each with a number of `blocks` and a width.
    pub fn levels(&mut self, blocks: &[usize], widths: &[usize]) {
        let within = |values: &[usize], most| values.iter().all(|n| (1..=most).contains(n));
        let levelled = (1..=MAX_LEVELS).contains(&widths.len());
        if !levelled || !within(widths, MAX_EXTENT) {
            let expected = format!("1 to {MAX_LEVELS} widths, each from 1 to {MAX_EXTENT}");
            self.add("/widths", list(widths), expected);
        }
        if levelled && (blocks.len() != widths.len() || !within(blocks, MAX_LAYERS)) {
            let levels = widths.len();
            let expected = format!("{levels} numbers from 1 to {MAX_LAYERS}, one for each width");
            self.add("/blocks", list(blocks), expected);
        }
    }

    /// Adds those of a part that the configuration holds at `pointer`.
    pub fn part(&mut self, pointer: &str, faults: Self) {
        let issues = faults.0.into_iter().map(|issue| issue.within(pointer));
        self.0.extend(issues);
    }

    /// All of them.
    pub fn issues(self) -> Vec<Issue> {
        self.0
    }

    /// All of them as an error, if there is any.
    pub fn finish(self) -> Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        Err(ModelError::Config { issues: self.0 })
    }
}
