//! Classification: logits to classes, and class probabilities to the denoiser's class embedding
//! (Diffusion-TTA, section 3.2 (a)).

mod class_mix;
mod softmax_head;

pub use class_mix::{ClassMix, ClassMixConfig};
pub use softmax_head::{SoftmaxHead, SoftmaxHeadConfig};

dtta_sdk::export_plugin! { head: SoftmaxHead, mapper: ClassMix }

#[cfg(test)]
mod tests {
    use dtta_testkit::{Kit, Role};
    use serde_json::json;

    use super::*;

    #[test]
    fn conforms() {
        for (head, mapper) in [
            (json!({}), json!({})),
            (json!({"temperature": 2.0, "top_k": 3}), json!({"top_k": 2})),
        ] {
            Kit::linked("classification", plugin_entry)
                .config(Role::Head, head)
                .config(Role::Mapper, mapper)
                .check()
                .expect_passed();
        }
    }

    #[test]
    fn says_what_it_offers_and_needs() {
        let description = PLUGIN.describe();
        let parts = [
            r#""name":"classification""#,
            r#""interface":"0.1""#,
            r#""roles":["head","mapper"]"#,
            r#""needs":{"constants":["class-embeddings"]}"#,
            r#""additionalProperties":false"#,
            r#""default":"class-embedding""#,
        ];
        for part in parts {
            assert!(description.contains(part), "no {part} in {description}");
        }
    }
}
