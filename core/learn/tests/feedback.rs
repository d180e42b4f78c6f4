//! The gradient is the same gradient, however it is computed.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking; helpers outside of test functions too"
)]

use dtta_learn::{
    Draws, Evaluation, Feedback, FeedbackConfig, FeedbackPart, LossKind, NoiseSharing, Request,
    TimestepSampler,
};
use dtta_models::{
    CLASS_EMBEDDING, CLASS_EMBEDDINGS, Denoiser, Dit, DitConfig, Space, TimeRange, Weights,
};
use dtta_tensor::{Device, Named, Tensor};
use proptest::prelude::*;

const IDS: [&str; 3] = ["test/00000", "test/00001", "test/00002"];

fn feedback(micro_batch: usize, loss: LossKind) -> Feedback {
    let draws = Draws {
        seed: 5,
        count: 7,
        sampler: TimestepSampler::Uniform,
        range: TimeRange {
            low: 50.0,
            high: 900.0,
            whole: true,
        },
        noise: NoiseSharing::Fresh,
    };
    Feedback {
        draws,
        micro_batch,
        loss,
        space: None,
    }
}

/// A tiny DiT with random weights. Layers that start at zero are filled too: a DiT at rest gives no feedback.
fn denoiser() -> (Box<dyn Denoiser>, Weights) {
    let config: DitConfig = serde_json::from_value(serde_json::json!({
        "image": [1, 8, 8], "patch_size": 2, "hidden_size": 16, "depth": 2, "num_heads": 2, "num_classes": 4
    }))
    .unwrap();
    let (dit, device) = (Dit::new(config).unwrap(), Device::cpu());
    let mut weights = Weights::initialise(dit.parameters(), 1, &device).unwrap();
    for id in weights.ids() {
        let values = weights.get(id).to_floats().unwrap();
        if values.iter().all(|&value| value == 0.0) {
            let mut noise = vec![0.0; values.len()];
            let draws = feedback(1, LossKind::Mse).draws;
            draws.noise(&weights.spec(id).name, 0, 0, &mut noise);
            noise.iter_mut().for_each(|value| *value *= 0.2);
            let noise = Tensor::from_floats(&noise, &weights.get(id).shape(), &device);
            weights.set(id, noise.unwrap()).unwrap();
        }
    }
    (Box::new(dit), weights)
}

fn images() -> Tensor {
    let pixels: Vec<f32> = (0..3 * 64)
        .map(|index| (index as f32 * 0.61).sin())
        .collect();
    Tensor::from_floats(&pixels, &[3, 1, 8, 8], &Device::cpu()).unwrap()
}

fn logits() -> Tensor {
    let values: Vec<f32> = (0..12).map(|index| (index as f32 * 1.3).cos()).collect();
    Tensor::from_floats(&values, &[3, 4], &Device::cpu()).unwrap()
}

/// c = Σ p_j ℓ_j.
fn mix(logits: &Tensor, denoiser: &dyn Denoiser, weights: &Weights) -> Tensor {
    let constants = denoiser.constants(weights).unwrap();
    let embeddings = constants.get(CLASS_EMBEDDINGS).unwrap();
    logits.softmax(-1).unwrap().matmul(embeddings).unwrap()
}

