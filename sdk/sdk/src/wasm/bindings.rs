//! Bindings generated from `wit/`: what is shared, and one small world for each role, so that a
//! plugin exports just the roles it plays. wit-component joins the worlds of all that it finds.
#![expect(missing_docs, reason = "generated code; the WIT files document it")]

/// All that the host lends, and the records of the roles.
pub mod shared {
    wit_bindgen::generate!({
        path: "../../wit",
        inline: "
            package dtta:sdk;
            world shared {
                import dtta:plugin/types@0.1.0;
                import dtta:plugin/tensor@0.1.0;
                import dtta:plugin/session@0.1.0;
                import dtta:plugin/declare@0.1.0;
            }
        ",
        generate_all,
    });
}

macro_rules! role {
    ($(#[$doc:meta])* $name:ident, $export:literal, $module:literal, $world:literal $(, $with:literal = $shared:ident)* $(,)?) => {
        $(#[$doc])*
        pub mod $name {
            wit_bindgen::generate!({
                path: "../../wit",
                inline: $world,
                with: {
                    "dtta:plugin/types@0.1.0": crate::wasm::bindings::shared::dtta::plugin::types,
                    "dtta:plugin/tensor@0.1.0": crate::wasm::bindings::shared::dtta::plugin::tensor,
                    $($with: crate::wasm::bindings::shared::dtta::plugin::$shared,)*
                },
                pub_export_macro: true,
                export_macro_name: $export,
                default_bindings_module: $module,
            });
        }
    };
}

/// The export of the descriptor.
pub mod descriptor {
    wit_bindgen::generate!({
        path: "../../wit",
        inline: "package dtta:sdk; world descriptor { export dtta:plugin/descriptor@0.1.0; }",
        pub_export_macro: true,
        export_macro_name: "export_descriptor",
        default_bindings_module: "dtta_sdk::wasm::descriptor",
    });
}

role! {
    /// The export of a task head.
    head, "export_head", "dtta_sdk::wasm::head",
    "package dtta:sdk; world head { export dtta:plugin/head@0.1.0; }",
    "dtta:plugin/session@0.1.0" = session, "dtta:plugin/declare@0.1.0" = declare,
}

role! {
    /// The export of a mapper.
    mapper, "export_mapper", "dtta_sdk::wasm::mapper",
    "package dtta:sdk; world mapper { export dtta:plugin/mapper@0.1.0; }",
    "dtta:plugin/session@0.1.0" = session, "dtta:plugin/declare@0.1.0" = declare,
}

role! {
    /// The export of an objective.
    objective, "export_objective", "dtta_sdk::wasm::objective",
    "package dtta:sdk; world objective { export dtta:plugin/objective@0.1.0; }"
}

role! {
    /// The export of a metric.
    metric, "export_metric", "dtta_sdk::wasm::metric",
    "package dtta:sdk; world metric { export dtta:plugin/metric@0.1.0; }"
}
