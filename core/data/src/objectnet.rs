//! Which classes of ImageNet-1k the objects of ObjectNet (Barbu et al. 2019) are, from the files in the folder `mappings` of the dataset
//! itself. 113 of its 313 kinds of objects are classes of ImageNet, some of them several.

use std::collections::BTreeMap;
use std::path::Path;

use dtta_base::{Issue, invalid, read_json};
use serde_json::{Map, Value};

/// The files of the folder.
pub const OBJECTNET_MAPPINGS: [&str; 4] = [
    "folder_to_objectnet_label.json",
    "objectnet_to_imagenet_1k.json",
    "pytorch_to_imagenet_2012_id.json",
    "imagenet_to_label_2012_v2",
];

/// What the files are called in messages.
const WHAT: &str = "mapping of ObjectNet";
/// How many classes ImageNet-1k has.
const CLASSES: usize = 1000;

/// The folders of ObjectNet whose objects are classes of ImageNet-1k, in the order of their names, each with the labels of these classes
/// in the order of their WordNet ids, as models count them. `mappings` is the dataset's folder of that name.
///
/// # Errors
/// [`dtta_base::Error`] for a file that is missing, is no JSON, or does not say what the others need.
pub fn objectnet(mappings: &Path) -> dtta_base::Result<Vec<(String, Vec<usize>)>> {
    let [folders, objects, ids, labels] = OBJECTNET_MAPPINGS.map(|name| mappings.join(name));
    let mut folder_of = BTreeMap::new();
    for (folder, object) in texts(&folders)? {
        if let Some(other) = folder_of.insert(object, folder.clone()) {
            let message = format!("has the objects of `{other}` as well");
            let issue = Issue::new(format!("/{folder}"), message);
            return Err(invalid(&folders, WHAT, vec![issue]));
        }
    }
    let labels = labels_of(&labels, &classes_of(&ids)?)?;
    let mut found = BTreeMap::new();
    for (object, names) in texts(&objects)? {
        let refuse = |message: String| {
            let pointer = format!("/{object}");
            invalid(&objects, WHAT, vec![Issue::new(pointer, message)])
        };
        let Some(folder) = folder_of.get(&object) else {
            let message = format!("is not an object of `{}`", folders.display());
            return Err(refuse(message));
        };
        let mut classes = Vec::new();
        for name in names.split("; ") {
            match labels.get(name.trim()).map(Vec::as_slice) {
                Some(&[class]) if !classes.contains(&class) => classes.push(class),
                Some([_]) => return Err(refuse(format!("has `{name}` twice"))),
                Some(several) => {
                    let message = format!("is `{name}`, which is the name of classes {several:?}");
                    return Err(refuse(message));
                }
                None => return Err(refuse(format!("is `{name}`, which no class is called"))),
            }
        }
        found.insert(folder.clone(), classes);
    }
    Ok(found.into_iter().collect())
}

/// A file of texts by name.
fn texts(path: &Path) -> dtta_base::Result<Vec<(String, String)>> {
    let each = object(path)?.into_iter().map(|(name, value)| match value {
        Value::String(text) => Ok((name, text)),
        other => Err(Issue::new(
            format!("/{name}"),
            format!("is {other}, expected text"),
        )),
    });
    let texts: Result<_, Issue> = each.collect();
    texts.map_err(|issue| invalid(path, WHAT, vec![issue]))
}

fn object(path: &Path) -> dtta_base::Result<Map<String, Value>> {
    match read_json(path, &[])? {
        Value::Object(fields) => Ok(fields),
        _ => Err(invalid(
            path,
            WHAT,
            vec![Issue::new("", "expected an object")],
        )),
    }
}

/// The label, as models count it, of each place in the list of labels: every one of 0 to 999, once.
fn classes_of(path: &Path) -> dtta_base::Result<Vec<usize>> {
    let mut classes = vec![None; CLASSES];
    let refuse = |pointer: &str, message: String| {
        invalid(path, WHAT, vec![Issue::new(format!("/{pointer}"), message)])
    };
    for (class, place) in object(path)? {
        let number = class
            .parse()
            .ok()
            .filter(|&number: &usize| number < CLASSES);
        let number =
            number.ok_or_else(|| refuse(&class, "expected a class from 0 to 999".into()))?;
        let slot = place
            .as_u64()
            .and_then(|place| classes.get_mut(usize::try_from(place).ok()?));
        match slot {
            Some(slot @ None) => *slot = Some(number),
            _ => {
                let message =
                    format!("is {place}, expected another number from 0 to 999 for each class");
                return Err(refuse(&class, message));
            }
        }
    }
    let all: Option<Vec<usize>> = classes.into_iter().collect();
    all.ok_or_else(|| refuse("", "expected all classes from 0 to 999".into()))
}

