//! `--shard auto`: which share of a run this process takes, as the engine that started it says by variables of the environment.

use std::str::FromStr;

use anyhow::anyhow;
use dtta::Shard;

use crate::Failure;

/// What `--shard` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// What the environment says.
    Auto,
    /// This one.
    Given(Shard),
}

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            _ => text
                .parse()
                .map(Self::Given)
                .map_err(|error| format!("{error}, or `auto`")),
        }
    }
}

impl Share {
    /// The shard that is meant.
    ///
    /// # Errors
    /// [`NoShard`] where the environment says none, or several.
    pub fn shard(self) -> Result<Shard, NoShard> {
        match self {
            Self::Given(shard) => Ok(shard),
            Self::Auto => from_environment(variable).map_err(NoShard),
        }
    }

    /// What to say where other processes of this machine will compute on the same device: torchrun counts those of a machine, and expects
    /// each to take the device of its number.
    pub fn crowded(self, device: &str) -> Option<String> {
        match self {
            Self::Given(_) => None,
            Self::Auto => crowded(variable, device),
        }
    }
}

/// Why the environment does not say which shard is meant.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NoShard(String);

impl From<NoShard> for Failure {
    fn from(error: NoShard) -> Self {
        Self::Misuse(anyhow!("--shard auto: {error}"))
    }
}

/// A variable of the environment.
fn variable(name: &str) -> Option<String> {
    Some(std::env::var_os(name)?.to_string_lossy().into())
}

fn crowded(get: impl Fn(&str) -> Option<String>, device: &str) -> Option<String> {
    let local = get("LOCAL_RANK").filter(|rank| rank != "0")?;
    // One that the process was given alone has the number 0.
    let alone = get("CUDA_VISIBLE_DEVICES").is_some_and(|shown| !shown.contains(','));
    let first = device.split(' ').any(|name| name.ends_with("cuda:0"));
    (first && !alone).then(|| {
        format!(
            "LOCAL_RANK is {local}, and this process computes on {device}, as every other of this machine does; show each one its own, by \
             CUDA_VISIBLE_DEVICES=$LOCAL_RANK (shards of devices with different numbers are not merged)"
        )
    })
}

/// An engine by the variables that say which of how many tasks this is.
struct Engine {
    name: &'static str,
    index: &'static str,
    count: &'static str,
    /// What to do where the count is missing.
    without_count: &'static str,
}

/// Slurm's arrays, which may begin at another number than 0 and count in steps, are read by [`slurm`], the tasks of `srun` by [`step`].
const ENGINES: [Engine; 3] = [
    Engine {
        name: "Kubernetes",
        index: "JOB_COMPLETION_INDEX",
        count: "JOB_COMPLETIONS",
        without_count: "Kubernetes does not tell a pod how many completions its Job has: give the container a variable of that name with the number \
                        in `spec.completions`",
    },
    Engine {
        name: "SkyPilot",
        index: "SKYPILOT_NODE_RANK",
        count: "SKYPILOT_NUM_NODES",
        without_count: "give `--shard I/N`",
    },
    Engine {
        name: "torchrun",
        index: "RANK",
        count: "WORLD_SIZE",
        without_count: "give `--shard I/N`",
    },
];

/// The shard that the environment names; a reason where none or two disagree.
fn from_environment(get: impl Fn(&str) -> Option<String>) -> Result<Shard, String> {
    let number = |name: &str| -> Result<Option<usize>, String> {
        let Some(value) = get(name) else {
            return Ok(None);
        };
        let parsed = value.parse().map(Some);
        parsed.map_err(|_| format!("{name} is `{value}`, expected a number of at least 0"))
    };
    let mut found: Vec<(String, Shard)> = Vec::new();
    if let Some(shard) = slurm(&number)? {
        found.push(("Slurm (SLURM_ARRAY_TASK_ID)".into(), shard));
    }
    for engine in &ENGINES {
        let Engine { index, count, .. } = engine;
        let shard = match (number(index)?, number(count)?) {
            (None, _) => continue,
            (Some(_), None) => {
                let hint = engine.without_count;
                return Err(format!("{index} is set and {count} is not; {hint}"));
            }
            (Some(i), Some(n)) => Shard::new(i, n).ok_or_else(|| {
                format!("{index} is {i} and {count} is {n}; expected an index below the count")
            })?,
        };
        found.push((format!("{} ({index})", engine.name), shard));
    }
    // Whatever was started by `srun`, such as torchrun, may start processes of its own, and its word counts.
    if found.is_empty()
        && let Some(shard) = step(&number)?
    {
        found.push(("Slurm (SLURM_PROCID)".into(), shard));
    }
    let Some((first, shard)) = found.first() else {
        let names: Vec<&str> = ENGINES.iter().map(|engine| engine.index).collect();
        let hint = match get("SLURM_JOB_ID") {
            Some(_) => "; in a job of Slurm that is no array, start it by `srun`, or give",
            None => "; give",
        };
        return Err(format!(
            "no engine says which task this is: none of SLURM_ARRAY_TASK_ID, {}, SLURM_STEP_NUM_TASKS is set{hint} `--shard I/N`",
            names.join(", ")
        ));
    };
    match found.iter().find(|(_, other)| other != shard) {
        Some((name, other)) => Err(format!(
            "{first} says {shard}, {name} says {other}; give `--shard I/N`"
        )),
        None => Ok(*shard),
    }
}

