//! What a call is charged is what the host spends: for every operation of the table, on operands of every layout, tracked and
//! untracked. Memory is counted at the allocator, so this test is alone in its process.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking; helpers outside of test functions too"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use Attribute::{Bool, Float, Int, Ints};
use dtta_tensor::{
    Attribute, Cost, Device, Handle, Kind, Limits, OPS, OpCode, Phase, Session, Tensor,
    TensorError, dispatch,
};

/// The system's allocator, with a count of what is held and of the most that was.
struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: everything is done by the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let held = HELD.fetch_add(layout.size(), Relaxed) + layout.size();
        MOST.fetch_max(held, Relaxed);
        // SAFETY: held by the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Relaxed);
        // SAFETY: held by the caller.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// One measurement at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The most bytes that `work` held beyond what was held before, and what it gave.
fn most<T>(work: impl FnOnce() -> T) -> (usize, T) {
    let before = HELD.load(Relaxed);
    MOST.store(before, Relaxed);
    let result = work();
    (MOST.load(Relaxed).saturating_sub(before), result)
}

/// A request, and what it is.
struct Request {
    what: String,
    operands: Vec<Option<Tensor>>,
    attributes: Vec<Attribute>,
}

/// Floats without order.
fn floats(shape: &[usize]) -> Tensor {
    let mut state = 1u32;
    let values: Vec<f32> = (0..shape.iter().product())
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 + 0.01
        })
        .collect();
    Tensor::from_floats(&values, shape, &Device::cpu()).unwrap()
}

fn indices(shape: &[usize], below: i64) -> Tensor {
    let count: usize = shape.iter().product();
    let values: Vec<i64> = (0..count as i64).map(|i| i * 7919 % below).collect();
    Tensor::from_ints(&values, shape, &Device::cpu()).unwrap()
}

/// `[rows, columns]` in every layout that a plugin can give it.
fn layouts(rows: usize, columns: usize) -> Vec<(&'static str, Tensor)> {
    let (r, c) = (rows, columns);
    let device = Device::cpu();
    vec![
        ("in order", floats(&[r, c])),
        ("turned", floats(&[c, r]).permute(&[1, 0]).unwrap()),
        (
            "of one element",
            Tensor::full(&[1, 1], 0.5, &device)
                .unwrap()
                .expand(&[r, c])
                .unwrap(),
        ),
        ("of one row", floats(&[1, c]).expand(&[r, c]).unwrap()),
    ]
}

