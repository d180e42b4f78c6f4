//! Backbones with a text space, whose classes are those that texts name.

use crate::backbone::{Backbone, BackboneSpec};
use crate::behind::{Behind, Between};
use crate::error::{ModelError, Result};

/// A backbone with a [text space](Backbone::text_space) that counts so many classes as its outputs. What it answers is unchanged.
pub struct TextClasses {
    spec: BackboneSpec,
}

impl TextClasses {
    /// Counts the classes of a backbone.
    ///
    /// # Errors
    /// [`ModelError::Input`] for a backbone without a text space, or no classes.
    pub fn of(backbone: Box<dyn Backbone>, classes: usize) -> Result<Box<dyn Backbone>> {
        if backbone.text_space().is_none() {
            let expected = "one whose features are held against those of texts";
            return Err(ModelError::input(
                "the backbone",
                "has classes of its own",
                expected,
            ));
        }
        if classes == 0 {
            return Err(ModelError::input("the classes", "are none", "one or more"));
        }
        let counted = Self {
            spec: BackboneSpec {
                outputs: classes,
                ..*backbone.spec()
            },
        };
        Ok(Box::new(Behind::new(backbone, counted)))
    }
}

impl Between for TextClasses {
    fn spec<'a>(&'a self, _own: &'a BackboneSpec) -> &'a BackboneSpec {
        &self.spec
    }
}
