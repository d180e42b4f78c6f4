//! The formats that a comparison is printed in.

use std::fmt::Write as _;

use dtta::{Change, ComparedScores, Comparison};

use super::tables::{Shown, Words};

/// How a comparison is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Markdown, for people.
    Md,
    /// One row for each method and score, numbers as they are.
    Csv,
    /// Everything.
    Json,
    /// A table for papers, with the rules of `booktabs`.
    Latex,
}

impl Format {
    /// The whole text, with its last newline.
    pub fn text(self, comparison: &Comparison, domains: bool) -> String {
        match self {
            Self::Csv => csv(comparison, domains),
            Self::Latex => latex(&Shown(comparison), domains),
            Self::Md | Self::Json => markdown(&Shown(comparison)),
        }
    }
}

fn markdown(shown: &Shown<'_>) -> String {
    let mut text = format!("# {}\n\n{}\n", shown.0.name, shown.title());
    let tables = [
        Some(shown.methods()),
        Some(shown.domains()),
        shown.scores(),
        shown.equal_time(),
        shown.differences(),
    ];
    for table in tables.into_iter().flatten() {
        text += "\n";
        let cell = |cell: &String| cell.replace('|', "\\|");
        let mut row = |cells: &[String]| {
            let cells: Vec<String> = cells.iter().map(cell).collect();
            text += &format!("| {} |\n", cells.join(" | "));
        };
        row(&table.head);
        let rule = |(place, _): (usize, &String)| match place {
            0 => "---".to_owned(),
            _ => "---:".to_owned(),
        };
        row(&table.head.iter().enumerate().map(rule).collect::<Vec<_>>());
        table.rows.iter().for_each(|cells| row(cells));
    }
    text += "\n";
    for line in shown.protocol() {
        text += &format!("- {line}\n");
    }
    text
}

fn latex(shown: &Shown<'_>, domains: bool) -> String {
    let mut text = format!("% {}\n% {}\n", shown.0.name, shown.title());
    for line in shown.protocol() {
        text += &format!("% {line}\n");
    }
    let tables = [
        Some(shown.methods()),
        domains.then(|| shown.domains()),
        shown.equal_time(),
    ];
    for Words { head, rows } in tables.into_iter().flatten() {
        let row = |cells: &[String]| {
            let cells: Vec<String> = cells.iter().map(|cell| in_latex(cell)).collect();
            format!("{} \\\\\n", cells.join(" & "))
        };
        let columns = "r".repeat(head.len().saturating_sub(1));
        text += &format!(
            "\\begin{{tabular}}{{l{columns}}}\n\\toprule\n{}\\midrule\n",
            row(&head)
        );
        for cells in &rows {
            text += &row(cells);
        }
        text += "\\bottomrule\n\\end{tabular}\n";
    }
    text
}

/// A text without what LaTeX takes for commands.
fn in_latex(text: &str) -> String {
    let mut written = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '\\' => written += "\\textbackslash{}",
            '~' => written += "\\textasciitilde{}",
            '^' => written += "\\textasciicircum{}",
            '#' | '$' | '%' | '&' | '_' | '{' | '}' => {
                written.push('\\');
                written.push(letter);
            }
            letter => written.push(letter),
        }
    }
    // A minus, and no hyphen.
    match written.strip_prefix('-') {
        Some(rest) if rest.starts_with(|first: char| first.is_ascii_digit()) => {
            format!("$-${rest}")
        }
        _ => written,
    }
}

fn csv(comparison: &Comparison, domains: bool) -> String {
    let mut text = String::from(
        "method,domain,score,samples,skipped,source,adapted,vs_source,vs_source_low,vs_source_high,vs_reference,vs_reference_low,vs_reference_high,seconds_per_image,draws_per_image,peak_memory_bytes\n",
    );
    for method in &comparison.methods {
        let mut places: Vec<(&str, &ComparedScores)> = vec![("mean", &method.mean)];
        if domains {
            let names = comparison.domains.iter().map(|domain| &*domain.name);
            places.extend(names.zip(&method.domains));
        }
        for (domain, found) in places {
            for (name, adapted) in &found.adapted {
                let source = found.source.get(name).copied();
                let of_source = change(Some(&found.against_source), name);
                let of_reference = change(found.against_reference.as_ref(), name);
                let numbers = [source, Some(*adapted)].into_iter();
                let numbers = numbers.chain(of_source).chain(of_reference);
                let cell = |number: Option<f64>| number.map_or(String::new(), |n| n.to_string());
                let numbers: Vec<String> = numbers.map(cell).collect();
                let memory = method.cost.peak_memory_bytes;
                let cost = &method.cost;
                writeln!(
                    text,
                    "{},{},{},{},{},{},{},{},{}",
                    in_csv(&method.name),
                    in_csv(domain),
                    in_csv(name),
                    found.samples,
                    found.skipped,
                    numbers.join(","),
                    cost.seconds_per_sample,
                    cost.draws_per_sample,
                    memory.map_or(String::new(), |bytes| bytes.to_string()),
                )
                .ok();
            }
        }
    }
    text
}

/// A change and the ends of its interval.
fn change(change: Option<&Change>, name: &str) -> [Option<f64>; 3] {
    let by = change.and_then(|change| change.by.get(name).copied());
    let interval = change.and_then(|change| change.intervals.get(name));
    [
        by,
        interval.map(|interval| interval.low),
        interval.map(|interval| interval.high),
    ]
}

/// A field (RFC 4180).
fn in_csv(text: &str) -> String {
    match text.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_and_cells_are_quoted_as_their_format_asks() {
        assert_eq!(in_csv("a,\"b\""), "\"a,\"\"b\"\"\"");
        assert_eq!(in_csv("tent"), "tent");
        assert_eq!(
            in_latex("gaussian_noise/5 & 3 %"),
            "gaussian\\_noise/5 \\& 3 \\%"
        );
        assert_eq!(in_latex("-1.5 [-2.0, -1.0]"), "$-$1.5 [-2.0, -1.0]");
        assert_eq!(in_latex("-"), "-");
    }
}
