//! What the host calls: the component's exports, generic over the role traits.

use std::marker::PhantomData;
use std::panic;
use std::sync::Once;

use super::bindings::shared::dtta::plugin::declare::{Storage as WitStorage, ValueSpec as WitSpec};
use super::bindings::shared::dtta::plugin::session::Values as WitValues;
use super::bindings::shared::dtta::plugin::types::Error as WitError;
use super::bindings::{head, mapper, metric, objective};
use super::{Handle, Values, wit};
use crate::error::Result;
use crate::named::{Named, Slots};
use crate::roles::{
    Accumulator, Head, Mapper, Metric, Objective, Storage, ValueSpec, parse_config,
};
use crate::session::{LogLevel, Session};
use crate::tensor::Tensor;

/// The exported interface of a [`Head`].
pub struct HeadComponent<H>(PhantomData<H>);

/// The exported interface of a [`Mapper`].
pub struct MapperComponent<M>(PhantomData<M>);

/// The exported interface of an [`Objective`].
pub struct ObjectiveComponent<O>(PhantomData<O>);

/// The exported interface of a [`Metric`].
pub struct MetricComponent<M>(PhantomData<M>);

/// A role's state.
pub struct Instance<T>(T);

impl<H: Head> head::exports::dtta::plugin::head::Guest for HeadComponent<H> {
    type Head = Instance<H>;
}

impl<H: Head> head::exports::dtta::plugin::head::GuestHead for Instance<H> {
    fn create(config: String) -> Result<head::exports::dtta::plugin::head::Head, WitError> {
        report_panics();
        let state = H::create(parse_config(config.as_bytes())?)?;
        Ok(head::exports::dtta::plugin::head::Head::new(Self(state)))
    }

    fn declare(&self) -> Vec<WitSpec> {
        specs(self.0.declare())
    }

    fn forward(
        &self,
        inputs: Vec<(String, wit::Tensor)>,
        values: &WitValues,
    ) -> Result<Vec<(String, wit::Tensor)>, WitError> {
        // SAFETY: the session is dropped here, the values are borrowed for longer.
        let session = Session::new(unsafe { Values::new(values) });
        Ok(give(self.0.forward(&receive(inputs), &session)?))
    }

    fn predict(
        &self,
        outputs: Vec<(String, wit::Tensor)>,
    ) -> Result<Vec<(String, wit::Tensor)>, WitError> {
        let session = Session::new(Values::NONE);
        Ok(give(self.0.predict(&receive(outputs), &session)?))
    }
}

impl<M: Mapper> mapper::exports::dtta::plugin::mapper::Guest for MapperComponent<M> {
    type Mapper = Instance<M>;
}

impl<M: Mapper> mapper::exports::dtta::plugin::mapper::GuestMapper for Instance<M> {
    fn create(
        config: String,
        slots: String,
    ) -> Result<mapper::exports::dtta::plugin::mapper::Mapper, WitError> {
        report_panics();
        let state = M::create(
            parse_config(config.as_bytes())?,
            &Slots::parse(slots.as_bytes())?,
        )?;
        Ok(mapper::exports::dtta::plugin::mapper::Mapper::new(Self(
            state,
        )))
    }

    fn declare(&self) -> Vec<WitSpec> {
        specs(self.0.declare())
    }

    fn condition(
        &self,
        outputs: Vec<(String, wit::Tensor)>,
        values: &WitValues,
    ) -> Result<Vec<(String, wit::Tensor)>, WitError> {
        // SAFETY: the session is dropped here, the values are borrowed for longer.
        let session = Session::new(unsafe { Values::new(values) });
        Ok(give(self.0.condition(&receive(outputs), &session)?))
    }
}

impl<O: Objective> objective::exports::dtta::plugin::objective::Guest for ObjectiveComponent<O> {
    type Objective = Instance<O>;
}

impl<O: Objective> objective::exports::dtta::plugin::objective::GuestObjective for Instance<O> {
    fn create(
        config: String,
    ) -> Result<objective::exports::dtta::plugin::objective::Objective, WitError> {
        report_panics();
        let state = O::create(parse_config(config.as_bytes())?)?;
        let objective = objective::exports::dtta::plugin::objective::Objective::new(Self(state));
        Ok(objective)
    }

    fn loss(&self, outputs: Vec<(String, wit::Tensor)>) -> Result<wit::Tensor, WitError> {
        let session = Session::new(Values::NONE);
        Ok(self.0.loss(&receive(outputs), &session)?.0.0)
    }
}

/// A metric's state.
pub struct MetricInstance<M: Metric>(Accumulator<M>);

impl<M: Metric> metric::exports::dtta::plugin::metric::Guest for MetricComponent<M> {
    type Metric = MetricInstance<M>;
}

impl<M: Metric> metric::exports::dtta::plugin::metric::GuestMetric for MetricInstance<M> {
    fn create(config: String) -> Result<metric::exports::dtta::plugin::metric::Metric, WitError> {
        report_panics();
        let state = Accumulator::<M>::create(config.as_bytes())?;
        Ok(metric::exports::dtta::plugin::metric::Metric::new(Self(
            state,
        )))
    }

    fn update(
        &self,
        predictions: Vec<(String, wit::Tensor)>,
        targets: Vec<(String, wit::Tensor)>,
    ) -> Result<(), WitError> {
        let session = Session::new(Values::NONE);
        Ok(self
            .0
            .update(&receive(predictions), &receive(targets), &session)?)
    }

    fn save(&self) -> Vec<u8> {
        // A state that cannot be written as JSON ends in a trap with its reason as last words.
        self.0
            .save()
            .unwrap_or_else(|error| panic!("{}", error.message))
    }

    fn merge(&self, saved: Vec<u8>) -> Result<(), WitError> {
        Ok(self.0.merge(&saved)?)
    }

    fn report(&self) -> Result<String, WitError> {
        Ok(self.0.report()?)
    }
}

fn receive(tensors: Vec<(String, wit::Tensor)>) -> Named {
    tensors
        .into_iter()
        .map(|(name, tensor)| (name, Tensor(Handle(tensor))))
        .collect()
}

fn give(tensors: Named) -> Vec<(String, wit::Tensor)> {
    tensors
        .into_iter()
        .map(|(name, tensor)| (name, tensor.0.0))
        .collect()
}

fn specs(specs: Vec<ValueSpec>) -> Vec<WitSpec> {
    let spec = |ValueSpec {
                    name,
                    storage,
                    shape,
                    attributes,
                }| {
        let storage = match storage {
            Storage::Parameter => WitStorage::Parameter,
            Storage::Buffer => WitStorage::Buffer,
        };
        WitSpec {
            name,
            storage,
            shape,
            attributes,
        }
    };
    specs.into_iter().map(spec).collect()
}

/// A panic ends in a trap, which says nothing: log what the panic said before.
fn report_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        panic::set_hook(Box::new(|panic| {
            super::log(LogLevel::Error, &panic.to_string())
        }));
    });
}
