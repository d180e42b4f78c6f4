//! Numbers as people read them.

use dtta::Interval;
use dtta_plugin::ScoreSpec;

/// How a score is written: as in the command's tables.
#[derive(Debug, Clone)]
pub struct Scale {
    name: String,
    factor: f64,
    digits: usize,
    unit: Option<String>,
    higher_is_better: Option<bool>,
}

/// Which way a change goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The whole interval is on the good side of zero.
    Better,
    /// The whole interval is on the bad side.
    Worse,
    /// The interval holds zero.
    Unclear,
    /// There is no interval to tell by, or the score has no direction.
    Unknown,
}

impl Scale {
    /// Of a score by its name.
    pub fn of(specs: &[ScoreSpec], name: &str) -> Self {
        let spec = ScoreSpec::of(specs, name);
        let is_share = spec.is_some_and(ScoreSpec::is_share);
        let unit = spec.and_then(|spec| spec.unit.as_deref());
        Self {
            name: name.replace('_', " "),
            factor: if is_share { 100.0 } else { 1.0 },
            digits: if is_share { 1 } else { 3 },
            unit: match is_share {
                true => Some("%".into()),
                false => unit.map(str::to_owned),
            },
            higher_is_better: spec.and_then(|spec| spec.higher_is_better),
        }
    }

    /// The share of images whose class was found.
    pub fn accuracy() -> Self {
        Self {
            name: "accuracy".into(),
            factor: 100.0,
            digits: 1,
            unit: Some("%".into()),
            higher_is_better: Some(true),
        }
    }

    /// The score's name in words.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name with the unit, as an axis says it.
    pub fn axis(&self) -> String {
        match &self.unit {
            Some(unit) => format!("{} ({unit})", self.name),
            None => self.name.clone(),
        }
    }

    /// What an axis of changes says.
    pub fn change_axis(&self) -> String {
        let unit = match &self.unit {
            Some(unit) if unit == "%" => " (points)".to_owned(),
            Some(unit) => format!(" ({unit})"),
            None => String::new(),
        };
        let better = match self.higher_is_better {
            Some(true) => ", right is better",
            Some(false) => ", left is better",
            None => "",
        };
        format!("change of {}{unit}{better}", self.name)
    }

    /// The number on an axis.
    pub fn shown(&self, value: f64) -> f64 {
        self.factor * value
    }

    /// Whether one way is better.
    pub fn has_direction(&self) -> bool {
        self.higher_is_better.is_some()
    }

    /// Whether less is better.
    pub fn less_is_better(&self) -> bool {
        self.higher_is_better == Some(false)
    }

    /// `55.3`.
    pub fn bare(&self, value: f64) -> String {
        format!("{:.*}", self.digits, self.factor * value)
    }

    /// `55.3 %`.
    pub fn value(&self, value: f64) -> String {
        match &self.unit {
            Some(unit) => format!("{} {unit}", self.bare(value)),
            None => self.bare(value),
        }
    }

    /// `+12.0`, with a minus sign where it is one, and no sign where it is printed as zero.
    pub fn change(&self, change: f64) -> String {
        signed(self.factor * change, self.digits)
    }

    /// `+12.0 points`.
    pub fn change_with_unit(&self, change: f64) -> String {
        let change = self.change(change);
        match &self.unit {
            Some(unit) if unit == "%" => format!("{change} points"),
            Some(unit) => format!("{change} {unit}"),
            None => change,
        }
    }

    /// `+11.2 to +12.9`.
    pub fn interval(&self, interval: Interval) -> String {
        format!(
            "{} to {}",
            self.change(interval.low),
            self.change(interval.high)
        )
    }

    /// What an interval of a change says.
    pub fn verdict(&self, interval: Option<Interval>) -> Verdict {
        let (Some(Interval { low, high }), Some(higher)) = (interval, self.higher_is_better) else {
            return Verdict::Unknown;
        };
        match (low > 0.0, high < 0.0) {
            (false, false) => Verdict::Unclear,
            (up, _) if up == higher => Verdict::Better,
            _ => Verdict::Worse,
        }
    }
}

/// A number with its sign; U+2212 is the minus sign.
pub fn signed(value: f64, digits: usize) -> String {
    let text = format!("{value:+.digits$}");
    let is_zero = text.chars().all(|c| !c.is_ascii_digit() || c == '0');
    match is_zero {
        true => format!("{:.digits$}", 0.0),
        false => text.replace('-', "\u{2212}"),
    }
}

/// `75,000`.
pub fn count(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 image`, `1,200 images`.
pub fn counted(number: usize, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {noun}{plural}", count(number))
}

/// A time in seconds with three significant digits.
pub fn seconds(seconds: f64) -> String {
    match seconds {
        s if !s.is_finite() => "unknown".into(),
        s if s >= 100.0 => format!("{s:.0} s"),
        s if s >= 10.0 => format!("{s:.1} s"),
        s if s >= 1.0 => format!("{s:.2} s"),
        s => format!("{:.0} ms", 1e3 * s),
    }
}

/// Four significant digits, for losses.
pub fn loss(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        a if (1e-4..1e5).contains(&a) => {
            let digits = 3 - a.log10().floor() as i32;
            format!("{value:.*}", digits.max(0) as usize)
        }
        _ => format!("{value:.3e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scale(higher_is_better: Option<bool>) -> Scale {
        Scale {
            higher_is_better,
            ..Scale::accuracy()
        }
    }

    #[test]
    fn a_change_is_better_or_worse_only_where_its_interval_leaves_out_zero() {
        let interval = |low, high| Some(Interval { low, high });
        let verdict = |higher, low, high| scale(higher).verdict(interval(low, high));
        assert_eq!(verdict(Some(true), 0.1, 0.2), Verdict::Better);
        assert_eq!(verdict(Some(true), -0.2, -0.1), Verdict::Worse);
        assert_eq!(verdict(Some(false), -0.2, -0.1), Verdict::Better);
        assert_eq!(verdict(Some(false), 0.1, 0.2), Verdict::Worse);
        assert_eq!(verdict(Some(true), -0.1, 0.2), Verdict::Unclear);
        assert_eq!(verdict(Some(true), 0.0, 0.2), Verdict::Unclear);
        assert_eq!(verdict(None, 0.1, 0.2), Verdict::Unknown);
        assert_eq!(scale(Some(true)).verdict(None), Verdict::Unknown);
    }

    #[test]
    fn numbers_are_written_for_people() {
        let scale = scale(Some(true));
        assert_eq!(scale.value(0.5534), "55.3 %");
        assert_eq!(scale.change_with_unit(-0.023), "\u{2212}2.3 points");
        assert_eq!(scale.change(-0.0001), "0.0");
        assert_eq!(
            [count(0), count(999), count(75_000)],
            ["0", "999", "75,000"]
        );
        assert_eq!(counted(1, "image"), "1 image");
        assert_eq!(
            [seconds(0.0123), seconds(2.5), seconds(250.0)],
            ["12 ms", "2.50 s", "250 s"]
        );
        assert_eq!(
            [loss(0.0), loss(0.012_345), loss(123.456)],
            ["0", "0.01235", "123.5"]
        );
    }
}