/// What is asked of an operation: ordinary extents in every layout, and the extents for which little makes much.
#[expect(clippy::too_many_lines, reason = "one arm for each operation")]
fn requests(code: OpCode) -> Vec<Request> {
    const ROWS: usize = 700;
    const COLUMNS: usize = 900;
    let request = |what: &str, operands: Vec<Tensor>, attributes: Vec<Attribute>| Request {
        what: what.into(),
        operands: operands.into_iter().map(Some).collect(),
        attributes,
    };
    let on_layouts = |attributes: Vec<Attribute>| -> Vec<Request> {
        let mut all: Vec<Request> = layouts(ROWS, COLUMNS)
            .into_iter()
            .map(|(what, x)| request(what, vec![x], attributes.clone()))
            .collect();
        all.push(request("small", vec![floats(&[1, 2])], attributes));
        all
    };
    let pairs = |of: fn(Tensor) -> Tensor| -> Vec<Request> {
        let mut all = Vec::new();
        for (x_is, x) in layouts(ROWS, COLUMNS) {
            for (y_is, y) in layouts(ROWS, COLUMNS) {
                let what = format!("{x_is}, {y_is}");
                all.push(request(&what, vec![of(x.clone()), of(y)], vec![]));
            }
        }
        let outer = vec![of(floats(&[ROWS, 1])), of(floats(&[1, COLUMNS]))];
        all.push(request("outer", outer, vec![]));
        all
    };
    let image = |h: usize, w: usize| floats(&[2, 4, h, w]);
    let pool = |kernel: [i64; 2], stride: [i64; 2]| {
        vec![
            Ints(kernel.to_vec()),
            Ints(stride.to_vec()),
            Ints(vec![0, 0]),
        ]
    };
    match code {
        OpCode::Full => [1, 100_000, 4_000_000]
            .map(|n| request("", vec![], vec![Ints(vec![n]), Float(0.5)]))
            .into(),
        OpCode::Arange => [1, 100_000, 1_000_000]
            .map(|n| request("", vec![], vec![Int(3), Int(3 + n)]))
            .into(),
        OpCode::Add
        | OpCode::Sub
        | OpCode::Mul
        | OpCode::Div
        | OpCode::Maximum
        | OpCode::Minimum
        | OpCode::Equal
        | OpCode::Greater => pairs(|x| x),
        OpCode::LogicalAnd => pairs(|x| x.cast(Kind::Bool).unwrap()),
        OpCode::LogicalNot => layouts(ROWS, COLUMNS)
            .into_iter()
            .map(|(what, x)| request(what, vec![x.greater_scalar(0.5).unwrap()], vec![]))
            .collect(),
        OpCode::Choose => {
            let mask = || floats(&[ROWS, 1]).greater_scalar(0.5).unwrap();
            let pairs = pairs(|x| x).into_iter();
            pairs
                .map(|mut pair| {
                    pair.operands.insert(1, Some(mask()));
                    pair
                })
                .collect()
        }
        OpCode::Affine => on_layouts(vec![Float(2.0), Float(1.0)]),
        OpCode::Powf => on_layouts(vec![Float(1.7)]),
        OpCode::Clamp => on_layouts(vec![Float(0.2), Float(0.4)]),
        OpCode::Cast => {
            let casts = [0, 1, 2].map(|kind| on_layouts(vec![Int(kind)]));
            casts.into_iter().flatten().collect()
        }
        OpCode::GreaterScalar => on_layouts(vec![Float(0.3)]),
        OpCode::Sum | OpCode::Mean | OpCode::Variance | OpCode::Amax | OpCode::Amin => {
            let axes = [vec![], vec![0], vec![1], vec![0, 1]];
            let reduced = axes.map(|axes| on_layouts(vec![Ints(axes), Bool(true)]));
            let mut all: Vec<Request> = reduced.into_iter().flatten().collect();
            let thin = vec![floats(&[ROWS * COLUMNS, 1])];
            all.push(request("thin", thin, vec![Ints(vec![1]), Bool(false)]));
            all
        }
        OpCode::Argmax => [0, 1]
            .map(|axis| on_layouts(vec![Int(axis)]))
            .into_iter()
            .flatten()
            .collect(),
        OpCode::Reshape => on_layouts(vec![Ints(vec![-1])]),
        OpCode::Permute => on_layouts(vec![Ints(vec![1, 0])]),
        OpCode::Expand => [(700, 900), (1, 4_000_000)]
            .map(|(r, c)| request("", vec![floats(&[1, 1])], vec![Ints(vec![r, c])]))
            .into(),
        OpCode::Squeeze => vec![request(
            "",
            vec![floats(&[1, ROWS * COLUMNS])],
            vec![Int(0)],
        )],
        OpCode::Unsqueeze => on_layouts(vec![Int(1)]),
        OpCode::Flip | OpCode::Softmax | OpCode::LogSoftmax => [0, 1]
            .map(|axis| on_layouts(vec![Int(axis)]))
            .into_iter()
            .flatten()
            .collect(),
        OpCode::Narrow => [0, 1]
            .map(|axis| on_layouts(vec![Int(axis), Int(0), Int(1)]))
            .into_iter()
            .flatten()
            .collect(),
        OpCode::Pad => {
            let mut all = on_layouts(vec![Int(1), Int(1), Int(1), Float(0.0)]);
            let wide = vec![Int(0), Int(1_000_000), Int(1_000_000), Float(1.0)];
            all.push(request("wide", vec![floats(&[1, 1])], wide));
            all
        }
        OpCode::Cat | OpCode::Stack => {
            let mut all = Vec::new();
            for (what, x) in layouts(ROWS, COLUMNS) {
                for axis in [0, 1] {
                    all.push(request(
                        what,
                        vec![x.clone(), x.clone(), x.clone()],
                        vec![Int(axis)],
                    ));
                }
            }
            all.push(request("many", vec![floats(&[2, 2]); 500], vec![Int(0)]));
            all
        }
        OpCode::Gather => layouts(ROWS, COLUMNS)
            .into_iter()
            .flat_map(|(what, x)| {
                let few = indices(&[1, COLUMNS], ROWS as i64);
                let many = indices(&[2 * ROWS, COLUMNS], ROWS as i64);
                [few, many].map(|index| request(what, vec![x.clone(), index], vec![Int(0)]))
            })
            .collect(),
        OpCode::IndexSelect => layouts(ROWS, COLUMNS)
            .into_iter()
            .flat_map(|(what, x)| {
                [1, 1000].map(|n| request(what, vec![x.clone(), indices(&[n], 700)], vec![Int(1)]))
            })
            .collect(),
        OpCode::OneHot => [(1, 1), (1000, 1000), (1, 1_000_000)]
            .map(|(n, classes)| request("", vec![indices(&[n], classes)], vec![Int(classes)]))
            .into(),
        OpCode::Topk => [(1, 0), (1, 1), (700, 0), (700, 1)]
            .map(|(k, axis)| on_layouts(vec![Int(k), Int(axis)]).into_iter().take(4))
            .into_iter()
            .flatten()
            .collect(),
        OpCode::Matmul => {
            let of = |what: &str, x: &[usize], y: &[usize]| {
                request(what, vec![floats(x), floats(y)], vec![])
            };
            let mut all = vec![
                of("square", &[1000, 1000], &[1000, 1000]),
                of("inner", &[1, 1_000_000], &[1_000_000, 1]),
                of("outer", &[1500, 1], &[1, 1500]),
                of("many small", &[200_000, 2, 2], &[200_000, 2, 2]),
                of("one against many", &[1, 8, 8], &[20_000, 8, 8]),
                of("row", &[1, 1000], &[1000, 1000]),
            ];
            for (what, x) in layouts(ROWS, COLUMNS) {
                let turned = x.permute(&[1, 0]).unwrap();
                all.push(request(what, vec![x, turned], vec![]));
            }
            all
        }
        OpCode::Conv2d => {
            let conv =
                |x: &[usize], w: &[usize], stride: i64, padding: i64, dilation: i64, groups| {
                    let both = |n: i64| Ints(vec![n, n]);
                    request(
                        &format!("{x:?} {w:?} {stride} {padding} {dilation} {groups}"),
                        vec![floats(x), floats(w), floats(&[w[0]])],
                        vec![both(stride), both(padding), both(dilation), Int(groups)],
                    )
                };
            vec![
                conv(&[4, 16, 48, 48], &[16, 16, 3, 3], 1, 1, 1, 1),
                conv(&[4, 16, 48, 48], &[16, 16, 3, 3], 1, 2, 2, 1),
                conv(&[4, 16, 48, 48], &[16, 1, 3, 3], 1, 1, 1, 16),
                conv(&[1, 3, 224, 224], &[16, 3, 16, 16], 16, 0, 1, 1),
                conv(&[1, 1, 8, 8], &[1, 1, 1, 1], 1, 400, 1, 1),
                conv(&[1, 1, 64, 64], &[1, 1, 33, 33], 1, 32, 1, 1),
                conv(&[1, 1, 64, 64], &[8, 1, 17, 17], 1, 32, 2, 1),
                conv(&[1, 512, 2, 2], &[512, 512, 1, 1], 1, 0, 1, 1),
                conv(&[64, 2, 4, 4], &[2, 1, 1, 1], 1, 0, 1, 2),
            ]
        }
        OpCode::AvgPool2d | OpCode::MaxPool2d => vec![
            request("2 by 2", vec![image(128, 128)], pool([2, 2], [2, 2])),
            request("dense", vec![image(64, 64)], pool([32, 32], [1, 1])),
            request("single", vec![image(128, 128)], pool([1, 1], [1, 1])),
        ],
        OpCode::AdaptiveAvgPool2d => [(1, 1), (7, 7), (128, 128), (400, 400)]
            .map(|(h, w)| request("", vec![image(128, 128)], vec![Int(h), Int(w)]))
            .into(),
        OpCode::LayerNorm | OpCode::GroupNorm => {
            let mut attributes = vec![Float(1e-5)];
            if code == OpCode::GroupNorm {
                attributes.insert(0, Int(2));
            }
            let mut all = Vec::new();
            for (what, x) in layouts(COLUMNS, ROWS) {
                let weights = || floats(&[ROWS]);
                for given in [None, Some(())] {
                    let mut made = request(what, vec![x.clone()], attributes.clone());
                    made.operands.push(given.map(|()| weights()));
                    made.operands.push(given.map(|()| weights()));
                    all.push(made);
                }
            }
            all
        }
        OpCode::BatchNorm => layouts(COLUMNS, ROWS)
            .into_iter()
            .map(|(what, x)| {
                let of = || floats(&[ROWS]);
                request(what, vec![x, of(), of(), of(), of()], vec![Float(1e-5)])
            })
            .collect(),
        OpCode::ResizeNearest => [(1, 1), (128, 128), (500, 300), (1, 100_000)]
            .map(|(h, w)| request("", vec![image(64, 64)], vec![Int(h), Int(w)]))
            .into(),
        OpCode::ResizeBilinear => {
            let mut all: Vec<Request> = [(1, 1), (128, 128), (500, 300)]
                .map(|(h, w)| request("", vec![image(64, 64)], vec![Int(h), Int(w), Bool(false)]))
                .into();
            let line = floats(&[1, 1, 1, 2000]);
            all.push(request(
                "line",
                vec![line],
                vec![Int(1), Int(2000), Bool(true)],
            ));
            all
        }
        // A function of one tensor, or a view.
        _ => on_layouts(vec![]),
    }
}

