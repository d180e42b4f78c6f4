//! From files to experiments: each method with its overrides and each seed.

use std::fmt;
use std::path::{Path, PathBuf};

use dtta_base::{
    Issue, Overrides, add_others, escaped, file_name, invalid, parse_and_check, read_document,
};
use serde_json::{Value, json};

use super::comparison::Comparison;
use super::comparison::Swept;
use super::file::{ComparisonFile, Settings, TunedOn, WHAT};
use super::sweep::Sweep;
use crate::document::{Document, validated};
use crate::error::{Error, Result};
use crate::methods::Methods;

/// What to change of what files say.
#[derive(Debug, Clone, Default)]
pub struct PlanOptions {
    /// Seeds, in the place of those of the files.
    pub seeds: Option<Vec<u64>>,
    /// Overrides of every experiment, each `POINTER=VALUE`, on top of what methods set.
    pub set: Vec<String>,
    /// Several values for a place, each `POINTER=VALUE,VALUE`, for every method that has the place.
    pub sweep: Vec<String>,
    /// The method that the others are held against, in the place of the file's.
    pub reference: Option<String>,
}

/// Experiments to hold against each other.
#[derive(Debug, Clone)]
pub struct ComparisonPlan {
    pub(super) name: String,
    pub(super) seeds: Vec<u64>,
    pub(super) reference: Option<String>,
    pub(super) methods: Vec<PlannedMethod>,
    pub(super) tuned_on: Option<TunedOn>,
}

/// A method of a plan.
#[derive(Debug, Clone)]
pub(super) struct PlannedMethod {
    pub name: String,
    pub sweep: Option<Swept>,
    /// Its experiment with each seed.
    pub documents: Vec<Document>,
}

/// A run of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunName {
    /// The method.
    pub method: String,
    /// The seed.
    pub seed: u64,
}

impl fmt::Display for RunName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, seed {}", self.method, self.seed)
    }
}

/// An experiment in the making, without its seed.
#[derive(Clone)]
pub(super) struct Draft {
    pub name: String,
    /// The experiment's file.
    pub path: PathBuf,
    pub value: Value,
    pub overrides: Overrides,
    pub sweep: Option<Swept>,
}

/// What the folder of a comparison holds beside its methods.
pub(super) const TUNING: &str = "tuning";
pub(super) const TUNED: &str = "tuned.json";

impl ComparisonPlan {
    /// Reads a comparison file, or the experiments to compare, whose names must differ, and validates every experiment that comes of it.
    ///
    /// # Errors
    /// [`Error::Base`] with every fault of the files, by pointer; [`Error::Compare`] for a sweep that no method has a place for, and for
    /// experiments that cannot be told apart.
    pub fn load(paths: &[PathBuf], options: &PlanOptions, methods: &Methods) -> Result<Self> {
        let mut files = Vec::new();
        for path in paths {
            files.push((path, read_document(path, &[])?.0));
        }
        match files.as_slice() {
            [(path, value)] if is_comparison(value) => {
                let file = Loaded::new(path, value.clone(), methods)?;
                let drafts = file.drafts()?;
                let sweep = &file.file.sweep;
                let sweeps = sweep.iter().map(|(pointer, values)| Sweep {
                    pointer: pointer.clone(),
                    values: values.as_array().cloned().unwrap_or_default(),
                    origin: file.origin(&format!("/sweep/{}", escaped(pointer))),
                });
                Self::of(drafts, sweeps.collect(), options, methods, Some(&file))
            }
            several => {
                if let Some((path, _)) = several.iter().find(|(_, value)| is_comparison(value)) {
                    let reason = "a comparison file stands by itself";
                    return Err(refuse(format!("`{}`", path.display()), reason));
                }
                let drafts = several.iter().map(|(path, value)| Draft {
                    name: text_at(value, "/name"),
                    path: (*path).clone(),
                    value: value.clone(),
                    overrides: Overrides::default(),
                    sweep: None,
                });
                Self::of(drafts.collect(), Vec::new(), options, methods, None)
            }
        }
    }

    /// The name of the comparison: its file's, or those of the experiments.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The seeds that each method is run with.
    pub fn seeds(&self) -> &[u64] {
        &self.seeds
    }

