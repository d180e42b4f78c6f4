//! What a `SiglipTokenizer` makes of a text before it is split into pieces. `tokenizer.json` words it in many ways, so that what it does is
//! looked at, not how it is written.

use tokenizers::{NormalizedString, Normalizer as _, Tokenizer};

/// The classes that are meant.
pub(super) const CLASSES: [&str; 2] = ["SiglipTokenizer", "SiglipTokenizerFast"];

/// A text, what it becomes, and the step that shows in it.
const SHOWN: [(&str, &str, &str); 8] = [
    ("é", "é", "leaves accents as they are"),
    ("AbcXYZ", "abcxyz", "makes letters small"),
    ("ÄŁ Σа", "äł σа", "makes letters small"),
    ("a \t\n  b", "a b", "makes one space of several"),
    (" a\n", "a", "takes spaces off both ends"),
    ("a - b", "a b", "makes one space of those around a sign"),
    (". a", "a", "takes spaces off both ends"),
    ("1²", "12", "writes one sign for all of its forms (NFKC)"),
];
/// The signs that are taken out: Python's `string.punctuation`.
const SIGNS: &str = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~";

/// Expects that a tokenizer does the same: other pieces would come of its texts without a word.
pub(super) fn expect_in(tokenizer: &Tokenizer) -> std::result::Result<(), String> {
    let normalised = |text: &str| -> std::result::Result<String, String> {
        let mut text = NormalizedString::from(text);
        if let Some(normalizer) = tokenizer.get_normalizer() {
            let done = normalizer.normalize(&mut text);
            done.map_err(|error| format!("cannot be used: {error}"))?;
        }
        Ok(text.get().to_owned())
    };
    let expect = |text: &str, expected: &str, step: &str| {
        let found = normalised(text)?;
        match found == expected {
            true => Ok(()),
            false => Err(format!(
                "makes {found:?} of {text:?}: a SiglipTokenizer {step}, so that it becomes {expected:?}; its `normalizer` says otherwise"
            )),
        }
    };
    for sign in SIGNS.chars() {
        expect(&format!("a{sign}b"), "ab", "takes signs out")?;
    }
    for (text, expected, step) in SHOWN {
        expect(text, expected, step)?;
    }
    Ok(())
}