/// The classes that each label is the name of; `classes` holds that of each line.
fn labels_of(path: &Path, classes: &[usize]) -> dtta_base::Result<BTreeMap<String, Vec<usize>>> {
    let text = std::fs::read_to_string(path).map_err(|source| dtta_base::Error::Read {
        path: path.into(),
        source,
    })?;
    let lines: Vec<&str> = text.lines().collect();
    if lines.len() != classes.len() {
        let message = format!("has {} lines, expected {}", lines.len(), classes.len());
        return Err(invalid(path, WHAT, vec![Issue::new("", message)]));
    }
    let mut labels: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (line, &class) in lines.into_iter().zip(classes) {
        labels.entry(line.trim().into()).or_default().push(class);
    }
    Ok(labels)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;

    /// Mappings in the dataset's form: place p of the list of labels is class 999 - p, and is called `name p` but for two cranes.
    fn mappings(folder: &Path) {
        let write = |name: &str, text: String| fs::write(folder.join(name), text).unwrap();
        let folders = json!({"alarm_clock": "Alarm clock", "air_freshener": "Air freshener", "Zebra": "Zebra"});
        write(OBJECTNET_MAPPINGS[0], folders.to_string());
        let objects = json!({"Zebra": "name 7", "Alarm clock": "name 3; name, of 999"});
        write(OBJECTNET_MAPPINGS[1], objects.to_string());
        let ids: Map<String, Value> = (0..CLASSES)
            .map(|class| (class.to_string(), json!(999 - class)))
            .collect();
        write(OBJECTNET_MAPPINGS[2], Value::from(ids).to_string());
        let line = |place: usize| match place {
            10 | 20 => "crane\n".to_owned(),
            999 => "name, of 999 \n".into(),
            place => format!("name {place}\n"),
        };
        write(OBJECTNET_MAPPINGS[3], (0..CLASSES).map(line).collect());
    }

    #[test]
    fn objects_are_the_classes_that_the_datasets_files_name() {
        let folder = tempfile::tempdir().unwrap();
        mappings(folder.path());
        let expected = [
            ("Zebra".to_owned(), vec![992]),
            ("alarm_clock".to_owned(), vec![996, 0]),
        ];
        assert_eq!(objectnet(folder.path()).unwrap(), expected);
    }

    #[test]
    fn files_that_do_not_fit_each_other_are_refused_by_place() {
        for (file, text, expected) in [
            (
                0,
                json!({"alarm_clock": "Alarm clock"}).to_string(),
                "/Zebra",
            ),
            (0, json!({"alarm_clock": 3}).to_string(), "/alarm_clock"),
            (
                0,
                json!({"a": "Zebra", "b": "Zebra"}).to_string(),
                "/b: has the objects of `a`",
            ),
            (
                1,
                json!({"Zebra": "horse"}).to_string(),
                "no class is called",
            ),
            (
                1,
                json!({"Zebra": "crane"}).to_string(),
                "classes [989, 979]",
            ),
            (
                1,
                json!({"Zebra": "name 1; name 1"}).to_string(),
                "`name 1` twice",
            ),
            (1, "[]".into(), "expected an object"),
            (2, json!({"0": 0, "1": 0}).to_string(), "/1"),
            (2, json!({"1000": 0}).to_string(), "/1000"),
            (2, json!({"0": 0}).to_string(), "expected all classes"),
            (3, "name 0\n".into(), "has 1 lines, expected 1000"),
        ] {
            let folder = tempfile::tempdir().unwrap();
            mappings(folder.path());
            fs::write(folder.path().join(OBJECTNET_MAPPINGS[file]), text).unwrap();
            let error = objectnet(folder.path()).unwrap_err().to_string();
            assert!(error.contains(expected), "{expected}: {error}");
        }
        let empty = tempfile::tempdir().unwrap();
        let error = objectnet(empty.path()).unwrap_err().to_string();
        assert!(error.contains(OBJECTNET_MAPPINGS[0]), "{error}");
    }
}
