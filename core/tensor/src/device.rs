//! Devices by name. The device picks the backend at run time; which backends
//! exist is decided by Cargo features when the binary is built. One table says
//! all that is known of each, so that a device is added by a row.

use std::fmt;
use std::str::FromStr;

use burn::backend::{Dispatch, DispatchDevice, get_or_init_device_settings};
use burn::tensor::{BoolDType, FloatDType, IntDType};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Result, TensorError};
use crate::tensor::guard;

/// How wide floating point numbers are, in a file or where they are computed with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// 32 bits.
    #[default]
    F32,
    /// 16 bits, 11 of them significant, up to 65504.
    F16,
    /// 16 bits, 8 of them significant, with the range of f32.
    Bf16,
}

impl Precision {
    /// Its name: `f32`, `bf16`, `f16`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        }
    }

    /// Of one number.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 | Self::F16 => 2,
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Where tensors live, which backend computes with them, and in which precision.
#[derive(Clone, PartialEq)]
pub struct Device {
    name: String,
    inner: DispatchDevice,
    precision: Precision,
}

impl Device {
    /// The embedded CPU backend (Flex): always there.
    pub fn cpu() -> Self {
        let device = burn::tensor::Device::flex();
        Self {
            name: "cpu".into(),
            inner: device.as_dispatch().clone(),
            precision: Precision::F32,
        }
    }

    /// The names that are understood, for help texts: "auto, cpu, …, or …".
    pub fn help() -> String {
        let mut names = vec!["auto".to_owned()];
        names.extend(ROWS.iter().map(Row::example));
        let last = names.pop().unwrap_or_default();
        format!("{} or {last}", names.join(", "))
    }