/// The gradient with respect to the logits of one whole graph: no cut, no micro-batches.
fn whole_graph(denoiser: &dyn Denoiser, weights: &Weights, loss: LossKind) -> (f32, Vec<f32>) {
    let device = Device::cpu();
    let draws = feedback(1, loss).draws;
    let leaf = logits().to_leaf().unwrap();
    let condition = mix(&leaf, denoiser, weights);
    let owners: Vec<i64> = (0..21).map(|row| row / 7).collect();
    let owners = Tensor::from_ints(&owners, &[21], &device).unwrap();
    let times: Vec<f64> = IDS.iter().flat_map(|id| draws.times(id, 2)).collect();
    let mut noise = vec![0.0; 21 * 64];
    for (row, noise) in noise.chunks_mut(64).enumerate() {
        draws.noise(IDS[row / 7], 2, row % 7, noise);
    }
    let noise = Tensor::from_floats(&noise, &[21, 1, 8, 8], &device).unwrap();
    let x0 = images().index_select(0, &owners).unwrap();
    let noisy = denoiser.schedule().add_noise(&x0, &noise, &times).unwrap();
    let conditioning = Named::one(CLASS_EMBEDDING, condition.index_select(0, &owners).unwrap());
    let error = denoiser
        .predict(weights, &noisy, &times, &conditioning)
        .unwrap()
        .sub(&noise)
        .unwrap();
    let distance = match loss {
        LossKind::Mse => error.mul(&error).unwrap(),
        LossKind::L1 => error.abs().unwrap(),
    };
    // The sum over images of the mean over draws and elements.
    let total = distance.mean(&[], false).unwrap().affine(3.0, 0.0).unwrap();
    let gradient = total.backward().unwrap().of(&leaf).unwrap();
    (total.item().unwrap(), gradient.to_floats().unwrap())
}

/// The same through the cut.
fn cut(
    denoiser: &dyn Denoiser,
    weights: &Weights,
    micro_batch: usize,
    loss: LossKind,
) -> (f32, Vec<f32>) {
    let leaf = logits().to_leaf().unwrap();
    let condition = mix(&leaf, denoiser, weights);
    let conditioning = Named::one(CLASS_EMBEDDING, condition.clone());
    let request = Request {
        ids: &IDS,
        images: &images(),
        conditioning: &conditioning,
        step: 2,
    };
    let answer = feedback(micro_batch, loss)
        .evaluate(denoiser, weights, &[], &request)
        .unwrap();
    let surrogate = condition
        .mul(answer.gradients.get(CLASS_EMBEDDING).unwrap())
        .unwrap()
        .sum(&[], false)
        .unwrap();
    let gradient = surrogate.backward().unwrap().of(&leaf).unwrap();
    (answer.losses.iter().sum(), gradient.to_floats().unwrap())
}

fn relative_error(found: &[f32], expected: &[f32]) -> f32 {
    let norm = |values: &mut dyn Iterator<Item = f32>| {
        values.map(|value| value * value).sum::<f32>().sqrt()
    };
    norm(&mut found.iter().zip(expected).map(|(a, b)| a - b)) / norm(&mut expected.iter().copied())
}

#[test]
fn the_cut_in_micro_batches_gives_the_gradient_of_the_whole_graph() {
    let (denoiser, weights) = denoiser();
    for loss in [LossKind::Mse, LossKind::L1] {
        let (total, gradient) = whole_graph(&*denoiser, &weights, loss);
        assert!(
            gradient.iter().any(|value| value.abs() > 1e-6),
            "a gradient of zero proves nothing: {gradient:?}"
        );
        // 0 counts as 1.
        for micro_batch in [0, 1, 4, 7, 21, 64] {
            let (losses, found) = cut(&*denoiser, &weights, micro_batch, loss);
            let error = relative_error(&found, &gradient);
            assert!(
                error <= 1e-5,
                "{loss:?}, micro-batch {micro_batch}: relative error {error}"
            );
            assert!((losses - total).abs() <= 1e-5 * total, "{losses}, {total}");
        }
    }
}