/// Dispatches and tells what was charged.
fn charged(code: OpCode, request: &Request) -> (Cost, Result<(), TensorError>) {
    let tensors: Vec<Option<&Tensor>> = request.operands.iter().map(Option::as_ref).collect();
    let mut told = Cost::default();
    let outputs = dispatch(
        code,
        &tensors,
        &request.attributes,
        &Device::cpu(),
        &mut |cost| {
            told = cost;
            Ok(())
        },
    );
    (told, outputs.map(drop))
}

fn tracked(request: Request) -> Request {
    let leaf = |tensor: Tensor| match tensor.kind() {
        Kind::Float => tensor.to_leaf().unwrap(),
        _ => tensor,
    };
    let operands = request
        .operands
        .into_iter()
        .map(|operand| operand.map(leaf));
    Request {
        what: format!("{}, tracked", request.what),
        operands: operands.collect(),
        ..request
    }
}

/// Every request, untracked and tracked.
fn all_requests(code: OpCode) -> impl Iterator<Item = Request> {
    let made = requests(code)
        .into_iter()
        .chain(requests(code).into_iter().map(tracked));
    assert!(!requests(code).is_empty(), "{code:?} is not asked for");
    made
}

/// As copies in order, which an operation may make of its operands while it works.
fn copies(request: &Request) -> usize {
    let size = |tensor: &Tensor| {
        tensor.shape().elements()
            * match tensor.kind() {
                Kind::Float => 4,
                Kind::Int => 8,
                Kind::Bool => 1,
            }
    };
    request.operands.iter().flatten().map(size).sum()
}

