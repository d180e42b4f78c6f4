//! What a component may be made of, looked at before it is compiled. A compiler's time and memory
//! follow from how a function is made, not from its bytes alone: a few thousand bytes of nested
//! blocks over thousands of locals take minutes and gigabytes. How much there may be is the user's
//! to say ([`Compiling`]); what no compiler for WebAssembly comes near is refused whatever the
//! settings.

use wasmparser::{BlockType, Encoding, FunctionBody, Operator, Parser, Payload};

use crate::environment::Compiling;

/// Values that enter or leave a block together, or that a function gives: each place that gets them costs the compiler so many.
const ARITY: usize = 16;
/// Parameters of a function.
const PARAMETERS: usize = 255;
/// The share of all code that one function may be: time grows faster than its size.
const SHARE_OF_CODE: u64 = 16;
/// The share of all complexity that one function may have: memory goes with the most complex one.
const SHARE_OF_COMPLEXITY: u64 = 8;
/// So many instructions count as one variable: as many values may wait on the stack at every place that follows.
const INSTRUCTIONS_PER_VARIABLE: u64 = 2000;
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
                let complexity = complexity(&body, parameters, &types).map_err(damaged)?;
                let complexity = complexity.ok_or_else(|| {
                    Refusal::TooMuch(format!(
                        "function {next} of a module has a block of more than {ARITY} values, which no compiler makes of ordinary source"
                    ))
                })?;
                made.function(next, size, complexity, limits)?;
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

/// Parameters and locals of a function, times the places where its control flow parts or meets: each may cost the compiler a value of
/// its own. So may a value that waits on the stack. Nothing if a block takes or gives too much.
fn complexity(
    body: &FunctionBody<'_>,
    parameters: usize,
    types: &[[usize; 2]],
) -> wasmparser::Result<Option<u64>> {
    let mut variables = parameters;
    for group in body.get_locals_reader()? {
        variables = variables.saturating_add(group?.0 as usize);
    }
    let mut places: usize = 1;
    let mut instructions: u64 = 0;
    for operator in body.get_operators_reader()? {
        instructions += 1;
        match operator? {
            Operator::Block { blockty } | Operator::Loop { blockty } | Operator::If { blockty } => {
                let arity = match blockty {
                    BlockType::Empty => 0,
                    BlockType::Type(_) => 1,
                    BlockType::FuncType(index) => {
                        let signature = types.get(index as usize);
                        signature.map_or(0, |[takes, gives]| *takes.max(gives))
                    }
                };
                if arity > ARITY {
                    return Ok(None);
                }
                places += 1;
            }
            Operator::BrTable { targets } => {
                places = places.saturating_add(targets.len() as usize + 1)
            }
            Operator::Else | Operator::Br { .. } | Operator::BrIf { .. } => places += 1,
            _ => {}
        }
    }
    let places = places as u64;
    let stacked = instructions.saturating_mul(places) / INSTRUCTIONS_PER_VARIABLE;
    let complexity = (variables as u64 + 1).saturating_mul(places);
    Ok(Some(complexity.saturating_add(stacked)))
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
