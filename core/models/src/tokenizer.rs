//! From texts to the tokens that a text encoder knows, as the files beside a checkpoint say: `tokenizer.json` of Hugging Face's tokenizers, or
//! `vocab.json` and `merges.txt` of a `CLIPTokenizer`. `tokenizer_config.json` and `special_tokens_map.json` say how texts are filled up.

use std::fs;
use std::path::{Path, PathBuf};

use dtta_base::Issue;
use serde_json::{Map, Value, json};
use tokenizers::{ModelWrapper, NormalizerWrapper};

use crate::error::{ModelError, Result};
use crate::published::Fields;

const TOKENIZER: &str = "tokenizer.json";
const VOCABULARY: &str = "vocab.json";
const MERGES: &str = "merges.txt";
const CONFIG: &str = "tokenizer_config.json";
const SPECIAL: &str = "special_tokens_map.json";
/// What sentencepiece keeps, of which `tokenizer.json` says all.
const SENTENCEPIECE: &str = "spiece.model";

/// What makes tokens of texts.
pub struct Tokenizer {
    tokenizer: tokenizers::Tokenizer,
    /// The token that ends a text; it also ends one that is cut.
    end: u32,
    /// The token that fills up a text.
    pad: u32,
    /// The most tokens of a text, where the files say so.
    most: Option<usize>,
    files: Vec<PathBuf>,
}

/// The tokens of a text, filled up to a length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokens {
    /// As many as were asked for.
    pub ids: Vec<u32>,
    /// How many of the text's own were left out, because there are more.
    pub cut: usize,
}

/// A special token, as configurations write it.
struct Special {
    content: String,
    normalized: bool,
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

    fn is(&self, content: &str) -> bool {
        self.content == content
    }
}

/// What `tokenizer_config.json` and `special_tokens_map.json` say.
struct Settings {
    /// Tokens of the start, the end, padding and the unknown, where they are said.
    special: [Option<Special>; 4],
    /// What separates two texts and ends one, of a tokenizer of BERT's kind.
    separator: Option<Special>,
    /// What is said of lower case, Chinese letters and accents, of a `BertTokenizer`.
    words: Option<Words>,
    most: Option<usize>,
    /// The class, where it is said.
    class: Option<String>,
    /// Further tokens that are taken as wholes, with their numbers.
    added: Vec<(u32, Value)>,
    files: Vec<PathBuf>,
}

/// What becomes of the letters of a text before it is split into words, as a `BertTokenizer` has it, and by default.
struct Words {
    lowercase: bool,
    chinese: bool,
    accents: Option<bool>,
}

/// What ends a text of a tokenizer of BERT's kind, and fills it up, where nothing is said.
const BERT_TOKENS: [(&str, &str); 2] = [("sep_token", "[SEP]"), ("pad_token", "[PAD]")];
/// The same of a `SiglipTokenizer`.
const SIGLIP_TOKENS: [(&str, &str); 2] = [("eos_token", "</s>"), ("pad_token", "</s>")];

/// The names that configurations have for special tokens, in the order of [`Settings::special`], and what `CLIPTokenizer` takes.
const SPECIAL_TOKENS: [(&str, &str); 4] = [
    ("bos_token", "<|startoftext|>"),
    ("eos_token", "<|endoftext|>"),
    ("pad_token", "<|endoftext|>"),
    ("unk_token", "<|endoftext|>"),
];
const START: usize = 0;
const END: usize = 1;
const PAD: usize = 2;
const UNKNOWN: usize = 3;

