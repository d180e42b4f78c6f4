//! Segmentation: logits to labels, class probabilities of each pixel to the map of mixed class embeddings that the
//! denoiser is conditioned on (Diffusion-TTA, section 3.2), and the usual scores.

mod class_map;
mod class_ratio;
mod confusion;
mod pixel_head;

pub use class_map::{ClassMap, ClassMapConfig};
pub use class_ratio::{ClassRatio, ClassRatioConfig};
pub use confusion::{Confusion, Segmentation, SegmentationConfig};
pub use pixel_head::{PixelHead, PixelHeadConfig};

dtta_sdk::export_plugin! { head: PixelHead, mapper: ClassMap, objective: ClassRatio, metric: Segmentation }

#[cfg(test)]
mod tests {
    use dtta_testkit::{Kit, Role};
    use serde_json::json;

    #[test]
    fn conforms() {
        for (head, metric) in [
            (json!({}), json!({"classes": 5})),
            (
                json!({"temperature": 2.0}),
                json!({"classes": 6, "ignore_index": 0}),
            ),
        ] {
            Kit::linked("segmentation", super::plugin_entry)
                .config(Role::Head, head)
                .config(
                    Role::Objective,
                    json!({"shares": [0.64, 0.22, 0.09, 0.03, 0.02]}),
                )
                .config(Role::Metric, metric)
                .check()
                .expect_passed();
        }
    }
}
