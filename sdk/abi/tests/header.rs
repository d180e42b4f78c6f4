//! `include/dtta.h` is this crate in C. From the Rust sources a C file is made that asserts, when it is compiled,
//! every size, offset, field type, function type and number of the header. It needs the C compiler that plugins in C
//! need: `cc`, or what `CC` names.

#![expect(
    clippy::unwrap_used,
    reason = "what cannot be prepared should fail the test"
)]
#![cfg(not(miri))]

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use dtta_abi::{
    ABI_MAJOR, ABI_MINOR, Attr, Bytes, Call, ENTRY_SYMBOL, HeadTable, Header, HostTable, INTERFACE,
    Kind, LogLevel, MAX_RANK, MapperTable, MetricTable, NamedSink, NamedTensor, OPS,
    ObjectiveTable, PluginTable, Sink, Status, TensorId, TensorInfo,
};

/// A struct of the Rust sources with its fields, each a name and a Rust type.
struct Struct {
    name: String,
    fields: Vec<(String, String)>,
}

fn folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn header() -> String {
    fs::read_to_string(folder().join("include/dtta.h")).unwrap()
}

/// The sources without comments and attributes, in one line.
fn sources() -> String {
    let files = ["value.rs", "host.rs", "plugin.rs"];
    let text = files.map(|name| fs::read_to_string(folder().join("src").join(name)).unwrap());
    let lines = text.iter().flat_map(|text| text.lines()).map(str::trim);
    let code = lines.filter(|line| !line.starts_with("//") && !line.starts_with("#["));
    code.collect::<Vec<_>>().join(" ")
}

/// Parts between commas that are in no bracket.
fn split(list: &str) -> Vec<String> {
    let (mut parts, mut depth) = (vec![String::new()], 0);
    let mut before = ' ';
    for c in list.chars() {
        match c {
            '(' | '[' | '{' | '<' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            '>' if before != '-' => depth -= 1,
            _ => {}
        }
        before = c;
        match (c, depth) {
            (',', 0) => parts.push(String::new()),
            _ => parts.last_mut().unwrap().push(c),
        }
    }
    let parts = parts.iter().map(|part| part.trim().to_owned());
    parts.filter(|part| !part.is_empty()).collect()
}

/// Every public struct with fields that is seen through from outside.
fn structs(sources: &str) -> Vec<Struct> {
    let declared = sources.split("pub struct ").skip(1);
    let declared = declared.filter_map(|rest| {
        let (name, body) = rest.split_once([' ', '('])?;
        let body = body.strip_prefix("{ ")?.split_once('}')?.0;
        let fields = split(body).into_iter().filter_map(|field| {
            let (name, takes) = field.strip_prefix("pub ")?.split_once(": ")?;
            Some((name.to_owned(), takes.to_owned()))
        });
        Some(Struct {
            name: name.to_owned(),
            fields: fields.collect(),
        })
    });
    declared.filter(|found| !found.fields.is_empty()).collect()
}

/// `HostTable` as `dtta_host_table`.
fn c_name(name: &str) -> String {
    let mut made = String::from("dtta");
    for c in name.chars() {
        if c.is_ascii_uppercase() {
            made.push('_');
        }
        made.push(c.to_ascii_lowercase());
    }
    made
}

/// The C declaration of `name` with a Rust type.
fn declare(rust: &str, name: &str) -> String {
    let rust = rust.trim();
    if let Some(inner) = rust.strip_prefix("Option<") {
        return declare(inner.strip_suffix('>').unwrap(), name);
    }
    if let Some(function) = rust.strip_prefix("unsafe extern \"C\" fn(") {
        let (takes, gives) = match function.split_once(") -> ") {
            Some((takes, gives)) => (takes, gives),
            None => (function.strip_suffix(')').unwrap(), "c_void"),
        };
        let takes = split(takes).into_iter().map(|parameter| {
            let (_, takes) = parameter.split_once(": ").unwrap();
            declare(takes, "")
        });
        let takes = takes.collect::<Vec<_>>().join(", ");
        return declare(gives, &format!("(*{name})({takes})"));
    }
    if let Some(inner) = rust.strip_prefix("*const ") {
        return format!("const {}", declare(inner, &format!("*{name}")));
    }
    if let Some(inner) = rust.strip_prefix("*mut ") {
        return declare(inner, &format!("*{name}"));
    }
    if let Some(array) = rust.strip_prefix('[') {
        let (inner, count) = array.strip_suffix(']').unwrap().split_once("; ").unwrap();
        assert_eq!(count, "MAX_RANK");
        return declare(inner, &format!("{name}[{MAX_RANK}]"));
    }
    let word = match rust {
        "c_void" => "void".into(),
        "usize" => "size_t".into(),
        "f32" => "float".into(),
        "u8" | "u32" | "u64" => format!("uint{}_t", &rust[1..]),
        "i64" => "int64_t".into(),
        _ if rust.starts_with(|c: char| c.is_ascii_uppercase()) => c_name(rust),
        _ => panic!("`{rust}` has no C type"),
    };
    format!("{word} {name}")
}

