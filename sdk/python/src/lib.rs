//! The Python module `dtta._dtta`: runs, their records and their faults, denoisers and feedback, networks of Python in the loop, and the command.
//!
//! What people import is `python/dtta`, which this module is a part of. Tensors cross by DLPack, and whatever computes lets go of Python's
//! lock meanwhile.

mod command;
mod denoiser;
mod dlpack;
mod fault;
mod feedback;
mod function;
mod json;
mod network;
mod records;
mod run;

/// What `python/dtta` is made of.
#[pyo3::pymodule]
mod _dtta {
    #[pymodule_export]
    use crate::command::command;
    #[pymodule_export]
    use crate::denoiser::Denoiser;
    #[pymodule_export]
    use crate::dlpack::Tensor;
    #[pymodule_export]
    use crate::feedback::{Feedback, Part, sum_parts};
    #[pymodule_export]
    use crate::records::arrow_stream;
    #[pymodule_export]
    use crate::run::{run, validate};
    use pyo3::prelude::*;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
