//! What a pickle describes, without running it: the opcodes that `torch.save` writes are followed on a stack, and the classes and functions
//! that they name are names here. The few that rebuild tensors are understood, from their arguments; whatever any other would have made is
//! [foreign](Value::Foreign), known by its name alone.
//!
//! Every opcode adds at most one value, and values refer to one another by their place, so that a pickle takes memory in proportion to its
//! length whatever it repeats, and nothing here is recursive.

use std::io::{self, Read};
use std::rc::Rc;

use super::{Dtype, contiguous};

/// The most values that a pickle may describe; the optimizer's state of a model of a thousand layers has a tenth of it.
const MOST_VALUES: usize = 1 << 20;
/// The longest name of a class or a storage, and the most axes of a tensor: what is short is repeated without harm.
const LONGEST_NAME: usize = 256;
const MOST_AXES: usize = 16;
/// The most that its tuples, lists and dictionaries may hold together.
const MOST_ITEMS: usize = 1 << 22;
/// The most bytes that a pickle may have: tensors are not in it.
const MOST_BYTES: u64 = 64 << 20;

/// Why a pickle cannot be read.
pub(super) type Reason = String;

/// A place among the values of a pickle.
pub(super) type Id = u32;

/// What a pickle may describe.
#[derive(Debug)]
pub(super) enum Value {
    None,
    True,
    False,
    Int(i64),
    Text(String),
    /// Numbers that are no small whole ones, bytes, sets: nothing that is asked for.
    Scalar,
    /// Tuples and lists.
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    /// A class or a function, by its module and name.
    Global(Rc<str>),
    Storage(Storage),
    Tensor(Tensor),
    /// An object of a class that is only known by its name.
    Foreign(Rc<str>),
}

/// Numbers that tensors are views of.
#[derive(Debug, Clone)]
pub(super) struct Storage {
    /// What the file calls it.
    pub key: Rc<str>,
    /// What the numbers are; of an untyped storage, bytes.
    pub dtype: Dtype,
    /// How many there are.
    pub elements: usize,
}

/// A view of a storage that lies within it.
#[derive(Debug)]
pub(super) struct Tensor {
    pub storage: Storage,
    pub dtype: Dtype,
    /// Of its first element, in elements.
    pub offset: usize,
    pub shape: Vec<usize>,
    /// None where elements follow one another.
    pub strides: Option<Vec<usize>>,
}

/// All values of a pickle.
#[derive(Debug, Default)]
pub(super) struct Pickle {
    values: Vec<Value>,
    /// All storages, in the order in which they are first named.
    pub storages: Vec<Storage>,
}

impl Pickle {
    pub fn value(&self, id: Id) -> &Value {
        self.values.get(id as usize).unwrap_or(&Value::None)
    }

    fn add(&mut self, value: Value) -> Result<Id, Reason> {
        if self.values.len() == MOST_VALUES {
            return Err(format!(
                "its pickle describes more than {MOST_VALUES} values"
            ));
        }
        self.values.push(value);
        Ok((self.values.len() - 1) as Id)
    }

