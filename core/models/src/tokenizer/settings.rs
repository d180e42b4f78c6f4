//! What the files beside a tokenizer say of it: `tokenizer_config.json` and `special_tokens_map.json`.

use std::path::{Path, PathBuf};

use dtta_base::Issue;
use serde_json::{Map, Value, json};
use tokenizers::NormalizerWrapper;

use crate::error::{ModelError, Result};
use crate::published::Fields;

pub(super) const CONFIG: &str = "tokenizer_config.json";
const SPECIAL: &str = "special_tokens_map.json";

/// A special token, as configurations write it.
pub(super) struct Special {
    pub content: String,
    pub normalized: bool,
}

impl Special {
    /// A text, or an object with one in `content`.
    fn read(value: &Value) -> Option<Self> {
        let content = value.as_str().or_else(|| value.get("content")?.as_str())?;
        let normalized = value.get("normalized").and_then(Value::as_bool);
        Some(Self {
            content: content.into(),
            normalized: normalized.unwrap_or(false),
        })
    }

    pub fn is(&self, content: &str) -> bool {
        self.content == content
    }
}

/// What `tokenizer_config.json` and `special_tokens_map.json` say.
pub(super) struct Settings {
    /// Tokens of the start, the end, padding and the unknown, where they are said.
    pub special: [Option<Special>; 4],
    /// What separates two texts and ends one, of a tokenizer of BERT's kind.
    pub separator: Option<Special>,
    /// What is said of lower case, Chinese letters and accents, of a `BertTokenizer`.
    pub words: Option<Words>,
    pub most: Option<usize>,
    /// The class, where it is said.
    pub class: Option<String>,
    /// Further tokens that are taken as wholes, with their numbers.
    pub added: Vec<(u32, Value)>,
    pub files: Vec<PathBuf>,
}

/// What becomes of the letters of a text before it is split into words, as a `BertTokenizer` has it, and by default.
pub(super) struct Words {
    lowercase: bool,
    chinese: bool,
    accents: Option<bool>,
}

/// The names that configurations have for special tokens, in the order of [`Settings::special`], and what `CLIPTokenizer` takes.
pub(super) const SPECIAL_TOKENS: [(&str, &str); 4] = [
    ("bos_token", "<|startoftext|>"),
    ("eos_token", "<|endoftext|>"),
    ("pad_token", "<|endoftext|>"),
    ("unk_token", "<|endoftext|>"),
];
pub(super) const START: usize = 0;
pub(super) const END: usize = 1;
pub(super) const PAD: usize = 2;
pub(super) const UNKNOWN: usize = 3;

impl Settings {
    pub fn read(folder: &Path) -> Result<Self> {
        let mut found = Self {
            special: [const { None }; 4],
            separator: None,
            words: None,
            most: None,
            class: None,
            added: Vec::new(),
            files: Vec::new(),
        };
        let config = folder.join(CONFIG);
        let mut numbered = false;
        if config.is_file() {
            let mut fields = open_fields(&config)?;
            numbered = found.config(&mut fields);
            finish(&config, fields)?;
            found.files.push(config);
        }
        // As the library: where the configuration numbers its tokens, this file says nothing more.
        let special = folder.join(SPECIAL);
        if !numbered && special.is_file() {
            let mut fields = open_fields(&special)?;
            found.tokens(&mut fields);
            finish(&special, fields)?;
            found.files.push(special);
        }
        Ok(found)
    }

