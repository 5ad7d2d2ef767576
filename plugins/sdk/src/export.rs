//! The macros that turn a crate into a component: they export the world's function and embed data that the host reads without
//! running the plugin.
//!
//! Two custom sections, in the component's core module:
//! - `evertoken:config-schema`: the crate's `schema.json`, the JSON Schema of its configuration
//!   ([`crate::testing::assert_described`] checks it);
//! - `evertoken:about`: `{"name", "version", "description", "secrets": [{"name", "required", …, "description"}]}`, from Cargo.toml and the macro.

/// Exports a [`crate::Source`] and declares the secrets that it opens.
///
/// ```text
/// evertoken_plugin::export_source!(Acme, secrets: {
///     "api_key": required "the account's API key",
///     "pin": optional (required_for: {"login": ["pin", null]}) "needed where the option login is pin or not set",
///     "user": optional (instead_of: "user", required_with: "pin") "needed beside pin where the option user is not set",
///     "token": required (named_by: "secret") "the option secret gives it another name",
/// });
/// ```
///
/// A job that lists a secret of another name, or lacks a required one, is rejected before anything runs. A plugin that declares
/// none may open any.
///
/// The crate's `schema.json`, beside its Cargo.toml, is embedded in the component. `testing::assert_described` in a test checks
/// it, and writes it when `EVERTOKEN_WRITE_SCHEMA=1` is set: run that before the first build for `wasm32-wasip2`.
#[macro_export]
macro_rules! export_source {
    ($source:ident) => { $crate::export_source!($source, secrets: {}); };
    ($source:ident, secrets: { $($secrets:tt)* }) => {
        $crate::__describe!($($secrets)*);

        #[cfg(target_family = "wasm")]
        #[allow(unsafe_code, reason = "generated code crosses the component's boundary")]
        const _: () = {
            struct Component;

            impl $crate::__private::source::Guest for Component {
                fn acquire(
                    job: $crate::__private::source::Job,
                ) -> Result<$crate::__private::source::Token, $crate::__private::source::Failure> {
                    $crate::__private::acquire::<$source>(job)
                }
            }

            $crate::bindings::source::export_world!(Component with_types_in $crate::bindings::source);
        };
    };
}

/// Exports a [`crate::Formatter`].
///
/// ```text
/// evertoken_plugin::export_formatter!(Netrc);
/// ```
#[macro_export]
macro_rules! export_formatter {
    ($formatter:ident) => {
        $crate::__describe!();

        #[cfg(target_family = "wasm")]
        #[allow(unsafe_code, reason = "generated code crosses the component's boundary")]
        const _: () = {
            struct Component;

            impl $crate::__private::formatter::Guest for Component {
                fn format(
                    tokens: Vec<$crate::__private::formatter::NamedToken>,
                    config: String,
                ) -> Result<Vec<$crate::__private::formatter::Artifact>, $crate::__private::formatter::Failure> {
                    $crate::__private::format::<$formatter>(tokens, &config)
                }
            }

            $crate::bindings::formatter::export_world!(Component with_types_in $crate::bindings::formatter);
        };
    };
}

/// The custom sections, and the second one's content for tests.
#[doc(hidden)]
#[macro_export]
macro_rules! __describe {
    ($($secrets:tt)*) => {
        /// What the plugin declares in its section `evertoken:about`.
        #[doc(hidden)]
        pub const ABOUT: &str = $crate::__about!($($secrets)*);

        #[cfg(target_family = "wasm")]
        #[allow(unsafe_code, reason = "a custom section is a link section to Rust, and those can break programs on other targets")]
        const _: () = {
            const SCHEMA: &[u8] = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/schema.json"));

            #[used]
            #[unsafe(link_section = "evertoken:config-schema")]
            static SCHEMA_SECTION: [u8; SCHEMA.len()] = *include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/schema.json"));

            #[used]
            #[unsafe(link_section = "evertoken:about")]
            static ABOUT_SECTION: [u8; ABOUT.len()] = $crate::__private::bytes(ABOUT);
        };
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __about {
    () => { concat!($crate::__about!(@crate), "[]}") };
    (
        $name:literal: $need:ident $(($($when:ident: $what:tt),+))? $description:literal
        $(, $names:literal: $needs:ident $(($($whens:ident: $whats:tt),+))? $descriptions:literal)* $(,)?
    ) => {
        concat!(
            $crate::__about!(@crate), "[", $crate::__about!(@secret $name $need [$($($when: $what),+)?] $description),
            $(",", $crate::__about!(@secret $names $needs [$($($whens: $whats),+)?] $descriptions),)* "]}"
        )
    };
    (@crate) => {
        concat!(
            "{\"name\":\"", env!("CARGO_CRATE_NAME"), "\",\"version\":\"", env!("CARGO_PKG_VERSION"),
            "\",\"description\":\"", env!("CARGO_PKG_DESCRIPTION"), "\",\"secrets\":"
        )
    };
    (@secret $name:literal $need:ident [$($when:ident: $what:tt),*] $description:literal) => {
        concat!(
            "{\"name\":", stringify!($name), ",\"required\":", $crate::__about!(@need $need),
            $(",\"", stringify!($when), "\":", stringify!($what),)*
            ",\"description\":", stringify!($description), "}"
        )
    };
    (@need required) => { "true" };
    (@need optional) => { "false" };
}
