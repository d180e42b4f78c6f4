//! Depth: logits to depth in a range, depth to the normalised map that the denoiser is conditioned on
//! (Diffusion-TTA, section 3.2), and the usual scores.

mod depth_head;
mod depth_map;
mod range;
mod scores;
mod ssim;

pub use depth_head::{Activation, DepthHead, DepthHeadConfig};
pub use depth_map::{DepthMap, DepthMapConfig};
pub use range::{Range, Scale};
pub use scores::{Alignment, DepthScores, DepthScoresConfig, Sums};

dtta_sdk::export_plugin! { head: DepthHead, mapper: DepthMap, metric: DepthScores }

#[cfg(test)]
mod tests {
    use dtta_testkit::{Kit, Role};
    use serde_json::json;

    #[test]
    fn conforms() {
        for (scale, activation, alignment) in [
            ("log", "sigmoid", "none"),
            ("linear", "clamp", "median"),
            ("inverse", "sigmoid", "least_squares"),
        ] {
            let range = json!({"scale": scale, "minimum": 0.1, "maximum": 2.0});
            Kit::linked("depth", super::plugin_entry)
                .config(
                    Role::Head,
                    json!({"range": range, "activation": activation}),
                )
                .config(Role::Mapper, json!({"range": range}))
                .config(
                    Role::Metric,
                    json!({"range": range, "alignment": alignment}),
                )
                .check()
                .expect_passed();
        }
    }
}