/// C that compiles where the header is what the Rust sources say.
fn assertions() -> String {
    let mut c = String::from("#include \"dtta.h\"\n");
    let mut say = |condition: String, what: &str| {
        writeln!(c, "_Static_assert({condition}, \"{what}\");").unwrap();
    };
    let sizes = [
        ("Attr", size_of::<Attr>()),
        ("Bytes", size_of::<Bytes>()),
        ("Call", size_of::<Call>()),
        ("HeadTable", size_of::<HeadTable>()),
        ("Header", size_of::<Header>()),
        ("HostTable", size_of::<HostTable>()),
        ("Kind", size_of::<Kind>()),
        ("LogLevel", size_of::<LogLevel>()),
        ("MapperTable", size_of::<MapperTable>()),
        ("MetricTable", size_of::<MetricTable>()),
        ("NamedSink", size_of::<NamedSink>()),
        ("NamedTensor", size_of::<NamedTensor>()),
        ("ObjectiveTable", size_of::<ObjectiveTable>()),
        ("PluginTable", size_of::<PluginTable>()),
        ("Sink", size_of::<Sink>()),
        ("Status", size_of::<Status>()),
        ("TensorId", size_of::<TensorId>()),
        ("TensorInfo", size_of::<TensorInfo>()),
    ];
    for (name, size) in sizes {
        say(format!("sizeof({}) == {size}", c_name(name)), name);
    }
    let numbers = [
        ("ABI_MAJOR", i64::from(ABI_MAJOR)),
        ("ABI_MINOR", i64::from(ABI_MINOR)),
        ("MAX_RANK", MAX_RANK as i64),
        ("TENSOR_ID_NONE", TensorId::NONE.0 as i64),
        ("STATUS_OK", Status::OK.0.into()),
        ("STATUS_ERROR", Status::ERROR.0.into()),
        ("STATUS_PANIC", Status::PANIC.0.into()),
        ("STATUS_UNSUPPORTED", Status::UNSUPPORTED.0.into()),
        ("STATUS_POISONED", Status::POISONED.0.into()),
        ("KIND_FLOAT", Kind::FLOAT.0.into()),
        ("KIND_INT", Kind::INT.0.into()),
        ("KIND_BOOLEAN", Kind::BOOLEAN.0.into()),
        ("LOG_LEVEL_TRACE", LogLevel::TRACE.0.into()),
        ("LOG_LEVEL_DEBUG", LogLevel::DEBUG.0.into()),
        ("LOG_LEVEL_INFO", LogLevel::INFO.0.into()),
        ("LOG_LEVEL_WARN", LogLevel::WARN.0.into()),
        ("LOG_LEVEL_ERROR", LogLevel::ERROR.0.into()),
        ("ATTR_TAG_NONE", Attr::TAG_NONE.into()),
        ("ATTR_TAG_INT", Attr::TAG_INT.into()),
        ("ATTR_TAG_FLOAT", Attr::TAG_FLOAT.into()),
        ("ATTR_TAG_BOOL", Attr::TAG_BOOL.into()),
        ("ATTR_TAG_INTS", Attr::TAG_INTS.into()),
    ];
    for (name, number) in numbers {
        say(format!("DTTA_{name} == {number}"), name);
    }
    for (number, name) in OPS {
        let name = name.to_uppercase();
        say(format!("DTTA_OP_{name} == {number}"), &name);
    }
    say(
        format!("sizeof(DTTA_INTERFACE) == {}", INTERFACE.len() + 1),
        "INTERFACE",
    );
    let sources = sources();
    for Struct { name, fields } in structs(&sources) {
        let c_name = c_name(&name);
        writeln!(c, "struct rust_{name} {{").unwrap();
        for (field, takes) in &fields {
            writeln!(c, "    {};", declare(takes, field)).unwrap();
        }
        writeln!(c, "}};").unwrap();
        for (field, _) in &fields {
            writeln!(
                c,
                "_Static_assert(offsetof({c_name}, {field}) == offsetof(struct rust_{name}, {field}), \"{name}.{field} lies elsewhere\");\n\
                 _Static_assert(_Generic(&(({c_name} *)0)->{field}, __typeof__(&((struct rust_{name} *)0)->{field}): 1, default: 0), \"{name}.{field} has another type\");"
            )
            .unwrap();
        }
    }
    let entry = sources.split_once("pub type Entry = ").unwrap().1;
    let entry = entry.split_once(';').unwrap().0;
    writeln!(
        c,
        "_Static_assert(_Generic(&{ENTRY_SYMBOL}, {}: 1, default: 0), \"the entry has another type\");",
        declare(entry, "")
    )
    .unwrap();
    c
}

