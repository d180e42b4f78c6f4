use super::*;

fn schedules() -> Vec<NoiseSchedule> {
    let discrete = |prediction| ScheduleConfig::Discrete {
        betas: Betas::ScaledLinear,
        timesteps: 1000,
        beta_start: 0.00085,
        beta_end: 0.012,
        trained_betas: None,
        zero_terminal_snr: false,
        prediction,
    };
    let flow = |noise_at, prediction| ScheduleConfig::Flow {
        noise_at,
        prediction,
        time_scale: 1.0,
    };
    let edm = ScheduleConfig::Edm {
        sigma_data: 0.5,
        sigma_min: 0.002,
        sigma_max: 80.0,
        time_scale: 1.0,
    };
    let configs = [
        discrete(DiscretePrediction::Epsilon),
        discrete(DiscretePrediction::V),
        discrete(DiscretePrediction::Sample),
        flow(End::Start, FlowPrediction::ReverseVelocity),
        flow(End::End, FlowPrediction::Velocity),
        flow(End::End, FlowPrediction::Sample),
        flow(End::Start, FlowPrediction::Epsilon),
        edm,
    ];
    let made = configs.iter().map(NoiseSchedule::new);
    made.collect::<Result<_>>().unwrap()
}

fn tensor(values: &[f32]) -> Tensor {
    Tensor::from_floats(values, &[1, values.len()], &Device::cpu()).unwrap()
}

/// The image that an answer stands for, by the definitions of Salimans and Ho 2022 and Karras et al. 2022, not by this file's.
fn image_of(schedule: &NoiseSchedule, x: f64, answer: f64, time: f64) -> f64 {
    let [alpha, sigma] = schedule.coefficients(time).unwrap();
    match *schedule.config() {
        ScheduleConfig::Discrete { prediction, .. } => match prediction {
            DiscretePrediction::Epsilon => (x - sigma * answer) / alpha,
            DiscretePrediction::V => alpha * x - sigma * answer,
            DiscretePrediction::Sample => answer,
        },
        ScheduleConfig::Flow { prediction, .. } => match prediction {
            FlowPrediction::Velocity => x - sigma * answer,
            FlowPrediction::ReverseVelocity => x + sigma * answer,
            FlowPrediction::Sample => answer,
            FlowPrediction::Epsilon => (x - sigma * answer) / alpha,
        },
        ScheduleConfig::Edm { sigma_data: s, .. } => {
            let total = sigma * sigma + s * s;
            s * s / total * x + sigma * s / total.sqrt() * answer
        }
    }
}

#[test]
fn the_right_answer_stands_for_the_image() {
    let (image, noise) = ([0.7f32, -0.3], [1.1f32, -0.4]);
    for schedule in schedules() {
        let range = schedule.range(None).unwrap();
        for position in [0.1, 0.5, 0.9] {
            let time = range.at(position);
            let (x0, eps) = (tensor(&image), tensor(&noise));
            let target = schedule.mix(&x0, &eps, &[time]).unwrap().target;
            let x = schedule.add_noise(&x0, &eps, &[time]).unwrap();
            let pairs = x
                .to_floats()
                .unwrap()
                .into_iter()
                .zip(target.to_floats().unwrap());
            for ((x, answer), image) in pairs.zip(image) {
                let found = image_of(&schedule, x.into(), answer.into(), time);
                let tolerance = 1e-4 * (1.0 + f64::from(x.abs()));
                assert!(
                    (found - f64::from(image)).abs() < tolerance,
                    "{schedule:?} at {time}: {found}"
                );
            }
        }
    }
}

#[test]
fn an_error_of_the_answer_is_as_large_in_the_image_as_its_scale_says() {
    for schedule in schedules() {
        let range = schedule.range(None).unwrap();
        for position in [0.1, 0.5, 0.9] {
            let time = range.at(position);
            let off = |by| image_of(&schedule, 0.4, 0.2 + by, time);
            let scale = schedule.error_scales(Space::Sample, &[time]).unwrap()[0];
            let found = (off(1.0) - off(0.0)).abs();
            assert!(
                (scale / found - 1.0).abs() < 1e-9,
                "{schedule:?} at {time}: {scale}, {found}"
            );
        }
    }
}

