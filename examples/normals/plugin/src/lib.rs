//! Surface normals: three raw maps to unit vectors, unit vectors to the map that the denoiser is told, and the angle between predicted and
//! true ones. A task that the engine knows nothing of: what is predicted and how scores are read is said here.

mod head;
mod map;
mod scores;
mod vectors;

pub use head::{NormalsHead, NormalsHeadConfig};
pub use map::{NormalsMap, NormalsMapConfig};
pub use scores::{AngleScores, AngleScoresConfig, Counts};

dtta_sdk::export_plugin! { head: NormalsHead, mapper: NormalsMap, metric: AngleScores }

#[cfg(test)]
mod tests {
    use dtta_testkit::{Inputs, Kit};
    use serde_json::json;

    #[test]
    fn conforms() {
        let normals = json!({ "normals": { "shape": [2, 3, 12, 12] } });
        let inputs = json!({
            "features": { "logits": { "shape": [2, 3, 12, 12] } },
            "outputs": normals,
            "predictions": normals,
            "targets": normals,
            "slots": [{ "name": "spatial", "meaning": "spatial", "shape": [null, 3, 6, 6] }],
        });
        let inputs: Inputs = serde_json::from_value(inputs).expect("the kit's inputs");
        Kit::linked("normals", super::plugin_entry)
            .inputs(inputs)
            .check()
            .expect_passed();
    }
}
