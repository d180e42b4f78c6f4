//! Depth: logits to depth in a range, depth to the normalised map that the denoiser is conditioned on
//! (Diffusion-TTA, section 3.2), and the usual scores.

mod depth_head;
mod depth_map;
mod range;
mod scores;
mod ssim;

pub use depth_head::{DepthHead, DepthHeadConfig, Output};
pub use depth_map::{DepthMap, DepthMapConfig, MapValues};
pub use range::{Range, Scale};
pub use scores::{Alignment, DepthScores, DepthScoresConfig, Sums};

dtta_sdk::export_plugin! { head: DepthHead, mapper: DepthMap, metric: DepthScores }

#[cfg(test)]
mod tests {
    use dtta_testkit::{Kit, Role};
    use serde_json::json;

    #[test]
    fn conforms() {
        for (scale, output, alignment) in [
            ("log", "logit", "none"),
            ("linear", "normalized", "median"),
            ("inverse", "logit", "least_squares"),
        ] {
            let range = json!({"scale": scale, "minimum": 0.1, "maximum": 2.0});
            Kit::linked("depth", super::plugin_entry)
                .config(Role::Head, json!({"range": range, "output": output}))
                .config(Role::Mapper, json!({"range": range}))
                .config(
                    Role::Metric,
                    json!({"range": range, "alignment": alignment}),
                )
                .check()
                .expect_passed();
        }
    }

    #[test]
    fn what_the_network_answers_with_may_be_depth_or_its_inverse() {
        let range = json!({"scale": "inverse", "minimum": 0.1, "maximum": 2.0});
        for output in [
            json!("depth"),
            json!({"inverse_depth": {"scale": 0.5, "shift": 2.0}}),
        ] {
            let mapper = json!({"range": range, "values": "stretched"});
            Kit::linked("depth", super::plugin_entry)
                .config(Role::Head, json!({"range": range, "output": output}))
                .config(Role::Mapper, mapper)
                .config(Role::Metric, json!({"range": range}))
                .check()
                .expect_passed();
        }
    }
}
