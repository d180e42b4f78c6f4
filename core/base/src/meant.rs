//! What was probably meant by a name that is not known.

/// The known name that is most like `name`, if one is like it: the same but for capitals and hyphens, its initials, or a few letters apart.
pub(crate) fn meant<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let plain = |text: &str| text.to_lowercase().replace(['-', ' '], "_");
    let name = plain(name);
    let initials = |text: &str| {
        text.split('_')
            .filter_map(|word| word.chars().next())
            .collect::<String>()
    };
    let most = (name.chars().count() / 3).clamp(1, 3);
    let exact = known.iter().find(|known| plain(known) == name);
    let close = || {
        known
            .iter()
            .map(|known| (distance(&name, &plain(known)), known))
            .filter(|(distance, _)| *distance <= most)
            .min_by_key(|(distance, _)| *distance)
            .map(|(_, known)| known)
    };
    let short = || {
        let two = name.chars().count() > 1;
        known
            .iter()
            .find(|known| two && initials(&plain(known)) == name)
    };
    exact.or_else(close).or_else(short).copied()
}

/// The least number of letters to insert, remove, replace or swap with their neighbour (optimal string alignment).
fn distance(left: &str, right: &str) -> usize {
    let (left, right): (Vec<char>, Vec<char>) = (left.chars().collect(), right.chars().collect());
    // Three rows of the table: before the last, last and this one.
    let mut rows = [
        vec![0; right.len() + 1],
        (0..=right.len()).collect(),
        vec![0; right.len() + 1],
    ];
    for (i, a) in left.iter().enumerate() {
        rows[2][0] = i + 1;
        for (j, b) in right.iter().enumerate() {
            let replaced = rows[1][j] + usize::from(a != b);
            let mut least = replaced.min(rows[1][j + 1] + 1).min(rows[2][j] + 1);
            if i > 0 && j > 0 && *a == right[j - 1] && left[i - 1] == *b {
                least = least.min(rows[0][j - 1] + 1);
            }
            rows[2][j + 1] = least;
        }
        rows.rotate_left(1);
    }
    rows[1][right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_letters_that_differ() {
        for (left, right, expected) in [
            ("", "abc", 3),
            ("abc", "abc", 0),
            ("sdg", "sgd", 1),
            ("kitten", "sitting", 3),
            ("ab", "bca", 3),
        ] {
            assert_eq!(distance(left, right), expected, "{left} {right}");
            assert_eq!(distance(right, left), expected, "{right} {left}");
        }
    }

    #[test]
    fn finds_what_was_meant_and_nothing_else() {
        let known = ["learning_rate", "motion_blur", "sgd", "steps", "draws"];
        for (name, expected) in [
            ("motion-blur", Some("motion_blur")),
            ("Motion Blur", Some("motion_blur")),
            ("lr", Some("learning_rate")),
            ("learningrate", Some("learning_rate")),
            ("step", Some("steps")),
            ("sdg", Some("sgd")),
            ("fog", None),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(meant(name, &known), expected, "{name}");
        }
    }
}