    fn text(&self, id: Id) -> Option<&str> {
        match self.value(id) {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    fn list(&self, id: Id, what: &str) -> Result<&[Id], Reason> {
        match self.value(id) {
            Value::List(items) => Ok(items),
            other => Err(format!("{what} is {}, expected a tuple", other.in_words())),
        }
    }

    fn size(&self, id: Id, what: &str) -> Result<usize, Reason> {
        match self.value(id) {
            Value::Int(number) => {
                usize::try_from(*number).map_err(|_| format!("{what} is {number}"))
            }
            other => Err(format!("{what} is {}, expected a number", other.in_words())),
        }
    }

    fn sizes(&self, id: Id, what: &str) -> Result<Vec<usize>, Reason> {
        let items = self.list(id, what)?;
        if items.len() > MOST_AXES {
            return Err(format!("{what} has {} numbers", items.len()));
        }
        items.iter().map(|&item| self.size(item, what)).collect()
    }

    /// `('storage', class, key, device, elements[, view])`.
    fn storage(&self, id: Id) -> Result<Storage, Reason> {
        let fields = self.list(id, "a persistent id")?;
        let &[tag, class, key, _, elements, ref view @ ..] = fields else {
            return Err(format!("a storage has {} fields, expected 5", fields.len()));
        };
        if self.text(tag) != Some("storage") {
            return Err("a persistent id names no storage".into());
        }
        if view
            .iter()
            .any(|&view| !matches!(self.value(view), Value::None))
        {
            return Err(
                "a storage is a view of another, as in files of PyTorch 0.3 and before".into(),
            );
        }
        let Value::Global(class) = self.value(class) else {
            return Err(format!(
                "the type of a storage is {}",
                self.value(class).in_words()
            ));
        };
        let key = self.text(key).ok_or("the key of a storage is no text")?;
        Ok(Storage {
            key: named(key)?,
            dtype: Dtype::of_storage(class)
                .ok_or_else(|| format!("holds a `{class}`, which is not read"))?,
            elements: self.size(elements, "the length of a storage")?,
        })
    }

    /// What calling `function` with `arguments` would make.
    fn call(&self, function: Id, arguments: Id) -> Result<Made, Reason> {
        let name = match self.value(function) {
            Value::Global(name) | Value::Foreign(name) => name,
            other => return Err(format!("{} is called", other.in_words())),
        };
        let given = match self.value(arguments) {
            Value::List(items) => items,
            other => return Err(format!("`{name}` is called with {}", other.in_words())),
        };
        let typed = |at: usize| match given.get(at).map(|&id| self.value(id)) {
            Some(Value::Global(dtype)) => Dtype::of_torch(dtype)
                .ok_or_else(|| format!("holds a tensor of `{dtype}`, which is not read")),
            _ => Err(format!("`{name}` has no type")),
        };
        Ok(match (&**name, given.len()) {
            ("collections.OrderedDict", 0) => Made::New(Value::Dict(Vec::new())),
            ("torch._utils._rebuild_tensor", 4) => Made::New(self.tensor(given, None, None)?),
            ("torch._utils._rebuild_tensor_v2", 6 | 7) => {
                Made::New(self.tensor(given, None, given.get(6))?)
            }
            ("torch._utils._rebuild_tensor_v3", 7 | 8) => {
                Made::New(self.tensor(given, Some(typed(6)?), given.get(7))?)
            }
            ("torch._utils._rebuild_parameter", 3)
            | ("torch._utils._rebuild_parameter_with_state", 4) => Made::Same(given[0]),
            _ => Made::New(Value::Foreign(name.clone())),
        })
    }

    /// `(storage, offset, shape, strides, …)`, of the storage's type unless another is given.
    fn tensor(
        &self,
        given: &[Id],
        dtype: Option<Dtype>,
        metadata: Option<&Id>,
    ) -> Result<Value, Reason> {
        let Value::Storage(storage) = self.value(given[0]) else {
            let found = self.value(given[0]).in_words();
            return Err(format!("a tensor is made of {found}, expected a storage"));
        };
        match metadata.map(|&id| self.value(id)) {
            None | Some(Value::None) => {}
            Some(Value::Dict(pairs)) if pairs.is_empty() => {}
            // Such as the conjugate of what is stored.
            Some(_) => return Ok(Value::Foreign("torch.Tensor with a lazy operation".into())),
        }
        let dtype = dtype.unwrap_or(storage.dtype);
        let offset = self.size(given[1], "the offset of a tensor")?;
        let shape = self.sizes(given[2], "the shape of a tensor")?;
        let strides = self.sizes(given[3], "the strides of a tensor")?;
        if shape.len() != strides.len() {
            return Err(format!(
                "a tensor of shape {shape:?} has strides {strides:?}"
            ));
        }
        let elements = shape
            .iter()
            .try_fold(1usize, |n, &extent| n.checked_mul(extent));
        let steps = shape
            .iter()
            .zip(&strides)
            .try_fold(1usize, |end, (&extent, &stride)| {
                end.checked_add(extent.saturating_sub(1).checked_mul(stride)?)
            });
        let end = match elements {
            Some(0) => Some(offset),
            _ => steps.and_then(|steps| steps.checked_add(offset)),
        };
        let bytes = |elements: usize, dtype: Dtype| elements.checked_mul(dtype.bytes());
        let (Some(_), Some(end)) = (elements, end.and_then(|end| bytes(end, dtype))) else {
            return Err(format!(
                "a tensor has shape {shape:?} and strides {strides:?}"
            ));
        };
        if bytes(storage.elements, storage.dtype).is_none_or(|held| end > held) {
            return Err(format!(
                "a tensor of shape {shape:?} with strides {strides:?} from {offset} on reaches beyond its storage of {} elements",
                storage.elements
            ));
        }
        let strides = (!contiguous(&shape, &strides)).then_some(strides);
        Ok(Value::Tensor(Tensor {
            storage: storage.clone(),
            dtype,
            offset,
            shape,
            strides,
        }))
    }
}

/// What a call makes.
enum Made {
    New(Value),
    /// One of its arguments.
    Same(Id),
}

impl Value {
    /// What it is.
    pub fn in_words(&self) -> String {
        match self {
            Self::None => "nothing".into(),
            Self::True | Self::False => "a truth value".into(),
            Self::Int(number) => format!("the number {number}"),
            Self::Text(_) => "a text".into(),
            Self::Scalar => "a number or bytes".into(),
            Self::List(_) => "a list".into(),
            Self::Dict(_) => "a dictionary".into(),
            Self::Global(name) => format!("the class or function `{name}`"),
            Self::Storage(_) => "a storage".into(),
            Self::Tensor(_) => "a tensor".into(),
            Self::Foreign(name) => format!("an object of `{name}`"),
        }
    }
}

/// Follows a pickle's opcodes up to its end; answers where what it describes is.
pub(super) fn read(reader: &mut impl Read) -> Result<(Pickle, Id), Reason> {
    let mut machine = Machine {
        reader: Bytes {
            inner: reader,
            left: MOST_BYTES,
        },
        pickle: Pickle::default(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: Vec::new(),
        items: 0,
    };
    let root = machine.run()?;
    Ok((machine.pickle, root))
}

struct Machine<'a, R> {
    reader: Bytes<'a, R>,
    pickle: Pickle,
    stack: Vec<Id>,
    /// How high the stack was at each mark that is open.
    marks: Vec<usize>,
    memo: Vec<Option<Id>>,
    /// How many items there were so far.
    items: usize,
}

impl<R: Read> Machine<'_, R> {
    fn run(&mut self) -> Result<Id, Reason> {
        loop {
            let [opcode] = self.reader.array()?;
            match opcode {
                // PROTO
                0x80 => match self.reader.array()? {
                    [2..=5] => {}
                    [other] => {
                        return Err(format!(
                            "its pickle is of protocol {other}, expected 2 to 5"
                        ));
                    }
                },
                // FRAME
                0x95 => drop(self.reader.array::<8>()?),
                // STOP
                b'.' => return self.pop(),
                // MARK
                b'(' => {
                    // A pickle of marks alone would add none of the values that are counted.
                    if self.marks.len() == MOST_VALUES {
                        return Err("its pickle has too many marks".into());
                    }
                    self.marks.push(self.stack.len());
                }
                // POP, POP_MARK
                b'0' => drop(self.pop()?),
                b'1' => drop(self.pop_mark()?),
                b'N' => self.push(Value::None)?,
                0x88 => self.push(Value::True)?,
                0x89 => self.push(Value::False)?,
                // BININT, BININT1, BININT2
                b'J' => {
                    let number = i32::from_le_bytes(self.reader.array()?);
                    self.push(Value::Int(number.into()))?;
                }
                b'K' => {
                    let [number] = self.reader.array()?;
                    self.push(Value::Int(number.into()))?;
                }
                b'M' => {
                    let number = u16::from_le_bytes(self.reader.array()?);
                    self.push(Value::Int(number.into()))?;
                }
                // LONG1
                0x8a => {
                    let [length] = self.reader.array()?;
                    let bytes = self.reader.bytes(length.into())?;
                    self.push(long(&bytes))?;
                }
                // BINFLOAT
                b'G' => {
                    self.reader.array::<8>()?;
                    self.push(Value::Scalar)?;
                }
                // BINUNICODE, SHORT_BINUNICODE, BINUNICODE8
                b'X' => self.push_text(4)?,
                0x8c => self.push_text(1)?,
                0x8d => self.push_text(8)?,
                // BINBYTES, SHORT_BINBYTES, BINBYTES8, BYTEARRAY8; BINSTRING and SHORT_BINSTRING, which Python 2 wrote
                b'B' | b'T' => self.push_bytes(4)?,
                b'C' | b'U' => self.push_bytes(1)?,
                0x8e | 0x96 => self.push_bytes(8)?,
                // EMPTY_TUPLE, EMPTY_LIST, EMPTY_DICT, EMPTY_SET
                b')' | b']' | 0x8f => self.push(Value::List(Vec::new()))?,
                b'}' => self.push(Value::Dict(Vec::new()))?,
                // TUPLE, TUPLE1 to TUPLE3, FROZENSET
                b't' | 0x91 => {
                    let items = self.pop_mark()?;
                    self.count(items.len())?;
                    self.push(Value::List(items))?;
                }
                0x85..=0x87 => {
                    let mut items = Vec::new();
                    for _ in 0..opcode - 0x84 {
                        items.push(self.pop()?);
                    }
                    items.reverse();
                    self.push(Value::List(items))?;
                }
                // APPEND; APPENDS, ADDITEMS
                b'a' => {
                    let item = self.pop()?;
                    self.extend(vec![item])?;
                }
                b'e' | 0x90 => {
                    let items = self.pop_mark()?;
                    self.extend(items)?;
                }
                // SETITEM, SETITEMS
                b's' => {
                    let value = self.pop()?;
                    let key = self.pop()?;
                    self.set(&[key, value])?;
                }
                b'u' => {
                    let items = self.pop_mark()?;
                    self.set(&items)?;
                }
                // BINGET, LONG_BINGET
                b'h' => {
                    let [place] = self.reader.array()?;
                    self.recall(place.into())?;
                }
                b'j' => {
                    let place = u32::from_le_bytes(self.reader.array()?);
                    self.recall(place)?;
                }
                // BINPUT, LONG_BINPUT, MEMOIZE
                b'q' => {
                    let [place] = self.reader.array()?;
                    self.keep(place.into())?;
                }
                b'r' => {
                    let place = u32::from_le_bytes(self.reader.array()?);
                    self.keep(place)?;
                }
                0x94 => self.keep(self.memo.len() as u32)?,
                // GLOBAL, STACK_GLOBAL
                b'c' => {
                    let (module, name) = (self.reader.line()?, self.reader.line()?);
                    self.push(Value::Global(named(&format!("{module}.{name}"))?))?;
                }
                0x93 => {
                    let (name, module) = (self.pop()?, self.pop()?);
                    let text = |id| self.pickle.text(id).ok_or("the name of a class is no text");
                    let (module, name) = (text(module)?, text(name)?);
                    if module.len() + name.len() >= LONGEST_NAME {
                        return Err("the name of a class is too long".into());
                    }
                    let global = Rc::from(format!("{module}.{name}"));
                    self.push(Value::Global(global))?;
                }
                // BINPERSID
                b'Q' => {
                    let id = self.pop()?;
                    let storage = self.pickle.storage(id)?;
                    self.pickle.storages.push(storage.clone());
                    self.push(Value::Storage(storage))?;
                }
                // REDUCE, NEWOBJ
                b'R' | 0x81 => {
                    let (arguments, function) = (self.pop()?, self.pop()?);
                    match self.pickle.call(function, arguments)? {
                        Made::New(value) => self.push(value)?,
                        Made::Same(id) => self.stack.push(id),
                    }
                }
                // NEWOBJ_EX
                0x92 => {
                    let (_, _, class) = (self.pop()?, self.pop()?, self.pop()?);
                    let Value::Global(name) = self.pickle.value(class) else {
                        return Err("its pickle makes an object of no class".into());
                    };
                    self.push(Value::Foreign(name.clone()))?;
                }
                // BUILD sets attributes: of dictionaries, nothing that is asked for; objects stay foreign.
                b'b' => {
                    self.pop()?;
                    let object = self.top()?;
                    if !matches!(
                        self.pickle.value(object),
                        Value::Dict(_) | Value::Foreign(_)
                    ) {
                        let found = self.pickle.value(object).in_words();
                        return Err(format!("its pickle sets attributes of {found}"));
                    }
                }
                other => {
                    return Err(format!(
                        "its pickle has the opcode 0x{other:02x}, which `torch.save` does not write for tensors"
                    ));
                }
            }
        }
    }

    fn push(&mut self, value: Value) -> Result<(), Reason> {
        let id = self.pickle.add(value)?;
        self.stack.push(id);
        Ok(())
    }

    fn push_text(&mut self, width: usize) -> Result<(), Reason> {
        let bytes = self.reader.sized(width)?;
        let text = String::from_utf8(bytes).map_err(|_| "a text in its pickle is not UTF-8")?;
        self.push(Value::Text(text))
    }

    fn push_bytes(&mut self, width: usize) -> Result<(), Reason> {
        self.reader.sized(width)?;
        self.push(Value::Scalar)
    }

    fn top(&self) -> Result<Id, Reason> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let top = self.stack.get(floor..).and_then(<[Id]>::last);
        Ok(*top.ok_or("its pickle takes more from the stack than there is")?)
    }