    /// The runs, all methods with one seed before the next.
    pub fn runs(&self) -> impl Iterator<Item = RunName> + '_ {
        self.documents().map(|(run, _)| run)
    }

    /// The same with their experiments.
    pub(super) fn documents(&self) -> impl Iterator<Item = (RunName, &Document)> {
        let places = self.seeds.iter().enumerate();
        places.flat_map(|(place, &seed)| {
            self.methods.iter().map(move |method| {
                let run = RunName {
                    method: method.name.clone(),
                    seed,
                };
                (run, &method.documents[place])
            })
        })
    }

    /// The folder of a run in that of the comparison.
    pub fn folder(&self, out: &Path, run: &RunName) -> PathBuf {
        out.join(file_name(&run.method))
            .join(format!("seed-{}", run.seed))
    }

    fn of(
        mut drafts: Vec<Draft>,
        mut sweeps: Vec<Sweep>,
        options: &PlanOptions,
        methods: &Methods,
        file: Option<&Loaded>,
    ) -> Result<Self> {
        for draft in &mut drafts {
            for text in &options.set {
                draft.overrides.set(&mut draft.value, text)?;
            }
        }
        // What the command line sweeps, the file need not.
        let given = options.sweep.iter().map(|text| Sweep::parse(text));
        let given = given.collect::<Result<Vec<_>>>()?;
        sweeps.retain(|sweep| !given.iter().any(|given| given.place() == sweep.place()));
        sweeps.extend(given);
        for (n, sweep) in sweeps.iter().enumerate() {
            if sweeps[..n]
                .iter()
                .any(|other| other.place() == sweep.place())
            {
                let what = format!("as `{}` asks", sweep.origin);
                return Err(refuse(what, "the place is swept twice"));
            }
        }
        let of_file = file.and_then(|file| file.file.reference.clone());
        let reference = options.reference.clone().or(of_file);
        for sweep in &sweeps {
            drafts = sweep.apply(drafts, reference.as_deref(), methods)?;
        }
        let of_file = file.and_then(|file| file.file.seeds.clone());
        let seeds = match options.seeds.clone().or(of_file) {
            Some(seeds) => seeds,
            None => own_seed(&drafts)?,
        };
        let name = match file {
            Some(file) => file.file.name.clone(),
            None => {
                let names = drafts.iter().map(|draft| &*draft.name);
                names.collect::<Vec<_>>().join("-")
            }
        };
        let plan = Self {
            name,
            methods: planned(&drafts, &seeds, methods, file)?,
            seeds,
            reference,
            tuned_on: file.and_then(|file| file.file.tuned_on.clone()),
        };
        if let Some(reference) = &plan.reference
            && !plan.methods.iter().any(|method| method.name == *reference)
        {
            let names = plan
                .methods
                .iter()
                .map(|method| format!("`{}`", method.name));
            let names = dtta_base::listed(names, 16);
            let message = format!("there is no method `{reference}`; there are {names}");
            return Err(match file {
                Some(file) if options.reference.is_none() => {
                    file.refuse(vec![Issue::new("/reference", message)])
                }
                _ => refuse("with that reference", message),
            });
        }
        Ok(plan)
    }
}

/// A comparison file with the experiment that it starts from.
#[derive(Debug)]
pub(super) struct Loaded {
    pub path: PathBuf,
    pub file: ComparisonFile,
    /// The experiment's file.
    pub base: PathBuf,
    pub experiment: Value,
}

impl Loaded {
    pub fn new(path: &Path, value: Value, methods: &Methods) -> Result<Self> {
        let file = parse_and_check(value, ComparisonFile::contradictions);
        let file = file.map_err(|issues| Error::Base(invalid(path, WHAT, issues)))?;
        let base = match path.parent() {
            Some(folder) => folder.join(&file.experiment),
            None => file.experiment.clone(),
        };
        let experiment = read_document(&base, &[])?.0;
        Document::parse(&base, experiment.clone(), methods)?;
        Ok(Self {
            path: path.into(),
            file,
            base,
            experiment,
        })
    }

    /// The experiment of each method.
    pub fn drafts(&self) -> Result<Vec<Draft>> {
        let mut issues = Vec::new();
        let mut drafts = Vec::new();
        for (name, settings) in self.file.methods() {
            let mut draft = Draft {
                name: name.into(),
                path: self.base.clone(),
                value: self.experiment.clone(),
                overrides: Overrides::default(),
                sweep: None,
            };
            draft.value["name"] = json!(name);
            add_others(
                &mut issues,
                self.put(&mut draft, &self.file.settings, "/settings"),
            );
            let at = format!("/methods/{}", escaped(name));
            issues.extend(self.put(&mut draft, settings, &at));
            drafts.push(draft);
        }
        match issues.is_empty() {
            true => Ok(drafts),
            false => Err(self.refuse(issues)),
        }
    }

    /// Puts settings, which stand at `at` in the file, into an experiment.
    pub fn put(&self, draft: &mut Draft, settings: &Settings, at: &str) -> Vec<Issue> {
        let mut issues = Vec::new();
        for (pointer, value) in settings {
            let at = format!("{at}/{}", escaped(pointer));
            let origin = self.origin(&at);
            let Draft {
                value: document,
                overrides,
                ..
            } = draft;
            if let Err(reason) = overrides.put(document, pointer, value.clone(), origin) {
                issues.push(Issue::new(at, format!("names no place: {reason}")));
            }
        }
        issues
    }