#[test]
fn a_loss_in_another_space_is_the_native_one_with_a_weight_for_each_time() {
    let (denoiser, weights) = denoiser();
    let conditioning = Named::one(CLASS_EMBEDDING, mix(&logits(), &*denoiser, &weights));
    let request = Request {
        ids: &IDS[..1],
        images: &images().narrow(0, 0, 1).unwrap(),
        conditioning: &conditioning.try_map(|slot| slot.narrow(0, 0, 1)).unwrap(),
        step: 0,
    };
    for loss in [LossKind::Mse, LossKind::L1] {
        let mut native = feedback(8, loss);
        native.draws.count = 1;
        let time = native.draws.times(IDS[0], 0)[0];
        // x0-error = (σ/α) ε-error, and a squared error the square of it.
        let [alpha, sigma] = denoiser.schedule().coefficients(time).unwrap();
        let ratio = (sigma / alpha).powi(if loss == LossKind::Mse { 2 } else { 1 }) as f32;
        let evaluate = |feedback: Feedback| {
            let answer = feedback
                .evaluate(&*denoiser, &weights, &[], &request)
                .unwrap();
            let gradient = answer.gradients.get(CLASS_EMBEDDING).unwrap();
            (answer.losses[0], gradient.to_floats().unwrap())
        };
        let (own, gradient) = evaluate(native);
        let space = Some(Space::Sample);
        let (other, other_gradient) = evaluate(Feedback { space, ..native });
        assert!(
            (other / own / ratio - 1.0).abs() < 1e-4,
            "{other}, {own}, {ratio}"
        );
        let expected: Vec<f32> = gradient.iter().map(|value| value * ratio).collect();
        assert!(relative_error(&other_gradient, &expected) < 1e-4);
        assert_eq!(
            evaluate(Feedback {
                space: Some(Space::Epsilon),
                ..native
            })
            .0,
            own
        );
    }
}

#[test]
fn an_adapting_denoiser_gets_the_gradient_of_the_whole_graph_too() {
    let (denoiser, weights) = denoiser();
    let adapted: Vec<_> = weights.select(|spec| spec.name.starts_with("blocks.1"));
    let conditioning = Named::one(CLASS_EMBEDDING, mix(&logits(), &*denoiser, &weights));
    let request = Request {
        ids: &IDS,
        images: &images(),
        conditioning: &conditioning,
        step: 0,
    };
    let evaluate = |micro_batch| {
        feedback(micro_batch, LossKind::Mse).evaluate(&*denoiser, &weights, &adapted, &request)
    };
    let (split, whole) = (evaluate(4).unwrap(), evaluate(21).unwrap());
    for ((split, whole), id) in split
        .denoiser_gradients
        .iter()
        .zip(&whole.denoiser_gradients)
        .zip(&adapted)
    {
        let floats = |gradient: &Option<Tensor>| gradient.as_ref().unwrap().to_floats().unwrap();
        let error = relative_error(&floats(split), &floats(whole));
        assert!(
            error <= 1e-5,
            "{}: relative error {error}",
            weights.spec(*id).name
        );
    }
}

#[test]
fn draws_that_no_memory_holds_are_refused_before_they_are_drawn() {
    let (denoiser, weights) = denoiser();
    let mut feedback = feedback(1 << 40, LossKind::Mse);
    feedback.draws.count = 1 << 40;
    let slots = Named::one(CLASS_EMBEDDING, mix(&logits(), &*denoiser, &weights));
    let images = images();
    let request = Request {
        images: &images,
        ids: &["a", "b", "c"],
        step: 0,
        conditioning: &slots,
    };
    let refused = [
        feedback.evaluate(&*denoiser, &weights, &[], &request).err(),
        feedback.losses(&*denoiser, &weights, &request).err(),
    ];
    for error in refused {
        let message = error.unwrap().to_string();
        assert!(message.contains("draws would take at least"), "{message}");
    }
}

#[test]
fn losses_of_an_image_do_not_depend_on_its_neighbours() {
    let (denoiser, weights) = denoiser();
    let condition = mix(&logits(), &*denoiser, &weights);
    let evaluate = |range: std::ops::Range<usize>| {
        let rows = |tensor: &Tensor| tensor.narrow(0, range.start, range.len()).unwrap();
        let conditioning = Named::one(CLASS_EMBEDDING, rows(&condition));
        let request = Request {
            ids: &IDS[range.clone()],
            images: &rows(&images()),
            conditioning: &conditioning,
            step: 1,
        };
        feedback(5, LossKind::Mse)
            .evaluate(&*denoiser, &weights, &[], &request)
            .unwrap()
            .losses
    };
    let together = evaluate(0..3);
    let conditioning = Named::one(CLASS_EMBEDDING, condition.clone());
    let request = Request {
        ids: &IDS,
        images: &images(),
        conditioning: &conditioning,
        step: 1,
    };
    let without_gradients = feedback(5, LossKind::Mse).losses(&*denoiser, &weights, &request);
    assert_eq!(without_gradients.unwrap(), together);
    for (index, loss) in together.iter().enumerate() {
        let alone = evaluate(index..index + 1)[0];
        assert!(
            (alone - loss).abs() <= 1e-5 * loss,
            "image {index}: {alone} alone, {loss} among others"
        );
    }
}

