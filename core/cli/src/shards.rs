//! `dtta plan`: the shards of a run, with what each takes.

use std::num::NonZeroUsize;

use clap::{Args, ValueEnum};
use comfy_table::{CellAlignment, Table, presets};
use serde_json::json;

use crate::experiment::Opening;
use crate::plan::{count, time};
use crate::run::refused;
use crate::{Failure, print, print_json};

/// What to plan, and how it is printed.
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    opening: Opening,
    /// How many shards; as many as there are units if absent. Each is run by `dtta run EXPERIMENT --shard I/N`.
    #[arg(long, value_name = "N")]
    shards: Option<NonZeroUsize>,
    /// How the plan is printed.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

/// How a plan is printed.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A table.
    Text,
    /// One document, for programs.
    Json,
}

/// Prints the shards.
pub fn plan(arguments: &Arguments) -> Result<(), Failure> {
    let mut prepared = arguments.opening.prepare(None)?;
    let shards = prepared.plan(arguments.shards.map(NonZeroUsize::get));
    let shards = shards.map_err(refused)?;
    let (name, devices) = (&prepared.experiment().name, prepared.devices().name());
    let seconds: f64 = shards.iter().map(|shard| shard.seconds).sum();
    let samples = prepared.stream().len();
    if arguments.format == Format::Json {
        return print_json(&json!({
            "experiment": name, "device": devices, "samples": samples, "seconds": seconds, "shards": shards,
        }));
    }
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_header(["shard", "id", "samples", "draws", "about", "domains"]);
    for shard in &shards {
        let domains = match &shard.domains[..] {
            [] => String::new(),
            [only] => only.clone(),
            [first, .., last] => format!("{first} … {last} ({})", shard.domains.len()),
        };
        table.add_row([
            shard.shard.shard.to_string(),
            shard.shard.id[..12].to_owned(),
            format!("{}..{}", shard.shard.first, shard.shard.end),
            count(shard.draws as f64),
            time(shard.seconds),
            domains,
        ]);
    }
    for column in [0, 2, 3, 4] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    print(&format!(
        "{table}\n{name}: {samples} samples in {} shards, about {} on {devices}\n",
        shards.len(),
        time(seconds)
    ))
}
