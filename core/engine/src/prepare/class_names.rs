//! What the classes are called, as text encoders are told: by the experiment, by a file, or by the dataset.

use std::collections::BTreeMap;
use std::path::Path;

use dtta_base::Issue;

use super::prompts::Refuse;
use crate::error::Result;
use crate::experiment::LabelSpace;
use crate::prompts::PromptsConfig;

/// What is known of the classes before their names are.
pub(crate) struct Known<'a> {
    /// The names of the dataset's; none where there is no dataset yet.
    pub dataset: Option<&'a [String]>,
    /// The part of the models' that the samples may have.
    pub space: Option<&'a LabelSpace>,
    /// How many the backbone has, the part left out; none for one that reads what they are.
    pub backbone: Option<usize>,
}

/// For each class of the samples, what it is called; several names where it is several classes of the models. Paths start at `base`.
///
/// # Errors
/// By pointer: too few names or too many, none, or such that say nothing; a file that cannot be read.
pub(crate) fn class_names(
    config: &PromptsConfig,
    base: &Path,
    known: &Known<'_>,
    refuse: Refuse<'_>,
) -> Result<Vec<Vec<String>>> {
    let names = find(config, base, known, refuse)?;
    let mut seen = BTreeMap::new();
    for (class, names) in names.iter().enumerate() {
        if let Some(other) = seen.insert(names, class) {
            log::warn!(
                "{}: classes {other} and {class} are both called `{}`, so that nothing tells them apart",
                origin(config),
                names.join("`, `")
            );
        }
    }
    Ok(names)
}

/// Where an experiment says what names the classes.
fn origin(config: &PromptsConfig) -> &'static str {
    match (&config.classes, &config.classes_file) {
        (Some(_), _) => "/models/prompts/classes",
        (None, Some(_)) => "/models/prompts/classes_file",
        (None, None) => "/models/prompts",
    }
}

fn find(
    config: &PromptsConfig,
    base: &Path,
    known: &Known<'_>,
    refuse: Refuse<'_>,
) -> Result<Vec<Vec<String>>> {
    let fail = |message: String| Err(refuse(vec![Issue::new(origin(config), message)]));
    let own = match (&config.classes, &config.classes_file) {
        (Some(classes), _) => Some(classes.clone()),
        (None, Some(file)) => Some(names_in(&base.join(file), refuse)?),
        (None, None) => None,
    };
    let groups = known.space.map(|space| space.classes(base));
    let groups = groups.transpose()?;
    let single = |names: &[String]| names.iter().map(|name| vec![name.clone()]).collect();
    let Some(own) = own else {
        let count = groups.as_ref().map(Vec::len).or(known.backbone);
        let Some(dataset) = known.dataset else {
            // Only how many there are counts where nothing is read.
            let names = (0..count.unwrap_or(1)).map(|n| vec![n.to_string()]);
            return Ok(names.collect());
        };
        let say = "say what they are called in `classes` or `classes_file`";
        let number = |name: &String| !name.is_empty() && name.chars().all(|c| c.is_ascii_digit());
        let synset = |name: &String| {
            name.strip_prefix('n')
                .is_some_and(|id| id.len() == 8 && id.chars().all(|c| c.is_ascii_digit()))
        };
        if dataset.is_empty() {
            return fail(format!("the dataset's classes have no names; {say}"));
        }
        if dataset.iter().all(number) || dataset.iter().all(synset) {
            let message = format!(
                "the dataset's classes are called `{}` and the like, which no text encoder understands; {say}",
                dataset[0]
            );
            return fail(message);
        }
        if let Some(count) = count.filter(|&count| count != dataset.len()) {
            let message = format!(
                "the dataset has {} classes, the backbone {count}",
                dataset.len()
            );
            return fail(message);
        }
        let names: Vec<String> = dataset.iter().map(|name| name.replace('_', " ")).collect();
        return Ok(single(&names));
    };
    let Some(groups) = groups else {
        if let Some(count) = known.backbone.filter(|&count| count != own.len()) {
            let message = format!("are {} names, the backbone has {count} classes", own.len());
            return fail(message);
        }
        return Ok(single(&own));
    };
    let all = known.space.and_then(LabelSpace::of_models_with);
    let all = all.or(known.backbone);
    if let Some(all) = all.filter(|&all| all != own.len()) {
        let message = format!(
            "are {} names, expected {all}: those of all classes of the models, of which `/models/label_space` takes some",
            own.len()
        );
        return fail(message);
    }
    let name = |class: &usize| own.get(*class).cloned();
    let named: Option<Vec<Vec<String>>> = groups
        .iter()
        .map(|group| group.iter().map(name).collect())
        .collect();
    match named {
        Some(named) => Ok(named),
        None => fail(format!(
            "are {} names, fewer than the labels of `/models/label_space` count up to",
            own.len()
        )),
    }
}

/// The names in a text file, one on each line.
fn names_in(path: &Path, refuse: Refuse<'_>) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(path).map_err(|source| dtta_base::Error::Read {
        path: path.to_owned(),
        source,
    })?;
    let refuse = |message| {
        let issue = Issue::new("/models/prompts/classes_file", message);
        Err(refuse(vec![issue]))
    };
    let names: Vec<String> = text.lines().map(|line| line.trim().to_owned()).collect();
    if let Some(line) = names.iter().position(String::is_empty) {
        let place = path.display();
        return refuse(format!("line {} of `{place}` is empty", line + 1));
    }
    if names.is_empty() {
        return refuse(format!("`{}` has no names", path.display()));
    }
    Ok(names)
}