#[test]
fn no_operation_holds_more_than_it_is_charged_for() {
    let _alone = alone();
    let mut wrong = Vec::new();
    for &code in OPS {
        for request in all_requests(code) {
            charged(code, &request)
                .1
                .unwrap_or_else(|error| panic!("{code:?}: {error}"));
            let (held, (cost, outcome)) = most(|| charged(code, &request));
            outcome.unwrap();
            // What threads and the tape keep, once, does not grow with the operands.
            let allowed = cost.bytes as usize + copies(&request) + (1 << 20);
            if held > allowed {
                wrong.push(format!(
                    "{code:?} {}: held {held}, charged {}, operands {}",
                    request.what,
                    cost.bytes,
                    copies(&request)
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A share of what a call may use by default, so that a test of all operations takes no minutes.
const SHARE: u64 = 8;

#[test]
fn whatever_a_call_repeats_ends_in_time_and_memory() {
    let _alone = alone();
    let all = Limits::default();
    let limits = Limits {
        operations: all.operations / SHARE,
        bytes: all.bytes / SHARE,
        work: all.work / SHARE,
        handles: u64::MAX,
        ..all
    };
    let (most_time, most_bytes) = (
        Duration::from_secs(2) / SHARE as u32,
        (512 << 20) / SHARE as usize,
    );
    let mut wrong = Vec::new();
    for &code in OPS {
        for request in all_requests(code) {
            // A machine with other work to do is given a few tries.
            let mut fault = None;
            for _ in 0..5 {
                let mut session = Session::new(Device::cpu(), limits);
                session.enter(Phase::Forward);
                let operands: Vec<Handle> = request
                    .operands
                    .iter()
                    .map(|operand| match operand {
                        Some(tensor) => session.insert(tensor.clone()).unwrap(),
                        None => Handle(0),
                    })
                    .collect();
                let start = Instant::now();
                let (held, error) = most(|| {
                    loop {
                        // Nothing is dropped, and the tape keeps what it records.
                        if let Err(error) = session.op(code, &operands, &request.attributes) {
                            break error;
                        }
                    }
                });
                let took = start.elapsed();
                assert_eq!(
                    error.code(),
                    "budget-exceeded",
                    "{code:?} {}: {error}",
                    request.what
                );
                if took <= most_time && held <= most_bytes {
                    fault = None;
                    break;
                }
                fault = Some(format!(
                    "{code:?} {}: {took:?}, {held} bytes, {:?}",
                    request.what,
                    session.leave()
                ));
            }
            wrong.extend(fault);
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_longest_tape_that_a_call_can_make_is_walked_back() {
    let _alone = alone();
    let mut session = Session::new(Device::cpu(), Limits::default());
    session.enter(Phase::Forward);
    let leaf = floats(&[2]).to_leaf().unwrap();
    let mut last = session.insert(leaf.clone()).unwrap();
    let start = Instant::now();
    let (held, ()) = most(|| {
        while let Ok([next, _]) = session.op(OpCode::Neg, &[last], &[]) {
            session.release(last);
            last = next;
        }
        let sum = session.take(last).unwrap().sum(&[], false).unwrap();
        let gradient = sum.backward().unwrap().of(&leaf).unwrap();
        assert_eq!(gradient.to_floats().unwrap(), [1.0, 1.0]);
    });
    assert_eq!(session.leave().operations, Limits::default().operations + 1);
    assert!(
        start.elapsed() < Duration::from_secs(4),
        "{:?}",
        start.elapsed()
    );
    assert!(held < 512 << 20, "{held} bytes");
}