#[test]
fn losses_in_other_spaces_differ_by_the_factors_of_the_literature() {
    for schedule in schedules() {
        let time = schedule.range(None).unwrap().at(0.3);
        let [alpha, sigma] = schedule.coefficients(time).unwrap();
        let scale = |space| schedule.error_scales(space, &[time]).unwrap()[0];
        let close = |found: f64, expected: f64| assert!((found / expected - 1.0).abs() < 1e-9);
        // ε-loss = (α/σ)² x0-loss everywhere; on a straight line velocity-loss = x0-loss / σ².
        close(scale(Space::Epsilon), alpha / sigma * scale(Space::Sample));
        if matches!(schedule.config(), ScheduleConfig::Flow { .. }) {
            close(scale(Space::Velocity), scale(Space::Sample) / sigma);
        }
    }
}

#[test]
fn the_native_space_changes_nothing() {
    let [epsilon, v, sample, reverse, velocity, ..] = &schedules()[..] else {
        panic!("eight schedules")
    };
    let native = [
        (epsilon, Space::Epsilon),
        (v, Space::V),
        (sample, Space::Sample),
        (reverse, Space::Velocity),
        (velocity, Space::Velocity),
    ];
    for (schedule, space) in native {
        let time = schedule.range(None).unwrap().at(0.4);
        let scale = schedule.error_scales(space, &[time]).unwrap()[0];
        assert!((scale - 1.0).abs() < 1e-12, "{space:?}: {scale}");
    }
}

#[test]
fn without_image_left_noise_says_nothing_about_the_image() {
    let config = ScheduleConfig::Discrete {
        betas: Betas::ScaledLinear,
        timesteps: 10,
        beta_start: 0.00085,
        beta_end: 0.012,
        trained_betas: None,
        zero_terminal_snr: true,
        prediction: DiscretePrediction::Epsilon,
    };
    let schedule = NoiseSchedule::new(&config).unwrap();
    assert_eq!(schedule.coefficients(9.0).unwrap(), [0.0, 1.0]);
    let error = schedule.error_scales(Space::Sample, &[9.0]).unwrap_err();
    assert!(error.to_string().contains("is 9"), "{error}");
    assert!(schedule.error_scales(Space::Sample, &[8.0]).is_ok());
}

#[test]
fn refuses_times_that_the_process_does_not_have() {
    for schedule in schedules() {
        let range = schedule.range(None).unwrap();
        let whole = range.whole;
        for [low, high] in [[range.low, range.high + 1.0], [range.low - 1.0, range.high]] {
            assert!(schedule.range(Some([low, high])).is_err());
        }
        assert!(schedule.range(Some([0.5, 0.5])).is_err());
        assert_eq!(schedule.range(Some([0.25, 0.75])).is_err(), whole);
        assert_eq!(schedule.coefficients(0.5).is_err(), whole);
        assert!(schedule.coefficients(f64::NAN).is_err());
    }
}

#[test]
fn a_consistency_model_is_given_a_thousand_times_the_time_of_edm() {
    for (scale, expected) in [(None, 0.25), (Some(1000), 250.0)] {
        let mut document = serde_json::json!({"kind": "edm"});
        if let Some(scale) = scale {
            document["time_scale"] = scale.into();
        }
        let config: ScheduleConfig = serde_json::from_value(document).unwrap();
        let schedule = NoiseSchedule::new(&config).unwrap();
        assert_eq!(schedule.network_times(&[0.25]), [expected]);
        // The noise of a time is the same: σ = e.
        let [_, sigma] = schedule.coefficients(0.25).unwrap();
        assert!((sigma - std::f64::consts::E).abs() < 1e-12);
    }
}
