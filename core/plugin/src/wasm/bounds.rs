//! What a component may be made of, looked at before it is compiled. A compiler's time and memory
//! follow from how a function is made, not from its bytes alone: a few thousand bytes of nested
//! blocks over thousands of locals take minutes and gigabytes. How much there may be is the user's
//! to say ([`Compiling`]); what no compiler for WebAssembly comes near is refused whatever the
//! settings.
//!
//! [`Function::complexity`] estimates the time of compiling, in microseconds. Its terms and factors were fitted to what Cranelift took for
//! some 70 shapes of functions, as an upper bound: loops in each other and in a row, tables of branches, values that wait on the stack,
//! long runs of each sort of instruction. Of the plugins of this repository it says about what they take.

use wasmparser::{BlockType, Encoding, FunctionBody, Operator, Parser, Payload};

use crate::environment::Compiling;

/// Values that enter or leave a block together, or that a function gives: each place that gets them costs the compiler so many.
const ARITY: usize = 16;
/// Parameters of a function.
const PARAMETERS: usize = 255;
/// The share of all code that one function may be: time grows faster than its size.
const SHARE_OF_CODE: u64 = 16;
/// The share of all complexity that one function may have: memory goes with the most complex one.
const SHARE_OF_COMPLEXITY: u64 = 16;
/// Loops in each other: the time of compiling goes with their number's cube.
const LOOPS: usize = 64;
/// Lifted and lowered functions, aliases, types and instances: what a component is put together from.
const PIECES: usize = 50_000;

/// Why a component is not compiled.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It is not a component, or not all of one.
    Damaged(String),
    /// There is too much of something.
    TooMuch(String),
}

/// What a component is made of.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Made {
    code_bytes: u64,
    functions: u64,
    complexity: u64,
    pieces: usize,
    largest_function: u64,
    most_complex_function: u64,
}

/// Looks at a component without compiling it.
///
/// # Errors
/// What is too much of it, with the setting that raises the limit if one does; or where it is damaged.
pub(super) fn check(bytes: &[u8], limits: &Compiling) -> Result<(), Refusal> {
    within(
        "bytes",
        "component_bytes",
        bytes.len() as u64,
        limits.component_bytes,
    )?;
    let made = look(bytes, limits)?;
    log::debug!("a component of {} bytes: {made:?}", bytes.len());
    Ok(())
}

fn look(bytes: &[u8], limits: &Compiling) -> Result<Made, Refusal> {
    let mut made = Made::default();
    // Of the module that is being read; modules do not nest.
    let mut types: Vec<[usize; 2]> = Vec::new();
    let mut functions: Vec<u32> = Vec::new();
    let mut next = 0;
    for payload in Parser::new(0).parse_all(bytes) {
        let damaged = |error| Refusal::Damaged(format!("it is truncated or damaged: {error}"));
        match payload.map_err(damaged)? {
            Payload::Version {
                encoding: Encoding::Module,
                ..
            } => {
                (types, functions, next) = (Vec::new(), Vec::new(), 0);
            }
            Payload::TypeSection(section) => {
                for signature in section.into_iter_err_on_gc_types() {
                    let signature = signature.map_err(damaged)?;
                    let [takes, gives] = [signature.params().len(), signature.results().len()];
                    if takes > PARAMETERS || gives > ARITY {
                        return Err(Refusal::TooMuch(format!(
                            "a function takes {takes} values and gives {gives}, far more than compilers make of ordinary source"
                        )));
                    }
                    types.push([takes, gives]);
                    made.piece(1)?;
                }
            }
            Payload::FunctionSection(section) => {
                made.functions += u64::from(section.count());
                within(
                    "functions",
                    "component_functions",
                    made.functions,
                    limits.component_functions,
                )?;
                functions.reserve(section.count() as usize);
                for signature in section {
                    functions.push(signature.map_err(damaged)?);
                }
            }
            Payload::CodeSectionEntry(body) => {
                let size = body.range().len() as u64;
                let parameters = functions
                    .get(next)
                    .and_then(|&signature| types.get(signature as usize))
                    .map_or(0, |&[parameters, _]| parameters);
                let function = Function::read(&body, parameters, &types).map_err(damaged)?;
                made.function(next, size, function.complexity(), limits)?;
                let problem = if function.arity > ARITY {
                    Some(format!("a block of more than {ARITY} values"))
                } else if function.loops_deep > LOOPS {
                    Some(format!("more than {LOOPS} loops in each other"))
                } else {
                    None
                };
                if let Some(problem) = problem {
                    return Err(Refusal::TooMuch(format!(
                        "function {next} of a module has {problem}, which no compiler makes of ordinary source"
                    )));
                }
                next += 1;
            }
            Payload::ImportSection(section) => made.piece(section.count())?,
            Payload::ExportSection(section) => made.piece(section.count())?,
            Payload::GlobalSection(section) => made.piece(section.count())?,
            Payload::ElementSection(section) => made.piece(section.count())?,
            Payload::DataSection(section) => made.piece(section.count())?,
            Payload::CoreTypeSection(section) => made.piece(section.count())?,
            Payload::InstanceSection(section) => made.piece(section.count())?,
            Payload::ComponentInstanceSection(section) => made.piece(section.count())?,
            Payload::ComponentAliasSection(section) => made.piece(section.count())?,
            Payload::ComponentTypeSection(section) => made.piece(section.count())?,
            Payload::ComponentCanonicalSection(section) => made.piece(section.count())?,
            Payload::ComponentImportSection(section) => made.piece(section.count())?,
            Payload::ComponentExportSection(section) => made.piece(section.count())?,
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => made.piece(100)?,
            _ => {}
        }
    }
    Ok(made)
}