    /// What stands at a place of the file, as messages about experiments name it.
    pub fn origin(&self, pointer: &str) -> String {
        format!("{}#{pointer}", self.path.display())
    }

    pub fn refuse(&self, issues: Vec<Issue>) -> Error {
        Error::Base(invalid(&self.path, WHAT, issues))
    }

    /// Faults of a method's experiment, where they lie in this file.
    fn faults(&self, draft: &Draft, issues: Vec<Issue>) -> Vec<Issue> {
        let own = self.origin("");
        let issues = issues.into_iter().map(|issue| {
            let origin = draft.overrides.origin(&issue.pointer);
            if let Some((origin, within)) = origin
                && let Some(at) = origin.strip_prefix(&own)
            {
                return Issue::new(format!("{at}{within}"), issue.message);
            }
            let from = origin.map_or_else(String::new, |(origin, _)| format!(" (from `{origin}`)"));
            let (base, Issue { pointer, message }) = (self.base.display(), issue);
            Issue::new(
                format!("/methods/{}", escaped(&draft.name)),
                format!("makes `{base}` invalid at `{pointer}`: {message}{from}"),
            )
        });
        issues.collect()
    }
}

/// The documents of all methods, or every fault of them.
pub(super) fn planned(
    drafts: &[Draft],
    seeds: &[u64],
    methods: &Methods,
    file: Option<&Loaded>,
) -> Result<Vec<PlannedMethod>> {
    let twice = |(place, seed): &(usize, &u64)| seeds[..*place].contains(seed);
    if let Some((_, seed)) = seeds.iter().enumerate().find(twice) {
        return Err(refuse("with those seeds", format!("{seed} is given twice")));
    }
    if drafts.is_empty() || seeds.is_empty() {
        return Err(refuse("nothing", "there has to be a method and a seed"));
    }
    let mut issues = Vec::new();
    let mut planned = Vec::new();
    for (place, draft) in drafts.iter().enumerate() {
        let (name, what) = (&draft.name, format!("`{}`", draft.path.display()));
        if [TUNING, Comparison::FILE, TUNED].contains(&&**name) {
            let reason = format!("`{name}` is the name of a file in its folder, and of no method");
            return Err(refuse(what, reason));
        }
        if drafts[..place].iter().any(|other| other.name == *name) {
            let reason = format!("`{name}` is the name of another, too; give it another `name`");
            return Err(refuse(what, reason));
        }
        if let Some((origin, _)) = draft.overrides.origin("/seed") {
            let reason =
                format!("`{origin}` sets one seed for all runs; give the seeds as `seeds`");
            return Err(refuse(what, reason));
        }
        match file {
            Some(file) => {
                if let Err(faults) = validated(draft.value.clone(), methods) {
                    add_others(&mut issues, file.faults(draft, faults));
                    continue;
                }
            }
            None => {
                let (value, overrides) = (draft.value.clone(), draft.overrides.clone());
                Document::new(&draft.path, value, overrides, methods)?;
            }
        }
        let documents = seeds.iter().map(|&seed| {
            let mut value = draft.value.clone();
            value["seed"] = json!(seed);
            Document::new(&draft.path, value, draft.overrides.clone(), methods)
        });
        planned.push(PlannedMethod {
            name: name.clone(),
            sweep: draft.sweep.clone(),
            documents: documents.collect::<Result<_>>()?,
        });
    }
    match file {
        Some(file) if !issues.is_empty() => Err(file.refuse(issues)),
        _ => Ok(planned),
    }
}

/// The seed that all experiments have.
fn own_seed(drafts: &[Draft]) -> Result<Vec<u64>> {
    let seeds = drafts.iter().map(|draft| {
        let seed = draft.value.pointer("/seed");
        // What is none is refused where the experiment is validated.
        seed.and_then(Value::as_u64).unwrap_or_default()
    });
    let seeds: Vec<u64> = seeds.collect();
    match seeds.iter().position(|&seed| seed != seeds[0]) {
        None => Ok(seeds.into_iter().take(1).collect()),
        Some(other) => {
            let (first, draft) = (&drafts[0], &drafts[other]);
            let reason = format!(
                "`{}` has seed {}, `{}` seed {}; give seeds for all with `--seeds`",
                first.name, seeds[0], draft.name, seeds[other]
            );
            Err(refuse("their samples", reason))
        }
    }
}

fn is_comparison(value: &Value) -> bool {
    value.get("experiment").is_some() || value.get("methods").is_some()
}

fn text_at(value: &Value, pointer: &str) -> String {
    let text = value.pointer(pointer).and_then(Value::as_str);
    text.unwrap_or_default().to_owned()
}

pub(super) fn refuse(what: impl Into<String>, reason: impl Into<String>) -> Error {
    Error::Compare {
        what: what.into(),
        reason: reason.into(),
    }
}
