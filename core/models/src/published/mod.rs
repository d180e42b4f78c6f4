//! Models as the libraries of the field publish them: a `config.json` of diffusers, timm or transformers, an `open_clip_config.json`, or a structure
//! that torchvision names. Each is
//! translated into a model file of this crate, field by field: a field is honoured, or known to have no influence on what is computed,
//! or refused by name. None is ignored.

mod controlnet;
mod dense_depth;
mod diffusers;
mod dit;
mod fields;
mod lite;
mod open_clip;
mod scheduler;
mod timm;
mod torchvision;
mod transformers;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub(crate) use self::controlnet::{control, control_names};
pub(crate) use self::fields::{EXTENTS, Fields};
pub(crate) use self::open_clip::with_class;
pub(crate) use self::scheduler::with_scheduler;
pub(crate) use self::transformers::{with_preprocessor, with_sentences};
use crate::error::Result;
use dtta_base::Issue;

/// A published model in this crate's terms.
pub(crate) struct Translation {
    /// The model file that describes it, with its `kind`.
    pub document: Value,
    /// Where the weights of the model that it describes are found.
    pub names: Names,
    /// How the library prepares images for it.
    pub preprocessing: Option<Preprocessing>,
}

/// The tensors of a published checkpoint that make a parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// The tensor of that name.
    Named(String),
    /// The first of these that there is: what older versions of the library called otherwise.
    AnyOf(Vec<String>),
    /// The second, if all of its tensors are there, or else the first.
    Either(Box<Source>, Box<Source>),
    /// Some numbers of the tensor of that name.
    Viewed(String, View),
    /// Those of these names, one below the other along the first axis.
    Stacked(Vec<String>),
    /// Those of these names, which must all be there and hold the same.
    Copies(Vec<String>),
    /// None: the library computes it as this crate does, and does not keep it.
    Computed,
}

/// Numbers of a tensor in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum View {
    /// One of so many equal parts along the first axis, from 0.
    Rows { number: usize, of: usize },
    /// A matrix with its axes exchanged.
    Transposed,
}

impl Source {
    /// The same of a model that stands under a name in another.
    pub fn within(self, part: &str) -> Self {
        let one = |name: String| format!("{part}.{name}");
        let all = |names: Vec<String>| names.into_iter().map(one).collect();
        match self {
            Self::Named(name) => Self::Named(one(name)),
            Self::AnyOf(names) => Self::AnyOf(all(names)),
            Self::Viewed(name, view) => Self::Viewed(one(name), view),
            Self::Either(first, second) => {
                Self::Either(Box::new(first.within(part)), Box::new(second.within(part)))
            }
            Self::Stacked(names) => Self::Stacked(all(names)),
            Self::Copies(names) => Self::Copies(all(names)),
            Self::Computed => Self::Computed,
        }
    }
}

/// How parameters of this crate are called in a published checkpoint.
pub(crate) struct Names {
    /// What makes the parameter of this name.
    pub source: Box<dyn Fn(&str) -> Source + Send + Sync>,
    /// Whether a tensor of the checkpoint is no weight of the model, such as a counter, so that it may be left over.
    pub unused: Box<dyn Fn(&str) -> bool + Send + Sync>,
}

/// How a library prepares images for a model: it resizes them in 8 bits as Pillow does, keeps the centre and normalises.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Preprocessing {
    /// Channels, height and width of what the model takes: the centre that is kept.
    pub image: [usize; 3],
    /// How the image is enlarged or reduced.
    pub interpolation: Interpolation,
    /// The extents before the centre is taken.
    pub resized: Resized,
    /// Mean of each channel of images in [0, 1].
    pub mean: [f64; 3],
    /// Standard deviation of each channel of images in [0, 1].
    pub std: [f64; 3],
}

/// Which extents an image is resized to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Resized {
    /// The shorter side becomes this long; the longer one keeps the shape, rounded down.
    Short(usize),
    /// Height and width become these, whatever the shape was.
    To([usize; 2]),
    /// Height and width become these, which whoever uses the model chose: the library keeps the shape of each image.
    Chosen([usize; 2]),
}

/// How pixels between pixels are computed, as Pillow does: with a window that grows with the reduction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Interpolation {
    /// Over a triangle.
    Bilinear,
    /// Over a cubic, a = -0.5.
    Bicubic,
}

impl Names {
    /// Every parameter has the name that this crate gives it.
    pub fn same() -> Self {
        Self {
            source: Box::new(|name| Source::Named(name.into())),
            unused: Box::new(|_| false),
        }
    }
}

