//! The page: one file with everything in it, without scripts. Every text of a run is escaped by the templates.

use dtta::{Diagnosis, RunDescription, Status};
use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::chart::{Chart, Table, Width, variables, with_variables};
use crate::comparison::Comparison;
use crate::diagnosis;
use crate::error::Result;
use crate::gallery::{Inline, Picture};
use crate::numbers::{count, seconds};
use crate::run::Run;
use crate::several::Several;
use crate::words;

const STYLE: &str = include_str!("style.css");

/// Letters of a document that are shown.
const LETTERS: usize = 60_000;

/// A page of some runs, and of a diagnosis.
///
/// # Errors
/// Charts that cannot be drawn, pictures that cannot be read.
pub fn page(
    several: &Several,
    comparisons: &[Comparison],
    diagnosis: Option<&Diagnosis>,
) -> Result<String> {
    let mut page = Page::default();
    let (runs, names) = (&several.runs, &several.names);
    let title = match (&**names, comparisons) {
        ([one], []) => one.clone(),
        ([], [one]) => one.name().to_owned(),
        (_, []) => format!("{} runs", names.len()),
        ([], _) => format!("{} comparisons", comparisons.len()),
        _ => format!(
            "{} and {}",
            of_comparisons(comparisons.len()),
            counted_runs(names.len())
        ),
    };
    let first = page.first_screen(several, comparisons)?;
    let mut sections = Vec::new();
    for (place, comparison) in comparisons.iter().enumerate() {
        sections.push(page.methods(comparison, place == 0)?);
    }
    if runs.len() > 1 {
        sections.push(page.comparison(several));
    }
    for (run, name) in runs.iter().zip(names) {
        let is_one_of_several = runs.len() + comparisons.len() > 1;
        sections.push(page.run(run, name, is_one_of_several)?);
    }
    if let Some(diagnosis) = diagnosis {
        sections.push(page.diagnosis(diagnosis, runs)?);
    }
    let links = std::mem::take(&mut page.links);
    let written_from = match comparisons.len() {
        0 => counted_runs(runs.len()),
        some => of_comparisons(some),
    };
    let style = format!(
        ":root{{{}}}@media screen and (prefers-color-scheme:dark){{:root{{{}}}}}\n{STYLE}",
        variables(false),
        variables(true)
    );
    let markup = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width,initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:";
                // Browsers ask for an icon otherwise.
                link rel="icon" href="data:,";
                title { (title) " - dtta report" }
                style { (PreEscaped(&style)) }
            }
            body {
                a.skip href="#content" { "Skip to the content" }
                header {
                    h1 { "dtta report: " (title) }
                    (first)
                }
                nav aria-label="Sections" {
                    ul {
                        @for (id, name) in &links { li { a href={ "#" (id) } { (name) } } }
                    }
                }
                main #content {
                    @for section in &sections { (section) }
                }
                footer {
                    p { "Written by dtta " (env!("CARGO_PKG_VERSION")) " from " (written_from) ". This page loads nothing and runs no script." }
                }
            }
        }
    };
    Ok(markup.into_string())
}

fn of_comparisons(comparisons: usize) -> String {
    match comparisons {
        1 => "one comparison".into(),
        comparisons => format!("{comparisons} comparisons"),
    }
}

fn counted_runs(runs: usize) -> String {
    match runs {
        1 => "one run".into(),
        runs => format!("{runs} runs"),
    }
}

/// A page on its way.
#[derive(Default)]
struct Page {
    /// Numbers that tell its elements apart.
    next: usize,
    /// Headings that the navigation names.
    links: Vec<(String, String)>,
    inline: Inline,
}

impl Page {
    fn id(&mut self) -> String {
        self.next += 1;
        format!("s{}", self.next)
    }

    /// A heading's name, under which the navigation finds it.
    fn link(&mut self, name: &str) -> String {
        let id = self.id();
        self.links.push((id.clone(), name.to_owned()));
        id
    }

    /// A sentence, a picture, and what has to be known at once.
    fn first_screen(&mut self, several: &Several, comparisons: &[Comparison]) -> Result<Markup> {
        if let Some(comparison) = comparisons.first() {
            let chart = comparison
                .gains()
                .map(|chart| self.chart(&chart))
                .transpose()?;
            return Ok(html! {
                p.lead.second { (together(&comparison.in_a_sentence())) }
                @if let Some(chart) = chart { (chart) }
            });
        }
        if let [run] = &*several.runs {
            let chart = run.gains().map(|chart| self.chart(&chart)).transpose()?;
            return Ok(html! {
                p.lead { (together(&run.in_a_sentence())) }
                (warnings(run))
                @if let Some(chart) = chart { (chart) }
                (facts(run))
            });
        }
        let chart = several
            .chart()
            .map(|chart| self.chart(&chart))
            .transpose()?;
        Ok(html! {
            @for (run, name) in several.runs.iter().zip(&several.names).take(3) {
                p.lead.second { (name) ". " (together(&run.in_a_sentence())) }
            }
            @if several.runs.len() > 3 {
                p { "and " (crate::numbers::counted(several.runs.len() - 3, "more run")) ", below." }
            }
            @if let Some(chart) = chart { (chart) }
        })
    }

