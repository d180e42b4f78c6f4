//! Call frames. A plugin holds handles, the host holds tensors: a [`Session`] maps one to the
//! other for the time of one plugin call. When the call ends, everything in its frame is
//! released except what the host took out, so no plugin can leak device memory, and a handle
//! kept from an earlier call is refused.

use std::collections::BTreeMap;

use crate::cost::Cost;
use crate::device::Device;
use crate::error::{Result, TensorError};
use crate::table::{Attribute, OpCode, Outputs, dispatch};
use crate::tensor::{Kind, Tensor};

/// What the host knows a plugin's tensor by: 12 bits of frame, 20 bits of index. 0 is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Handle(pub u32);

const INDEX_BITS: u32 = 20;
const INDEX_MASK: u32 = (1 << INDEX_BITS) - 1;

/// What a plugin is doing, which decides whether it may read values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Creating itself.
    Setup,
    /// On the way from pixels to the loss: values stay on the device and on the tape.
    Forward,
    /// Turning outputs into a prediction.
    Predict,
    /// Scoring.
    Metric,
}

impl Phase {
    fn name(self) -> &'static str {
        match self {
            Self::Setup => "setup",
            Self::Forward => "forward",
            Self::Predict => "predict",
            Self::Metric => "metric",
        }
    }
}

/// How the host keeps a value for a plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    /// A leaf that adaptation may change.
    Parameter,
    /// A value that only the plugin changes.
    Buffer,
}

/// A value that the host keeps for a plugin, as one call sees it.
#[derive(Debug, Clone)]
pub struct Value {
    /// How it is kept.
    pub storage: Storage,
    /// What it is now.
    pub tensor: Tensor,
}

/// What one call may use. Charged before anything is computed or copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Requests to the host: operations, tensors sent, copied out or shared, constants and values asked for, lines logged.
    pub operations: u64,
    /// Handles alive at once.
    pub handles: u64,
    /// Bytes that all requests hold, together ([`Cost::bytes`]).
    pub bytes: u64,
    /// Work of all requests, together ([`Cost::work`]).
    pub work: u64,
    /// Lines logged. What is beyond is dropped.
    pub log_lines: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            operations: 100_000,
            handles: 10_000,
            bytes: 256 << 20,
            work: 20_000_000_000,
            log_lines: 100,
        }
    }
}

/// What one call used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Requests, as [`Limits::operations`] counts them.
    pub operations: u64,
    /// Bytes that they held, together.
    pub bytes: u64,
    /// Their work, together.
    pub work: u64,
    /// Lines logged, those beyond the limit too.
    pub log_lines: u64,
    /// Requests refused because a budget was spent.
    pub refusals: u64,
    /// The budget that the first of them would have exceeded.
    pub exceeded: Option<Exceeded>,
    /// Handles still alive when the call ended, beside its results: released by the host.
    pub unreleased: u64,
}

/// A budget that a request would have exceeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exceeded {
    /// Which one, as experiments name it.
    pub resource: &'static str,
    /// The limit.
    pub limit: u64,
    /// What the call would have used.
    pub needed: u64,
}

impl Usage {
    /// Counts a refusal.
    fn refuse(&mut self, exceeded: Exceeded) -> TensorError {
        self.refusals += 1;
        self.exceeded.get_or_insert(exceeded);
        exceeded.into()
    }
}

impl From<Exceeded> for TensorError {
    fn from(exceeded: Exceeded) -> Self {
        let Exceeded {
            resource,
            limit,
            needed,
        } = exceeded;
        Self::Budget {
            resource,
            limit,
            needed,
        }
    }
}

/// What becomes of a line that a plugin logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Logged {
    /// It is written.
    Written,
    /// It is dropped, and that should be said: it is the first.
    FirstDropped,
    /// It is dropped.
    Dropped,
}

/// Characters of a name or a line that are repeated to anyone.
pub const SHOWN_CHARACTERS: usize = 2000;

/// The tensors of one plugin instance's current call.
pub struct Session {
    device: Device,
    constants: BTreeMap<String, Tensor>,
    limits: Limits,
    frame: u32,
    phase: Phase,
    slots: Vec<Option<Tensor>>,
    live: u64,
    usage: Usage,
    values: Vec<Value>,
    updates: Vec<(usize, Tensor)>,
}