    fn pop(&mut self) -> Result<Id, Reason> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    fn pop_mark(&mut self) -> Result<Vec<Id>, Reason> {
        let mark = self
            .marks
            .pop()
            .ok_or("its pickle has no mark where it needs one")?;
        Ok(self.stack.split_off(mark))
    }

    fn count(&mut self, items: usize) -> Result<(), Reason> {
        self.items += items;
        match self.items <= MOST_ITEMS {
            true => Ok(()),
            false => Err(format!("its pickle holds more than {MOST_ITEMS} items")),
        }
    }

    fn extend(&mut self, items: Vec<Id>) -> Result<(), Reason> {
        self.count(items.len())?;
        let top = self.top()?;
        match self.pickle.values.get_mut(top as usize) {
            Some(Value::List(list)) => list.extend(items),
            // An object that behaves as a list does.
            Some(Value::Foreign(_)) => {}
            _ => return Err("its pickle appends to what is no list".into()),
        }
        Ok(())
    }

    fn set(&mut self, items: &[Id]) -> Result<(), Reason> {
        self.count(items.len())?;
        let top = self.top()?;
        let (pairs, rest) = items.as_chunks::<2>();
        if !rest.is_empty() {
            return Err("its pickle sets a key without a value".into());
        }
        match self.pickle.values.get_mut(top as usize) {
            Some(Value::Dict(dict)) => dict.extend(pairs.iter().map(|&[key, value]| (key, value))),
            Some(Value::Foreign(_)) => {}
            _ => return Err("its pickle sets items of what is no dictionary".into()),
        }
        Ok(())
    }

