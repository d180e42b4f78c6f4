//! Devices by name. The device picks the backend at run time; which backends
//! exist is decided by Cargo features when the binary is built.

use std::fmt;
use std::str::FromStr;

use burn::backend::{Dispatch, DispatchDevice, get_or_init_device_settings};
use burn::tensor::{BoolDType, FloatDType, IntDType};

use crate::error::{Result, TensorError};

/// Where tensors live and which backend computes with them.
#[derive(Clone, PartialEq)]
pub struct Device {
    name: String,
    inner: DispatchDevice,
}

impl Device {
    /// The embedded CPU backend (Flex): always there.
    pub fn cpu() -> Self {
        let device = burn::tensor::Device::flex();
        Self {
            name: "cpu".into(),
            inner: device.as_dispatch().clone(),
        }
    }

    /// The name by which this device was asked for, such as `cpu` or `libtorch:cuda:0`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Waits until everything that was asked of the device is done.
    ///
    /// # Errors
    /// [`TensorError::Backend`] if an operation failed on the device.
    pub fn sync(&self) -> Result<()> {
        burn::tensor::Device::new(self.inner.clone())
            .sync()
            .map_err(|error| TensorError::Backend {
                op: "sync",
                message: format!("{error:?}"),
            })
    }

    pub(crate) fn raw(&self) -> &DispatchDevice {
        &self.inner
    }

    pub(crate) fn has_cpu_ops(&self) -> bool {
        matches!(self.inner, DispatchDevice::Flex(_)) && self.float() == FloatDType::F32
    }

    pub(crate) fn float(&self) -> FloatDType {
        get_or_init_device_settings::<Dispatch>(&self.inner).float_dtype
    }

    pub(crate) fn int(&self) -> IntDType {
        get_or_init_device_settings::<Dispatch>(&self.inner).int_dtype
    }

    pub(crate) fn boolean(&self) -> BoolDType {
        get_or_init_device_settings::<Dispatch>(&self.inner).bool_dtype
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Device({})", self.name)
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// Parses `auto`, `cpu`, `cuda[:N]`, `wgpu[:N]`, `libtorch:cpu` or `libtorch:cuda[:N]`.
///
/// `auto` is the fastest device that this build has: `cuda`, then `libtorch:cuda:0` where
/// LibTorch sees a GPU, then `cpu`.
impl FromStr for Device {
    type Err = TensorError;

    fn from_str(name: &str) -> Result<Self> {
        let refuse = |reason: String| TensorError::Device {
            name: name.into(),
            reason,
        };
        let index = |text: Option<&str>| match text {
            None => Ok(0usize),
            Some(text) => text
                .parse()
                .map_err(|_| refuse(format!("`{text}` is not a device index"))),
        };
        let (backend, rest) = match name.split_once(':') {
            Some((backend, rest)) => (backend, Some(rest)),
            None => (name, None),
        };
        match (backend, rest) {
            ("auto", None) => Ok(automatic()),
            ("cpu", None) => Ok(Self::cpu()),
            ("cuda", rest) => cuda(name, index(rest)?).map_err(refuse),
            ("wgpu", rest) => wgpu(name, index(rest)?).map_err(refuse),
            ("libtorch", Some("cpu")) => libtorch(name, None).map_err(refuse),
            ("libtorch", Some(rest)) if rest == "cuda" || rest.starts_with("cuda:") => {
                libtorch(name, Some(index(rest.strip_prefix("cuda:"))?)).map_err(refuse)
            }
            _ => Err(refuse(
                "not a device name; expected `auto`, `cpu`, `cuda:N`, `wgpu`, `libtorch:cpu` or `libtorch:cuda:N`".into(),
            )),
        }
    }
}

fn automatic() -> Device {
    let candidates = ["cuda:0", "libtorch:cuda:0"];
    candidates
        .iter()
        .find_map(|name| name.parse().ok())
        .unwrap_or_else(Device::cpu)
}

#[cfg(not(all(feature = "cuda", feature = "wgpu", feature = "libtorch")))]
fn missing(feature: &str) -> String {
    format!("this build has no such backend; build with `--features {feature}`")
}

#[cfg(feature = "cuda")]
fn cuda(name: &str, index: usize) -> Result<Device, String> {
    let device = burn::tensor::Device::cuda(index);
    Ok(Device {
        name: name.into(),
        inner: device.as_dispatch().clone(),
    })
}

#[cfg(not(feature = "cuda"))]
fn cuda(_name: &str, _index: usize) -> Result<Device, String> {
    Err(missing("cuda"))
}

#[cfg(feature = "wgpu")]
fn wgpu(name: &str, index: usize) -> Result<Device, String> {
    use burn::tensor::DeviceKind;
    let kind = if name == "wgpu" {
        DeviceKind::DefaultDevice
    } else {
        DeviceKind::DiscreteGpu(index)
    };
    let device = burn::tensor::Device::wgpu(kind);
    Ok(Device {
        name: name.into(),
        inner: device.as_dispatch().clone(),
    })
}

#[cfg(not(feature = "wgpu"))]
fn wgpu(_name: &str, _index: usize) -> Result<Device, String> {
    Err(missing("wgpu"))
}

#[cfg(feature = "libtorch")]
#[expect(
    deprecated,
    reason = "Burn 0.22.1 is the last release that carries LibTorch; the version is pinned"
)]
fn libtorch(name: &str, cuda: Option<usize>) -> Result<Device, String> {
    let device = match cuda {
        None => burn::tensor::Device::libtorch(),
        Some(index) => {
            // 0 counts CUDA devices.
            let found = <burn_tch::LibTorch as burn::backend::Backend>::device_count(0);
            if index >= found {
                return Err(format!("LibTorch sees {found} CUDA devices"));
            }
            burn::tensor::Device::libtorch_cuda(index)
        }
    };
    Ok(Device {
        name: name.into(),
        inner: device.as_dispatch().clone(),
    })
}

#[cfg(not(feature = "libtorch"))]
fn libtorch(_name: &str, _cuda: Option<usize>) -> Result<Device, String> {
    Err(missing("libtorch"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_feature_to_build_with() {
        #[cfg(not(feature = "wgpu"))]
        {
            let error = "wgpu".parse::<Device>().unwrap_err();
            assert!(error.to_string().contains("--features wgpu"), "{error}");
        }
        #[cfg(not(feature = "libtorch"))]
        {
            let error = "libtorch:cuda:1".parse::<Device>().unwrap_err();
            assert!(error.to_string().contains("--features libtorch"), "{error}");
        }
    }

    #[test]
    fn refuses_what_is_no_device_name() {
        for name in ["gpu", "cpu:1", "cuda:x", "libtorch", "libtorch:metal", ""] {
            assert_eq!(
                name.parse::<Device>().unwrap_err().code(),
                "device",
                "{name}"
            );
        }
    }
}