    /// Methods side by side. What is on the first screen is not said again.
    fn methods(&mut self, comparison: &Comparison, is_first: bool) -> Result<Markup> {
        let id = self.link(comparison.name());
        let gains = comparison.gains().filter(|_| !is_first).into_iter();
        let charts: Vec<Chart> = gains.chain(comparison.charts()).collect();
        let charts = charts
            .iter()
            .map(|chart| self.chart(chart))
            .collect::<Result<Vec<_>>>()?;
        Ok(html! {
            section aria-labelledby=(id) {
                h2 id=(id) { (comparison.name()) }
                @if !is_first { p.lead.second { (together(&comparison.in_a_sentence())) } }
                @for (name, found) in comparison.tables() { (table(&found, &name, true)) }
                @for chart in &charts { (chart) }
                p.note { "Each run of the comparison has a folder of its own, " code { "METHOD/seed-N" } ", which can be reported by itself." }
            }
        })
    }

    /// Several runs side by side.
    fn comparison(&mut self, several: &Several) -> Markup {
        let id = self.link("Comparison");
        let (differences, left_out) = several.differences();
        html! {
            section aria-labelledby=(id) {
                h2 id=(id) { "Comparison" }
                (table(&several.table(), "All runs", true))
                h3 { "In what the experiments differ" }
                @if differences.is_empty() {
                    p { "In nothing: the runs are of one configuration." }
                } @else {
                    .scroll tabindex="0" role="region" aria-label="Differences of the experiments" {
                        table.text {
                            thead { tr { th scope="col" { "place" } @for name in &several.names { th scope="col" { (name) } } } }
                            tbody {
                                @for difference in &differences {
                                    tr {
                                        th scope="row" { code { (difference.pointer) } }
                                        @for value in &difference.values { td { code { (value) } } }
                                    }
                                }
                            }
                        }
                    }
                    @if left_out > 0 { p.note { (left_out) " more places are left out." } }
                }
            }
        }
    }

    /// Everything about a run.
    fn run(&mut self, run: &Run, name: &str, is_one_of_several: bool) -> Result<Markup> {
        let title = match is_one_of_several {
            true => name.to_owned(),
            false => "Results".into(),
        };
        let id = self.link(&title);
        let head = match is_one_of_several {
            true => {
                let chart = run.gains().map(|chart| self.chart(&chart)).transpose()?;
                html! {
                    p.lead.second { (together(&run.in_a_sentence())) }
                    (warnings(run))
                    @if let Some(chart) = chart { (chart) }
                    (facts(run))
                }
            }
            false => html! {},
        };
        let scores = scores(run);
        let mut sections = Vec::new();
        for (heading, charts) in run.charts() {
            let id = self.heading(heading, is_one_of_several);
            let charts = charts
                .iter()
                .map(|chart| self.chart(chart))
                .collect::<Result<Vec<_>>>()?;
            sections.push(html! {
                h3 id=(id) { (heading) }
                @for chart in &charts { (chart) }
            });
        }
        let gallery = self.gallery(run, is_one_of_several)?;
        let skipped = self.skipped(run, is_one_of_several);
        let settings = self.settings(run, is_one_of_several);
        Ok(html! {
            section aria-labelledby=(id) {
                h2 id=(id) { (title) }
                (head)
                @if let Some(scores) = scores { (scores) }
                @for section in &sections { (section) }
                (gallery)
                @if let Some(skipped) = skipped { (skipped) }
                (settings)
            }
        })
    }

    /// The place of a heading; the navigation names those of a run alone.
    fn heading(&mut self, name: &str, is_one_of_several: bool) -> String {
        match is_one_of_several {
            true => self.id(),
            false => self.link(name),
        }
    }