impl Made {
    fn function(
        &mut self,
        number: usize,
        size: u64,
        complexity: u64,
        limits: &Compiling,
    ) -> Result<(), Refusal> {
        self.code_bytes += size;
        self.complexity = self.complexity.saturating_add(complexity);
        self.largest_function = self.largest_function.max(size);
        self.most_complex_function = self.most_complex_function.max(complexity);
        for (what, setting, share, of_function, of_all, limit) in [
            (
                "bytes of code",
                "component_code_bytes",
                SHARE_OF_CODE,
                size,
                self.code_bytes,
                limits.component_code_bytes,
            ),
            (
                "of complexity",
                "component_complexity",
                SHARE_OF_COMPLEXITY,
                complexity,
                self.complexity,
                limits.component_complexity,
            ),
        ] {
            within(what, setting, of_all, limit)?;
            if of_function > limit / share {
                return Err(Refusal::TooMuch(format!(
                    "function {number} of a module has {of_function} {what}, and one function may have 1/{share} of the {limit} that `plugins.limits.{setting}` allows"
                )));
            }
        }
        Ok(())
    }

    fn piece(&mut self, count: u32) -> Result<(), Refusal> {
        self.pieces += count as usize;
        match self.pieces {
            0..=PIECES => Ok(()),
            _ => Err(Refusal::TooMuch(format!(
                "it is put together from more than {PIECES} pieces"
            ))),
        }
    }
}

fn within(what: &str, setting: &str, found: u64, limit: u64) -> Result<(), Refusal> {
    match found <= limit {
        true => Ok(()),
        false => Err(Refusal::TooMuch(format!(
            "it has {found} {what} or more, and `plugins.limits.{setting}` allows {limit}"
        ))),
    }
}

/// What a function is made of, as far as the time of compiling it goes with that.
#[derive(Debug, Default, Clone, Copy)]
struct Function {
    /// Parameters and locals.
    variables: u64,
    /// Where control flow parts or meets, in the source or in the code that is made of an instruction.
    places: u64,
    loops: u64,
    /// The most loops that lie in each other.
    loops_deep: usize,
    /// The most values that a block takes or gives.
    arity: usize,
    instructions: u64,
    /// Tenths of a microsecond for instructions by themselves.
    tenths: u64,
}