/// The loss of mixtures of answers and its gradient with respect to the shares, on the tape.
fn mixtures_on_the_tape(space: Option<Space>) -> (f32, Vec<f32>) {
    let device = Device::cpu();
    let (denoiser, weights) = denoiser();
    let draws = feedback(1, LossKind::Mse).draws;
    let leaf = logits().softmax(-1).unwrap().to_leaf().unwrap();
    let constants = denoiser.constants(&weights).unwrap();
    let embeddings = constants.get(CLASS_EMBEDDINGS).unwrap();
    let mut total: Option<Tensor> = None;
    for (image, id) in IDS.iter().enumerate() {
        let times = draws.times(id, 2);
        let mut noise = vec![0.0; 7 * 64];
        for (draw, noise) in noise.chunks_mut(64).enumerate() {
            draws.noise(id, 2, draw, noise);
        }
        let noise = Tensor::from_floats(&noise, &[7, 1, 8, 8], &device).unwrap();
        let x0 = images().narrow(0, image, 1).unwrap();
        let x0 = x0.expand(&[7, 1, 8, 8]).unwrap();
        let noisy = denoiser.schedule().add_noise(&x0, &noise, &times).unwrap();
        let mut error = noise.affine(-1.0, 0.0).unwrap();
        for class in 0..4 {
            let told = embeddings.narrow(0, class, 1).unwrap();
            let told = told.expand(&[7, told.shape()[1]]).unwrap();
            let told = Named::one(CLASS_EMBEDDING, told);
            let answer = denoiser.predict(&weights, &noisy, &times, &told).unwrap();
            let share = leaf
                .narrow(0, image, 1)
                .unwrap()
                .narrow(1, class, 1)
                .unwrap();
            let share = share.reshape(&[1, 1, 1, 1]).unwrap();
            error = error.add(&answer.mul(&share).unwrap()).unwrap();
        }
        if let Some(space) = space {
            let scales = denoiser.schedule().error_scales(space, &times).unwrap();
            let scales: Vec<f32> = scales.into_iter().map(|scale| scale as f32).collect();
            let scales = Tensor::from_floats(&scales, &[7, 1, 1, 1], &device).unwrap();
            error = error.mul(&scales).unwrap();
        }
        let loss = error.mul(&error).unwrap().mean(&[], false).unwrap();
        total = Some(match total {
            None => loss,
            Some(total) => total.add(&loss).unwrap(),
        });
    }
    let total = total.unwrap();
    let gradient = total.backward().unwrap().of(&leaf).unwrap();
    (total.item().unwrap(), gradient.to_floats().unwrap())
}

#[test]
fn the_closed_form_of_mixtures_is_the_gradient_of_the_whole_graph() {
    let (denoiser, weights) = denoiser();
    let shares = logits().softmax(-1).unwrap().to_floats().unwrap();
    let constants = denoiser.constants(&weights).unwrap();
    let embeddings = constants
        .get(CLASS_EMBEDDINGS)
        .unwrap()
        .narrow(0, 0, 4)
        .unwrap();
    let told = Tensor::cat(&[&embeddings, &embeddings, &embeddings], 0).unwrap();
    let conditioning = Named::one(CLASS_EMBEDDING, told);
    for space in [None, Some(Space::Sample)] {
        let (loss, gradient) = mixtures_on_the_tape(space);
        for micro_batch in [1, 9, 1000] {
            let feedback = Feedback {
                space,
                ..feedback(micro_batch, LossKind::Mse)
            };
            let request = Request {
                ids: &IDS,
                images: &images(),
                conditioning: &conditioning,
                step: 2,
            };
            let found = feedback
                .mixtures(&*denoiser, &weights, &request, &shares)
                .unwrap();
            let sum: f32 = found.losses.iter().sum();
            assert!((sum / loss - 1.0).abs() < 1e-5, "{sum} {loss}");
            let largest = gradient.iter().fold(0.0f32, |most, g| most.max(g.abs()));
            for (found, expected) in found.gradients.iter().zip(&gradient) {
                let away = (found - expected).abs() / largest;
                assert!(away < 1e-5, "{found} {expected}");
            }
        }
    }
}