impl Session {
    /// A session that makes its tensors on `device`, within `limits` per call.
    pub fn new(device: Device, limits: Limits) -> Self {
        Self {
            device,
            constants: BTreeMap::new(),
            limits,
            frame: 0,
            phase: Phase::Setup,
            slots: Vec::new(),
            live: 0,
            usage: Usage::default(),
            values: Vec::new(),
            updates: Vec::new(),
        }
    }

    /// Binds a constant that plugins may ask for by name, such as `class-embeddings`.
    pub fn bind(&mut self, name: impl Into<String>, constant: Tensor) {
        self.constants.insert(name.into(), constant);
    }

    /// Where tensors are made.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Opens the frame of a call. Handles of earlier frames are stale from here on.
    pub fn enter(&mut self, phase: Phase) {
        self.slots.clear();
        self.live = 0;
        self.usage = Usage::default();
        self.values.clear();
        self.updates.clear();
        self.phase = phase;
        self.frame = (self.frame + 1) & (u32::MAX >> INDEX_BITS);
    }

    /// Closes the frame, releasing whatever it still holds, and says what the call used.
    pub fn leave(&mut self) -> Usage {
        self.usage.unreleased = self.live;
        let usage = self.usage;
        self.enter(Phase::Setup);
        usage
    }

    /// Lends the values that the host keeps for the plugin, in the order of its declaration.
    pub fn lend_values(&mut self, values: Vec<Value>) {
        self.values = values;
    }

    /// The buffers that the call replaced, by their place in the declaration.
    pub fn take_updates(&mut self) -> Vec<(usize, Tensor)> {
        std::mem::take(&mut self.updates)
    }

    /// A declared parameter, by its place in the declaration.
    ///
    /// # Errors
    /// [`TensorError::NotPermitted`] outside forward, [`TensorError::UnknownName`] if no parameter was declared there,
    /// [`TensorError::Budget`].
    pub fn parameter(&mut self, index: u32) -> Result<Handle> {
        self.charge(Cost::request())?;
        let value = self.value("parameter", index, Storage::Parameter)?;
        self.insert(value.tensor.clone())
    }

    /// A declared buffer, as the last successful call left it.
    ///
    /// # Errors
    /// As [`parameter`](Self::parameter).
    pub fn buffer(&mut self, index: u32) -> Result<Handle> {
        self.charge(Cost::request())?;
        let value = self.value("buffer", index, Storage::Buffer)?;
        self.insert(value.tensor.clone())
    }

    /// Replaces a declared buffer once the call has succeeded; the last replacement counts. Takes the handle.
    ///
    /// # Errors
    /// As [`buffer`](Self::buffer), [`TensorError::StaleHandle`], [`TensorError::Shape`] unless it has the buffer's extents.
    pub fn update_buffer(&mut self, index: u32, handle: Handle) -> Result<()> {
        self.charge(Cost::request())?;
        let shape = self
            .value("update-buffer", index, Storage::Buffer)?
            .tensor
            .shape();
        let tensor = self.take(handle)?.detach();
        tensor.expect_kind("update-buffer", "value", Kind::Float)?;
        tensor.expect_shape("update-buffer", "value", &shape)?;
        self.updates.push((index as usize, tensor));
        Ok(())
    }

    fn value(&self, request: &'static str, index: u32, storage: Storage) -> Result<&Value> {
        if self.phase != Phase::Forward {
            return Err(TensorError::NotPermitted {
                request,
                phase: self.phase.name(),
            });
        }
        let known = self.values.get(index as usize);
        known
            .filter(|value| value.storage == storage)
            .ok_or_else(|| {
                let (wanted, declared) = match storage {
                    Storage::Parameter => ("parameter", "parameters"),
                    Storage::Buffer => ("buffer", "buffers"),
                };
                let places: Vec<String> = (0..self.values.len())
                    .filter(|&place| self.values[place].storage == storage)
                    .map(|place| place.to_string())
                    .collect();
                TensorError::UnknownName {
                    name: format!("{wanted} {index}"),
                    known: format!("declared {declared}: {}", places.join(", ")),
                }
            })
    }

    /// Lends a tensor to the call.
    ///
    /// # Errors
    /// [`TensorError::Budget`] if the call holds too many.
    pub fn insert(&mut self, tensor: Tensor) -> Result<Handle> {
        if self.live >= self.limits.handles {
            return Err(self.refusal("handles", self.limits.handles, self.live + 1));
        }
        let index = self.slots.len() as u32 + 1; // 0 is no handle
        if index > INDEX_MASK {
            let most = u64::from(INDEX_MASK);
            return Err(self.refusal("operations", most, most + 1));
        }
        self.slots.push(Some(tensor));
        self.live += 1;
        Ok(Handle(self.frame << INDEX_BITS | index))
    }