impl Function {
    fn read(
        body: &FunctionBody<'_>,
        parameters: usize,
        types: &[[usize; 2]],
    ) -> wasmparser::Result<Self> {
        let mut made = Self {
            variables: parameters as u64 + 1,
            places: 1,
            ..Self::default()
        };
        for group in body.get_locals_reader()? {
            made.variables = made.variables.saturating_add(group?.0.into());
        }
        let mut open = Vec::new();
        let mut loops_open = 0;
        for operator in body.get_operators_reader()? {
            let operator = operator?;
            made.instructions += 1;
            let (places, tenths) = cost(&operator);
            made.places = made.places.saturating_add(places);
            made.tenths += tenths;
            match operator {
                Operator::Block { blockty }
                | Operator::Loop { blockty }
                | Operator::If { blockty } => {
                    let arity = match blockty {
                        BlockType::Empty => 0,
                        BlockType::Type(_) => 1,
                        BlockType::FuncType(index) => {
                            let signature = types.get(index as usize);
                            signature.map_or(0, |[takes, gives]| *takes.max(gives))
                        }
                    };
                    made.arity = made.arity.max(arity);
                    let is_loop = matches!(operator, Operator::Loop { .. });
                    made.loops += u64::from(is_loop);
                    loops_open += usize::from(is_loop);
                    made.loops_deep = made.loops_deep.max(loops_open);
                    open.push(is_loop);
                }
                Operator::End => loops_open -= usize::from(open.pop() == Some(true)),
                _ => {}
            }
        }
        Ok(made)
    }

    /// Microseconds that it may take to compile, on one core.
    fn complexity(&self) -> u64 {
        let Self {
            variables,
            places,
            loops,
            instructions,
            tenths,
            ..
        } = *self;
        /// What every function takes.
        const EACH: u64 = 80;
        let product = |factors: &[u64]| factors.iter().fold(1, |a: u64, &b| a.saturating_mul(b));
        [
            EACH,
            tenths / 10,
            product(&[places, 8]),
            // Each variable may need a value of its own at each place, and so may what waits on the stack.
            product(&[variables, places, 3]) / 2,
            product(&[instructions, places]) / 2000,
            product(&[places, places]) / 40,
            // Values that loops carry on are in each other's way.
            product(&[variables, variables, loops]) / 90,
            product(&[variables, loops, loops]) / 50,
        ]
        .into_iter()
        .fold(0, u64::saturating_add)
    }
}