/// Feedback of draws that are split at these blocks, with the parts in another order and sent as bytes.
fn split_at(feedback: &Feedback, request: &Request<'_>, cuts: &[usize]) -> Evaluation {
    let (denoiser, weights) = denoiser();
    let (count, block) = (feedback.draws.count, feedback.micro_batch);
    let mut ends: Vec<usize> = cuts.iter().map(|cut| (cut * block).min(count)).collect();
    ends.extend([0, count]);
    ends.sort_unstable();
    ends.dedup();
    let mut parts: Vec<FeedbackPart> = ends
        .windows(2)
        .map(|ends| {
            let part = feedback.part(&*denoiser, &weights, request, ends[0]..ends[1]);
            let sent = part.unwrap().to_bytes();
            FeedbackPart::from_bytes(&sent).unwrap()
        })
        .collect();
    parts.reverse();
    FeedbackPart::sum(&parts, &Device::cpu()).unwrap()
}

fn bits(found: &Evaluation) -> Vec<u32> {
    let gradient = found.gradients.get(CLASS_EMBEDDING).unwrap();
    let gradient = gradient.to_floats().unwrap();
    let all = found.losses.iter().chain(&gradient);
    all.map(|number| number.to_bits()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn however_draws_are_split_the_sum_has_the_same_bits(
        cuts in proptest::collection::vec(0usize..11, 0..6),
        count in 1usize..11,
        micro_batch in 1usize..4,
        images in 1usize..3,
    ) {
        let (denoiser, weights) = denoiser();
        let condition = mix(&logits(), &*denoiser, &weights).narrow(0, 0, images).unwrap();
        let request = Request {
            ids: &IDS[..images],
            images: &self::images().narrow(0, 0, images).unwrap(),
            conditioning: &Named::one(CLASS_EMBEDDING, condition),
            step: 4,
        };
        let mut feedback = feedback(micro_batch, LossKind::Mse);
        feedback.draws.count = count;
        let whole = split_at(&feedback, &request, &[]);
        prop_assert_eq!(bits(&split_at(&feedback, &request, &cuts)), bits(&whole));
        // And it is what `evaluate` finds, whose order of adding is another.
        let found = feedback.evaluate(&*denoiser, &weights, &[], &request).unwrap();
        let floats = |found: &Evaluation| found.gradients.get(CLASS_EMBEDDING).unwrap().to_floats().unwrap();
        prop_assert!(relative_error(&floats(&whole), &floats(&found)) <= 1e-5);
        prop_assert!(relative_error(&whole.losses, &found.losses) <= 1e-6);
    }

    #[test]
    fn draws_are_split_whole_and_in_micro_batches(count in 1usize..70, micro_batch in 1usize..9, workers in 0usize..12) {
        let mut feedback = feedback(micro_batch, LossKind::Mse);
        feedback.draws.count = count;
        let parts = feedback.split(workers);
        let blocks = count.div_ceil(micro_batch);
        prop_assert_eq!(parts.len(), workers.clamp(1, blocks));
        prop_assert_eq!((parts[0].start, parts[parts.len() - 1].end), (0, count));
        prop_assert!(parts.windows(2).all(|pair| pair[0].end == pair[1].start && pair[0].end % micro_batch == 0));
        let sizes = parts.iter().map(|part| part.len().div_ceil(micro_batch));
        prop_assert!(sizes.clone().max().unwrap() - sizes.min().unwrap() <= 1);
    }
}

#[test]
fn parts_of_no_whole_are_refused() {
    let (denoiser, weights) = denoiser();
    let conditioning = Named::one(CLASS_EMBEDDING, mix(&logits(), &*denoiser, &weights));
    let images = images();
    let request = Request {
        ids: &IDS,
        images: &images,
        conditioning: &conditioning,
        step: 0,
    };
    let feedback = feedback(2, LossKind::Mse);
    let part = |draws| {
        feedback
            .part(&*denoiser, &weights, &request, draws)
            .unwrap()
    };
    for draws in [1..4, 0..3, 4..4, 6..8] {
        let error = feedback.part(&*denoiser, &weights, &request, draws.clone());
        let message = error.unwrap_err().to_string();
        assert!(message.contains("a multiple of 2"), "{draws:?}: {message}");
    }
    let other = Request { step: 1, ..request };
    let other = feedback.part(&*denoiser, &weights, &other, 4..7).unwrap();
    let sum = |parts: &[FeedbackPart]| {
        let sum = FeedbackPart::sum(parts, &Device::cpu());
        sum.map(drop).map_err(|error| error.to_string())
    };
    let (first, last) = (part(0..4), part(4..7));
    sum(&[first.clone(), last.clone()]).unwrap();
    for (parts, words) in [
        (vec![], "there are none"),
        (vec![first.clone()], "draws 4..7 are missing"),
        (vec![last.clone()], "draws 0..4 are missing"),
        (
            vec![first.clone(), part(2..7)],
            "draws 2..4 are there twice",
        ),
        (vec![first.clone(), other], "draws 4..7 are of other images"),
    ] {
        let message = sum(&parts).unwrap_err();
        assert!(message.contains(words), "{message}");
    }
    let bytes = first.to_bytes();
    let mut wrong = vec![
        bytes[1..].to_vec(),
        bytes[..bytes.len() - 1].to_vec(),
        Vec::new(),
    ];
    let text = String::from_utf8_lossy(&bytes).replace("\"to\":4", "\"to\":6");
    wrong.push(text.into_bytes());
    for bytes in wrong {
        let error = FeedbackPart::from_bytes(&bytes).unwrap_err();
        assert!(
            error.to_string().contains("do not add up: bytes"),
            "{error}"
        );
    }
}

#[test]
fn what_is_no_request_is_refused_by_name() {
    let (denoiser, weights) = denoiser();
    let conditioning = Named::one(CLASS_EMBEDDING, mix(&logits(), &*denoiser, &weights));
    let images = images();
    let request = Request {
        ids: &IDS,
        images: &images,
        conditioning: &conditioning,
        step: 0,
    };
    let fewer = conditioning.try_map(|slot| slot.narrow(0, 0, 2)).unwrap();
    for (request, words) in [
        (
            Request {
                ids: &[],
                ..request
            },
            "one or more ids",
        ),
        (
            Request {
                ids: &IDS[..2],
                ..request
            },
            "images have shape [3, 1, 8, 8], expected [2, 1, 8, 8]",
        ),
        (
            Request {
                conditioning: &fewer,
                ..request
            },
            "`class-embedding` has shape [2, 16], expected 3 rows",
        ),
    ] {
        let feedback = feedback(8, LossKind::Mse);
        let error = feedback
            .evaluate(&*denoiser, &weights, &[], &request)
            .err()
            .unwrap();
        assert!(
            error.is_of_the_caller() && error.to_string().contains(words),
            "{error}"
        );
    }
    let config = |value| serde_json::from_value::<FeedbackConfig>(value);
    let schedule = denoiser.schedule();
    let given = config(
        serde_json::json!({"draws": 7, "seed": 5, "micro_batch": 8, "timesteps": {"range": [50, 900]}}),
    );
    assert_eq!(
        given.unwrap().feedback(schedule).unwrap(),
        feedback(8, LossKind::Mse)
    );
    for (given, words) in [
        (
            serde_json::json!({"draws": 0}),
            "`draws` is 0, expected 1 to",
        ),
        (serde_json::json!({"micro_batch": 0}), "`micro_batch` is 0"),
        (
            serde_json::json!({"timesteps": {"range": [5, 5000]}}),
            "`timesteps` do not fit",
        ),
    ] {
        let error = config(given).unwrap().feedback(schedule).unwrap_err();
        assert!(
            error.is_of_the_caller() && error.to_string().contains(words),
            "{error}"
        );
    }
    assert!(config(serde_json::json!({"drws": 1})).is_err());
}
