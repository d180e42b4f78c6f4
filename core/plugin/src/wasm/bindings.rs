//! What `wit/` says, as Rust. Tensors and values are the host's resources, known to the
//! guest by the number of their [`Handle`](dtta_tensor::Handle), so no table stands between.
//! Every function may trap: on a stale handle where there is no error to answer with, and for a
//! plugin that goes on asking after a budget is spent.

/// A tensor of the current call.
pub enum TensorResource {}

/// The values that the host keeps for a plugin.
pub enum ValuesResource {}

wasmtime::component::bindgen!({
    path: "../../wit",
    // A host looks at what a component exports, whatever the world it was built for.
    inline: "
        package dtta:hosts;

        world every-role {
            include dtta:plugin/task-plugin@0.1.0;
            include dtta:plugin/objective-plugin@0.1.0;
            include dtta:plugin/metric-plugin@0.1.0;
        }
    ",
    world: "dtta:hosts/every-role",
    with: {
        "dtta:plugin/tensor.tensor": TensorResource,
        "dtta:plugin/session.values": ValuesResource,
    },
    imports: { default: trappable },
});
