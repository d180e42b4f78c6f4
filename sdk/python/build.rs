//! On macOS, what Python itself has is looked for when the module is loaded, and not when it is linked.

fn main() {
    pyo3_build_config::add_extension_module_link_args();
}