    /// A chart with its title, its data as a table, and what else has to be said.
    fn chart(&mut self, chart: &Chart) -> Result<Markup> {
        let id = self.id();
        let mut drawings = Vec::new();
        for (width, class) in [(Width::Wide, "wide"), (Width::Narrow, "narrow")] {
            let (inner, [wide, high]) = chart.draw(width)?;
            let inner = with_variables(&inner);
            drawings.push(html! {
                svg class=(class) role="img" aria-label=(chart.title) aria-describedby=(format!("{id}-{class}"))
                    viewBox=(format!("0 0 {wide} {high}")) {
                    desc id=(format!("{id}-{class}")) { (chart.description) }
                    (PreEscaped(inner))
                }
            });
        }
        Ok(html! {
            figure {
                figcaption { (chart.title) }
                @for drawing in &drawings { (drawing) }
                @if let Some(note) = &chart.note { p.note { (note) } }
                details {
                    summary { "Data: " (chart.title) }
                    (table(&chart.table, &chart.title, false))
                }
            }
        })
    }

    /// Pictures of samples, or how to get them.
    fn gallery(&mut self, run: &Run, is_one_of_several: bool) -> Result<Markup> {
        let id = self.heading("Pictures", is_one_of_several);
        let pictures = &run.found.pictures;
        let maps = !run.found.is_classification;
        let mut shown = Vec::new();
        self.inline = Inline::default();
        for picture in pictures {
            if let Some(uri) = self.inline.uri(&picture.path)? {
                shown.push(pictured(run, picture, &uri));
            }
        }
        let legend = run.folder.join("images").join("classes.svg");
        let legend = match !maps && !shown.is_empty() && legend.is_file() {
            true => self.inline.uri(&legend)?,
            false => None,
        };
        let left_out = self.inline.left_out;
        let made = run.description.experiment.output.pictures;
        Ok(html! {
            h3 id=(id) { "Pictures" }
            @if shown.is_empty() {
                @if made == 0 {
                    p { "This run made no pictures. With " code { "--set output.pictures=2" } ", a run makes pictures of the first two samples of each domain, and a report shows some of them." }
                } @else {
                    p { "There are no pictures in the run's folder that could be shown here." }
                }
            } @else {
                p {
                    "The first samples of the domains, not chosen for their result. "
                    @if maps {
                        "From left to right: input, target, prediction before, prediction after, and where the prediction after is wrong; without target and error where nothing is known."
                    } @else {
                        "From left to right: input, the colour of the true class, and the most probable classes before and after; the true class has a black edge."
                    }
                }
                ul.gallery.maps[maps] { @for picture in &shown { (picture) } }
                @if let Some(uri) = &legend {
                    details { summary { "Colours of the classes" } p.legend { img src=(uri) alt="The colour of each class"; } }
                }
            }
            @if left_out > 0 { p.note { (left_out) " pictures are left out, since this page would be too large." } }
        })
    }

    /// What was skipped, and why.
    fn skipped(&mut self, run: &Run, is_one_of_several: bool) -> Option<Markup> {
        let found = &run.found;
        let skipped: usize = found.domains.values().map(|domain| domain.skipped).sum();
        if skipped == 0 {
            return None;
        }
        let id = self.heading("Skipped images", is_one_of_several);
        let reasons = found
            .skipped
            .iter()
            .map(|(reason, samples)| vec![reason.clone(), count(*samples)]);
        let reasons = Table::new(["reason", "images"], reasons.collect());
        let domains = run.description.domains.iter().filter_map(|domain| {
            let found = found
                .domains
                .get(&domain.name)
                .filter(|found| found.skipped > 0)?;
            Some(vec![
                domain.name.clone(),
                count(found.skipped),
                count(found.samples),
            ])
        });
        let domains = Table::new(["domain", "skipped", "of images"], domains.collect());
        Some(html! {
            h3 id=(id) { "Skipped images" }
            p { (count(skipped)) " of " (count(found.samples)) " images were skipped: a plugin failed, or a number was NaN or infinite. No score counts them." }
            (text_table(&reasons, "Reasons"))
            @if found.skipped_otherwise > 0 { p.note { (count(found.skipped_otherwise)) " images were skipped for still other reasons." } }
            (table(&domains, "Skipped images by domain", true))
        })
    }