/// Translates the configuration of one class of models.
type Translate = fn(&mut Fields) -> Option<Translation>;

/// Finds the translation of a class by its name.
type Find = fn(&str) -> Option<Translate>;

/// Translates a configuration that has a library's mark on it; `None` for others.
pub(crate) type Translator =
    fn(&Map<String, Value>, Extents) -> Option<Result<Translation, Vec<Issue>>>;

/// Height and width that were chosen for images, if any.
pub(crate) type Extents = Option<[usize; 2]>;

/// Which library wrote a configuration file, and which class of models it describes.
struct Publisher {
    library: &'static str,
    /// The field that names the class, or begins with it in a list.
    field: &'static str,
    /// The translation of a class, if there is one.
    translate: Find,
    /// The classes that there are translations of.
    classes: &'static [&'static str],
}

const PUBLISHERS: &[Publisher] = &[
    diffusers::PUBLISHER,
    dit::PUBLISHER,
    timm::PUBLISHER,
    torchvision::PUBLISHER,
    lite::PUBLISHER,
    dense_depth::PUBLISHER,
    transformers::PUBLISHER,
    open_clip::PUBLISHER,
];

/// The libraries whose configurations are translated, each with the classes of models that it calls by these names.
pub(crate) fn publishers() -> impl Iterator<Item = (&'static str, &'static [&'static str])> {
    PUBLISHERS
        .iter()
        .map(|publisher| (publisher.library, publisher.classes))
}

/// The library whose mark is on a configuration.
pub(crate) fn library(document: &Map<String, Value>) -> Option<&'static str> {
    let publisher = PUBLISHERS
        .iter()
        .find(|publisher| document.contains_key(publisher.field));
    publisher.map(|publisher| publisher.library)
}

/// The published model that a configuration file describes; `None` if no library's mark is on it.
///
/// # Errors
/// Every field that cannot be honoured, by JSON pointer; at [`EXTENTS`] extents that were chosen and are not the model's to have.
pub(crate) fn translate(
    document: &Map<String, Value>,
    extents: Extents,
) -> Option<Result<Translation, Vec<Issue>>> {
    let publisher = PUBLISHERS
        .iter()
        .find(|publisher| document.contains_key(publisher.field))?;
    Some(publisher.translated(document, publisher.translate, extents))
}

/// As [`translate`], of a configuration of several models the text encoder.
///
/// # Errors
/// As [`translate`].
pub(crate) fn translate_texts(
    document: &Map<String, Value>,
    extents: Extents,
) -> Option<Result<Translation, Vec<Issue>>> {
    let with_texts: [(Publisher, Find); 2] = [
        (transformers::PUBLISHER, transformers::text_translation),
        (open_clip::PUBLISHER, open_clip::text_translation),
    ];
    let known = with_texts
        .iter()
        .find(|(publisher, _)| document.contains_key(publisher.field));
    match known {
        Some((publisher, find)) => Some(publisher.translated(document, *find, extents)),
        None => translate(document, extents),
    }
}

impl Publisher {
    fn translated(
        &self,
        document: &Map<String, Value>,
        find: Find,
        extents: Extents,
    ) -> Result<Translation, Vec<Issue>> {
        let class = match &document[self.field] {
            // transformers lists the classes that a configuration is of; one is saved.
            Value::Array(classes) => classes.first().and_then(Value::as_str),
            class => class.as_str(),
        };
        let class = class.unwrap_or_default();
        let Some(translate) = find(class) else {
            let message = format!(
                "this is a {} configuration of a `{class}`, which dtta does not have; it has {}",
                self.library,
                dtta_base::listed(self.classes.iter().map(|class| format!("`{class}`")), 16)
            );
            return Err(vec![Issue::new(format!("/{}", self.field), message)]);
        };
        let mut fields = Fields::new(self.library, document.clone()).for_extents(extents);
        let translation = translate(&mut fields);
        let images = translation.as_ref().map(|found| &found.preprocessing);
        let own = |images: &Option<Preprocessing>| {
            let resized = images.as_ref().map(|images| images.resized);
            !matches!(resized, Some(Resized::Chosen(_)))
        };
        if extents.is_some() && images.is_some_and(own) {
            fields.refuse_extents("its configuration does not leave them open");
        }
        fields.skip(self.field);
        fields.finish()?;
        let none = || vec![Issue::new("", "describes a model that dtta does not have")];
        translation.ok_or_else(none)
    }
}
