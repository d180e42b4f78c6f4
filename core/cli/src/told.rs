//! An error in words, with its causes.

/// What went wrong and why, each thing once: some errors tell their cause themselves, and some leave it to the chain.
pub fn told(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn no_cause_is_told_twice_and_none_is_left_out() {
        let nowhere = std::path::Path::new("/nowhere/file.json");
        let error = dtta_base::read_json(nowhere, &[]).unwrap_err();
        let whole = error.to_string();
        assert!(whole.contains("No such file"), "{whole}");
        assert_eq!(told(&error.into()), whole);
        let failed = std::fs::read(nowhere).context("cannot begin").unwrap_err();
        let text = told(&failed);
        assert!(text.starts_with("cannot begin: No such file"), "{text}");
    }
}
