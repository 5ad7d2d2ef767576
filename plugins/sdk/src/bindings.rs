//! Generated from `wit/v0.1`, one module per world. Only [`crate::wasm`] and the export macros use it.
#![allow(
    unsafe_code,
    reason = "the generated code crosses the component's boundary"
)]
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::restriction,
    reason = "generated code is not ours to polish"
)]

/// World `token-source`.
pub mod source {
    wit_bindgen::generate!({
        path: "../../wit/v0.1",
        world: "token-source",
        pub_export_macro: true,
        export_macro_name: "export_world",
        default_bindings_module: "evertoken_plugin::bindings::source",
        runtime_path: "wit_bindgen::rt",
    });
}

/// World `output-formatter`, with the same types.
pub mod formatter {
    wit_bindgen::generate!({
        path: "../../wit/v0.1",
        world: "output-formatter",
        pub_export_macro: true,
        export_macro_name: "export_world",
        default_bindings_module: "evertoken_plugin::bindings::formatter",
        runtime_path: "wit_bindgen::rt",
        with: {
            "evertoken:plugin/types@0.1.0": super::source::evertoken::plugin::types,
            "evertoken:plugin/log@0.1.0": super::source::evertoken::plugin::log,
        },
    });
}
