//! A `CLIPTokenizer`'s `vocab.json` and `merges.txt` as the `tokenizer.json` that says the same.

use std::path::Path;

use serde_json::{Value, json};

use super::settings::{CONFIG, END, SPECIAL_TOKENS, START, Settings, Special, UNKNOWN};
use super::{TOKENIZER, read};
use crate::error::{ModelError, Result};

impl Settings {
    /// What `tokenizer.json` would say of a `CLIPTokenizer` of these files.
    pub fn clip(&self, vocabulary: &Path, merges: &Path) -> Result<Value> {
        let known = ["CLIPTokenizer", "CLIPTokenizerFast"];
        if let Some(class) = self.class.as_deref().filter(|class| !known.contains(class)) {
            return Err(ModelError::Tokenizer {
                path: vocabulary.with_file_name(CONFIG),
                reason: format!(
                    "is of a `{class}`, and there is no `{TOKENIZER}`; supported without one is CLIPTokenizer"
                ),
            });
        }
        let words = dtta_base::read_json(vocabulary, &[])?;
        let text = String::from_utf8(read(merges)?).map_err(|error| ModelError::Tokenizer {
            path: merges.into(),
            reason: error.to_string(),
        })?;
        let mut pairs = Vec::new();
        for (n, line) in text.lines().enumerate() {
            if line.starts_with("#version") || line.is_empty() {
                continue;
            }
            let Some((first, second)) = line.split_once(' ') else {
                return Err(ModelError::Tokenizer {
                    path: merges.into(),
                    reason: format!("line {} is {line:?}, expected two tokens", n + 1),
                });
            };
            pairs.push(json!([first, second]));
        }
        let special: Vec<Special> = SPECIAL_TOKENS
            .iter()
            .zip(&self.special)
            .map(|((_, usual), found)| Special {
                content: found
                    .as_ref()
                    .map_or_else(|| (*usual).into(), |found| found.content.clone()),
                normalized: found.as_ref().is_some_and(|found| found.normalized),
            })
            .collect();
        let number = |content: &str| -> Result<u64> {
            let number = words.get(content).and_then(Value::as_u64);
            number.ok_or_else(|| ModelError::Tokenizer {
                path: vocabulary.into(),
                reason: format!("has no token `{content}`"),
            })
        };
        let whole = |id: u64, content: &str, normalized: bool| {
            json!({
                "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": normalized, "special": true,
            })
        };
        let mut added: Vec<Value> = Vec::new();
        for (id, token) in &self.added {
            let mut token = token.clone();
            token["id"] = json!(id);
            added.push(token);
        }
        for token in &special {
            let there = |other: &Value| {
                other["content"]
                    .as_str()
                    .is_some_and(|other| token.is(other))
            };
            if !added.iter().any(there) {
                let id = number(&token.content)?;
                added.push(whole(id, &token.content, token.normalized));
            }
        }
        added.sort_by_key(|token| token["id"].as_u64());
        let [start, end] = [START, END].map(|place| &special[place].content);
        let words_and_signs = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";
        Ok(json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": added,
            "normalizer": { "type": "Sequence", "normalizers": [
                { "type": "NFC" },
                { "type": "Replace", "pattern": { "Regex": r"\s+" }, "content": " " },
                { "type": "Lowercase" },
            ] },
            "pre_tokenizer": { "type": "Sequence", "pretokenizers": [
                { "type": "Split", "pattern": { "Regex": words_and_signs }, "behavior": "Removed", "invert": true },
                { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true },
            ] },
            "post_processor": {
                "type": "RobertaProcessing", "sep": [end, number(end)?], "cls": [start, number(start)?],
                "trim_offsets": false, "add_prefix_space": false,
            },
            "decoder": null,
            "model": {
                "type": "BPE", "dropout": null, "unk_token": special[UNKNOWN].content, "continuing_subword_prefix": "",
                "end_of_word_suffix": "</w>", "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                "vocab": words, "merges": pairs,
            },
        }))
    }
}
