//! From texts to the tokens that a text encoder knows, as the files beside a checkpoint say: `tokenizer.json` of Hugging Face's tokenizers, or
//! `vocab.json` and `merges.txt` of a `CLIPTokenizer`. `tokenizer_config.json` and `special_tokens_map.json` say how texts are filled up.

mod clip;
mod settings;
mod siglip;

use std::fs;
use std::path::{Path, PathBuf};

use tokenizers::ModelWrapper;

use crate::error::{ModelError, Result};
use settings::{END, PAD, SPECIAL_TOKENS, Settings, Special};

const TOKENIZER: &str = "tokenizer.json";
const VOCABULARY: &str = "vocab.json";
const MERGES: &str = "merges.txt";
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

/// What ends a text of a tokenizer of BERT's kind, and fills it up, where nothing is said.
const BERT_TOKENS: [(&str, &str); 2] = [("sep_token", "[SEP]"), ("pad_token", "[PAD]")];
/// The same of a `SiglipTokenizer`.
const SIGLIP_TOKENS: [(&str, &str); 2] = [("eos_token", "</s>"), ("pad_token", "</s>")];

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
        if matches!(tokenizer.get_model(), ModelWrapper::Unigram(_)) {
            let class = settings.class.as_deref();
            if let Some(class) = class.filter(|class| !siglip::CLASSES.contains(class)) {
                let reason = format!(
                    "has the pieces of sentencepiece, of a `{class}`; supported of these is SiglipTokenizer"
                );
                return Err(faulty(reason));
            }
            siglip::expect_in(&tokenizer).map_err(&faulty)?;
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

fn read(path: &Path) -> Result<Vec<u8>> {
    let failed = |source| dtta_base::Error::Read {
        path: path.into(),
        source,
    };
    Ok(fs::read(path).map_err(failed)?)
}