    fn recall(&mut self, place: u32) -> Result<(), Reason> {
        let kept = self.memo.get(place as usize).copied().flatten();
        let id = kept.ok_or("its pickle recalls what it did not keep")?;
        // As with marks: the stack is bounded apart from the values.
        if self.stack.len() == MOST_VALUES {
            return Err("its pickle has too high a stack".into());
        }
        self.stack.push(id);
        Ok(())
    }

    fn keep(&mut self, place: u32) -> Result<(), Reason> {
        let (top, place) = (self.top()?, place as usize);
        if place >= MOST_VALUES {
            return Err(format!("its pickle keeps something at {place}"));
        }
        if self.memo.len() <= place {
            self.memo.resize(place + 1, None);
        }
        self.memo[place] = Some(top);
        Ok(())
    }
}

/// A name that is not too long.
fn named(name: &str) -> Result<Rc<str>, Reason> {
    match name.len() <= LONGEST_NAME {
        true => Ok(name.into()),
        false => Err("the name of a class or a storage is too long".into()),
    }
}

/// A whole number of any length, if it is a small one.
fn long(bytes: &[u8]) -> Value {
    if bytes.len() > 8 {
        return Value::Scalar;
    }
    let negative = bytes.last().is_some_and(|last| last & 0x80 != 0);
    let mut all = [if negative { 0xff } else { 0 }; 8];
    all[..bytes.len()].copy_from_slice(bytes);
    Value::Int(i64::from_le_bytes(all))
}

