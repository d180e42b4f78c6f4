//! What a plugin author imports. One source builds three ways: linked into a program, as a
//! native library, and as a WebAssembly component; the author writes roles and tensors and sees
//! none of them.
//!
//! ```
//! use dtta_sdk::prelude::*;
//!
//! /// How the mixture is formed.
//! #[derive(Deserialize, JsonSchema)]
//! #[serde(deny_unknown_fields)]
//! struct Config {
//!     /// Divides the logits: above 1, the mixture is more even.
//!     #[serde(default = "one")]
//!     temperature: f64,
//! }
//!
//! fn one() -> f64 {
//!     1.0
//! }
//!
//! /// The class embeddings, weighted by the classifier's probabilities.
//! struct Mix(Config);
//!
//! impl Mapper for Mix {
//!     type Config = Config;
//!     const CONSTANTS: &'static [&'static str] = &["class-embeddings"];
//!
//!     fn create(config: Config, slots: &Slots) -> Result<Self> {
//!         slots.get("class-embedding")?;
//!         Ok(Self(config))
//!     }
//!
//!     fn condition(&self, outputs: &Named, session: &Session) -> Result<Named> {
//!         let probabilities = (outputs.get("logits")? / self.0.temperature)?.softmax(-1)?;
//!         let mixture = probabilities.matmul(&session.constant("class-embeddings")?)?;
//!         Ok(Named::one("class-embedding", mixture))
//!     }
//! }
//!
//! export_plugin! { mapper: Mix }
//! # fn main() {}
//! ```

#[doc(hidden)]
pub mod by_name;
mod descriptor;
mod error;
pub mod functional;
mod named;
#[cfg(not(target_family = "wasm"))]
#[doc(hidden)]
pub mod native;
mod roles;
mod session;
mod task;
mod tensor;
#[cfg(target_family = "wasm")]
#[doc(hidden)]
pub mod wasm;

#[cfg(not(target_family = "wasm"))]
use native as imp;
#[cfg(target_family = "wasm")]
use wasm as imp;

pub use descriptor::Plugin;
pub use dtta_abi as abi;
pub use error::{Error, Result};
pub use named::{Named, Slot, Slots};
pub use roles::{Head, Mapper, Metric, Objective, Scores, Storage, ValueSpec};
pub use schemars;
pub use serde;
pub use session::{LogLevel, Session};
pub use task::{ColourScale, Picture, PixelError, Predicts, Score};
pub use tensor::{ConvOptions, Kind, PoolOptions, Tensor};

/// Everything that a plugin usually needs.
pub mod prelude {
    pub use crate::{
        ColourScale, ConvOptions, Error, Head, Kind, LogLevel, Mapper, Metric, Named, Objective,
        Picture, PixelError, PoolOptions, Predicts, Result, Score, Scores, Session, Slots, Storage,
        Tensor, ValueSpec, export_plugin,
    };
    pub use schemars::JsonSchema;
    pub use serde::{Deserialize, Serialize};
}

/// Makes a crate a plugin: names the type that plays each role: `head`, `mapper`, `objective`,
/// `metric`.
///
/// Name, version and description come from the crate's manifest. It defines `PLUGIN`, what the
/// plugin says of itself; off WebAssembly also `plugin_entry`, the [`Entry`](abi::Entry) for the
/// linked loader. For a native library, the feature `cdylib` of this crate exports it under
/// [`ENTRY_SYMBOL`](abi::ENTRY_SYMBOL) too; without it, several plugins can be linked into one
/// program: `cargo build --release --features dtta-sdk/cdylib`.
#[macro_export]
macro_rules! export_plugin {
    ($($role:ident: $type:ty),+ $(,)?) => {
        /// What this plugin says of itself.
        pub const PLUGIN: $crate::Plugin = $crate::Plugin::new(
            env!("CARGO_PKG_NAME"),
            env!("CARGO_PKG_VERSION"),
            env!("CARGO_PKG_DESCRIPTION"),
        )
        $(.$role::<$type>())+;

        #[cfg(not(target_family = "wasm"))]
        unsafe extern "C" fn plugin_describe(
            document: *const $crate::abi::Sink,
            error: *const $crate::abi::Sink,
        ) -> $crate::abi::Status {
            // SAFETY: the host holds to the contract of `PluginTable::describe`.
            unsafe { $crate::native::describe(&PLUGIN, document, error) }
        }

        #[cfg(not(target_family = "wasm"))]
        $crate::entry_item! {
            /// Hands the plugin's tables over.
            ///
            /// # Safety
            /// As `dtta_abi::Entry`.
            pub unsafe extern "C" fn plugin_entry(
                host: *const $crate::abi::HostTable,
                out: *mut $crate::abi::PluginTable,
                error: *const $crate::abi::Sink,
            ) -> $crate::abi::Status {
                // SAFETY: the host holds to the contract of `Entry`.
                unsafe { $crate::native::entry(&PLUGIN, plugin_describe, host, out, error) }
            }
        }

        #[cfg(target_family = "wasm")]
        const _: () = {
            struct Descriptor;

            impl $crate::wasm::descriptor::exports::dtta::plugin::descriptor::Guest for Descriptor {
                fn describe() -> String {
                    PLUGIN.describe()
                }
            }

            $crate::wasm::descriptor::export_descriptor!(Descriptor with_types_in $crate::wasm::descriptor);
            $($crate::export_role!($role, $type);)+
        };
    };
}

/// The entry of a plugin, with its symbol.
#[cfg(feature = "cdylib")]
#[doc(hidden)]
#[macro_export]
macro_rules! entry_item {
    ($entry:item) => {
        #[unsafe(export_name = "dtta_plugin_entry")]
        $entry
    };
}

/// The entry of a plugin, without a symbol that could clash.
#[cfg(not(feature = "cdylib"))]
#[doc(hidden)]
#[macro_export]
macro_rules! entry_item {
    ($entry:item) => {
        $entry
    };
}

/// Exports one role of a component.
#[doc(hidden)]
#[macro_export]
macro_rules! export_role {
    (head, $type:ty) => {
        type HeadRole = $crate::wasm::HeadComponent<$type>;
        $crate::wasm::head::export_head!(HeadRole with_types_in $crate::wasm::head);
    };
    (mapper, $type:ty) => {
        type MapperRole = $crate::wasm::MapperComponent<$type>;
        $crate::wasm::mapper::export_mapper!(MapperRole with_types_in $crate::wasm::mapper);
    };
    (objective, $type:ty) => {
        type ObjectiveRole = $crate::wasm::ObjectiveComponent<$type>;
        $crate::wasm::objective::export_objective!(ObjectiveRole with_types_in $crate::wasm::objective);
    };
    (metric, $type:ty) => {
        type MetricRole = $crate::wasm::MetricComponent<$type>;
        $crate::wasm::metric::export_metric!(MetricRole with_types_in $crate::wasm::metric);
    };
}
