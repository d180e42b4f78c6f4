//! Metrics: accumulators with an identity that merge in any order, for any split of the samples.

use std::collections::BTreeMap;

use dtta_base::keyed_rng;
use dtta_plugin::{Environment, Layout, Metric, Plugin, ScoreSpec};
use rand_chacha::rand_core::Rng;
use serde_json::Value;

use crate::inputs::Inputs;

/// Splits of the samples that are tried.
const CASES: u32 = 24;

/// Scores that are sums of floats may differ by this much of their size.
const TOLERANCE: f64 = 1e-9;

/// Creates the metric and gives it samples.
pub(crate) fn call(
    plugin: &Plugin,
    config: &Value,
    environment: &Environment,
    inputs: &Inputs,
) -> Result<(), String> {
    let mut metric = fresh(plugin, config, environment)?;
    update(&mut *metric, inputs, 1)?;
    metric.report().map(drop).map_err(|error| error.to_string())
}

/// What holds for every metric.
pub(crate) fn laws(
    plugin: &Plugin,
    config: &Value,
    environment: &Environment,
    inputs: &Inputs,
) -> Vec<(&'static str, Result<(), String>)> {
    let make = || fresh(plugin, config, environment);
    let mut laws = vec![
        (
            "a new accumulator has no scores, and merging it changes nothing",
            identity(&make, inputs),
        ),
        (
            "accumulators merge in any order and grouping",
            merging(&make, inputs),
        ),
        ("bytes of another metric are refused", foreign(&make)),
    ];
    if !plugin.scores().is_empty() {
        laws.push((
            "its scores are those that its description names",
            described(&make, inputs, plugin.scores()),
        ));
    }
    if plugin.additive() {
        laws.push((
            "what it saves are whole numbers that add up, as its description says",
            adding(&make, inputs),
        ));
    }
    laws
}

type Make<'a> = &'a dyn Fn() -> Result<Box<dyn Metric>, String>;

fn fresh(
    plugin: &Plugin,
    config: &Value,
    environment: &Environment,
) -> Result<Box<dyn Metric>, String> {
    plugin
        .metric(config, environment)
        .map_err(|error| error.to_string())
}

fn update(metric: &mut dyn Metric, inputs: &Inputs, seed: u64) -> Result<(), String> {
    let predictions = inputs.made(&inputs.predictions, seed)?;
    let targets = inputs.made(&inputs.targets, seed.wrapping_add(1000))?;
    metric
        .update(&predictions, &targets)
        .map_err(|error| error.to_string())
}

fn report(metric: &mut dyn Metric) -> Result<BTreeMap<String, f64>, String> {
    metric.report().map_err(|error| error.to_string())
}

fn identity(make: Make<'_>, inputs: &Inputs) -> Result<(), String> {
    let mut empty = make()?;
    let scores = report(&mut *empty)?;
    if !scores.is_empty() {
        return Err(format!("a new accumulator reports {scores:?}"));
    }
    let mut metric = make()?;
    update(&mut *metric, inputs, 1)?;
    let before = report(&mut *metric)?;
    if before.is_empty() {
        return Err("it reports nothing after samples".into());
    }
    metric
        .merge(&empty.save())
        .map_err(|error| error.to_string())?;
    agree(&before, &report(&mut *metric)?)?;
    empty
        .merge(&metric.save())
        .map_err(|error| error.to_string())?;
    agree(&before, &report(&mut *empty)?)
}

/// Samples dealt out to accumulators, merged in an order, against one accumulator that saw them all.
fn merging(make: Make<'_>, inputs: &Inputs) -> Result<(), String> {
    let mut rng = keyed_rng("testkit merging", &[]);
    let mut below = |count: usize| rng.next_u32() as usize % count;
    for _ in 0..CASES {
        let deal = [(); 6].map(|()| below(4));
        let mut order = [0, 1, 2, 3];
        // Fisher and Yates.
        for last in (1..order.len()).rev() {
            order.swap(last, below(last + 1));
        }
        let told =
            |reason| format!("samples dealt as {deal:?}, merged in order {order:?}: {reason}");
        merged(make, inputs, &deal, &order).map_err(told)?;
    }
    Ok(())
}