    /// Takes up `tokenizer_config.json`; says whether it numbers its tokens.
    fn config(&mut self, fields: &mut Fields) -> bool {
        self.tokens(fields);
        // Where there is no limit, a number that no text reaches stands there.
        let most: Option<f64> = fields.find("model_max_length");
        self.most = most
            .filter(|&most| (1.0..1e9).contains(&most))
            .map(|most| most as usize);
        self.class = fields.find("tokenizer_class");
        let bert = ["BertTokenizer", "BertTokenizerFast"];
        if self
            .class
            .as_deref()
            .is_some_and(|class| bert.contains(&class))
        {
            self.words = Some(Words {
                lowercase: fields.take("do_lower_case", true),
                chinese: fields.take("tokenize_chinese_chars", true),
                accents: fields.find("strip_accents"),
            });
            // Of the class that splits texts in Python, into the same words with these.
            fields.fixed("do_basic_tokenize", true);
            fields.fixed("never_split", Value::Null);
        }
        for (name, supported) in [
            ("add_prefix_space", json!(false)),
            ("do_lower_case", json!(true)),
            ("padding_side", json!("right")),
            ("truncation_side", json!("right")),
        ] {
            fields.fixed(name, supported);
        }
        let added: Map<String, Value> = fields.take("added_tokens_decoder", Map::new());
        let numbered = !added.is_empty();
        for (id, token) in added {
            match (id.parse(), token.get("content")) {
                (Ok(id), Some(Value::String(_))) => self.added.push((id, token)),
                _ => fields.refuse(
                    "added_tokens_decoder",
                    &json!({ id: token }),
                    "supported are numbers, each with an object that has `content`",
                ),
            }
        }
        // Of sentencepiece: how often it would choose other words than the best.
        fields.fixed("sp_model_kwargs", json!({}));
        // How tokens become texts, what the files were called, and how texts are filled up where they are fewer than asked for.
        for name in [
            "errors",
            "clean_up_tokenization_spaces",
            "name_or_path",
            "special_tokens_map_file",
            "tokenizer_file",
            "backend",
            "processor_class",
            "auto_map",
            "model_input_names",
            "is_local",
            "local_files_only",
            "use_fast",
            "max_length",
            "pad_to_multiple_of",
            "pad_token_type_id",
            "stride",
            "truncation_strategy",
            "tokenize_chinese_chars",
            "strip_accents",
            "never_split",
            "do_basic_tokenize",
        ] {
            fields.skip(name);
        }
        numbered
    }

    /// Takes up special tokens.
    fn tokens(&mut self, fields: &mut Fields) {
        for ((name, _), place) in SPECIAL_TOKENS.iter().zip(&mut self.special) {
            let Some(value) = fields.find::<Value>(name) else {
                continue;
            };
            match Special::read(&value) {
                Some(special) => *place = Some(special),
                None => fields.refuse(name, &value, "supported is a text, or one in `content`"),
            }
        }
        if let Some(value) = fields.find::<Value>("sep_token") {
            match Special::read(&value) {
                Some(special) => self.separator = Some(special),
                None => fields.refuse(
                    "sep_token",
                    &value,
                    "supported is a text, or one in `content`",
                ),
            }
        }
        // What begins a text, `tokenizer.json` says; no token is hidden.
        for name in ["cls_token", "mask_token"] {
            fields.skip(name);
        }
        for name in ["additional_special_tokens", "extra_special_tokens"] {
            let further: Value = fields.find(name).unwrap_or_default();
            let none = match &further {
                Value::Array(further) => further.is_empty(),
                Value::Object(further) => further.is_empty(),
                other => other.is_null(),
            };
            if !none {
                fields.refuse(name, &further, "supported is none");
            }
        }
    }
}

impl Words {
    /// Expects that a tokenizer does the same: the library changes it otherwise.
    pub fn expect_in(&self, tokenizer: &tokenizers::Tokenizer) -> std::result::Result<(), String> {
        let Some(NormalizerWrapper::BertNormalizer(found)) = tokenizer.get_normalizer() else {
            return Err("is of a BertTokenizer and has no BertNormalizer".into());
        };
        let same = (
            found.lowercase,
            found.handle_chinese_chars,
            found.strip_accents,
        );
        if same == (self.lowercase, self.chinese, self.accents) {
            return Ok(());
        }
        Err(format!(
            "has other values of lowercase, handle_chinese_chars and strip_accents, {same:?}, than do_lower_case, tokenize_chinese_chars and \
             strip_accents in `{CONFIG}`, {:?}",
            (self.lowercase, self.chinese, self.accents)
        ))
    }
}

fn open_fields(path: &Path) -> Result<Fields> {
    match dtta_base::read_json(path, &[])? {
        Value::Object(fields) => Ok(Fields::new("transformers", fields)),
        _ => Err(refused(path, vec![Issue::new("", "is no object")])),
    }
}

fn finish(path: &Path, fields: Fields) -> Result<()> {
    fields.finish().map_err(|issues| refused(path, issues))
}

fn refused(path: &Path, issues: Vec<Issue>) -> ModelError {
    dtta_base::invalid(path, "tokenizer configuration", issues).into()
}