    /// Settings, digests, and the whole experiment.
    fn settings(&mut self, run: &Run, is_one_of_several: bool) -> Markup {
        let id = self.heading("Settings", is_one_of_several);
        let description = &run.description;
        let identity = &description.identity;
        let digests = identity
            .digests
            .iter()
            .map(|(name, digest)| vec![name.clone(), digest.clone()]);
        let digests = Table::new(["what", "SHA-256"], digests.collect());
        let mut made_of: Vec<Vec<String>> = Vec::new();
        for (role, plugin) in &description.plugins {
            let part = |name: &str| {
                plugin
                    .get(name)
                    .and_then(|value| value.as_str())
                    .unwrap_or("-")
                    .to_owned()
            };
            made_of.push(vec![
                format!("plugin: {role}"),
                format!("{} {}, {}", part("name"), part("version"), part("loader")),
            ]);
        }
        made_of.extend(
            description
                .seen
                .iter()
                .map(|(model, seen)| vec![format!("{model} sees"), seen.to_string()]),
        );
        made_of.extend(
            identity
                .versions
                .iter()
                .map(|(name, version)| vec![format!("version: {name}"), version.clone()]),
        );
        made_of.push(vec![
            "experiment (SHA-256)".into(),
            identity.experiment.clone(),
        ]);
        made_of.push(vec!["experiment's file".into(), description.file.clone()]);
        made_of.push(vec![
            "run's folder".into(),
            run.folder.display().to_string(),
        ]);
        let protocol = run
            .summary
            .as_ref()
            .and_then(|summary| serde_json::to_string_pretty(&summary.protocol).ok());
        html! {
            h3 id=(id) { "Settings" }
            (text_table(&Table::new(["what", "value"], made_of), "What the run was made of"))
            details { summary { "Digests of weights, data and plugins" } (text_table(&digests, "Digests")) }
            @if let Some(protocol) = protocol { details { summary { "Protocol" } (document(&protocol)) } }
            details { summary { "The whole experiment" } (document(&experiment(description))) }
        }
    }

    /// The effect of the timestep.
    fn diagnosis(&mut self, diagnosis: &Diagnosis, runs: &[Run]) -> Result<Markup> {
        let id = self.link("Timesteps");
        let charts = diagnosis::charts(diagnosis);
        let charts = charts
            .iter()
            .map(|chart| self.chart(chart))
            .collect::<Result<Vec<_>>>()?;
        let is_of_a_run = runs.iter().any(|run| run.name() == diagnosis.experiment);
        Ok(html! {
            section aria-labelledby=(id) {
                h2 id=(id) { "Effect of the timestep" }
                p {
                    "From a diagnosis of " code { (diagnosis.experiment) } ", which reads labels and adapts nothing"
                    @if is_of_a_run { "." } @else { ": an experiment of another name than those of this report." }
                }
                @for chart in &charts { (chart) }
            }
        })
    }
}

/// Numbers are not parted from their units.
fn together(text: &str) -> String {
    let letters: Vec<char> = text.chars().collect();
    let is_unit = |rest: &[char]| {
        let rest: String = rest.iter().take(7).collect();
        ["%", "ms", "s ", "points", "images"]
            .iter()
            .any(|unit| rest.starts_with(unit))
    };
    let letters = letters.iter().enumerate().map(|(n, &letter)| {
        let follows = n > 0 && letters[n - 1].is_ascii_digit();
        let parts = letter == ' ' && follows && is_unit(&letters[n + 1..]);
        if parts { '\u{A0}' } else { letter }
    });
    letters.collect()
}

fn warnings(run: &Run) -> Markup {
    html! {
        @for warning in run.warnings() { p.warning { strong { "Note: " } (warning) } }
    }
}

/// What a run was, in short.
fn facts(run: &Run) -> Markup {
    let description = &run.description;
    let status = match description.status {
        Status::Running => "running, or killed",
        Status::Finished => "finished",
        Status::Interrupted => "interrupted",
        Status::Failed => "failed",
    };
    let each = match &run.summary {
        Some(summary) => summary.seconds_per_sample,
        None => 1e-3 * run.found.milliseconds / run.found.samples as f64,
    };
    let mut facts = vec![
        ("Status", status.to_owned()),
        ("Method", words::method(run)),
        (
            "Images",
            format!(
                "{} of {} in {} domains",
                count(run.found.samples),
                count(run.expected()),
                description.domains.len()
            ),
        ),
        ("Batch", description.experiment.adaptation.batch.to_string()),
        ("Seed", description.seed.to_string()),
        ("Device", description.identity.device.clone()),
        ("Time per image", seconds(each)),
    ];
    if let Some(summary) = &run.summary {
        if summary.draws_per_second > 0.0 {
            facts.push((
                "Draws per second",
                format!("{:.1}", summary.draws_per_second),
            ));
        }
        if let Some(bytes) = summary.peak_memory_bytes {
            facts.push(("Peak memory", dtta_base::in_bytes(bytes)));
        }
    }
    html! {
        @if let Some(about) = &description.experiment.description { p { (about) } }
        dl.facts {
            @for (name, value) in &facts { div { dt { (name) } dd { (value) } } }
        }
    }
}

