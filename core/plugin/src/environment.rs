//! What the host lends to a configured role.

use dtta_tensor::{Device, Limits, Named, Tensor};

/// Guest instructions that one call may take, unless the experiment says otherwise. The
/// classification mapper takes some thousands.
pub const DEFAULT_INSTRUCTIONS: u64 = 50_000_000;

/// Bytes of linear memory that one instance may have, unless the experiment says otherwise.
pub const DEFAULT_MEMORY_BYTES: usize = 64 << 20;

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