/// What the C compiler says of a header; nothing where it agrees.
fn compile(header: &str, name: &str) -> String {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("dtta.h"), header).unwrap();
    let file = folder.join("assertions.c");
    fs::write(&file, assertions()).unwrap();
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let mut command = Command::new(compiler);
    command.args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic"]);
    let output = command
        .args(["-fsyntax-only", "-I"])
        .args([&folder, &file])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.success(), said.is_empty(), "{said}");
    said
}

#[test]
fn the_header_is_what_the_rust_tables_say() {
    let said = compile(&header(), "same");
    assert!(said.is_empty(), "{said}");
}

#[test]
fn the_header_has_all_structs_and_no_further_operation() {
    let found: Vec<String> = structs(&sources())
        .into_iter()
        .map(|found| c_name(&found.name))
        .collect();
    let header = header();
    let declared = header.lines().filter_map(|line| {
        let name = line.strip_prefix("typedef struct ").or_else(|| {
            line.strip_prefix("struct ")
                .filter(|rest| rest.ends_with('{'))
        })?;
        name.strip_suffix(" {")
    });
    let mut declared: Vec<String> = declared.map(str::to_owned).collect();
    let mut expected = found;
    declared.sort();
    expected.sort();
    assert_eq!(declared, expected);
    let operations = header
        .lines()
        .filter(|line| line.trim().starts_with("DTTA_OP_"));
    assert_eq!(operations.count(), OPS.len());
    assert!(header.contains(&format!("#define DTTA_INTERFACE \"{INTERFACE}\"")));
}

#[test]
fn the_header_documents_operations_as_the_numbers_do() {
    let header = header();
    let source = fs::read_to_string(folder().join("src/ops.rs")).unwrap();
    let documented = source
        .lines()
        .filter_map(|line| line.trim().strip_prefix("/// `"));
    let mut count = 0;
    for line in documented {
        let comment = format!("/* {} */", line.replacen('`', "", 1));
        assert!(header.contains(&comment), "not in the header: {comment}");
        count += 1;
    }
    assert_eq!(count, OPS.len());
}

#[test]
fn finds_what_drifts() {
    let edits = [
        (
            "uint32_t rank;    /* 1",
            "uint64_t rank;    /* 1",
            "TensorInfo",
        ),
        (
            "    uint32_t abi_major;\n    uint32_t abi_minor;",
            "    uint32_t abi_minor;\n    uint32_t abi_major;",
            "Header.abi_major lies elsewhere",
        ),
        (
            "uint32_t index, dtta_tensor_id value,",
            "uint32_t index, dtta_tensor_id *value,",
            "HostTable.update_buffer has another type",
        ),
        ("DTTA_OP_SOFTMAX = ", "DTTA_OP_SOFTMAX = 9", "SOFTMAX"),
        (
            "DTTA_STATUS_PANIC = 2",
            "DTTA_STATUS_PANIC = 5",
            "STATUS_PANIC",
        ),
        (
            "dtta_plugin_table *out, const dtta_sink *error);",
            "dtta_plugin_table *out);",
            "the entry has another type",
        ),
    ];
    for (place, (from, to, expected)) in edits.into_iter().enumerate() {
        let header = header();
        assert!(header.contains(from), "`{from}` is not in the header");
        let said = compile(&header.replacen(from, to, 1), &format!("drifted-{place}"));
        assert!(said.contains(expected), "{said}");
    }
}