/// Every score of the mean.
fn scores(run: &Run) -> Option<Markup> {
    let summary = run.summary.as_ref()?;
    let mean = &summary.mean;
    let rows = mean.source.iter().filter_map(|(name, before)| {
        let scale = crate::numbers::Scale::of(&summary.scores, name);
        let after = mean.adapted.get(name)?;
        let interval = mean.intervals.get(name);
        let better = match (scale.less_is_better(), scale.has_direction()) {
            (true, _) => "lower",
            (false, true) => "higher",
            (false, false) => "-",
        };
        Some(vec![
            scale.axis(),
            better.to_owned(),
            scale.bare(*before),
            scale.bare(*after),
            scale.change(after - before),
            interval.map_or("-".into(), |interval| scale.interval(*interval)),
        ])
    });
    let rows: Vec<_> = rows.collect();
    let left_out: Vec<&str> = summary
        .domains
        .iter()
        .filter(|domain| !domain.averaged)
        .map(|domain| &*domain.name)
        .collect();
    let caption = match left_out.is_empty() {
        true => "Scores, mean over domains".to_owned(),
        false => format!("Scores, mean over domains without {}", left_out.join(", ")),
    };
    let head = [
        "score",
        "better",
        "before",
        "after",
        "change",
        "95 % interval",
    ];
    (!rows.is_empty()).then(|| table(&Table::new(head, rows), &caption, true))
}

/// One sample.
fn pictured(run: &Run, picture: &Picture, uri: &str) -> Markup {
    let words = in_words(run, picture);
    html! {
        li {
            img src=(uri) alt=(format!("Sample {} of {}: {words}", picture.id, picture.domain));
            p { strong { (picture.domain) } ", " (picture.id) br; (words) }
        }
    }
}

/// What was said of a sample, in words.
fn in_words(run: &Run, picture: &Picture) -> String {
    if let [Some(before), Some(after)] = &picture.said {
        let judged = |n: usize| match picture.right.map(|right| right[n]) {
            Some(true) => " (right)",
            Some(false) => " (wrong)",
            None => "",
        };
        let truth = picture
            .truth
            .as_ref()
            .map_or(String::new(), |truth| format!("is {truth}: "));
        return format!(
            "{truth}before {before}{}, after {after}{}",
            judged(0),
            judged(1)
        );
    }
    let scale = run.sample_scale();
    let [before, after] = [0, 1].map(|n| picture.scores[n].get(&run.found.leading).copied());
    match before.zip(after) {
        Some((before, after)) => format!(
            "{} of this image: before {}, after {}",
            scale.name(),
            scale.value(before),
            scale.value(after)
        ),
        None => "not scored".into(),
    }
}

/// A table of numbers, in a box that scrolls by itself.
fn table(table: &Table, caption: &str, is_captioned: bool) -> Markup {
    html! {
        @if is_captioned { p { strong { (caption) } } }
        .scroll tabindex="0" role="region" aria-label={ "Table: " (caption) } {
            table {
                thead { tr { @for name in &table.head { th scope="col" { (name) } } } }
                tbody {
                    @for row in &table.rows {
                        tr { @for (n, cell) in row.iter().enumerate() { @if n == 0 { th scope="row" { (cell) } } @else { td { (cell) } } } }
                    }
                }
            }
        }
        @if table.left_out > 0 { p.note { (count(table.left_out)) " more rows are left out." } }
    }
}

/// A table of words.
fn text_table(table: &Table, caption: &str) -> Markup {
    html! {
        .scroll tabindex="0" role="region" aria-label={ "Table: " (caption) } {
            table.text {
                thead { tr { @for name in &table.head { th scope="col" { (name) } } } }
                tbody {
                    @for row in &table.rows {
                        tr { @for (n, cell) in row.iter().enumerate() { @if n == 0 { th scope="row" { (cell) } } @else { td { (cell) } } } }
                    }
                }
            }
        }
        @if table.left_out > 0 { p.note { (count(table.left_out)) " more rows are left out." } }
    }
}

fn experiment(description: &RunDescription) -> String {
    serde_json::to_string_pretty(&description.experiment).unwrap_or_default()
}

/// A document, as far as it is shown.
fn document(text: &str) -> Markup {
    let end = text.char_indices().nth(LETTERS).map(|(place, _)| place);
    html! {
        pre tabindex="0" { (&text[..end.unwrap_or(text.len())]) }
        @if end.is_some() { p.note { "The rest is left out; the run's folder has it." } }
    }
}