impl Tokenizer {
    /// The tokenizer in a folder.
    ///
    /// # Errors
    /// [`ModelError::NoTokenizer`] for a folder without one, [`ModelError::Tokenizer`] or [`ModelError::File`] for files that cannot be read,
    /// contradict one another, or say what is not supported.
    pub fn open(folder: &Path) -> Result<Self> {
        let settings = Settings::read(folder)?;
        let mut files = settings.files.clone();
        let [whole, vocabulary, merges] =
            [TOKENIZER, VOCABULARY, MERGES].map(|name| folder.join(name));
        let (origin, bytes) = if whole.is_file() {
            files.push(whole.clone());
            let bytes = read(&whole)?;
            (whole, bytes)
        } else if vocabulary.is_file() && merges.is_file() {
            let document = settings.clip(&vocabulary, &merges)?;
            let origin = vocabulary.clone();
            files.extend([vocabulary, merges]);
            (origin, document.to_string().into_bytes())
        } else if folder.join(SENTENCEPIECE).is_file() {
            let reason = format!(
                "is of sentencepiece, which is not read; put the `{TOKENIZER}` beside it that says the same, which most repositories have"
            );
            return Err(ModelError::Tokenizer {
                path: folder.join(SENTENCEPIECE),
                reason,
            });
        } else {
            return Err(ModelError::NoTokenizer {
                path: folder.into(),
            });
        };
        let faulty = |reason: String| ModelError::Tokenizer {
            path: origin.clone(),
            reason,
        };
        let tokenizer = tokenizers::Tokenizer::from_bytes(&bytes);
        let mut tokenizer = tokenizer.map_err(|error| faulty(error.to_string()))?;
        // Texts are cut and filled up here.
        tokenizer.with_padding(None);
        let whole = tokenizer.with_truncation(None);
        whole.map_err(|error| faulty(error.to_string()))?;
        if let Some(words) = &settings.words {
            words.expect_in(&tokenizer).map_err(&faulty)?;
        }
        let find = |(name, usual): (&str, &str), said: Option<&Special>| {
            let content = said.map_or(usual, |special| &special.content);
            let reason = || format!("has no token `{content}`, its `{name}`");
            tokenizer
                .token_to_id(content)
                .ok_or_else(|| faulty(reason()))
        };
        let [said_end, said_pad] = [END, PAD].map(|place| settings.special[place].as_ref());
        let ([usual_end, usual_pad], said_end) = match (tokenizer.get_model(), said_end) {
            (ModelWrapper::WordPiece(_), None) => (BERT_TOKENS, settings.separator.as_ref()),
            (ModelWrapper::Unigram(_), said) => (SIGLIP_TOKENS, said),
            (_, said) => ([SPECIAL_TOKENS[END], SPECIAL_TOKENS[PAD]], said),
        };
        let (end, pad) = (find(usual_end, said_end)?, find(usual_pad, said_pad)?);
        Ok(Self {
            tokenizer,
            end,
            pad,
            most: settings.most,
            files,
        })
    }

    /// The files that it was made from.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// Number of tokens, those that were added included.
    pub fn vocabulary(&self) -> usize {
        self.tokenizer.get_vocab_size(true)
    }

    /// The token that fills up texts.
    pub fn padding(&self) -> u32 {
        self.pad
    }

    /// The most tokens of a text, where its files say so.
    pub fn most(&self) -> Option<usize> {
        self.most
    }

    /// The tokens of a text, those of its start and end included, as many as there are.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`] if the tokenizer refuses the text.
    pub fn tokens(&self, text: &str) -> Result<Vec<u32>> {
        let encoded = self.tokenizer.encode(text, true);
        let encoded = encoded.map_err(|error| ModelError::Tokenizer {
            path: self.files.last().cloned().unwrap_or_default(),
            reason: format!("{text:?}: {error}"),
        })?;
        Ok(encoded.get_ids().to_vec())
    }

    /// The same, as many as `length`: the end token follows the first of more, the padding token fills up fewer.
    ///
    /// # Errors
    /// As [`tokens`](Self::tokens).
    pub fn filled(&self, text: &str, length: usize) -> Result<Tokens> {
        let mut ids = self.tokens(text)?;
        let cut = ids.len().saturating_sub(length);
        if cut > 0 {
            ids.truncate(length);
            if let Some(last) = ids.last_mut() {
                *last = self.end;
            }
        }
        ids.resize(length, self.pad);
        Ok(Tokens { ids, cut })
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tokenizer({} tokens)", self.vocabulary())
    }
}

impl Settings {
    fn read(folder: &Path) -> Result<Self> {
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

    /// What `tokenizer.json` would say of a `CLIPTokenizer` of these files.
    fn clip(&self, vocabulary: &Path, merges: &Path) -> Result<Value> {
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

impl Words {
    /// Expects that a tokenizer does the same: the library changes it otherwise.
    fn expect_in(&self, tokenizer: &tokenizers::Tokenizer) -> std::result::Result<(), String> {
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

fn read(path: &Path) -> Result<Vec<u8>> {
    let failed = |source| dtta_base::Error::Read {
        path: path.into(),
        source,
    };
    Ok(fs::read(path).map_err(failed)?)
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