    /// The tensor behind a handle of this call.
    ///
    /// # Errors
    /// [`TensorError::StaleHandle`] for any other.
    pub fn get(&self, handle: Handle) -> Result<&Tensor> {
        self.index(handle)
            .and_then(|index| self.slots.get(index)?.as_ref())
            .ok_or(TensorError::StaleHandle { handle: handle.0 })
    }

    /// Takes a tensor out of the call: a result, which outlives the frame.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn take(&mut self, handle: Handle) -> Result<Tensor> {
        let tensor = self
            .index(handle)
            .and_then(|index| self.slots.get_mut(index)?.take())
            .ok_or(TensorError::StaleHandle { handle: handle.0 })?;
        self.live -= 1;
        Ok(tensor)
    }

    /// Releases a handle. Releasing one twice, or a stale one, does nothing.
    pub fn release(&mut self, handle: Handle) {
        self.take(handle).ok();
    }

    /// Computes an operation on tensors of this call and keeps its results in the call.
    /// Handle 0 is an optional tensor that was left out.
    ///
    /// # Errors
    /// Whatever [`dispatch`] refuses, [`TensorError::StaleHandle`], [`TensorError::Budget`].
    pub fn op(
        &mut self,
        code: OpCode,
        tensors: &[Handle],
        attributes: &[Attribute],
    ) -> Result<[Handle; 2]> {
        self.charge_for_arguments(tensors, attributes)?;
        let mut operands = [None; 8];
        let mut many;
        let operands: &mut [Option<&Tensor>] = if tensors.len() <= operands.len() {
            &mut operands[..tensors.len()]
        } else {
            many = vec![None; tensors.len()];
            &mut many
        };
        for (operand, &handle) in operands.iter_mut().zip(tensors) {
            if handle != Handle(0) {
                *operand = Some(self.get(handle)?);
            }
        }
        let (mut usage, limits) = (self.usage, self.limits);
        let outputs = dispatch(code, operands, attributes, &self.device, &mut |cost| {
            charge(&mut usage, &limits, cost)
        });
        self.usage = usage;
        match outputs? {
            Outputs::One(first) => Ok([self.insert(first)?, Handle(0)]),
            Outputs::Two(first, second) => Ok([self.insert(first)?, self.insert(second)?]),
        }
    }

    /// Counts a request, whether it will be refused or not, with the lists that had to be read for it.
    fn charge_for_arguments(&mut self, tensors: &[Handle], attributes: &[Attribute]) -> Result<()> {
        let listed = attributes.iter().map(|attribute| match attribute {
            Attribute::Ints(list) => list.len(),
            _ => 0,
        });
        let listed = listed.sum::<usize>() + tensors.len();
        self.usage.operations += 1;
        let cost = match listed {
            // Ordinary lists are covered by what every request costs.
            0..64 => Cost::default(),
            _ => Cost::copy(listed, Kind::Int),
        };
        self.charge_without_counting(cost)
    }

    fn charge(&mut self, cost: Cost) -> Result<()> {
        self.usage.operations += 1;
        self.charge_without_counting(cost)
    }

    fn charge_without_counting(&mut self, cost: Cost) -> Result<()> {
        charge(&mut self.usage, &self.limits, cost)
    }

    fn refusal(&mut self, resource: &'static str, limit: u64, needed: u64) -> TensorError {
        self.usage.refuse(Exceeded {
            resource,
            limit,
            needed,
        })
    }

    /// Whether the call kept to its budgets. One that was refused anything for them has failed, even where the plugin made do without it: else
    /// results would depend on the budgets.
    ///
    /// # Errors
    /// [`TensorError::Budget`] for the first that it would have exceeded.
    pub fn kept_to_budgets(&self) -> Result<()> {
        match self.usage.exceeded {
            Some(exceeded) => Err(exceeded.into()),
            None => Ok(()),
        }
    }

    /// Whether the call has been told so often that a budget is spent that it cannot be meant to go on.
    pub fn is_spent(&self) -> bool {
        const PATIENCE: u64 = 16;
        self.usage.refusals > PATIENCE
    }

    /// What becomes of a line of so many bytes that the plugin logs.
    ///
    /// # Errors
    /// [`TensorError::Budget`].
    pub fn log(&mut self, bytes: usize) -> Result<Logged> {
        self.charge(Cost::copy(bytes, Kind::Bool))?;
        self.usage.log_lines += 1;
        Ok(
            match self.usage.log_lines.checked_sub(self.limits.log_lines) {
                None | Some(0) => Logged::Written,
                Some(1) => Logged::FirstDropped,
                Some(_) => Logged::Dropped,
            },
        )
    }

    /// What one call may use.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// A constant by name.
    ///
    /// # Errors
    /// [`TensorError::UnknownName`] if nobody bound it.
    pub fn constant(&mut self, name: &str) -> Result<Handle> {
        self.charge(Cost::copy(name.len(), Kind::Bool))?;
        let Some(constant) = self.constants.get(name) else {
            let known: Vec<&str> = self.constants.keys().map(String::as_str).collect();
            return Err(TensorError::UnknownName {
                name: name.chars().take(SHOWN_CHARACTERS).collect(),
                known: known.join(", "),
            });
        };
        self.insert(constant.clone())
    }

    /// A tensor from numbers that the plugin sends.
    ///
    /// # Errors
    /// As [`Tensor::from_floats`], or [`TensorError::Budget`].
    pub fn from_floats(&mut self, data: &[f32], shape: &[usize]) -> Result<Handle> {
        self.charge(Cost::copy(data.len(), Kind::Float))?;
        let tensor = Tensor::from_floats(data, shape, &self.device)?;
        self.insert(tensor)
    }

    /// A tensor from whole numbers that the plugin sends.
    ///
    /// # Errors
    /// As [`Tensor::from_ints`], or [`TensorError::Budget`].
    pub fn from_ints(&mut self, data: &[i64], shape: &[usize]) -> Result<Handle> {
        self.charge(Cost::copy(data.len(), Kind::Int))?;
        let tensor = Tensor::from_ints(data, shape, &self.device)?;
        self.insert(tensor)
    }

    /// Copies floats out.
    ///
    /// # Errors
    /// [`TensorError::NotPermitted`] in forward, [`TensorError::StaleHandle`], [`TensorError::Kind`], [`TensorError::Budget`].
    pub fn read_floats(&mut self, handle: Handle) -> Result<Vec<f32>> {
        self.expect_readable("read-floats")?;
        self.charge_for_reading(handle)?;
        self.get(handle)?.to_floats()
    }

    /// Copies whole numbers out, or truth values as 0 and 1.
    ///
    /// # Errors
    /// As [`read_floats`](Self::read_floats).
    pub fn read_ints(&mut self, handle: Handle) -> Result<Vec<i64>> {
        self.expect_readable("read-ints")?;
        self.charge_for_reading(handle)?;
        self.get(handle)?.to_ints()
    }

    fn charge_for_reading(&mut self, handle: Handle) -> Result<()> {
        let tensor = self.get(handle)?;
        let kind = match tensor.kind() {
            Kind::Float => Kind::Float,
            Kind::Int | Kind::Bool => Kind::Int, // what it is read as
        };
        let cost = Cost::copy(tensor.shape().elements(), kind);
        self.charge(cost)
    }

    /// A second handle to the same tensor.
    ///
    /// # Errors
    /// [`TensorError::StaleHandle`], [`TensorError::Budget`].
    pub fn share(&mut self, handle: Handle) -> Result<Handle> {
        self.charge(Cost::request())?;
        let tensor = self.get(handle)?.clone();
        self.insert(tensor)
    }

    /// What the elements of a tensor are.
    ///
    /// # Errors
    /// [`TensorError::StaleHandle`].
    pub fn kind(&self, handle: Handle) -> Result<Kind> {
        Ok(self.get(handle)?.kind())
    }

    fn expect_readable(&self, request: &'static str) -> Result<()> {
        if self.phase == Phase::Forward {
            return Err(TensorError::NotPermitted {
                request,
                phase: self.phase.name(),
            });
        }
        Ok(())
    }

    fn index(&self, handle: Handle) -> Option<usize> {
        let index = (handle.0 & INDEX_MASK) as usize;
        (handle.0 >> INDEX_BITS == self.frame)
            .then_some(index)?
            .checked_sub(1)
    }
}

