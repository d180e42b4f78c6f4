//! What the host lends to a configured role.

use dtta_tensor::{Device, Limits, Named, Tensor};

/// Guest instructions that one call may take, unless the experiment says otherwise. The
/// classification mapper takes some thousands.
pub const DEFAULT_INSTRUCTIONS: u64 = 50_000_000;

/// Bytes of linear memory that one instance may have, unless the experiment says otherwise.
pub const DEFAULT_MEMORY_BYTES: usize = 64 << 20;

/// What a component may be made of, and how long it may take to compile it. Other loaders compile nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compiling {
    /// Bytes of the file.
    pub component_bytes: u64,
    /// Bytes of code in it.
    pub component_code_bytes: u64,
    /// Functions in it.
    pub component_functions: u64,
    /// Microseconds that compiling it may take on one core, as estimated from what each function is made of: variables, places where control
    /// flow parts or meets, loops, instructions.
    pub component_complexity: u64,
    /// Seconds to wait for the compiler. One that takes longer is left alone: it goes on in a thread of this process, with the
    /// memory that it holds, until it is done or the process ends.
    pub compile_seconds: u64,
}

impl Default for Compiling {
    fn default() -> Self {
        Self {
            component_bytes: 16 << 20,
            component_code_bytes: 1 << 20,
            component_functions: 10_000,
            component_complexity: 1_600_000,
            compile_seconds: 30,
        }
    }
}

/// What a plugin has to be to be loaded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Loading {
    /// The SHA-256 that its artifact has to have, in hexadecimal. Compared before anything of it is opened or compiled.
    pub sha256: Option<String>,
    /// What compiling it may take.
    pub compiling: Compiling,
}

/// What the host lends to a configured role.
#[derive(Debug, Clone)]
pub struct Environment {
    /// Where its tensors are made.
    pub device: Device,
    /// What each call may ask of the host.
    pub limits: Limits,
    /// Instructions that each call may take in WebAssembly. Other loaders do not count them.
    pub instructions: u64,
    /// Bytes of WebAssembly memory that each instance may have. Other loaders do not count them.
    pub memory_bytes: usize,
    /// Constants that it may ask for by name, such as `class-embeddings`.
    pub constants: Named,
}

impl Environment {
    /// The default limits, on `device`, with no constants.
    pub fn new(device: Device) -> Self {
        Self {
            device,
            limits: Limits::default(),
            instructions: DEFAULT_INSTRUCTIONS,
            memory_bytes: DEFAULT_MEMORY_BYTES,
            constants: Named::new(),
        }
    }

    /// Adds a constant.
    #[must_use]
    pub fn with_constant(mut self, name: impl Into<String>, constant: Tensor) -> Self {
        self.constants.push(name, constant);
        self
    }
}

impl Default for Environment {
    fn default() -> Self {
        Self::new(Device::cpu())
    }
}