    /// Its name, with an index where there may be several: `cpu`, `libtorch:cuda:0`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it computes with: `f32`, unless it was [asked](Self::with_precision) for another.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The same device, whose floats are of `precision`. Only LibTorch has half precision: its sums, products and norms add up in
    /// 32 bits, which other backends do not promise.
    ///
    /// # Errors
    /// [`TensorError::Device`] for a precision that it does not have.
    pub fn with_precision(&self, precision: Precision) -> Result<Self> {
        if precision != Precision::F32 && !self.has_torch_ops() {
            return Err(TensorError::Device {
                name: self.name.clone(),
                reason: format!(
                    "it computes in f32 only; {precision} is there on libtorch:cuda and libtorch:cpu"
                ),
            });
        }
        Ok(Self {
            precision,
            ..self.clone()
        })
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

    /// Whether the fused operations of LibTorch are there.
    pub(crate) fn has_torch_ops(&self) -> bool {
        #[cfg(feature = "libtorch")]
        let has = matches!(self.inner, DispatchDevice::LibTorch(_));
        #[cfg(not(feature = "libtorch"))]
        let has = false;
        has
    }

    /// Whether `other` is the same, whatever the precision.
    pub(crate) fn is_beside(&self, other: &Self) -> bool {
        self.inner == other.inner
    }

    pub(crate) fn float(&self) -> FloatDType {
        match self.precision {
            Precision::F32 => get_or_init_device_settings::<Dispatch>(&self.inner).float_dtype,
            Precision::Bf16 => FloatDType::BF16,
            Precision::F16 => FloatDType::F16,
        }
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

/// How the name of a device goes on.
#[derive(Clone, Copy, PartialEq)]
enum Index {
    /// It ends here.
    None,
    /// With `:N`; 0 if left out.
    Numbered,
    /// With `:N`, or without one for the device that the backend prefers.
    Preferred,
}

/// What is known of one kind of device.
struct Row {
    /// Its name, without an index.
    name: &'static str,
    index: Index,
    /// The Cargo feature that brings its backend; the embedded one needs none.
    feature: &'static str,
    /// When `auto` tries it, the first one with index 0; `None` for never.
    turn: Option<u8>,
    /// How this build makes it; `None` without the feature.
    make: Option<Make>,
}

type Make = fn(Option<usize>) -> Result<burn::tensor::Device, String>;

/// The kinds of devices, in the order in which people are told of them. Names, help, messages and what `auto` takes come from here.
const ROWS: [Row; 5] = [
    Row {
        name: "cpu",
        index: Index::None,
        feature: "",
        turn: Some(2),
        make: Some(|_| Ok(burn::tensor::Device::flex())),
    },
    Row {
        name: "cuda",
        index: Index::Numbered,
        feature: "cuda",
        turn: Some(0),
        make: CUDA,
    },
    Row {
        name: "wgpu",
        index: Index::Preferred,
        feature: "wgpu",
        turn: None,
        make: WGPU,
    },
    Row {
        name: "libtorch:cpu",
        index: Index::None,
        feature: "libtorch",
        turn: None,
        make: LIBTORCH_CPU,
    },
    Row {
        name: "libtorch:cuda",
        index: Index::Numbered,
        feature: "libtorch",
        turn: Some(1),
        make: LIBTORCH_CUDA,
    },
];

#[cfg(not(feature = "cuda"))]
const CUDA: Option<Make> = None;
#[cfg(feature = "cuda")]
const CUDA: Option<Make> = Some(cuda);

#[cfg(not(feature = "wgpu"))]
const WGPU: Option<Make> = None;
#[cfg(feature = "wgpu")]
const WGPU: Option<Make> = Some(|index| {
    use burn::tensor::DeviceKind;
    let kind = index.map_or(DeviceKind::DefaultDevice, DeviceKind::DiscreteGpu);
    Ok(burn::tensor::Device::wgpu(kind))
});

#[cfg(not(feature = "libtorch"))]
const LIBTORCH_CPU: Option<Make> = None;
#[cfg(feature = "libtorch")]
const LIBTORCH_CPU: Option<Make> = Some(libtorch_cpu);

#[cfg(not(feature = "libtorch"))]
const LIBTORCH_CUDA: Option<Make> = None;
#[cfg(feature = "libtorch")]
const LIBTORCH_CUDA: Option<Make> = Some(libtorch_cuda);

#[cfg(feature = "cuda")]
fn cuda(index: Option<usize>) -> Result<burn::tensor::Device, String> {
    let index = index.unwrap_or(0);
    // None where the driver is not installed, which nothing but this question survives.
    let found = burn::tensor::Device::enumerate(burn::tensor::DeviceType::Cuda).len();
    if index >= found {
        return Err(format!("NVIDIA's driver shows {found} devices"));
    }
    Ok(burn::tensor::Device::cuda(index))
}

#[cfg(feature = "libtorch")]
#[expect(
    deprecated,
    reason = "Burn 0.22.1 is the last release that carries LibTorch; the version is pinned"
)]
fn libtorch_cpu(_: Option<usize>) -> Result<burn::tensor::Device, String> {
    Ok(burn::tensor::Device::libtorch())
}

#[cfg(feature = "libtorch")]
#[expect(
    deprecated,
    reason = "Burn 0.22.1 is the last release that carries LibTorch; the version is pinned"
)]
fn libtorch_cuda(index: Option<usize>) -> Result<burn::tensor::Device, String> {
    let index = index.unwrap_or(0);
    // 0 counts CUDA devices.
    let found = <burn_tch::LibTorch as burn::backend::Backend>::device_count(0);
    if index >= found {
        return Err(format!("LibTorch sees {found} CUDA devices"));
    }
    Ok(burn::tensor::Device::libtorch_cuda(index))
}

impl Row {
    /// The device of that index.
    fn device(&self, index: Option<usize>) -> Result<Device, String> {
        let make = self.make.ok_or_else(|| {
            let feature = self.feature;
            format!("this build has no such backend; build with `--features {feature}`")
        })?;
        let made = guard("device", || make(index)).map_err(|error| error.to_string())??;
        let index = match self.index {
            Index::Numbered => Some(index.unwrap_or(0)),
            Index::None | Index::Preferred => index,
        };
        Ok(Device {
            name: index.map_or_else(|| self.name.into(), |n| format!("{}:{n}", self.name)),
            inner: made.as_dispatch().clone(),
            precision: Precision::F32,
        })
    }

