//! What models that read are told of the classes: sentences, made of templates and of what the classes are called.

use std::path::PathBuf;

use dtta_base::Issue;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The sentences by which models that read are told of the classes: the text encoder of a denoiser that attends to tokens, and that of a
/// backbone whose features are held against those of texts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PromptsConfig {
    /// What the classes are called, in the order of the labels of the models, of which `label_space` may choose some. If neither this nor
    /// `classes_file` is there, the names of the dataset's classes, with spaces for underscores.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub classes: Option<Vec<String>>,
    /// The same, as a text file with a name on each line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classes_file: Option<PathBuf>,
    /// Sentences in which `{}` or `{class}` stands for the name. Of several, the mean is taken: of a denoiser, token by token; of a
    /// backbone, of what each comes to at length 1, which then gets length 1 again (Radford et al. 2021).
    #[serde(default = "of_the_paper")]
    #[schemars(length(min = 1))]
    pub templates: Vec<String>,
    /// Leaves out the last tokens of sentences that have more than a text encoder takes, with a warning. Otherwise they are refused.
    #[serde(default)]
    pub truncate: bool,
    /// What the backbone reads with; by default the text encoder and the tokenizer in its own folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backbone: Option<TextSource>,
    /// What the denoiser reads with; by default the folders `text_encoder` and `tokenizer` beside its own, as pipelines of diffusers have
    /// them, or beside that of the U-Net of a ControlNet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub denoiser: Option<TextSource>,
}

/// A text encoder, its tokenizer, and sentences of its own.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TextSource {
    /// The text encoder: a folder that transformers wrote, or a model's JSON configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text_encoder: Option<PathBuf>,
    /// Its weights; if absent, those beside the configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<PathBuf>,
    /// The folder of its tokenizer; if absent, its own where a tokenizer is there, or the folder `tokenizer` beside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<PathBuf>,
    /// Sentences for this model instead of the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub templates: Option<Vec<String>>,
    /// Of a denoiser: one text for all images, such as the empty one, in the place of sentences of the classes. The denoiser's slot of tokens is
    /// filled with it, so that mappers fill the others: the image of a ControlNet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// Where its files are to be had, for people; told where they are missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
}

/// That of Diffusion-TTA, section 3.2 (b).
fn of_the_paper() -> Vec<String> {
    vec!["a photo of a {}.".into()]
}

impl PromptsConfig {
    /// What the schema cannot say, by pointers within it.
    pub(crate) fn contradictions(&self) -> Vec<Issue> {
        let mut issues = Vec::new();
        if self.classes.is_some() && self.classes_file.is_some() {
            let message = "says the same as `classes`; give one of them";
            issues.push(Issue::new("/classes_file", message));
        }
        for (n, name) in self.classes.iter().flatten().enumerate() {
            if name.trim().is_empty() {
                let message = "is empty, expected what the class is called";
                issues.push(Issue::new(format!("/classes/{n}"), message));
            }
        }
        let prompt = |source: &Option<TextSource>| {
            source
                .as_ref()
                .is_some_and(|source| source.prompt.is_some())
        };
        if prompt(&self.backbone) {
            let message = "is offered for the denoiser; remove it";
            issues.push(Issue::new("/backbone/prompt", message));
        }
        if prompt(&self.denoiser) && templates_of(self.denoiser.as_ref()).is_some() {
            let message = "says nothing beside `prompt`; remove one of them";
            issues.push(Issue::new("/denoiser/templates", message));
        }
        let all = [
            ("", Some(&self.templates)),
            ("/backbone", templates_of(self.backbone.as_ref())),
            ("/denoiser", templates_of(self.denoiser.as_ref())),
        ];
        for (part, templates) in all {
            for (n, text) in templates.into_iter().flatten().enumerate() {
                if let Err(reason) = Template::parse(text) {
                    issues.push(Issue::new(format!("{part}/templates/{n}"), reason));
                }
            }
        }
        issues
    }

    /// The one text for all images that the denoiser is told, if it is.
    pub(crate) fn prompt(&self) -> Option<&str> {
        self.denoiser.as_ref()?.prompt.as_deref()
    }

    /// The sentences of a model with a source of its own. Those that are no templates, which [`contradictions`](Self::contradictions) tells,
    /// are left out.
    pub(crate) fn templates(&self, source: Option<&TextSource>) -> Vec<Template> {
        let texts = templates_of(source).unwrap_or(&self.templates);
        let templates = texts.iter().filter_map(|text| Template::parse(text).ok());
        templates.collect()
    }
}

fn templates_of(source: Option<&TextSource>) -> Option<&Vec<String>> {
    source?.templates.as_ref()
}

/// A sentence with a place for a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Template {
    /// What stands before, between and after the places: one more than there are of these.
    parts: Vec<String>,
}

impl Template {
    /// Reads a sentence; `{{` and `}}` stand for braces.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parts = vec![String::new()];
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            let (before, found) = rest.split_at(at);
            let part = parts.last_mut().expect("there is a part");
            part.push_str(before);
            if found.starts_with("{{") || found.starts_with("}}") {
                part.push_str(&found[..1]);
                rest = &found[2..];
                continue;
            }
            let end = found.starts_with('{').then(|| found.find('}')).flatten();
            let Some(end) = end else {
                let brace = &found[..1];
                return Err(format!(
                    "has a `{brace}` alone; write `{brace}{brace}` for one"
                ));
            };
            match &found[1..end] {
                "" | "class" => parts.push(String::new()),
                other => {
                    return Err(format!(
                        "has a place for `{other}`, which is not known; expected `{{}}` or `{{class}}`, the name of the class"
                    ));
                }
            }
            rest = &found[end + 1..];
        }
        parts.last_mut().expect("there is a part").push_str(rest);
        match parts.len() {
            1 => Err("has no place for the name of the class, `{}`".into()),
            _ => Ok(Self { parts }),
        }
    }

    /// The name alone.
    pub fn bare() -> Self {
        Self {
            parts: vec![String::new(); 2],
        }
    }

    /// The sentence for a name.
    pub fn of(&self, name: &str) -> String {
        self.parts.join(name)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_template_puts_the_name_in_its_places() {
        let of = |text: &str| Template::parse(text).map(|template| template.of("cat"));
        assert_eq!(of("a photo of a {}.").unwrap(), "a photo of a cat.");
        assert_eq!(of("{class}, {}").unwrap(), "cat, cat");
        assert_eq!(of("{{{}}} and }}").unwrap(), "{cat} and }");
        assert_eq!(of("猫: {}").unwrap(), "猫: cat");
        for (text, word) in [
            ("a photo", "no place"),
            ("a {{}}", "no place"),
            ("a {colour} {}", "`colour`"),
            ("a {0}", "`0`"),
            ("a {} {", "`{` alone"),
            ("a {} }", "`}` alone"),
            ("a {", "`{` alone"),
        ] {
            let reason = of(text).unwrap_err();
            assert!(reason.contains(word), "{text}: {reason}");
        }
    }

    #[test]
    fn tells_every_fault_of_its_sentences() {
        let config = json!({
            "classes": ["a", " "], "classes_file": "b.txt", "templates": ["{}", "x"], "denoiser": {"templates": ["{y}"]},
        });
        let config: PromptsConfig = serde_json::from_value(config).unwrap();
        let issues = config.contradictions();
        let pointers: Vec<&str> = issues.iter().map(|issue| issue.pointer.as_str()).collect();
        assert_eq!(
            pointers,
            [
                "/classes_file",
                "/classes/1",
                "/templates/1",
                "/denoiser/templates/0"
            ]
        );
    }
}