/// A pickle's bytes, up to the most that there may be.
struct Bytes<'a, R> {
    inner: &'a mut R,
    left: u64,
}

impl<R: Read> Bytes<'_, R> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Reason> {
        let mut bytes = [0; N];
        self.take(N as u64)?;
        self.inner.read_exact(&mut bytes).map_err(ended)?;
        Ok(bytes)
    }

    /// So many bytes; memory is taken as they come.
    fn bytes(&mut self, length: u64) -> Result<Vec<u8>, Reason> {
        self.take(length)?;
        let mut bytes = Vec::new();
        let read = self.inner.by_ref().take(length).read_to_end(&mut bytes);
        match read.map_err(ended)? as u64 == length {
            true => Ok(bytes),
            false => Err(ended(io::ErrorKind::UnexpectedEof.into())),
        }
    }

    /// Bytes behind their number, which has `width` bytes itself.
    fn sized(&mut self, width: usize) -> Result<Vec<u8>, Reason> {
        let mut length = [0; 8];
        self.take(width as u64)?;
        self.inner.read_exact(&mut length[..width]).map_err(ended)?;
        self.bytes(u64::from_le_bytes(length))
    }

    fn line(&mut self) -> Result<String, Reason> {
        let mut line = Vec::new();
        loop {
            match self.array()? {
                [b'\n'] => break,
                [byte] => line.push(byte),
            }
        }
        String::from_utf8(line).map_err(|_| "the name of a class is not UTF-8".into())
    }

    fn take(&mut self, bytes: u64) -> Result<(), Reason> {
        self.left = self
            .left
            .checked_sub(bytes)
            .ok_or_else(|| format!("its pickle is longer than {MOST_BYTES} bytes"))?;
        Ok(())
    }
}

fn ended(error: io::Error) -> Reason {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => "its pickle is cut short".into(),
        _ => error.to_string(),
    }
}