/// Adds a cost to what a call has used, if its limits allow it.
fn charge(usage: &mut Usage, limits: &Limits, cost: Cost) -> Result<()> {
    let bytes = usage.bytes.saturating_add(cost.bytes);
    let work = usage.work.saturating_add(cost.work);
    for (resource, limit, needed) in [
        ("operations", limits.operations, usage.operations),
        ("bytes", limits.bytes, bytes),
        ("work", limits.work, work),
    ] {
        if needed > limit {
            return Err(usage.refuse(Exceeded {
                resource,
                limit,
                needed,
            }));
        }
    }
    (usage.bytes, usage.work) = (bytes, work);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session() -> Session {
        let mut session = Session::new(
            Device::cpu(),
            Limits {
                operations: 5,
                handles: 4,
                bytes: 100_000,
                work: 2_000_000,
                log_lines: 1,
            },
        );
        session.enter(Phase::Forward);
        session
    }

    #[test]
    fn releases_everything_but_results_when_the_call_returns() {
        let mut session = session();
        let x = session.from_floats(&[1.0, 2.0], &[2]).unwrap();
        let [y, _] = session.op(OpCode::Add, &[x, x], &[]).unwrap();
        let result = session.take(y).unwrap();
        let usage = session.leave();
        assert_eq!((usage.operations, usage.unreleased), (2, 1));
        assert_eq!(result.to_floats().unwrap(), [2.0, 4.0]);
        session.enter(Phase::Forward);
        assert_eq!(session.get(x).unwrap_err().code(), "stale-handle");
        assert_eq!(session.get(y).unwrap_err().code(), "stale-handle");
    }

    #[test]
    fn refuses_reading_on_the_way_forward_only() {
        let mut session = session();
        let x = session.from_floats(&[1.0], &[1]).unwrap();
        assert_eq!(session.read_floats(x).unwrap_err().code(), "not-permitted");
        session.enter(Phase::Predict);
        let x = session.from_floats(&[1.0], &[1]).unwrap();
        assert_eq!(session.read_floats(x).unwrap(), [1.0]);
    }

    #[test]
    fn holds_a_call_to_its_budgets() {
        let mut session = session();
        let refused = |error: TensorError| match error {
            TensorError::Budget { resource, .. } => resource,
            other => panic!("{other}"),
        };
        let x = session.from_floats(&[1.0], &[1]).unwrap();
        for _ in 0..4 {
            let [y, _] = session.op(OpCode::Neg, &[x], &[]).unwrap();
            session.release(y);
        }
        let error = session.op(OpCode::Neg, &[x], &[]).unwrap_err();
        assert_eq!(refused(error), "operations");
        session.enter(Phase::Forward);
        for _ in 0..4 {
            session.from_floats(&[1.0], &[1]).unwrap();
        }
        let error = session.from_floats(&[1.0], &[1]).unwrap_err();
        assert_eq!(refused(error), "handles");
        session.enter(Phase::Forward);
        let full = |n| [Attribute::Ints(vec![n]), Attribute::Float(0.0)];
        let error = session.op(OpCode::Full, &[], &full(25_000)).unwrap_err();
        assert_eq!(refused(error), "bytes");
        session.enter(Phase::Forward);
        let [x, _] = session.op(OpCode::Full, &[], &full(1500)).unwrap();
        let many = [Attribute::Ints(vec![0; 20_000]), Attribute::Bool(false)];
        let error = session.op(OpCode::Sum, &[x], &many).unwrap_err();
        assert_eq!(refused(error), "bytes");
        let axes = [Attribute::Ints(vec![]), Attribute::Bool(false)];
        let error = (0..3).find_map(|_| session.op(OpCode::Sum, &[x], &axes).err());
        assert_eq!(error.map(refused), Some("work"));
    }

    #[test]
    fn names_the_limit_that_would_do() {
        let mut session = session();
        let full = [
            Attribute::Ints(vec![i64::from(i32::MAX)]),
            Attribute::Float(0.0),
        ];
        let error = session
            .op(OpCode::Full, &[], &full)
            .unwrap_err()
            .to_string();
        let (needed, limit) = (4 * i64::from(i32::MAX) + 1024, 100_000);
        assert!(error.contains(&needed.to_string()), "{error}");
        assert!(error.contains(&limit.to_string()), "{error}");
        assert!(error.contains("`plugins.limits.bytes`"), "{error}");
    }

    #[test]
    fn what_is_read_and_shared_counts() {
        for request in [
            (|session, x| session.read_floats(x).map(drop)) as fn(&mut Session, Handle) -> _,
            |session, x| session.share(x).map(|second| session.release(second)),
            |session, _| session.log(3).map(drop),
            |session, _| session.constant("x").map(|second| session.release(second)),
        ] {
            let mut session = session();
            session.bind("x", Tensor::full(&[1], 1.0, &Device::cpu()).unwrap());
            session.enter(Phase::Predict);
            let x = session.from_floats(&[1.0], &[1]).unwrap();
            let error = (0..5).find_map(|_| request(&mut session, x).err());
            assert_eq!(error.unwrap().code(), "budget-exceeded");
        }
    }

    #[test]
    fn drops_lines_beyond_the_limit_and_says_so_once() {
        let mut session = session();
        let lines: Vec<Logged> = (0..4).map(|_| session.log(3).unwrap()).collect();
        use Logged::{Dropped, FirstDropped, Written};
        assert_eq!(lines, [Written, FirstDropped, Dropped, Dropped]);
        session.enter(Phase::Forward);
        assert_eq!(session.log(3), Ok(Written));
    }

    #[test]
    fn a_call_that_goes_on_asking_is_spent() {
        let mut session = session();
        let ask = |session: &mut Session| {
            let full = [Attribute::Ints(vec![50_000]), Attribute::Float(0.0)];
            session.op(OpCode::Full, &[], &full).unwrap_err();
        };
        session.kept_to_budgets().unwrap();
        ask(&mut session);
        assert!(!session.is_spent());
        let error = session.kept_to_budgets().unwrap_err();
        assert_eq!(error.code(), "budget-exceeded");
        (0..20).for_each(|_| ask(&mut session));
        assert!(session.is_spent());
        session.enter(Phase::Forward);
        assert!(!session.is_spent());
        session.kept_to_budgets().unwrap();
    }

    #[test]
    fn refuses_handles_that_were_never_given() {
        let session = session();
        for handle in [0, 1, INDEX_MASK, u32::MAX] {
            assert_eq!(
                session.get(Handle(handle)).unwrap_err().code(),
                "stale-handle"
            );
        }
    }

    #[test]
    fn keeps_values_for_a_plugin() {
        let mut session = session();
        let full = |value| Tensor::full(&[2], value, &Device::cpu()).unwrap();
        let lend = |session: &mut Session| {
            session.lend_values(vec![
                Value {
                    storage: Storage::Parameter,
                    tensor: full(1.0).to_leaf().unwrap(),
                },
                Value {
                    storage: Storage::Buffer,
                    tensor: full(2.0),
                },
            ]);
        };
        lend(&mut session);
        let parameter = session.parameter(0).unwrap();
        assert!(session.get(parameter).unwrap().is_tracked());
        let replacement = session.insert(full(3.0)).unwrap();
        session.update_buffer(1, replacement).unwrap();
        // Taken over: the handle is gone, and the buffer is what it was until the call has returned.
        assert_eq!(session.get(replacement).unwrap_err().code(), "stale-handle");
        let buffer = session.buffer(1).unwrap();
        let now = session.get(buffer).unwrap().to_floats().unwrap();
        assert_eq!(now, [2.0, 2.0]);
        let updates = session.take_updates();
        assert_eq!(updates.len(), 1);
        assert_eq!(
            (updates[0].0, updates[0].1.to_floats().unwrap()),
            (1, vec![3.0, 3.0])
        );

        session.enter(Phase::Forward);
        lend(&mut session);
        assert_eq!(session.parameter(1).unwrap_err().code(), "unknown-name");
        assert_eq!(session.buffer(2).unwrap_err().code(), "unknown-name");
        let wrong = session.from_floats(&[1.0], &[1]).unwrap();
        assert_eq!(
            session.update_buffer(1, wrong).unwrap_err().code(),
            "shape-mismatch"
        );
        session.enter(Phase::Predict);
        lend(&mut session);
        assert_eq!(session.parameter(0).unwrap_err().code(), "not-permitted");
    }

    #[test]
    fn names_the_constants_there_are() {
        let mut session = session();
        session.bind(
            "class-embeddings",
            Tensor::full(&[2, 3], 0.0, &Device::cpu()).unwrap(),
        );
        assert!(session.constant("class-embeddings").is_ok());
        let error = session.constant("embeddings").unwrap_err();
        assert!(error.to_string().contains("class-embeddings"), "{error}");
    }
}