fn merged(make: Make<'_>, inputs: &Inputs, deal: &[usize], order: &[usize]) -> Result<(), String> {
    let mut whole = make()?;
    let mut parts = (0..4).map(|_| make()).collect::<Result<Vec<_>, _>>()?;
    for (sample, &part) in deal.iter().enumerate() {
        update(&mut *whole, inputs, sample as u64)?;
        update(&mut *parts[part], inputs, sample as u64)?;
    }
    let expected = report(&mut *whole)?;
    // One after the other, and in two pairs.
    let mut chain = make()?;
    for &part in order {
        chain
            .merge(&parts[part].save())
            .map_err(|error| error.to_string())?;
    }
    agree(&expected, &report(&mut *chain)?)?;
    let mut pairs = [make()?, make()?];
    for (place, &part) in order.iter().enumerate() {
        let saved = parts[part].save();
        pairs[place / 2]
            .merge(&saved)
            .map_err(|error| error.to_string())?;
    }
    let second = pairs[1].save();
    pairs[0].merge(&second).map_err(|error| error.to_string())?;
    agree(&expected, &report(&mut *pairs[0])?)
}

/// Every score is one that is described, and the one that leads is there.
fn described(make: Make<'_>, inputs: &Inputs, scores: &[ScoreSpec]) -> Result<(), String> {
    let mut metric = make()?;
    update(&mut *metric, inputs, 1)?;
    let reported = report(&mut *metric)?;
    if let Some(name) = reported
        .keys()
        .find(|name| ScoreSpec::of(scores, name).is_none())
    {
        return Err(format!("its description does not name `{name}`"));
    }
    match scores
        .iter()
        .find(|score| score.leads && !reported.contains_key(&*score.name))
    {
        Some(score) => Err(format!("`{}` leads, and is not reported", score.name)),
        None => Ok(()),
    }
}

/// Accumulators of some samples, as numbers that are added up, against the accumulator that they are merged in.
fn adding(make: Make<'_>, inputs: &Inputs) -> Result<(), String> {
    const WHAT: &str = "it saves something else than JSON of whole numbers";
    let mut merged = make()?;
    let mut sum: Option<(Layout, Vec<i128>)> = None;
    for seed in 0..4 {
        let mut metric = make()?;
        update(&mut *metric, inputs, seed)?;
        let saved = metric.save();
        merged.merge(&saved).map_err(|error| error.to_string())?;
        let (layout, numbers) = Layout::split(&saved).ok_or(WHAT)?;
        sum = Some(match sum {
            None => (layout, numbers),
            Some((first, _)) if first != layout => {
                return Err(
                    "accumulators of other samples differ in more than their numbers".into(),
                );
            }
            Some((first, sum)) => {
                let sum = sum.iter().zip(numbers);
                (first, sum.map(|(a, b)| a.saturating_add(b)).collect())
            }
        });
    }
    let expected = Layout::split(&merged.save()).ok_or(WHAT)?;
    let Some((layout, numbers)) = sum else {
        return Ok(());
    };
    if (&layout, &numbers) != (&expected.0, &expected.1) {
        return Err("accumulators that are merged do not have the sum of their numbers".into());
    }
    let mut added = make()?;
    added
        .merge(&layout.join(&numbers).ok_or(WHAT)?)
        .map_err(|error| error.to_string())?;
    agree(&report(&mut *merged)?, &report(&mut *added)?)
}

fn foreign(make: Make<'_>) -> Result<(), String> {
    let mut metric = make()?;
    match metric.merge(b"\xff not an accumulator") {
        Err(_) => Ok(()),
        Ok(()) => Err("it merges bytes that nobody saved".into()),
    }
}

fn agree(expected: &BTreeMap<String, f64>, found: &BTreeMap<String, f64>) -> Result<(), String> {
    let same = expected.len() == found.len()
        && expected
            .iter()
            .zip(found)
            .all(|((a, x), (b, y))| a == b && (x - y).abs() <= TOLERANCE * x.abs().max(1.0));
    if same {
        return Ok(());
    }
    Err(format!("{found:?} instead of {expected:?}"))
}
