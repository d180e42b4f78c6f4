//! What is added from outside, one of each: a method, an architecture, a sink.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking; helpers outside of test functions too"
)]

mod common;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::AtomicBool;

use common::{Fixture, extensions, without_denoiser};
use dtta::{
    Adapter, Batch, DiffusionConfig, Document, Error, Finished, Mode, Prepared, RunOptions, Sink,
    Start, Summary, schema,
};
use dtta_tensor::{Device, Tensor};
use serde_json::json;

#[path = "../examples/register_a_method.rs"]
#[expect(dead_code, reason = "its main function is the example's")]
mod register_a_method;

#[test]
fn a_method_from_outside_runs_has_a_schema_and_stands_in_the_protocol() {
    let fixture = Fixture::new();
    let mut extensions = extensions();
    extensions.methods.add::<register_a_method::NormConfig>();
    let mut experiment = Fixture::experiment();
    experiment["method"] = json!({"kind": "feature_norm", "rate": 0.1});
    without_denoiser(&mut experiment);
    let path = fixture.write(&experiment);
    let document = Document::load(&path, &[], &extensions.methods).unwrap();
    let stop = AtomicBool::new(false);
    let options = RunOptions::new(fixture.path().join("run"), &stop);
    let mut prepared = Prepared::new(document, &extensions, Device::cpu()).unwrap();
    let summary = prepared.run(&options, Vec::new()).unwrap();
    assert_eq!(summary.protocol.method.kind, "feature_norm");
    let moved = fixture.records("run");
    assert!(moved.iter().any(|record| record.source != record.adapted));

    let text = schema(&extensions.methods).to_string();
    assert!(text.contains("feature_norm") && text.contains("diffusion"));
    let error = Document::load(&path, &["method.rate=2".into()], &extensions.methods);
    let error = error.unwrap_err().to_string();
    assert!(error.contains("/method/rate"), "{error}");
}

/// Writes down what it hears.
struct Ears(Rc<RefCell<Vec<String>>>);

impl Sink for Ears {
    fn start(&mut self, start: &Start<'_>) -> dtta::Result<()> {
        let line = format!("start {} of {}", start.done, start.total);
        self.0.borrow_mut().push(line);
        Ok(())
    }

    fn sample(&mut self, finished: &Finished<'_>) -> dtta::Result<()> {
        let id = &finished.record.id;
        self.0.borrow_mut().push(format!("{} {id}", finished.done));
        Ok(())
    }

    fn finish(&mut self, summary: &Summary) -> dtta::Result<()> {
        self.0.borrow_mut().push(summary.experiment.clone());
        Ok(())
    }
}

#[test]
fn a_sink_hears_of_each_sample_once_and_in_order() {
    let fixture = Fixture::new();
    let experiment = Fixture::experiment();
    let heard = Rc::new(RefCell::new(Vec::new()));
    let run = |stop_after: usize| {
        let stop = AtomicBool::new(false);
        let options = RunOptions {
            existing: dtta::Existing::Resume,
            ..RunOptions::new(fixture.path().join("run"), &stop)
        };
        struct Stop<'a>(usize, &'a AtomicBool);
        impl Sink for Stop<'_> {
            fn sample(&mut self, finished: &Finished<'_>) -> dtta::Result<()> {
                let due = finished.done >= self.0;
                self.1.fetch_or(due, std::sync::atomic::Ordering::Relaxed);
                Ok(())
            }
        }
        let sinks: Vec<Box<dyn Sink + '_>> = vec![
            Box::new(Ears(heard.clone())),
            Box::new(Stop(stop_after, &stop)),
        ];
        fixture.prepare(&experiment)?.run(&options, sinks)
    };
    assert!(matches!(run(6), Err(Error::Interrupted { samples: 8 })));
    run(usize::MAX).unwrap();
    let heard = heard.borrow();
    let ids: Vec<String> = fixture
        .records("run")
        .into_iter()
        .enumerate()
        .map(|(n, record)| format!("{} {}", n + 1, record.id))
        .collect();
    assert_eq!(heard[0], "start 0 of 16");
    assert_eq!(heard[1..9], ids[..8]);
    assert_eq!(heard[9], "start 8 of 16");
    assert_eq!(heard[10..18], ids[8..]);
    assert_eq!(heard[18], "tiny");
}

#[test]
fn an_adapter_refuses_batches_that_do_not_fit_and_stays_as_it_was() {
    let fixture = Fixture::new();
    let method: DiffusionConfig = serde_json::from_value(json!({
        "draws": 2, "optimizer": {"kind": "sgd", "learning_rate": 1e-2}
    }))
    .unwrap();
    let mut adapter = Adapter::builder()
        .extensions(extensions())
        .backbone(fixture.path().join("classifier.json"))
        .denoiser(fixture.path().join("denoiser.json"))
        .head("linked:classification", json!({}))
        .mapper("linked:classification", json!({}))
        .method(&method)
        .mode(Mode::SingleSample {})
        .build()
        .unwrap();
    let images = |shape: [usize; 4]| Tensor::full(&shape, 0.3, &Device::cpu()).unwrap();
    let batch = |ids: &[&'static str], task: [usize; 4], denoiser: Option<[usize; 4]>| Batch {
        ids: ids.to_vec(),
        task: images(task),
        denoiser: denoiser.map(images),
    };
    let fits = [2, 1, 8, 8];
    let mut refused = |batch: Batch<'_>| match adapter.adapt(&batch) {
        Err(Error::Batch { .. } | Error::NoDenoiser) => {}
        other => panic!("{:?}", other.err()),
    };
    refused(batch(&["a"], fits, Some(fits)));
    refused(batch(&["a", "b", "c"], fits, Some(fits)));
    refused(batch(&["a", "a"], fits, Some(fits)));
    refused(batch(&[], fits, Some(fits)));
    refused(batch(&["a", "b"], [2, 1, 8, 7], Some(fits)));
    refused(batch(&["a", "b"], fits, Some([3, 1, 8, 8])));
    refused(batch(&["a", "b"], fits, None));
    let found = adapter
        .adapt(&batch(&["a", "b"], fits, Some(fits)))
        .unwrap();
    assert_eq!(found.adapted.each.len(), 2);

    let without_head = Adapter::builder().backbone(fixture.path().join("classifier.json"));
    let error = without_head.method(&method).build().err().unwrap();
    assert!(error.to_string().contains("/plugins/head"), "{error}");
}