/// How many places an instruction counts as, and the tenths of a microsecond that it takes by itself. What is not known to be cheap is
/// dear.
fn cost(operator: &Operator<'_>) -> (u64, u64) {
    use Operator as O;
    match operator {
        O::Block { .. }
        | O::Loop { .. }
        | O::If { .. }
        | O::Else
        | O::Br { .. }
        | O::BrIf { .. } => (1, 5),
        O::BrTable { targets } => (u64::from(targets.len()) + 1, 5),
        O::End
        | O::Return
        | O::Unreachable
        | O::Nop
        | O::Drop
        | O::Select
        | O::TypedSelect { .. }
        | O::LocalGet { .. }
        | O::LocalSet { .. }
        | O::LocalTee { .. }
        | O::GlobalGet { .. }
        | O::GlobalSet { .. }
        | O::I32Const { .. }
        | O::I64Const { .. }
        | O::F32Const { .. }
        | O::F64Const { .. } => (0, 5),
        O::I32Eqz | O::I32Eq | O::I32Ne | O::I32LtS | O::I32LtU | O::I32GtS | O::I32GtU => (0, 5),
        O::I32LeS | O::I32LeU | O::I32GeS | O::I32GeU => (0, 5),
        O::I64Eqz | O::I64Eq | O::I64Ne | O::I64LtS | O::I64LtU | O::I64GtS | O::I64GtU => (0, 5),
        O::I64LeS | O::I64LeU | O::I64GeS | O::I64GeU => (0, 5),
        O::I32Clz | O::I32Ctz | O::I32Popcnt | O::I64Clz | O::I64Ctz | O::I64Popcnt => (0, 5),
        O::I32Add | O::I32Sub | O::I32Mul | O::I32And | O::I32Or | O::I32Xor => (0, 5),
        O::I64Add | O::I64Sub | O::I64Mul | O::I64And | O::I64Or | O::I64Xor => (0, 5),
        O::I32Shl | O::I32ShrS | O::I32ShrU | O::I32Rotl | O::I32Rotr => (0, 8),
        O::I64Shl | O::I64ShrS | O::I64ShrU | O::I64Rotl | O::I64Rotr => (0, 8),
        O::I32WrapI64 | O::I64ExtendI32S | O::I64ExtendI32U => (0, 5),
        O::I32Extend8S | O::I32Extend16S | O::I64Extend8S | O::I64Extend16S | O::I64Extend32S => {
            (0, 5)
        }
        O::I32Load { .. }
        | O::I64Load { .. }
        | O::F32Load { .. }
        | O::F64Load { .. }
        | O::I32Load8S { .. }
        | O::I32Load8U { .. }
        | O::I32Load16S { .. }
        | O::I32Load16U { .. }
        | O::I64Load8S { .. }
        | O::I64Load8U { .. }
        | O::I64Load16S { .. }
        | O::I64Load16U { .. }
        | O::I64Load32S { .. }
        | O::I64Load32U { .. } => (0, 35),
        O::I32Store { .. }
        | O::I64Store { .. }
        | O::F32Store { .. }
        | O::F64Store { .. }
        | O::I32Store8 { .. }
        | O::I32Store16 { .. }
        | O::I64Store8 { .. }
        | O::I64Store16 { .. }
        | O::I64Store32 { .. } => (0, 15),
        O::I32DivS | O::I32DivU | O::I32RemS | O::I32RemU => (0, 40),
        O::I64DivS | O::I64DivU | O::I64RemS | O::I64RemU => (0, 40),
        O::F32Eq | O::F32Ne | O::F32Lt | O::F32Gt | O::F32Le | O::F32Ge => (0, 10),
        O::F64Eq | O::F64Ne | O::F64Lt | O::F64Gt | O::F64Le | O::F64Ge => (0, 10),
        O::F32Abs | O::F32Neg | O::F32Copysign | O::F64Abs | O::F64Neg | O::F64Copysign => (0, 10),
        O::I32ReinterpretF32
        | O::I64ReinterpretF64
        | O::F32ReinterpretI32
        | O::F64ReinterpretI64 => (0, 10),
        // NaN is made the same everywhere, which takes instructions of its own.
        O::F32Add | O::F32Sub | O::F32Mul | O::F32Div | O::F32Min | O::F32Max | O::F32Sqrt => {
            (0, 55)
        }
        O::F64Add | O::F64Sub | O::F64Mul | O::F64Div | O::F64Min | O::F64Max | O::F64Sqrt => {
            (0, 55)
        }
        O::F32Ceil | O::F32Floor | O::F32Trunc | O::F32Nearest => (0, 55),
        O::F64Ceil | O::F64Floor | O::F64Trunc | O::F64Nearest => (0, 55),
        O::F32ConvertI32S | O::F32ConvertI32U | O::F32ConvertI64S | O::F32ConvertI64U => (0, 55),
        O::F64ConvertI32S | O::F64ConvertI32U | O::F64ConvertI64S | O::F64ConvertI64U => (0, 55),
        O::F32DemoteF64 | O::F64PromoteF32 => (0, 55),
        O::I32TruncSatF32S | O::I32TruncSatF32U | O::I32TruncSatF64S | O::I32TruncSatF64U => {
            (0, 20)
        }
        O::I64TruncSatF32S | O::I64TruncSatF32U | O::I64TruncSatF64S | O::I64TruncSatF64U => {
            (0, 20)
        }
        O::Call { .. } => (0, 80),
        // Tables, other memory, references, vectors, traps on conversions: code with branches of its own.
        _ => (1, 80),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(function: &str) -> Vec<u8> {
        wat::parse_str(format!("(module {function})")).unwrap()
    }

    fn too_much(outcome: Result<(), Refusal>) -> String {
        match outcome {
            Err(Refusal::TooMuch(reason)) => reason,
            other => panic!("{other:?}"),
        }
    }

    fn refusal(bytes: &[u8]) -> String {
        too_much(check(bytes, &Compiling::default()))
    }

    #[test]
    fn what_ships_is_far_within() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let mut found = 0;
        for folder in ["plugins", "tests/plugins", "tests/fixtures/compat"] {
            for entry in std::fs::read_dir(root.join(folder)).unwrap() {
                let entry = entry.unwrap().path();
                let folders = [entry.join("dist"), entry];
                let files = folders
                    .iter()
                    .filter_map(|folder| std::fs::read_dir(folder).ok());
                for file in files.flatten() {
                    let path = file.unwrap().path();
                    if path.extension().is_none_or(|extension| extension != "wasm") {
                        continue;
                    }
                    let limits = Compiling::default();
                    let bytes = std::fs::read(&path).unwrap();
                    let made = look(&bytes, &limits).unwrap();
                    let at = format!("{}: {} bytes, {made:?}", path.display(), bytes.len());
                    assert!(bytes.len() as u64 * 5 < limits.component_bytes, "{at}");
                    assert!(made.code_bytes * 3 < limits.component_code_bytes, "{at}");
                    assert!(made.functions * 5 < limits.component_functions, "{at}");
                    assert!(made.pieces * 5 < PIECES, "{at}");
                    assert!(made.complexity * 3 < limits.component_complexity, "{at}");
                    let most = limits.component_complexity / SHARE_OF_COMPLEXITY;
                    assert!(made.most_complex_function * 3 < most, "{at}");
                    found += 1;
                }
            }
        }
        assert!(found > 10, "{found}");
    }

    #[test]
    fn refuses_what_takes_a_compiler_minutes() {
        let nested = "(loop (br_if 0 (local.get 0)) ".repeat(3000) + &")".repeat(3000);
        let locals = format!(
            "(func (param i32) (local {}) {nested})",
            "i32 ".repeat(3000)
        );
        assert!(refusal(&module(&locals)).contains("`plugins.limits.component_complexity`"));
        let targets = "0 ".repeat(60_000);
        let table = format!(
            "(func (param i32) (local {}) (block (br_table {targets} (local.get 0))))",
            "i32 ".repeat(1000)
        );
        assert!(refusal(&module(&table)).contains("`plugins.limits.component_complexity`"));
        let waiting = "(i32.add (local.get 0) (i32.const 1)) ".repeat(4000);
        let places = "(block (br_if 0 (local.get 0))) ".repeat(4000);
        let stack = format!(
            "(func (param i32) {waiting} {places} {})",
            "drop ".repeat(4000)
        );
        assert!(refusal(&module(&stack)).contains("`plugins.limits.component_complexity`"));
        let long = format!(
            "(func (param i32) (result i32) (local.get 0) {})",
            "(i32.add (local.get 0)) ".repeat(50_000)
        );
        assert!(refusal(&module(&long)).contains("bytes of code, and one function may have 1/16"));
        let wide = "i32 ".repeat(16);
        let many = format!("(func $many (result {wide} i32) unreachable)");
        assert!(refusal(&module(&many)).contains("gives 17"));
        let deep = format!(
            "(func (param i32) {} {})",
            "(loop ".repeat(65),
            ")".repeat(65)
        );
        assert!(refusal(&module(&deep)).contains("more than 64 loops in each other"));
        // Each makes branches that the source does not show.
        for (instruction, times) in [
            (
                "(call_indirect (param i32) (local.get 0) (local.get 0)) ",
                4000,
            ),
            (
                "(memory.copy (local.get 0) (local.get 0) (local.get 0)) ",
                4000,
            ),
            ("(drop (table.get (local.get 0))) ", 4000),
            ("(drop (memory.grow (local.get 0))) ", 4000),
        ] {
            let many = format!(
                "(memory 1) (table 1 funcref) (func (param i32) {})",
                instruction.repeat(times)
            );
            let reason = refusal(&module(&many));
            assert!(
                reason.contains("`plugins.limits.component_complexity`"),
                "{reason}"
            );
        }
        let floats = format!(
            "(func (result f64) (f64.const 2) {})",
            "f64.sqrt ".repeat(60_000)
        );
        assert!(refusal(&module(&floats)).contains("`plugins.limits.component_complexity`"));
        let values = "(i32.const 1) ".repeat(17);
        let block = format!("(func {values} (block (param {wide} i32) unreachable))");
        assert!(refusal(&module(&block)).contains("more than 16 values"));
    }

    #[test]
    fn names_the_setting_that_would_do() {
        let bytes = module(&"(func) ".repeat(30));
        for (limits, setting) in [
            (
                Compiling {
                    component_functions: 29,
                    ..Compiling::default()
                },
                "component_functions",
            ),
            (
                Compiling {
                    component_code_bytes: 29,
                    ..Compiling::default()
                },
                "component_code_bytes",
            ),
            (
                Compiling {
                    component_bytes: 29,
                    ..Compiling::default()
                },
                "component_bytes",
            ),
            (
                Compiling {
                    component_complexity: 29,
                    ..Compiling::default()
                },
                "component_complexity",
            ),
        ] {
            let error = too_much(check(&bytes, &limits));
            assert!(
                error.contains(&format!("`plugins.limits.{setting}`")),
                "{error}"
            );
        }
        assert_eq!(check(&bytes, &Compiling::default()), Ok(()));
    }
}