/// The task of a step, which is what `srun` starts. A batch script has SLURM_PROCID and may have SLURM_NTASKS as well, but is one process
/// and no step.
fn step(number: &impl Fn(&str) -> Result<Option<usize>, String>) -> Result<Option<Shard>, String> {
    let Some(count) = number("SLURM_STEP_NUM_TASKS")? else {
        return Ok(None);
    };
    let index = number("SLURM_PROCID")?
        .ok_or("SLURM_STEP_NUM_TASKS is set and SLURM_PROCID is not; give `--shard I/N`")?;
    let shard = Shard::new(index, count).ok_or_else(|| {
        format!("SLURM_PROCID is {index} and SLURM_STEP_NUM_TASKS is {count}; expected an index below the count")
    })?;
    Ok(Some(shard))
}

/// The task of a job array: its place among the array's numbers, which go from MIN to MAX in steps.
fn slurm(number: &impl Fn(&str) -> Result<Option<usize>, String>) -> Result<Option<Shard>, String> {
    let Some(id) = number("SLURM_ARRAY_TASK_ID")? else {
        return Ok(None);
    };
    let needed = |name: &str| {
        number(name)?.ok_or_else(|| {
            format!("SLURM_ARRAY_TASK_ID is set and {name} is not; give `--shard I/N`")
        })
    };
    let (count, min) = (
        needed("SLURM_ARRAY_TASK_COUNT")?,
        needed("SLURM_ARRAY_TASK_MIN")?,
    );
    let step = number("SLURM_ARRAY_TASK_STEP")?.unwrap_or(1).max(1);
    let max = number("SLURM_ARRAY_TASK_MAX")?;
    let place = id
        .checked_sub(min)
        .filter(|offset| offset % step == 0)
        .map(|offset| offset / step);
    // A list such as `--array=1,3,7` has a count, but a task cannot know its place in it.
    let last = count
        .checked_sub(1)
        .and_then(|steps| steps.checked_mul(step))
        .and_then(|span| span.checked_add(min));
    let even = max.is_none_or(|max| Some(max) == last);
    let shard = place.filter(|_| even);
    let shard = shard.and_then(|index| Shard::new(index, count));
    let shard = shard.ok_or_else(|| {
        format!(
            "SLURM_ARRAY_TASK_ID is {id} of {count} tasks from SLURM_ARRAY_TASK_MIN {min} on{}, which is not a range of numbers; submit \
             `--array=0-{}`, or give `--shard I/N`",
            max.map_or(String::new(), |max| format!(" to {max}")),
            count.saturating_sub(1)
        )
    })?;
    match number("SLURM_STEP_NUM_TASKS")? {
        Some(tasks) if tasks > 1 => Err(format!(
            "SLURM_STEP_NUM_TASKS is {tasks}: all of them would run shard {shard}; start one task with `srun --ntasks=1`, or give `--shard I/N`"
        )),
        _ => Ok(Some(shard)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(variables: &[(&str, &str)]) -> Result<String, String> {
        let get = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        from_environment(get).map(|shard| shard.to_string())
    }

    fn array<'a>(id: &'a str, count: &'a str, min: &'a str) -> Vec<(&'static str, &'a str)> {
        vec![
            ("SLURM_ARRAY_TASK_ID", id),
            ("SLURM_ARRAY_TASK_COUNT", count),
            ("SLURM_ARRAY_TASK_MIN", min),
        ]
    }

    #[test]
    fn each_engine_says_which_task_this_is() {
        assert_eq!(told(&array("3", "8", "0")).unwrap(), "3/8");
        assert_eq!(told(&array("8", "8", "1")).unwrap(), "7/8");
        let stepped = [
            ("SLURM_ARRAY_TASK_STEP", "4"),
            ("SLURM_ARRAY_TASK_MAX", "14"),
        ];
        let stepped = [array("10", "4", "2"), stepped.to_vec()].concat();
        assert_eq!(told(&stepped).unwrap(), "2/4");
        let indexed = [("JOB_COMPLETION_INDEX", "2"), ("JOB_COMPLETIONS", "5")];
        assert_eq!(told(&indexed).unwrap(), "2/5");
        let nodes = [("SKYPILOT_NODE_RANK", "1"), ("SKYPILOT_NUM_NODES", "2")];
        assert_eq!(told(&nodes).unwrap(), "1/2");
        let ranks = [("RANK", "0"), ("WORLD_SIZE", "1")];
        assert_eq!(told(&ranks).unwrap(), "0/1");
    }

    #[test]
    fn a_step_of_srun_counts_where_nothing_else_does() {
        let step = [
            ("SLURM_JOB_ID", "9"),
            ("SLURM_NTASKS", "8"),
            ("SLURM_PROCID", "5"),
            ("SLURM_STEP_ID", "0"),
            ("SLURM_STEP_NUM_TASKS", "8"),
        ];
        assert_eq!(told(&step).unwrap(), "5/8");
        // `srun torchrun …`, a launcher for each machine.
        let within = [("RANK", "11"), ("WORLD_SIZE", "32")];
        assert_eq!(told(&[&step[..], &within].concat()).unwrap(), "11/32");
        // `srun` of one task within an array.
        let one = [("SLURM_PROCID", "0"), ("SLURM_STEP_NUM_TASKS", "1")];
        assert_eq!(told(&one).unwrap(), "0/1");
        assert_eq!(
            told(&[&one[..], &array("3", "8", "0")].concat()).unwrap(),
            "3/8"
        );
        // A batch script, which is no step.
        let batch = told(&step[..3]).unwrap_err();
        assert!(batch.contains("by `srun`"), "{batch}");
        let lost = told(&step[4..]).unwrap_err();
        assert!(lost.contains("SLURM_PROCID is not"), "{lost}");
        let beyond = told(&[("SLURM_PROCID", "8"), step[4]]).unwrap_err();
        assert!(beyond.contains("SLURM_PROCID is 8"), "{beyond}");
    }

    #[test]
    fn processes_of_a_machine_are_told_that_they_share_a_device() {
        let said = |variables: &[(&str, &str)], device: &str| {
            let get = |name: &str| {
                let found = variables.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| (*value).to_owned())
            };
            crowded(get, device)
        };
        let second = [("LOCAL_RANK", "1")];
        let words = said(&second, "cuda:0").unwrap();
        assert!(words.contains("LOCAL_RANK is 1"), "{words}");
        assert!(said(&second, "cpu and libtorch:cuda:0 (denoiser)").is_some());
        assert_eq!(said(&second, "cuda:1"), None);
        assert_eq!(said(&second, "cpu"), None);
        assert_eq!(said(&[("LOCAL_RANK", "0")], "cuda:0"), None);
        assert_eq!(said(&[], "cuda:0"), None);
        let alone = [("LOCAL_RANK", "1"), ("CUDA_VISIBLE_DEVICES", "1")];
        assert_eq!(said(&alone, "cuda:0"), None);
        let all = [("LOCAL_RANK", "1"), ("CUDA_VISIBLE_DEVICES", "0,1")];
        assert!(said(&all, "cuda:0").is_some());
    }

    #[test]
    fn refuses_by_name_what_no_engine_or_two_say() {
        let refused = |variables: &[(&str, &str)], words: &[&str]| {
            let reason = told(variables).unwrap_err();
            for word in words {
                assert!(reason.contains(word), "{reason}");
            }
        };
        refused(
            &[],
            &["SLURM_ARRAY_TASK_ID", "JOB_COMPLETION_INDEX", "RANK"],
        );
        let two = [
            array("3", "8", "0"),
            vec![("RANK", "1"), ("WORLD_SIZE", "2")],
        ]
        .concat();
        refused(&two, &["Slurm", "3/8", "torchrun (RANK) says 1/2"]);
        let agree = [
            array("1", "2", "0"),
            vec![("RANK", "1"), ("WORLD_SIZE", "2")],
        ]
        .concat();
        assert_eq!(told(&agree).unwrap(), "1/2");
        refused(&[("RANK", "1")], &["WORLD_SIZE is not"]);
        refused(&[("JOB_COMPLETION_INDEX", "1")], &["spec.completions"]);
        refused(&[("RANK", "2"), ("WORLD_SIZE", "2")], &["RANK is 2"]);
        refused(&[("RANK", "-1"), ("WORLD_SIZE", "2")], &["RANK is `-1`"]);
        refused(&[("SLURM_ARRAY_TASK_ID", "1")], &["SLURM_ARRAY_TASK_COUNT"]);
        // `--array=1,3,7`
        let list = [array("3", "3", "1"), vec![("SLURM_ARRAY_TASK_MAX", "7")]].concat();
        refused(&list, &["--array=0-2"]);
        let many = [array("1", "2", "0"), vec![("SLURM_STEP_NUM_TASKS", "4")]].concat();
        refused(&many, &["SLURM_STEP_NUM_TASKS is 4"]);
    }
}