    /// What `name` says after this row's, if it begins with it: nothing, or an index.
    fn index<'a>(&self, name: &'a str) -> Option<Option<&'a str>> {
        match name.strip_prefix(self.name)? {
            "" => Some(None),
            _ if self.index == Index::None => None,
            rest => rest.strip_prefix(':').map(Some),
        }
    }

    /// What people are told to write.
    fn example(&self) -> String {
        match self.index {
            Index::Numbered => format!("{}:N", self.name),
            Index::None | Index::Preferred => self.name.into(),
        }
    }
}

/// Parses the names of [`Device::help`]; an index `:N` may be left out.
///
/// `auto` is the fastest device that this build has: `cuda:0`, then `libtorch:cuda:0` where
/// LibTorch sees a GPU, then `cpu`.
impl FromStr for Device {
    type Err = TensorError;

    fn from_str(name: &str) -> Result<Self> {
        if name == "auto" {
            return Ok(automatic());
        }
        let refuse = |reason: String| TensorError::Device {
            name: name.into(),
            reason,
        };
        let found = ROWS.iter().find_map(|row| Some((row, row.index(name)?)));
        let Some((row, index)) = found else {
            let expected = Self::help();
            return Err(refuse(format!("not a device name; expected {expected}")));
        };
        let index = index.map(|text| {
            text.parse()
                .map_err(|_| refuse(format!("`{text}` is not a device index")))
        });
        row.device(index.transpose()?).map_err(refuse)
    }
}

fn automatic() -> Device {
    let mut rows: Vec<&Row> = ROWS.iter().filter(|row| row.turn.is_some()).collect();
    rows.sort_by_key(|row| row.turn);
    rows.into_iter()
        .find_map(|row| row.device(None).ok())
        .unwrap_or_else(Device::cpu)
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

    #[cfg(feature = "cuda")]
    #[test]
    fn a_cuda_device_that_is_not_there_is_refused_and_auto_goes_on() {
        let error = "cuda:99".parse::<Device>().unwrap_err();
        assert!(error.to_string().contains("driver shows"), "{error}");
        "auto".parse::<Device>().unwrap();
    }

    #[test]
    fn help_names_what_is_understood() {
        assert_eq!(
            Device::help(),
            "auto, cpu, cuda:N, wgpu, libtorch:cpu or libtorch:cuda:N"
        );
    }

    #[test]
    fn a_name_is_known_or_says_what_is() {
        fn found(name: &str) -> Option<(&str, Option<&str>)> {
            ROWS.iter()
                .find_map(|row| Some((row.name, row.index(name)?)))
        }
        assert_eq!(found("cpu"), Some(("cpu", None)));
        assert_eq!(found("cuda"), Some(("cuda", None)));
        assert_eq!(found("wgpu:2"), Some(("wgpu", Some("2"))));
        assert_eq!(found("libtorch:cpu"), Some(("libtorch:cpu", None)));
        assert_eq!(found("libtorch:cuda:1"), Some(("libtorch:cuda", Some("1"))));
        let error = "gpu".parse::<Device>().unwrap_err().to_string();
        assert!(error.ends_with(&Device::help()), "{error}");
    }

    #[test]
    fn automatic_is_the_first_that_this_build_has() {
        let turns: Vec<_> = [0, 1, 2]
            .into_iter()
            .filter_map(|turn| ROWS.iter().find(|row| row.turn == Some(turn)))
            .map(Row::example)
            .collect();
        assert_eq!(turns, ["cuda:N", "libtorch:cuda:N", "cpu"]);
        #[cfg(not(any(feature = "cuda", feature = "libtorch")))]
        assert_eq!("auto".parse::<Device>().unwrap(), Device::cpu());
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
